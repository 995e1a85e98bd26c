"""Speculative decoding: how many drafted tokens the target accepts, independently or with correlation.

In a speculation step a draft proposes tokens, the target verifies them in one pass, and accepts the first of them.

Symbols: a acceptance rate, the chance that a drafted token is accepted when those before it were; g draft length,
tokens drafted in a step; c draft cost, seconds of a pass of the draft over one of the target; v verify cost, seconds
in which the target reads g + 1 tokens over those of one. S_i acceptance by position, the chance that the first i
drafted tokens are accepted.

A step yields the accepted tokens and one more, which the target draws itself: so g + 1 at most, 1 at least, and

    tokens = S_0 + S_1 + ... + S_g

Source: leviathan2023fast; chen2023speculative has the same rule.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from anatomy.specs import Scalar
from anatomy.specs.base import AT_LEAST_ZERO, UP_TO_ONE, AnyArray, between, check_arguments, is_concrete, refuse_where

COUNT = between(whole=True)
TERMS = 14  # of the series near a = 1
ROUNDING = 1e-6  # by which chances that are equal may differ
NEAR = 0.1  # of (g + 1) (1 - a), below which it is used


def expected_tokens(*, acceptance_rate: Scalar, draft_length: Scalar) -> Scalar:
    """Tokens of a step, expected, where each drafted token is accepted with the same chance: g + 1 at a = 1.

        (1 - a^(g + 1)) / (1 - a)

    Args:
        acceptance_rate: a, from 0 to 1.
        draft_length: g, drafted tokens; need not be whole.

    Returns:
        To full precision, gradients too, up to and at a = 1.

    Raises:
        TypeError, ValueError: acceptance_rate is not from 0 to 1, or draft_length is below 0.

    Source: leviathan2023fast, equation 1.
    """
    check_arguments("expected_tokens", UP_TO_ONE, acceptance_rate=acceptance_rate)
    check_arguments("expected_tokens", AT_LEAST_ZERO, draft_length=draft_length)
    n, short = draft_length + 1.0, 1.0 - jnp.asarray(acceptance_rate, float)
    near = n * short < NEAR
    # 1 - (1 - d)^n = n d - n (n - 1) / 2 d^2 + ..., so that nothing is divided by d.
    term = series = n * jnp.ones_like(short)
    for k in range(TERMS):
        term = term * -short * (n - 1 - k) / (k + 2)
        series = series + term
    away = jnp.where(near, 0.5, short)
    return jnp.where(near, series, (1 - (1 - away) ** n) / away)


def independent_acceptance(*, acceptance_rate: Scalar, longest: int) -> Float[Array, "{longest}+1"]:
    """S_0 to S_longest where every token has the same chance, whatever became of others: a^i.

    Raises:
        TypeError, ValueError: acceptance_rate is not from 0 to 1, or longest is no whole number from 0 on.
    """
    check_arguments("independent_acceptance", UP_TO_ONE, acceptance_rate=acceptance_rate)
    check_arguments("independent_acceptance", COUNT, longest=longest)
    return jnp.asarray(acceptance_rate, float) ** jnp.arange(longest + 1)


def correlated_acceptance(*, acceptance_rate: Scalar, correlation: Scalar, longest: int) -> Float[Array, "{longest}+1"]:
    """S_0 to S_longest where some steps are easier than others, for all of their tokens.

    The chance differs from step to step by a beta distribution of mean a; rho is then the correlation of two
    tokens of a step:

        S_i = product over j from 0 to i - 1 of (a (1 - rho) + j rho) / (1 - rho + j rho)

    It is a^i for rho = 0, falls like a power of i for any other, and not at all for rho = 1. Were the chance to vary
    from token to token independently, only its mean would count.

    Args:
        acceptance_rate: a, mean over tokens that are drafted first.
        correlation: rho, from 0 to 1.
        longest: longest draft.

    Raises:
        TypeError, ValueError: acceptance_rate or correlation is not from 0 to 1, or longest is no whole number from 0
            on.
    """
    check_arguments("correlated_acceptance", UP_TO_ONE, acceptance_rate=acceptance_rate, correlation=correlation)
    check_arguments("correlated_acceptance", COUNT, longest=longest)
    own, j = 1.0 - jnp.asarray(correlation, float), jnp.arange(1, longest)
    first = jnp.stack([1.0, jnp.asarray(acceptance_rate, float)])  # j = 0 is a, even where rho is 1
    chance = (acceptance_rate * own + j * correlation) / (own + j * correlation)
    return jnp.cumprod(jnp.concatenate([first, chance]))[: longest + 1]


def two_state_acceptance(
    *, easy: Scalar, hard: Scalar, to_hard: Scalar, to_easy: Scalar, longest: int
) -> Float[Array, "{longest}+1"]:
    """S_0 to S_g where easy and hard passages follow each other, as steps meet them in the long run.

    Each token is easy or hard, and the next is of the other kind with a fixed chance. A step begins after a rejection
    more often than not, so among hard tokens more often than the text is hard. With D the chances of both kinds on
    the diagonal, P from kind to kind, and phi the kind of a step's first token:

        S_i = phi (D P)^i 1,    phi = phi (sum over i < g of (D P)^i (1 - D) P + (D P)^g P)

    Far out S_i falls by the same factor from token to token, the larger eigenvalue of D P: exponentially, but slower
    than the mean acceptance rate has it.

    Args:
        easy: chance that an easy token is accepted.
        hard: and a hard one.
        to_hard: chance that a hard token follows an easy one.
        to_easy: and an easy one a hard one.
        longest: g.

    Raises:
        TypeError, ValueError: a chance is not from 0 to 1, length is no whole number from 0 on, or neither kind ever
            follows the other, so that there is no long run.
    """
    check_arguments("two_state_acceptance", UP_TO_ONE, easy=easy, hard=hard, to_hard=to_hard, to_easy=to_easy)
    check_arguments("two_state_acceptance", COUNT, longest=longest)
    if is_concrete((to_hard, to_easy)):
        stuck = (np.asarray(to_hard) == 0) & (np.asarray(to_easy) == 0)
        refuse_where(stuck, "two_state_acceptance.to_hard", to_hard, "a number above 0, or to_easy above 0")
    kinds = jnp.array([[1 - to_hard, to_hard], [to_easy, 1 - to_easy]], float)
    chance = jnp.array([easy, hard], float)
    power, rounds, passed = jnp.eye(2), jnp.zeros((2, 2)), []
    for _ in range(longest):
        passed.append(power)
        rounds = rounds + (power * (1 - chance)) @ kinds
        power = (power * chance) @ kinds
    passed.append(power)
    rounds = rounds + power @ kinds
    out, back = rounds[0, 1], rounds[1, 0]
    start = jnp.array([back, out]) / (out + back)
    return jnp.stack(passed).sum(-1) @ start


def check_acceptance(owner: str, acceptance: Real[AnyArray, "lengths"]) -> None:
    """Refuse what cannot be S_0 to S_g; traced numbers pass."""
    if is_concrete(acceptance):
        values = np.asarray(acceptance, float)
        fine = (np.diff(values, prepend=1.0) <= ROUNDING) & (values >= 0)
        fine[:1] &= values[:1] >= 1 - ROUNDING
        refuse_where(~fine, f"{owner}.acceptance", values, "1 of no token, then numbers from 0 on that do not rise")


def tokens_distribution(acceptance: Real[AnyArray, "lengths"]) -> Float[Array, "lengths"]:
    """Chances that a step yields 1, 2, ..., g + 1 tokens: S_(t-1) - S_t, and S_g of all.

    Raises:
        ValueError: acceptance does not begin with 1, rises, or is below 0.
    """
    check_acceptance("tokens_distribution", acceptance)
    return jnp.asarray(acceptance) - jnp.concatenate([acceptance[1:], jnp.zeros(1)])


class Moments(NamedTuple):
    """Of the tokens of a speculation step."""

    mean: Scalar
    standard_deviation: Scalar


def tokens_moments(acceptance: Real[AnyArray, "lengths"]) -> Moments:
    """Mean and standard deviation of the tokens of a step: sum of S_i, and of (2 i + 1) S_i for the square.

    Raises:
        ValueError: as `tokens_distribution`.
    """
    check_acceptance("tokens_moments", acceptance)
    mean = acceptance.sum()
    square = jnp.sum((2 * jnp.arange(acceptance.shape[0]) + 1) * acceptance)
    return Moments(mean, jnp.sqrt(jnp.maximum(square - mean**2, 0.0)))
