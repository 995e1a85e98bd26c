"""Acceptance of a drafted token, and the distribution of what comes out: exact, lenient, or by a threshold.

These are rules of sampling, the same in the real loop and in what is expected of it; no cost model needs them.

Symbols: p the target's distribution over V tokens, q the one that the draft really sampled from. A drafted token x is
accepted with probability A(x); in place of a rejected one, a token is drawn from the residual distribution R. Then one
token has the distribution

    out(x) = q(x) A(x) + (1 - sum over y of q(y) A(y)) R(x)

All functions take distributions along the last axis, and any number of axes before it.

Source: leviathan2023fast, section 2.3 and appendix A.1; chen2023speculative.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from anatomy.specs import Scalar
from anatomy.specs.base import AT_LEAST_ZERO, SHARE, between, check_arguments, is_concrete, refuse_where

Distribution = Float[Array, "*batch V"]
ROUNDING = 1e-4  # within which a distribution adds up to 1, in single precision and over a large vocabulary


def _check(owner: str, **distributions: Distribution) -> None:
    """Refuse what is no distribution; traced ones pass."""
    check_arguments(owner, AT_LEAST_ZERO, **distributions)
    for name, given in distributions.items():
        if is_concrete(given):
            total = np.asarray(given, float).sum(-1)
            wrong = ~(np.abs(total - 1) <= ROUNDING)
            refuse_where(wrong, f"{owner}.{name}, added up,", total, "1, which the chances of all tokens add up to")


class Acceptance(NamedTuple):
    """What becomes of a drafted token."""

    accept: Distribution  # A, probability that each token is accepted
    residual: Distribution  # R, of what is drawn in place of a rejected one

    def rate(self, q: Distribution) -> Float[Array, "*batch"]:
        """Probability that a token of the draft is accepted."""
        return jnp.sum(q * self.accept, -1)

    def output(self, q: Distribution) -> Distribution:
        """Distribution of the token that comes out."""
        return q * self.accept + (1 - self.rate(q))[..., None] * self.residual


AcceptanceRule = Callable[[Distribution, Distribution], Acceptance]  # of p and q; hashable where programs depend on it


def acceptance_rate(p: Distribution, q: Distribution) -> Float[Array, "*batch"]:
    """Chance that the exact rule accepts: sum of min(p, q), which is 1 less the total variation distance.

    Raises:
        TypeError, ValueError: a distribution has numbers below 0, or does not add up to 1.

    Source: leviathan2023fast, corollary 3.6.
    """
    _check("acceptance_rate", p=p, q=q)
    return jnp.sum(jnp.minimum(p, q), -1)


def exact(p: Distribution, q: Distribution) -> Acceptance:
    """Accept x with min(1, p / q), else draw from what p has more than q: the distribution of what comes out is p.

    Raises:
        TypeError, ValueError: as `acceptance_rate`.

    Source: leviathan2023fast, algorithm 1; chen2023speculative.
    """
    _check("exact", p=p, q=q)
    # Compared so that what is no number is never accepted, and leaves nothing to draw from.
    accept = jnp.where(p >= q, 1.0, p / jnp.where(q == 0, 1.0, q))
    residual = jnp.maximum(p - q, 0.0)
    total = residual.sum(-1, keepdims=True)
    # Nothing is left where nothing is rejected; p then stands in and is never drawn from.
    return Acceptance(accept, jnp.where(total == 0, p, residual / jnp.where(total == 0, 1.0, total)))


def lenient(p: Distribution, q: Distribution, lenience: Scalar) -> Acceptance:
    """As `exact`, but q is multiplied by l before it is compared with p: accept x with min(1, p / (l q)).

    What acceptance gains, exactness loses: the total variation distance of what comes out from p is the probability of
    acceptance less that of the exact rule. No token comes out more often than p / l. As l goes to 0 everything is
    accepted that p does not rule out.

    Args:
        p: target.
        q: draft.
        lenience: l, above 0; 1 is exact.

    Raises:
        TypeError, ValueError: lenience is not above 0 and at most 1; and as `acceptance_rate`.

    Source: leviathan2023fast, appendix A.5.
    """
    _check("lenient", p=p, q=q)
    check_arguments("lenient", SHARE, lenience=lenience)
    compared = jnp.asarray(lenience)[..., None] * q
    accept = jnp.where(p >= compared, 1.0, p / jnp.where(compared == 0, 1.0, compared))
    return Acceptance(accept, exact(p, q).residual)


def threshold(p: Distribution, least: Scalar) -> Acceptance:
    """Accept x if p(x) is at least this, whatever the draft thought of it, else draw from p.

    Args:
        p: target.
        least: probability; 0 accepts everything, so that the draft speaks.

    Raises:
        TypeError, ValueError: least is not from 0 to 1; and as `acceptance_rate`.

    Source: cai2024medusa, whose threshold also depends on the entropy of p.
    """
    _check("threshold", p=p)
    check_arguments("threshold", between(high=1.0), least=least)
    return Acceptance(jnp.where(p >= jnp.asarray(least)[..., None], 1.0, 0.0), p)


@dataclasses.dataclass(frozen=True)
class Lenient:
    """Accepts more than the exact rule (`lenient`): q is multiplied by `lenience` first."""

    lenience: float

    def __post_init__(self) -> None:
        """Refuse what is not above 0 and at most 1."""
        check_arguments("Lenient", SHARE, lenience=self.lenience)

    def __call__(self, p: Distribution, q: Distribution) -> Acceptance:
        """What becomes of a token."""
        return lenient(p, q, self.lenience)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Accepts what the target finds at least so likely (`threshold`)."""

    least: float

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        check_arguments("Threshold", between(high=1.0), least=self.least)

    def __call__(self, p: Distribution, q: Distribution) -> Acceptance:
        """What becomes of a token."""
        return threshold(p, self.least)


def multi_round(p: Distribution, q: Distribution, draws: int) -> Float[Array, "*batch draws"]:
    """Chance that the first, second, ... of several independent draws of q is the one that is accepted.

    Each draw is tried by the exact rule against the residual of those before it, so what comes out has distribution p.

    Args:
        p: target.
        q: draft.
        draws: tokens that the draft proposes for one place.

    Raises:
        TypeError, ValueError: draws is no whole number from 1 on; and as `acceptance_rate`.

    Source: miao2024specinfer; sun2023spectr has the best rule there is.
    """
    _check("multi_round", p=p, q=q)
    check_arguments("multi_round", between(1.0, whole=True), draws=draws)
    chances, open_still, left = [], jnp.ones(()), p
    for _ in range(draws):
        rule = exact(left, q)
        accepted = rule.rate(q)
        chances.append(open_still * accepted)
        open_still, left = open_still * (1 - accepted), rule.residual
    return jnp.stack(chances, -1)


def total_variation(one: Distribution, other: Distribution) -> Float[Array, "*batch"]:
    """Half the sum of differences: the largest difference in the probability of anything.

    Raises:
        TypeError, ValueError: as `acceptance_rate`.
    """
    _check("total_variation", one=one, other=other)
    return 0.5 * jnp.sum(jnp.abs(one - other), -1)


def divergence(one: Distribution, other: Distribution) -> Float[Array, "*batch"]:
    """Kullback-Leibler divergence: sum of one ln(one / other), in nats; infinite where `other` rules out what comes.

    Raises:
        TypeError, ValueError: as `acceptance_rate`.
    """
    _check("divergence", one=one, other=other)
    ratio = jnp.where(one > 0, one, 1.0) / jnp.where(one > 0, other, 1.0)
    return jnp.sum(one * jnp.log(ratio), -1)


def cross_entropy(written: Distribution, judge: Distribution) -> Float[Array, "*batch"]:
    """Nats a token that `judge` gives to what was drawn from `written`; of the exponential, perplexity.

    Raises:
        TypeError, ValueError: as `acceptance_rate`.
    """
    _check("cross_entropy", written=written, judge=judge)
    return -jnp.sum(jnp.where(written > 0, written, 0.0) * jnp.log(jnp.where(written > 0, judge, 1.0)), -1)


class Distance(NamedTuple):
    """How far what comes out for a drafted token is from the target's distribution; means over all places given."""

    accepted: Float[Array, ""]  # chance
    total_variation: Float[Array, ""]
    divergence: Float[Array, ""]  # nats, of what comes out from p
    perplexity: Float[Array, ""]  # of what comes out, for the target
    own: Float[Array, ""]  # perplexity of the target's own words


def distance(rule: AcceptanceRule, p: Distribution, q: Distribution) -> Distance:
    """Distance of a rule's output from the target's distribution, exactly, place by place, for a draft of one token.

    Args:
        rule: how tokens are accepted.
        p: target.
        q: draft.
    """
    made = rule(p, q)
    out = made.output(q)
    return Distance(
        made.rate(q).mean(),
        total_variation(out, p).mean(),
        divergence(out, p).mean(),
        jnp.exp(cross_entropy(out, p).mean()),
        jnp.exp(cross_entropy(p, p).mean()),
    )
