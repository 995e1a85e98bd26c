"""The load of experts, in tokens: mean, standard deviation and maximum under even routing, and how many are active.

Symbols: n tokens, E experts, k of them for each token; p = k / E is the chance that a token is routed to one.
"""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betainc

from anatomy.specs import Scalar
from anatomy.specs.base import AT_LEAST_ONE, AT_LEAST_ZERO, between, check_arguments, is_concrete, refuse_where, shown


def check_routing(owner: str, *, experts: Scalar, top_k: Scalar, **counts: Scalar) -> None:
    """Refuse what no routing has; traced numbers pass.

    Args:
        owner: function that was called.
        experts: E.
        top_k: k.
        counts: of tokens, by name.

    Raises:
        TypeError, ValueError: experts is below 1, top_k not from 0 to experts, or a count below 0.
    """
    check_arguments(owner, AT_LEAST_ZERO, **counts, top_k=top_k)
    check_arguments(owner, AT_LEAST_ONE, experts=experts)
    if is_concrete((experts, top_k)):
        wrong = np.asarray(top_k) > np.asarray(experts)
        refuse_where(wrong, f"{owner}.top_k", top_k, f"at most experts ({shown(experts)})")


def tokens_per_expert(*, tokens: Scalar, experts: Scalar, top_k: Scalar) -> Scalar:
    """Mean load of an expert: n k / E tokens of a batch.

    Raises:
        TypeError, ValueError: as `check_routing`.
    """
    check_routing("tokens_per_expert", experts=experts, top_k=top_k, tokens=tokens)
    return tokens * top_k / experts


def load_standard_deviation(
    *, tokens: Scalar, experts: Scalar, top_k: Scalar, correlation: Scalar = 0.0, group_size: Scalar = 1.0
) -> Scalar:
    """Standard deviation of the load of an expert, in tokens, when no expert is preferred on the whole.

    Independent tokens make the load binomial, with variance n p (1 - p). Tokens of one sequence are
    not independent: they tend to the same experts. With correlation rho between the choices of tokens
    in a group of m, the variance grows by the design effect:

        var = n p (1 - p) (1 + (m - 1) rho)

    Args:
        tokens: n, in the batch.
        experts: E.
        top_k: k.
        correlation: rho, between 0 (independent) and 1 (a whole sequence goes where its first token goes).
        group_size: m, tokens in a sequence.

    Raises:
        TypeError, ValueError: correlation is not from 0 to 1, or group_size is below 1; and as `check_routing`.

    Source: kish1965survey for the design effect.
    """
    check_routing("load_standard_deviation", experts=experts, top_k=top_k, tokens=tokens)
    check_arguments("load_standard_deviation", between(high=1.0), correlation=correlation)
    check_arguments("load_standard_deviation", AT_LEAST_ONE, group_size=group_size)
    p = top_k / experts
    return jnp.sqrt(tokens * p * (1 - p) * (1 + (group_size - 1) * correlation))


def active_experts(*, tokens: Scalar, experts: Scalar, top_k: Scalar) -> Scalar:
    """Active experts, those to which some token is routed, expected: E (1 - (1 - k / E)^n).

    Exact where each token chooses k distinct experts, every set as likely, independently of the others.

    Raises:
        TypeError, ValueError: as `check_routing`.
    """
    check_routing("active_experts", experts=experts, top_k=top_k, tokens=tokens)
    return experts * (1 - (1 - top_k / experts) ** tokens)


def max_load(*, tokens: int, experts: Scalar, top_k: Scalar) -> Scalar:
    """Largest load of an expert, in tokens, expected, for independent and even choices.

    Each load is binomial with chance p = k / E, and the largest of E independent ones would be M:

        M = sum over j from 0 to n - 1 of 1 - F(j)^E,    F(j) = I_{1-p}(n - j, j + 1)

    They are not independent: they add up to n k, so each pair has the correlation -1 / (E - 1), which sets them
    further apart by sqrt(E / (E - 1)):    n p + (M - n p) sqrt(E / (E - 1)).

    Args:
        tokens: n, a Python number, since it is the length of the sum.
        experts: E.
        top_k: k.

    Returns:
        To about 2 % of what is counted, from eight tokens on. F is the binomial distribution, by the
        incomplete beta function I.

    Raises:
        TypeError, ValueError: tokens is not whole; and as `check_routing`.

    Source: raab1998balls for balls in bins.
    """
    check_routing("max_load", experts=experts, top_k=top_k)
    check_arguments("max_load", between(whole=True), tokens=tokens)
    j = jnp.arange(tokens, dtype=float)
    within = betainc(tokens - j, j + 1, 1 - top_k / experts)
    mean = tokens_per_expert(tokens=tokens, experts=experts, top_k=top_k)
    return mean + (jnp.sum(1 - within**experts) - mean) * _apart(experts)


def max_load_of_normal(*, mean: Scalar, standard_deviation: Scalar, experts: Scalar) -> Scalar:
    """Largest load of E experts, two or more, if loads are normally distributed: in closed form.

        mean + standard_deviation sqrt(E / (E - 1)) (t - (ln ln E + ln 4 pi) / 2t + gamma / t),    t = sqrt(2 ln E)

    It is low where the mean load is a token or less.

    Raises:
        TypeError, ValueError: mean or standard_deviation is below 0, or experts below 2.

    Source: the limit of extremes of normal numbers, gamma being Euler's constant; raab1998balls for counts.
    """
    check_arguments("max_load_of_normal", AT_LEAST_ZERO, mean=mean, standard_deviation=standard_deviation)
    check_arguments("max_load_of_normal", between(2.0), experts=experts)
    t = jnp.sqrt(2 * jnp.log(experts))
    above = t - (jnp.log(jnp.log(experts)) + jnp.log(4 * jnp.pi)) / (2 * t) + jnp.euler_gamma / t
    return mean + standard_deviation * _apart(experts) * above


def _apart(experts: Scalar) -> Scalar:
    """How much further apart counts lie whose sum is fixed, than independent ones: sqrt(E / (E - 1))."""
    return jnp.sqrt(experts / jnp.maximum(experts - 1, 1))
