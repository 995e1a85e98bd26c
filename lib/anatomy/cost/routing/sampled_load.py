"""The load of each expert in a step, sampled: even, skewed and correlated routing, and the slowest expert way.

The model is that of `active_experts`; a key gives the same sample on every machine.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Real

from anatomy.cost.routing.active_experts import WHOLE, check_choices, selection_probabilities
from anatomy.specs import Scalar
from anatomy.specs.base import UP_TO_ONE, AnyArray, check_arguments, is_concrete, refuse_where


def sample_loads(
    key: Key[Array, ""],
    *,
    tokens: int,
    weights: Real[AnyArray, "E"],
    top_k: int,
    correlation: Scalar = 0.0,
    group_size: int = 1,
    steps: int = 1,
) -> Float[Array, "steps E"]:
    """Tokens that are routed to each expert, for a number of independent steps (or layers).

    Tokens that choose for themselves are dealt expert by expert, with binomial draws as many as experts and not as
    tokens; groups have a leader whose experts are drawn, and followers that are counted.

    Args:
        key: of the draws.
        tokens: n, whole groups of them.
        weights: w_e; equal ones for even routing.
        top_k: k.
        correlation: rho, the correlation between the choices of a group.
        group_size: m, its tokens.
        steps: samples.

    Raises:
        TypeError, ValueError: a number is not what is allowed, group does not divide tokens, or a token needs more
            experts than there are with a weight.
    """
    check_arguments("sample_loads", WHOLE, tokens=tokens, group_size=group_size, steps=steps)
    check_arguments("sample_loads", UP_TO_ONE, correlation=correlation)
    check_choices("sample_loads", weights, top_k)
    if tokens % group_size:
        raise ValueError(f"sample_loads.group_size is {group_size}; allowed: a divisor of tokens ({tokens})")
    return _sample(key, jnp.asarray(weights, float), jnp.asarray(correlation, float), tokens, top_k, group_size, steps)


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _sample(
    key: Key[Array, ""],
    weights: Float[Array, "E"],
    correlation: Float[Array, ""],
    tokens: int,
    top_k: int,
    group_size: int,
    steps: int,
) -> Float[Array, "steps E"]:
    followers, leaders, own = jax.random.split(key, 3)
    groups = tokens // group_size
    chances = selection_probabilities(weights, top_k=top_k)
    if group_size == 1:  # nobody to follow
        return deal_tokens(own, jnp.full(steps, float(tokens)), chances)
    follow = jax.random.binomial(followers, float(group_size), jnp.sqrt(correlation), (steps, groups))
    led = deal_tokens(leaders, jnp.ones((steps, groups)), chances, draw=_coins)
    return jnp.einsum("sg,sge->se", follow, led) + deal_tokens(own, tokens - follow.sum(1), chances)


def _coins(key: Key[Array, ""], tokens: Float[Array, "..."], chance: Scalar) -> Float[Array, "..."]:
    """Binomial draws of none or one token, which is cheaper."""
    return tokens * jax.random.bernoulli(key, chance, tokens.shape)


def deal_tokens(
    key: Key[Array, ""],
    tokens: Float[Array, "..."],
    chances: Float[Array, "E k"],
    draw: Callable[..., Float[Array, "..."]] = jax.random.binomial,
) -> Float[Array, "... E"]:
    """Tokens of each expert, of so many independent ones.

    Args:
        key: of the draws.
        tokens: n, of each sample.
        chances: as `active_experts.selection_probabilities` returns them.
        draw: binomial numbers of a key, so many tokens, and a chance.
    """
    top_k = chances.shape[1]
    need = jnp.zeros((*tokens.shape, top_k)).at[..., -1].set(tokens)  # tokens that need 1, ... k experts more

    def turn(need: Array, of_expert: tuple[Array, Array]) -> tuple[Array, Array]:
        key, chance = of_expert
        took = draw(key, need, jnp.broadcast_to(chance, need.shape))
        took = jnp.where(chance >= 1, need, took)
        fewer = jnp.concatenate([took[..., 1:], jnp.zeros_like(took[..., :1])], -1)
        return need - took + fewer, took.sum(-1)

    _, loads = jax.lax.scan(turn, need, (jax.random.split(key, len(chances)), chances))
    return jnp.moveaxis(loads, 0, -1)


class SlowestWay(NamedTuple):
    """What the slowest expert way has to do, so that `decode` waits for it."""

    active_experts: Float[Array, "..."]  # of a layer, as if all ways had as many to read as the one with most
    imbalance: Float[Array, "..."]  # tokens of the fullest way over the mean


def slowest_way(loads: Real[AnyArray, "... E"], *, ways: int = 1) -> SlowestWay:
    """What the slowest of the expert ways has to read and to compute, for `serving.steps.decode`.

    Args:
        loads: tokens of each expert, as sampled or as counted.
        ways: e, over which experts are split in their order, E / e to each.

    Raises:
        ValueError: ways do not divide the experts, or no expert has a token.
    """
    experts = loads.shape[-1]
    if ways < 1 or experts % ways:
        raise ValueError(f"slowest_way.ways is {ways}; allowed: a divisor of the experts ({experts})")
    each = jnp.asarray(loads, float).reshape(*loads.shape[:-1], ways, experts // ways)
    tokens = each.sum(-1)
    if is_concrete(tokens):
        refuse_where(tokens.sum(-1) <= 0, "slowest_way.loads, added up,", tokens.sum(-1), "a number above 0")
    return SlowestWay(ways * (each > 0).sum(-1).max(-1), tokens.max(-1) / tokens.mean(-1))
