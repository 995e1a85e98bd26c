"""Attention through a cache of any kind, block by block.

Axes as in `model.attention`; R rows that a pass is about, S new tokens of each, n places that are read at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode.cache.rows import Cache
from anatomy.model.attention import Attention

BLOCK = 128  # places of the cache that attention reads at once


class View(NamedTuple):
    """Which places of a cache new tokens are written to, and which they attend to; the same in all layers."""

    rows: Int[Array, "R"] | None  # of the cache that the pass is about; None: all
    places: Int[Array, "R S"]  # where keys and values of new tokens go; beyond N they go nowhere
    visible: Callable[[Int[Array, "n"]], Bool[Array, "R S n"]]  # which of these places each token attends to
    longest: Int[Array, ""]  # places that any of the rows attends to


def through_cache(cache: Cache, layer: int, view: View) -> Attention:
    """Attention of one layer that writes keys and values of new tokens into a cache and attends to it."""

    def attention(query: Array, key: Array, value: Array) -> tuple[Array, Cache]:
        written = cache.written(layer, view.rows, view.places, key, value)
        return attend_to_cache(query, written, layer, view), written

    return attention


def attend_to_cache(query: Float[Array, "R S H C"], cache: Cache, layer: int, view: View) -> Float[Array, "R S HC"]:
    """`model.attention.attend` to a cache, with the softmax kept up to date (dao2022flashattention).

    Only blocks up to the longest row are read. Those past the end of a shorter row add exact zeros to its sums, so that
    it does not matter, to the last bit, how long its neighbours are.
    """
    (r, s, h, c), k, size = query.shape, cache.key[0].shape[-2], cache.block(BLOCK)
    query = query.reshape(r, s, k, h // k, c).transpose(0, 2, 3, 1, 4).reshape(r, k, -1, c)

    def add(index: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        highest, total, mixed = sums
        first = jnp.minimum(index * size, cache.room - size)  # the last block may overlap the one before
        key, value = cache.window(layer, view.rows, first, size)
        place = first + jnp.arange(size, dtype=jnp.int32)
        visible = jnp.tile((place >= index * size) & view.visible(place), (1, h // k, 1))[:, None]
        scores = jnp.where(visible, query @ key.transpose(0, 2, 3, 1) * c**-0.5, -1e30)
        higher = jnp.maximum(highest, scores.max(-1, keepdims=True))
        before, weight = jnp.exp(highest - higher), jnp.exp(scores - higher)
        total = total * before + weight.sum(-1, keepdims=True)
        return higher, total, mixed * before + weight @ value.transpose(0, 2, 1, 3)

    start = jnp.full((*query.shape[:-1], 1), -1e30, query.dtype), jnp.zeros((*query.shape[:-1], 1), query.dtype)
    _, total, mixed = jax.lax.fori_loop(0, -(-view.longest // size), add, (*start, jnp.zeros_like(query)))
    mixed = (mixed / jnp.maximum(total, 1e-30)).reshape(r, k, h // k, s, c)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(r, s, -1)
