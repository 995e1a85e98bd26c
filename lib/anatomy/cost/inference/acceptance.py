"""Acceptance of a drafted token, and the law of what comes out: exact, lenient, or by a threshold.

Symbols: p the target's distribution over V tokens, q the one that the draft really sampled from. A drafted token x is
accepted with chance A(x); in place of a rejected one, a token is drawn from R. Then one token has the law

    out(x) = q(x) A(x) + (1 - sum over y of q(y) A(y)) R(x)

All functions take distributions along the last axis, and any number of axes before it.

Source: leviathan2023fast, section 2.3 and appendix A.1; chen2023speculative.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from anatomy.specs import Scalar
from anatomy.specs.base import AT_LEAST_ZERO, SHARE, between, check_arguments, is_concrete, refuse_where

Law = Float[Array, "*batch V"]
ROUNDING = 1e-4  # within which a law adds up to 1, in single precision and over a large vocabulary


def _check_laws(owner: str, **laws: Law) -> None:
    """Refuse what is no distribution; traced ones pass."""
    check_arguments(owner, AT_LEAST_ZERO, **laws)
    for name, law in laws.items():
        if is_concrete(law):
            total = np.asarray(law, float).sum(-1)
            wrong = ~(np.abs(total - 1) <= ROUNDING)
            refuse_where(wrong, f"{owner}.{name}, added up,", total, "1, which the chances of all tokens add up to")


class Rule(NamedTuple):
    """What becomes of a drafted token."""

    accept: Law  # A, chance that each token is accepted
    replace: Law  # R, law of what is drawn in place of a rejected one

    def accepted(self, q: Law) -> Float[Array, "*batch"]:
        """Chance that a token of the draft is accepted."""
        return jnp.sum(q * self.accept, -1)

    def law(self, q: Law) -> Law:
        """Law of the token that comes out."""
        return q * self.accept + (1 - self.accepted(q))[..., None] * self.replace


def alignment(p: Law, q: Law) -> Float[Array, "*batch"]:
    """Chance that the exact rule accepts: sum of min(p, q), which is 1 less the total variation distance.

    Raises:
        TypeError, ValueError: a law has numbers below 0, or does not add up to 1.

    Source: leviathan2023fast, corollary 3.6.
    """
    _check_laws("alignment", p=p, q=q)
    return jnp.sum(jnp.minimum(p, q), -1)


def exact(p: Law, q: Law) -> Rule:
    """Accept x with min(1, p / q), else draw from what p has more than q: the law of what comes out is p.

    Raises:
        TypeError, ValueError: as `alignment`.

    Source: leviathan2023fast, algorithm 1; chen2023speculative.
    """
    _check_laws("exact", p=p, q=q)
    accept = jnp.where(q > p, p / jnp.where(q > 0, q, 1.0), 1.0)
    left = jnp.maximum(p - q, 0.0)
    total = left.sum(-1, keepdims=True)
    # Nothing is left where nothing is rejected; p then stands in and is never drawn from.
    return Rule(accept, jnp.where(total > 0, left / jnp.where(total > 0, total, 1.0), p))


def lenient(p: Law, q: Law, lenience: Scalar) -> Rule:
    """As `exact`, but q is multiplied by l before it is compared with p: accept x with min(1, p / (l q)).

    What acceptance gains, the law loses: the total variation distance of what comes out from p is the chance of
    acceptance less the alignment. No token comes out more often than p / l. As l goes to 0 everything is accepted that
    p does not rule out.

    Args:
        p: target.
        q: draft.
        lenience: l, above 0; 1 is exact.

    Raises:
        TypeError, ValueError: lenience is not above 0 and at most 1; and as `alignment`.

    Source: leviathan2023fast, appendix A.5.
    """
    _check_laws("lenient", p=p, q=q)
    check_arguments("lenient", SHARE, lenience=lenience)
    compared = jnp.asarray(lenience)[..., None] * q
    accept = jnp.where(compared > p, p / jnp.where(compared > 0, compared, 1.0), 1.0)
    return Rule(accept, exact(p, q).replace)


def threshold(p: Law, least: Scalar) -> Rule:
    """Accept x if p(x) is at least this, whatever the draft thought of it, else draw from p.

    Args:
        p: target.
        least: probability; 0 accepts everything, so that the draft speaks.

    Raises:
        TypeError, ValueError: least is not from 0 to 1; and as `alignment`.

    Source: cai2024medusa, whose threshold also depends on the entropy of p.
    """
    _check_laws("threshold", p=p)
    check_arguments("threshold", between(high=1.0), least=least)
    return Rule(jnp.where(p >= jnp.asarray(least)[..., None], 1.0, 0.0), p)


def multi_round(p: Law, q: Law, draws: int) -> Float[Array, "*batch draws"]:
    """Chance that the first, second, ... of several independent draws of q is the one that is accepted.

    Each draw is tried by the exact rule against what the ones before it left over, so the law of what comes out is p.

    Args:
        p: target.
        q: draft.
        draws: tokens that the draft proposes for one place.

    Raises:
        TypeError, ValueError: draws is no whole number from 1 on; and as `alignment`.

    Source: miao2024specinfer; sun2023spectr has the best rule there is.
    """
    _check_laws("multi_round", p=p, q=q)
    check_arguments("multi_round", between(1.0, whole=True), draws=draws)
    chances, open_still, left = [], jnp.ones(()), p
    for _ in range(draws):
        rule = exact(left, q)
        accepted = rule.accepted(q)
        chances.append(open_still * accepted)
        open_still, left = open_still * (1 - accepted), rule.replace
    return jnp.stack(chances, -1)


def total_variation(one: Law, other: Law) -> Float[Array, "*batch"]:
    """Half the sum of differences: the largest difference in the probability of anything.

    Raises:
        TypeError, ValueError: as `alignment`.
    """
    _check_laws("total_variation", one=one, other=other)
    return 0.5 * jnp.sum(jnp.abs(one - other), -1)


def divergence(one: Law, other: Law) -> Float[Array, "*batch"]:
    """Kullback-Leibler divergence: sum of one ln(one / other), in nats; infinite where `other` rules out what comes.

    Raises:
        TypeError, ValueError: as `alignment`.
    """
    _check_laws("divergence", one=one, other=other)
    ratio = jnp.where(one > 0, one, 1.0) / jnp.where(one > 0, other, 1.0)
    return jnp.sum(one * jnp.log(ratio), -1)


def cross_entropy(written: Law, judge: Law) -> Float[Array, "*batch"]:
    """Nats a token that `judge` gives to what was drawn from `written`; of the exponential, perplexity.

    Raises:
        TypeError, ValueError: as `alignment`.
    """
    _check_laws("cross_entropy", written=written, judge=judge)
    return -jnp.sum(jnp.where(written > 0, written, 0.0) * jnp.log(jnp.where(written > 0, judge, 1.0)), -1)
