"""Where tokens go: the experts that a model chooses, token by token."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.model import dispatch
from anatomy.model.config import Config
from anatomy.model.transformer import Weights, apart, block


def routes(
    config: Config, weights: Weights, tokens: Int[Array, "B S"]
) -> tuple[Int[Array, "L B S k"], Float[Array, "L B S k"]]:
    """Experts of every token in every layer, the best first, and their weights.

    Args:
        config: of the model.
        weights: stacked or apart.
        tokens: ids.
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    x, expert, weight = weights.embedding[tokens], [], []
    for layer in apart(weights).blocks:
        x, _, routed = block(config, layer, x, tokens, positions, send=dispatch.in_buckets)
        expert.append(routed.choices.expert.reshape(*tokens.shape, -1))
        weight.append(routed.choices.weight.reshape(*tokens.shape, -1))
    return jnp.stack(expert), jnp.stack(weight)


def shares(chosen: Int[Array, "L ... k"], experts: int) -> Float[Array, "L E"]:
    """Share of the choices of each layer that fell on each expert."""
    flat = chosen.reshape(chosen.shape[0], -1)
    return jnp.stack([jnp.bincount(layer, length=experts) for layer in flat]) / flat.shape[1]
