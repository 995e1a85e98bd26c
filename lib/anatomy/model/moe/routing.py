"""Routers: which experts a token goes to, and how evenly.

Axes as in `transformer`; k is top_k, and a choice is one expert for one token, so that there are T k of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anatomy.model.config import Config


class Choices(NamedTuple):
    """For each of T tokens k experts and their weights.

    A weight of 0 is no choice. A masked token chooses the expert E, which does not exist, with weight 0 (`masked`).
    """

    expert: Int[Array, "T k"]
    weight: Float[Array, "T k"]


class Routing(NamedTuple):
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
    mask: Bool[Array, "T"] | None = None,
) -> Routing:
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
        mask: which tokens are real; padding chooses no expert and is no part of load and losses. None: all are real.

    Returns:
        Choices, and two losses: `balance`, E times the sum over experts of share of choices times mean
        probability, 1 when even (fedus2022switch, section 2.2); `z`, the mean square of log-sum-exp of the scores,
        which keeps them small (zoph2022stmoe, section 3).
    """
    probability = jax.nn.softmax(scores)
    choose = {"top_k": top_k, "expert_choice": expert_choice, "hash": by_hash}[config.router]
    choices = choose(config, scores, probability, tokens, mask)
    if mask is not None:
        choices = masked(choices, mask, config.experts)
    chosen = jax.nn.one_hot(choices.expert, config.experts, dtype=scores.dtype) * (choices.weight > 0)[..., None]
    load = mean(chosen.sum((0, 1)))
    load = load / jnp.maximum(load.sum(), 1e-9)
    average = _average(mean, mask)
    balance = config.experts * jnp.sum(jax.lax.stop_gradient(load) * average(probability))
    z = average(jax.nn.logsumexp(scores, axis=-1) ** 2)
    return Routing(choices, balance, z, load, jnp.zeros((), scores.dtype))


def masked(choices: Choices, mask: Bool[Array, "T"], experts: int) -> Choices:
    """Choices of the tokens that are real; padding has weight 0, at the expert E, which does not exist.

    So a dispatch gives padding no place and computes nothing for it, whatever its token is.
    """
    real = mask[:, None]
    return Choices(jnp.where(real, choices.expert, experts), jnp.where(real, choices.weight, 0))


def _average(mean: Callable[[Array], Array], mask: Bool[Array, "T"] | None) -> Callable[[Array], Array]:
    """Mean over the real tokens of all chips."""
    if mask is None:
        return lambda value: mean(value.mean(0))

    def average(value: Float[Array, "T *rest"]) -> Float[Array, "*rest"]:
        real = mask.reshape(-1, *(1,) * (value.ndim - 1))
        # Chips may hold unequal numbers of real tokens, so sums and counts are averaged apart.
        count = mean(mask.sum(dtype=value.dtype))
        return mean(jnp.where(real, value, 0).sum(0)) / jnp.where(count > 0, count, 1)

    return average


def top_k(
    config: Config,
    scores: Float[Array, "T E"],
    probability: Float[Array, "T E"],
    tokens: Array,
    mask: Bool[Array, "T"] | None = None,
) -> Choices:
    """The k best experts of a token, weighed by a softmax over their scores."""
    best, expert = jax.lax.top_k(scores, config.top_k)
    return Choices(expert, jax.nn.softmax(best))


def expert_choice(
    config: Config,
    scores: Float[Array, "T E"],
    probability: Float[Array, "T E"],
    tokens: Array,
    mask: Bool[Array, "T"] | None = None,
) -> Choices:
    """The T k / E best tokens of an expert, weighed by the token's probability of it; at most 2 k experts a token.

    With a mask T counts the real tokens, and no other is taken.
    """
    size, wanted = max(1, len(scores) * config.top_k // config.experts), probability
    if mask is not None:
        wanted = jnp.where(mask[:, None], probability, -1)
    _, best = jax.lax.top_k(wanted.T, size)  # E x size
    taken = jnp.zeros_like(probability).at[best, jnp.arange(config.experts)[:, None]]
    if mask is None:
        taken = taken.set(1.0)
    else:
        places = jnp.maximum(1, mask.sum() * config.top_k // config.experts)
        taken = taken.set((jnp.arange(size) < places).astype(probability.dtype))
    weight, expert = jax.lax.top_k(probability * taken, min(2 * config.top_k, config.experts))
    return Choices(expert, weight)


def by_hash(
    config: Config,
    scores: Float[Array, "T E"],
    probability: Array,
    tokens: Int[Array, "T"],
    mask: Bool[Array, "T"] | None = None,
) -> Choices:
    """k neighbouring experts, the first by a multiplicative hash of the token's id; equal weights."""
    first = (tokens.astype(jnp.uint32) * jnp.uint32(2654435761)) >> jnp.uint32(16)
    expert = (first[:, None] + jnp.arange(config.top_k, dtype=jnp.uint32)) % config.experts
    weight = jnp.full(expert.shape, 1 / config.top_k, scores.dtype)
    return Choices(expert.astype(jnp.int32), weight)
