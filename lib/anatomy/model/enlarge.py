"""The same function at the cost of a larger model: trained weights, with zeros around them.

Speed depends on shapes and not on values, acceptance on values and not on shapes. So a small model that was trained,
enlarged, is a large one of which both are real.

- Stream: zeros beyond the trained width. A norm divides by the root of the mean square, which r times the width makes
  smaller by sqrt(r): its scale is divided by sqrt(r), its epsilon by r.
- Heads: more query heads, whose outputs are not read.
- Experts: more inner units, whose outputs are not read.
- Layers: more of them, which add nothing to the stream.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from anatomy.model.config import Config
from anatomy.model.moe.experts import Experts, stack
from anatomy.model.transformer import Block, Weights

GROWS = ("layers", "d_model", "heads", "d_ff")


def enlarge(config: Config, weights: Weights, **sizes: int) -> tuple[Config, Weights]:
    """A larger model that computes the same, but for rounding; that too where width grows by a power of four.

    Args:
        config: of the model.
        weights: stacked or unstacked; the larger ones are stacked.
        sizes: `layers`, `d_model`, `heads` and `d_ff` that it shall have; what is not given stays.

    Raises:
        ValueError: a size is none of these or smaller than it is, or there are several heads of keys and values and
            more query heads are asked for.
    """
    for name, size in sizes.items():
        if name not in GROWS:
            raise ValueError(f"enlarge.{name} is {size}; allowed: sizes of {', '.join(GROWS)}")
        if size < getattr(config, name):
            raise ValueError(f"enlarge.{name} is {size}; allowed: at least {getattr(config, name)}, as it is")
    large = config.replace(**sizes)
    if large.heads > config.heads and config.kv_heads > 1:
        raise ValueError(f"enlarge.heads is {large.heads}; allowed: {config.heads}, as kv_heads is {config.kv_heads}")
    ratio = large.d_model / config.d_model
    old, width = weights.blocks, large.d_model

    def padded(a: Array, *shape: int) -> Array:
        return jnp.pad(a, [(0, new - old) for old, new in zip(a.shape, shape, strict=True)])

    def scale(a: Array) -> Array:
        return padded(a / jnp.sqrt(ratio).astype(a.dtype), *a.shape[:-1], width)

    query, narrow, hidden = large.heads * large.head_dim, large.kv_heads * large.head_dim, large.d_ff
    layers, experts = large.layers, (large.layers, large.experts)
    each = stack_layers(old)
    blocks = Block(
        attention_norm=jnp.pad(scale(each.attention_norm), [(0, layers - config.layers), (0, 0)]),
        query=padded(each.query, layers, width, query),
        key=padded(each.key, layers, width, narrow),
        value=padded(each.value, layers, width, narrow),
        output=padded(each.output, layers, query, width),
        experts_norm=jnp.pad(scale(each.experts_norm), [(0, layers - config.layers), (0, 0)]),
        router=padded(each.router, layers, width, large.experts),
        experts=Experts(
            padded(each.experts.gate, *experts, width, hidden),
            padded(each.experts.up, *experts, width, hidden),
            padded(each.experts.down, *experts, hidden, width),
        ),
    )
    made = Weights(
        embedding=padded(weights.embedding, large.vocabulary, width),
        blocks=blocks,
        norm=scale(weights.norm),
        unembedding=padded(weights.unembedding, width, large.vocabulary),
    )
    return large.replace(norm_epsilon=config.norm_epsilon / ratio), made


def stack_layers(blocks: Block | tuple[Block, ...]) -> Block:
    """Layers with L in front, experts with E behind it."""
    if not isinstance(blocks, tuple):
        return blocks
    whole = [dataclasses.replace(block, experts=stack(block.experts)) for block in blocks]
    return jax.tree.map(lambda *each: jnp.stack(each), *whole)
