"""Routers: which experts a token goes to, and how evenly.

Axes as in `transformer`; k is top_k, and a choice is one expert for one token, so that there are T k of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.model.config import Config


class Choices(NamedTuple):
    """For each of T tokens k experts and their weights; a weight of 0 is no choice."""

    expert: Int[Array, "T k"]
    weight: Float[Array, "T k"]


class Routed(NamedTuple):
    """What a router did with the tokens of a layer."""

    choices: Choices
    balance: Float[Array, ""]
    z: Float[Array, ""]
    load: Float[Array, "E"]  # share of the choices
    dropped: Float[Array, ""]  # share of the choices that no expert took


def route(
    config: Config,
    scores: Float[Array, "T E"],
    tokens: Int[Array, "T"],
    mean: Callable[[Array], Array] = lambda own: own,
) -> Routed:
    """Choose experts by the router that the configuration names.

    `top_k` takes the k best scores of a token and weighs them by a softmax over these (jiang2024mixtral).
    `expert_choice` lets each expert take the T k / E tokens that score it highest; a token may get none or up to
    2 k, and looks at later tokens, so it is for comparison in training only (zhou2022expertchoice). `hash` goes by the
    token's id alone (roller2021hash).

    Args:
        config: names the router.
        scores: of every expert for every token.
        tokens: ids.
        mean: over chips that route other tokens of the same batch.

    Returns:
        Choices, and two losses: `balance`, E times the sum over experts of share of choices times mean
        probability, 1 when even (fedus2022switch, section 2.2); `z`, the mean square of log-sum-exp of the scores,
        which keeps them small (zoph2022stmoe, section 3).
    """
    probability = jax.nn.softmax(scores)
    choose = {"top_k": top_k, "expert_choice": expert_choice, "hash": by_hash}[config.router]
    choices = choose(config, scores, probability, tokens)
    chosen = jax.nn.one_hot(choices.expert, config.experts, dtype=scores.dtype) * (choices.weight > 0)[..., None]
    load = mean(chosen.sum((0, 1)))
    load = load / jnp.maximum(load.sum(), 1e-9)
    balance = config.experts * jnp.sum(jax.lax.stop_gradient(load) * mean(probability.mean(0)))
    z = mean(jnp.mean(jax.nn.logsumexp(scores, axis=-1) ** 2))
    return Routed(choices, balance, z, load, jnp.zeros((), scores.dtype))


def top_k(config: Config, scores: Float[Array, "T E"], probability: Float[Array, "T E"], tokens: Array) -> Choices:
    """The k best experts of a token, weighed by a softmax over their scores."""
    best, expert = jax.lax.top_k(scores, config.top_k)
    return Choices(expert, jax.nn.softmax(best))


def expert_choice(
    config: Config, scores: Float[Array, "T E"], probability: Float[Array, "T E"], tokens: Array
) -> Choices:
    """The T k / E best tokens of an expert, weighed by the token's probability of it; at most 2 k experts a token."""
    size = max(1, len(scores) * config.top_k // config.experts)
    _, best = jax.lax.top_k(probability.T, size)  # E x size
    taken = jnp.zeros_like(probability).at[best, jnp.arange(config.experts)[:, None]].set(1.0)
    weight, expert = jax.lax.top_k(probability * taken, min(2 * config.top_k, config.experts))
    return Choices(expert, weight)


def by_hash(config: Config, scores: Float[Array, "T E"], probability: Array, tokens: Int[Array, "T"]) -> Choices:
    """k neighbouring experts, the first by a multiplicative hash of the token's id; equal weights."""
    first = (tokens.astype(jnp.uint32) * jnp.uint32(2654435761)) >> jnp.uint32(16)
    expert = (first[:, None] + jnp.arange(config.top_k, dtype=jnp.uint32)) % config.experts
    weight = jnp.full(expert.shape, 1 / config.top_k, scores.dtype)
    return Choices(expert.astype(jnp.int32), weight)
