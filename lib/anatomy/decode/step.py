"""A pass of the model over new tokens of some sequences, whose earlier tokens are in a cache.

One function, `extend`, is prefill by chunks, the decode step, and the check of a draft: rows of S tokens of which the
first `count` are there, from 0 to S of them. What is not there is padding: it writes to no cache, goes to no expert
and reads none, and no other token sees it. So shapes stay fixed while sequences come and go.

Only exact dispatches may serve (`sender`). The answer for a sequence then depends on its own tokens alone: at equal
shapes bit for bit where each choice is computed on its own (`one_by_one`) or all are (`all_experts`); within rounding
by the others, for a product of two rows may be added up in another order than that of one.

Axes as in `cache`; S new tokens of a row, n places that a pass looks at.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode.cache import Cache
from anatomy.decode.experts import in_tiles, one_by_one
from anatomy.model import Block, Config, Weights, dispatch, routing
from anatomy.model.dispatch import Dispatch
from anatomy.model.transformer import rms_norm, rotate

FEW = 2  # tokens that pass at once, up to which tiles are no faster
BLOCK = 128  # places of the cache that attention reads at once


def sender(name: str | None, phase: str, tokens: int) -> Dispatch:
    """The dispatch of this name, or the fastest of a phase ("prefill", "decode") for so many tokens.

    Raises:
        ValueError: it may drop tokens, or there is none of this name.
    """
    own = {"one_by_one": one_by_one, "in_tiles": in_tiles}
    if name is None:
        few = dispatch.of_phase(phase, tokens) is dispatch.one_by_one and tokens <= FEW
        return one_by_one if few else in_tiles
    if name not in dispatch.EXACT | set(own):
        allowed = ", ".join(sorted(dispatch.EXACT | set(own)))
        raise ValueError(f"dispatch is {name!r}; allowed: {allowed}, which drop no token")
    return own.get(name) or dispatch.DISPATCHES[name]


@dataclasses.dataclass(frozen=True)
class Branches:
    """New tokens that are nodes of a tree, of which the cache already has the first ones.

    Attributes:
        first: nodes in the cache, from the root on.
        depth: of each new node; the root has 0.
        sees: which nodes of the tree each new node follows, itself among them.
    """

    first: int
    depth: Int[np.ndarray, "S"]
    sees: Bool[np.ndarray, "S nodes"]


def extend(
    config: Config,
    weights: Weights,
    cache: Cache,
    tokens: Int[Array, "R S"],
    count: Int[Array, "R"],
    send: Dispatch,
    rows: Int[Array, "R"] | None = None,
    branches: Branches | None = None,
) -> tuple[Float[Array, "R S D"], Cache]:
    """The stream after the last layer for new tokens, and the cache with them.

    Args:
        config: of the model.
        weights: apart (`model.apart`).
        cache: of the earlier tokens; donate it to the program that calls this, so that it is written in place.
        tokens: new ones of each row; they follow those that its cache holds.
        count: how many of them are there, 0 to S, the first ones; no more than the row has room for.
        send: an exact dispatch (`sender`).
        rows: of the cache, all different; None is all of them in order, R = B.
        branches: where the new tokens are nodes of a tree and not one after the other.

    Returns:
        The stream, of which only what belongs to tokens that are there has a meaning (`logits` reads it); the cache,
        its lengths grown by `count`.
    """
    start = cache.length if rows is None else cache.length[rows]
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    there = index < count[:, None]
    positions = places = start[:, None] + index
    visible = lambda place: place <= positions[..., None]  # noqa: E731
    if branches is not None:
        root = start[:, None] - branches.first
        positions, visible = root + branches.depth, lambda place: _follows(branches, place - root)
    places = jnp.where(there, places, cache.room)
    longest = jnp.max(jnp.where(count > 0, start + count, 0))  # rows that have no new token may be as long as they want
    x = weights.embedding[tokens]
    for number, block in enumerate(weights.blocks):
        x, cache = layer(
            config, block, number, x, tokens, positions, there, places, visible, cache, rows, longest, send
        )
    grown = cache.length + count if rows is None else cache.length.at[rows].add(count)
    return x, dataclasses.replace(cache, length=grown)


def layer(
    config: Config,
    weights: Block,
    number: int,
    x: Float[Array, "R S D"],
    tokens: Int[Array, "R S"],
    positions: Int[Array, "R S"],
    there: Bool[Array, "R S"],
    places: Int[Array, "R S"],
    visible: Callable[[Int[Array, "n"]], Bool[Array, "R S n"]],
    cache: Cache,
    rows: Int[Array, "R"] | None,
    longest: Int[Array, ""],
    send: Dispatch,
) -> tuple[Float[Array, "R S D"], Cache]:
    """`model.block` for serving: keys and values go into a cache of any kind.

    Args:
        config: of the model.
        weights: of this layer.
        number: of the layer.
        x: the stream.
        tokens: ids.
        positions: of the tokens.
        there: which tokens are no padding.
        places: where their keys and values go.
        visible: which places each of them looks at.
        cache: of all layers.
        rows: of the cache that this is about.
        longest: places of the cache that any of the rows looks at.
        send: an exact dispatch.
    """
    heads = lambda y: y.reshape(*y.shape[:2], -1, config.head_dim)  # noqa: E731
    y = rms_norm(x, weights.attention_norm, config.norm_epsilon)
    query = rotate(heads(y @ weights.query), positions, config)
    key, value = rotate(heads(y @ weights.key), positions, config), heads(y @ weights.value)
    cache = cache.written(number, rows, places, key, value)

    x = x + look(query, cache, number, rows, visible, longest) @ weights.output
    y = rms_norm(x, weights.experts_norm, config.norm_epsilon).reshape(-1, x.shape[-1])
    choices = routing.route(config, y @ weights.router, tokens.reshape(-1), mask=there.reshape(-1)).choices
    mixed, _ = send(y, choices, weights.experts)
    return x + mixed.reshape(x.shape), cache


def look(
    query: Float[Array, "R S H C"],
    cache: Cache,
    number: int,
    rows: Int[Array, "R"] | None,
    visible: Callable[[Int[Array, "n"]], Bool[Array, "R S n"]],
    longest: Int[Array, ""],
) -> Float[Array, "R S HC"]:
    """`model.attend` to a cache, block by block, with the softmax kept up to date (dao2022flashattention).

    Only blocks up to the longest row are read. Those past the end of a shorter row add exact zeros to its sums, so that
    it does not matter, to the last bit, how long its neighbours are.
    """
    (r, s, h, c), k, size = query.shape, cache.key[0].shape[-2], cache.block(BLOCK)
    query = query.reshape(r, s, k, h // k, c).transpose(0, 2, 3, 1, 4).reshape(r, k, -1, c)

    def add(index: Array, at: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        highest, total, mixed = at
        first = jnp.minimum(index * size, cache.room - size)  # the last block may overlap the one before
        key, value = cache.window(number, rows, first, size)
        place = first + jnp.arange(size, dtype=jnp.int32)
        seen = jnp.tile((place >= index * size) & visible(place), (1, h // k, 1))[:, None]
        scores = jnp.where(seen, query @ key.transpose(0, 2, 3, 1) * c**-0.5, -1e30)
        higher = jnp.maximum(highest, scores.max(-1, keepdims=True))
        before, weight = jnp.exp(highest - higher), jnp.exp(scores - higher)
        total = total * before + weight.sum(-1, keepdims=True)
        return higher, total, mixed * before + weight @ value.transpose(0, 2, 1, 3)

    start = jnp.full((*query.shape[:-1], 1), -1e30, query.dtype), jnp.zeros((*query.shape[:-1], 1), query.dtype)
    _, total, mixed = jax.lax.fori_loop(0, -(-longest // size), add, (*start, jnp.zeros_like(query)))
    mixed = (mixed / jnp.maximum(total, 1e-30)).reshape(r, k, h // k, s, c)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(r, s, -1)


def _follows(branches: Branches, node: Int[Array, "R n"]) -> Bool[Array, "R S n"]:
    """Whether new nodes see a node of the tree; what is before the root, all of them do."""
    within = branches.sees.shape[1]
    seen = jnp.asarray(branches.sees)[:, jnp.clip(node, 0, within - 1)].transpose(1, 0, 2)
    return jnp.where(node[:, None] < 0, True, seen & (node < within)[:, None])


def logits(config: Config, weights: Weights, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """Logits of the token after each, from the stream after the last layer."""
    return rms_norm(x, weights.norm, config.norm_epsilon) @ weights.unembedding
