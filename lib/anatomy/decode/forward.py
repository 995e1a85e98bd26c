"""A pass of the model over new tokens of some sequences, whose earlier tokens are in a cache.

One function, `extend`, is prefill by chunks, the decode step, and the check of a draft: rows of S tokens of which the
first `count` are real, from 0 to S of them. The others are masked: they write to no cache, go to no expert and read
none, and no other token sees them. So shapes stay fixed while sequences come and go.

Axes as in `cache`; S new tokens of a row.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode.cache import Cache, View, through_cache
from anatomy.decode.dispatch import select_dispatch
from anatomy.model import Config, Weights, block, fuse_experts, unstack
from anatomy.model.transformer import rms_norm
from anatomy.specs.base import register


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model as it serves; a tree of arrays, of which all but the weights is static.

    Attributes:
        weights: unstacked, with experts fused or not.
        config: of the model.
        dispatch: its name, or None for the fastest of each pass (`dispatch.select_dispatch`).

    Raises:
        ValueError: the dispatch drops tokens, or there is none of this name.
    """

    weights: Weights
    config: Config = dataclasses.field(metadata={"static": True})
    dispatch: str | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        """Refuse a dispatch that drops; unstack the weights."""
        select_dispatch(self.dispatch, 1)
        object.__setattr__(self, "weights", unstack(self.weights))

    def fused(self) -> "ServedModel":
        """The same with fused experts, which the fastest dispatch reads faster: a copy of the experts."""
        return self if self.dispatch else dataclasses.replace(self, weights=fuse_experts(self.weights))


register(ServedModel)


@dataclasses.dataclass(frozen=True)
class TreeNodes:
    """New tokens that are nodes of a tree, of which the cache already has the first ones.

    Attributes:
        first: nodes in the cache, from the root on.
        depth: of each new node; the root has 0.
        ancestors: which nodes of the tree each new node follows, itself among them: what it attends to.
    """

    first: int
    depth: Int[np.ndarray, "S"]
    ancestors: Bool[np.ndarray, "S nodes"]


def extend(
    model: ServedModel,
    cache: Cache,
    tokens: Int[Array, "R S"],
    count: Int[Array, "R"],
    rows: Int[Array, "R"] | None = None,
    nodes: TreeNodes | None = None,
) -> tuple[Float[Array, "R S D"], Cache]:
    """The stream after the last layer for new tokens, and the cache with them.

    Args:
        model: that reads them.
        cache: of the earlier tokens; donate it to the program that calls this, so that it is written in place.
        tokens: new ones of each row; they follow those that its cache holds.
        count: how many of them are real, 0 to S, the first ones; no more than the row has room for.
        rows: of the cache, all different; None is all of them in order, R = B.
        nodes: where the new tokens are nodes of a tree and not one after the other.

    Returns:
        The stream, of which only what belongs to real tokens has a meaning (`logits` reads it); the cache, its lengths
        grown by `count`.
    """
    start = cache.length if rows is None else cache.length[rows]
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    mask = index < count[:, None]
    positions = places = start[:, None] + index
    visible = lambda place: place <= positions[..., None]  # noqa: E731
    if nodes is not None:
        root = start[:, None] - nodes.first
        positions, visible = root + nodes.depth, lambda place: _follows(nodes, place - root)
    places = jnp.where(mask, places, cache.room)
    longest = jnp.max(jnp.where(count > 0, start + count, 0))  # rows that have no new token may be as long as they want
    view, dispatch = View(rows, places, visible, longest), select_dispatch(model.dispatch, tokens.size)
    x = model.weights.embedding[tokens]
    for layer, weights in enumerate(model.weights.blocks):
        attention = through_cache(cache, layer, view)
        x, cache, _ = block(model.config, weights, x, tokens, positions, attention, dispatch, mask=mask)
    grown = cache.length + count if rows is None else cache.length.at[rows].add(count)
    return x, dataclasses.replace(cache, length=grown)


def _follows(nodes: TreeNodes, node: Int[Array, "R n"]) -> Bool[Array, "R S n"]:
    """Whether new nodes attend to a node of the tree; to what is before the root, all of them do."""
    within = nodes.ancestors.shape[1]
    seen = jnp.asarray(nodes.ancestors)[:, jnp.clip(node, 0, within - 1)].transpose(1, 0, 2)
    return jnp.where(node[:, None] < 0, True, seen & (node < within)[:, None])


def last_of(x: Float[Array, "R S D"], count: Int[Array, "R"]) -> Float[Array, "R D"]:
    """The stream at the last real token of each row; of a row without one, at its first."""
    return jnp.take_along_axis(x, jnp.maximum(count - 1, 0)[:, None, None], axis=1)[:, 0]


def logits(model: ServedModel, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """Logits of the token after each, from the stream after the last layer."""
    return rms_norm(x, model.weights.norm, model.config.norm_epsilon) @ model.weights.unembedding
