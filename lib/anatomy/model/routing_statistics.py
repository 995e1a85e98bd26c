"""Which experts a model chooses, token by token, and what is counted of it."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.model import moe
from anatomy.model.attention import causal
from anatomy.model.config import Config
from anatomy.model.transformer import Weights, block, unstack


@partial(jax.jit, static_argnums=0)
def chosen_experts(
    config: Config, weights: Weights, tokens: Int[Array, "B S"]
) -> tuple[Int[Array, "L B S k"], Float[Array, "L B S k"]]:
    """Experts of every token in every layer, the best first, and their weights.

    Args:
        config: of the model.
        weights: stacked or unstacked.
        tokens: ids.
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    x, expert, weight = weights.embedding[tokens], [], []
    for layer in unstack(weights).blocks:
        x, _, routing = block(config, layer, x, tokens, positions, causal(positions), moe.with_overflow)
        expert.append(routing.choices.expert.reshape(*tokens.shape, -1))
        weight.append(routing.choices.weight.reshape(*tokens.shape, -1))
    return jnp.stack(expert), jnp.stack(weight)


def expert_load(chosen: Int[Array, "L ... k"], experts: int) -> Float[Array, "L E"]:
    """Share of the choices of each layer that fell on each expert."""
    flat = chosen.reshape(chosen.shape[0], -1)
    return jnp.stack([jnp.bincount(layer, length=experts) for layer in flat]) / flat.shape[1]


@partial(jax.jit, static_argnums=1)
def routing_correlation(chosen: Int[Array, "L S m k"], experts: int) -> Float[Array, "L"]:
    """Intraclass correlation rho of the choices within sequences, for each layer.

    How alike the tokens of a sequence choose, beyond what the shares of the experts make them: 0 where each token
    chooses by itself, 1 where a whole sequence goes where its first token goes. By analysis of variance, with p_se the
    share of the m tokens of sequence s that visit expert e, p_e its mean over the S sequences, and sums over experts:

        between = m / (S - 1) sum_s,e (p_se - p_e)^2,    within = m / (S (m - 1)) sum_s,e p_se (1 - p_se)
        rho = (between - within) / (between + (m - 1) within)

    Args:
        chosen: experts of each token; a token chooses k different ones.
        experts: E.

    Returns:
        Between -1 / (m - 1) and 1; no number where all tokens choose the same, for then nothing varies.

    Raises:
        ValueError: there are fewer than two sequences, or they have fewer than two tokens.

    Source: kish1965survey for rho and what it does to a spread; the estimate is that of one-way analysis of variance.
    """
    _, sequences, tokens, _ = chosen.shape
    for name, count in (("sequences", sequences), ("tokens of a sequence", tokens)):
        if count < 2:
            raise ValueError(f"routing_correlation: {name} is {count}; allowed: at least 2")
    share = visits_per_sequence(chosen, experts) / tokens
    between = tokens / (sequences - 1) * jnp.sum((share - share.mean(1, keepdims=True)) ** 2, axis=(1, 2))
    within = tokens / (tokens - 1) * jnp.sum(share * (1 - share), axis=(1, 2)) / sequences
    varies = jnp.any(share != share[:, :1], axis=(1, 2)) | (within > 0)
    return jnp.where(varies, (between - within) / (between + (tokens - 1) * within), jnp.nan)


@partial(jax.jit, static_argnums=1)
def visits_per_sequence(chosen: Int[Array, "L S m k"], experts: int) -> Int[Array, "L S E"]:
    """Tokens of each sequence that visit each expert, in each layer."""
    count = jax.vmap(jax.vmap(lambda one: jnp.bincount(one, length=experts)))
    return count(chosen.reshape(*chosen.shape[:2], -1))
