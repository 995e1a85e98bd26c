"""How many tokens to draft: the speed-up of each draft length, the best one, and drafts that have drafts.

Symbols as in `acceptance`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from anatomy.cost.speculation.acceptance import COUNT, check_acceptance, tokens_distribution
from anatomy.specs import Scalar
from anatomy.specs.base import ABOVE_ZERO, AT_LEAST_ZERO, AnyArray, between, check_arguments, is_concrete, refuse_where

NEWTON = 6  # steps; each doubles the digits


def speed_up(*, tokens: Scalar, draft_length: Scalar, draft_cost: Scalar, verify_cost: Scalar = 1.0) -> Scalar:
    """Times as fast as plain decoding: tokens / (g c + v).

    Args:
        tokens: of a speculation step, expected.
        draft_length: g.
        draft_cost: c.
        verify_cost: v; 1 where a block takes as long as a token, which is the paper's assumption.

    Raises:
        TypeError, ValueError: draft_cost is below 0, or verify_cost is not above 0.

    Source: leviathan2023fast, theorem 3.8.
    """
    check_arguments("speed_up", AT_LEAST_ZERO, draft_length=draft_length, draft_cost=draft_cost)
    check_arguments("speed_up", ABOVE_ZERO, verify_cost=verify_cost)
    return tokens / (draft_length * draft_cost + verify_cost)


def speed_up_by_length(
    acceptance: Real[AnyArray, "lengths"], *, draft_cost: Scalar, verify_cost: Scalar | Real[AnyArray, "lengths"] = 1.0
) -> Float[Array, "lengths"]:
    """Speed-up of every draft length from 0 to g; verify_cost is v of each, or of all.

    Raises:
        TypeError, ValueError: as `tokens_distribution` and `speed_up`.
    """
    check_acceptance("speed_up_by_length", acceptance)
    return jnp.asarray(
        speed_up(
            tokens=jnp.cumsum(acceptance),
            draft_length=jnp.arange(acceptance.shape[0], dtype=float),
            draft_cost=draft_cost,
            verify_cost=verify_cost,
        )
    )


def best_draft_length(
    acceptance: Real[AnyArray, "lengths"], *, draft_cost: Scalar, verify_cost: Scalar | Real[AnyArray, "lengths"] = 1.0
) -> Int[Array, ""]:
    """Draft length with the largest speed-up, from 0, which is plain decoding, to the longest that is given.

    Args:
        acceptance: S_0 to S_g.
        draft_cost: c.
        verify_cost: v of each length, or of all.

    Raises:
        TypeError, ValueError: as `speed_up_by_length`.
    """
    return jnp.argmax(speed_up_by_length(acceptance, draft_cost=draft_cost, verify_cost=verify_cost))


def stationary_draft_length(*, acceptance_rate: Scalar, draft_cost: Scalar, verify_cost: Scalar = 1.0) -> Scalar:
    """Draft length at which the speed-up is stationary, were lengths not whole; below 0 where drafting never pays.

    With L = -ln a, where d(speed-up) / dg = 0:

        a^(g + 1) (c + L (g c + v)) = c,    g + 1 = (y - s) / L,    y - ln y = s = 1 + L (v - c) / c,    y > 1

    y is -W(-exp(-s)) with the lower branch of Lambert's W. The speed-up has one peak, so the best whole length is one
    of the two neighbours.

    Args:
        acceptance_rate: a, above 0 and below 1.
        draft_cost: c, above 0 and below v.
        verify_cost: v, the same for all lengths.

    Raises:
        TypeError, ValueError: acceptance_rate is not between 0 and 1, draft_cost is not above 0, or verify_cost is not
            above draft_cost.

    Source: leviathan2023fast, section 3.5, asks for it and solves it numerically; corless1996lambert for W.
    """
    check_arguments(
        "stationary_draft_length",
        ABOVE_ZERO,
        acceptance_rate=acceptance_rate,
        draft_cost=draft_cost,
        verify_cost=verify_cost,
    )
    if is_concrete((acceptance_rate, draft_cost, verify_cost)):
        refuse_where(
            jnp.asarray(acceptance_rate) >= 1,
            "stationary_draft_length.acceptance_rate",
            acceptance_rate,
            "a number below 1",
        )
        refuse_where(
            jnp.asarray(verify_cost) <= draft_cost,
            "stationary_draft_length.verify_cost",
            verify_cost,
            "a number above draft_cost",
        )
    fall = -jnp.log(jnp.asarray(acceptance_rate, float))
    u = fall * (verify_cost - draft_cost) / draft_cost
    # Above the root, from where Newton's steps come down to it.
    y = 1 + jnp.sqrt(2 * u) + u
    for _ in range(NEWTON):
        y = y - (y - jnp.log(y) - 1 - u) * y / (y - 1)
    return (y - 1 - u) / fall - 1


def steps_for(distribution: Real[AnyArray, "most"], *, tokens: int) -> Scalar:
    """Speculation steps until so many tokens are there, expected: n(t) = 1 + sum over k of p(k) n(t - k).

    Args:
        distribution: chances p that a step yields 1, 2, ... tokens, as `tokens_distribution` gives them.
        tokens: wanted; what the last step yields beyond them is thrown away.

    Raises:
        TypeError, ValueError: tokens is no whole number from 0 on.
    """
    check_arguments("steps_for", COUNT, tokens=tokens)
    most = distribution.shape[0]
    waiting = [jnp.zeros(())] * most  # n of 0 and below
    for _ in range(tokens):
        waiting.append(1 + sum(chance * n for chance, n in zip(distribution, reversed(waiting[-most:]), strict=True)))
    return waiting[-1]


def staged_draft_cost(
    *,
    draft_cost: Scalar,
    draft_length: int,
    acceptance: Real[AnyArray, "lengths"],
    second_cost: Scalar,
    verify_cost: Scalar = 1.0,
) -> Scalar:
    """c of a draft that is itself sped up by a draft: seconds of its g tokens, over g steps of the target.

    Args:
        draft_cost: c, of the draft alone.
        draft_length: g, of its draft.
        acceptance: S_0 to S_h of the second draft's tokens before the first.
        second_cost: seconds of a step of the second draft over one of the first.
        verify_cost: v of the first draft for the second's tokens.

    Raises:
        TypeError, ValueError: a cost is below 0, or length is below 1; and as `tokens_distribution`.

    Source: spector2023staged.
    """
    check_arguments(
        "staged_draft_cost", AT_LEAST_ZERO, draft_cost=draft_cost, second_cost=second_cost, verify_cost=verify_cost
    )
    check_arguments("staged_draft_cost", between(1.0, whole=True), draft_length=draft_length)
    each = (acceptance.shape[0] - 1) * second_cost + verify_cost
    return draft_cost * steps_for(tokens_distribution(acceptance), tokens=draft_length) * each / draft_length
