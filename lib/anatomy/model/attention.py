"""Attention of a layer, with or without a cache.

`transformer.block` makes queries, keys and values, and leaves to an `Attention` where keys and values are kept and how
they are read: not at all in training (`causal`), in a row of places for each sequence (`cached`), or in serving's rows
and pages (`decode.cache`).

Axes as in `transformer`; N places of a cache.
"""

import dataclasses
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.model.config import Config
from anatomy.specs.base import between, check_arguments, register


class Attention(Protocol):
    """What a block asks for; `context` is what its heads have read."""

    def __call__(
        self, query: Float[Array, "B S H C"], key: Float[Array, "B S K C"], value: Float[Array, "B S K C"]
    ) -> tuple[Float[Array, "B S HC"], Any]:
        """Keep keys and values of these tokens, if at all, and attend. Gives the context, and the cache after it."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """A cache: for each layer a row of N places for each sequence, in arrays of its own.

    A program takes it as its own (donated) and writes in place. Which tokens count is said by `length` alone: what lies
    beyond is never looked at, so a sequence is shortened by a smaller `length`, and a row is used again by `length` 0.
    """

    key: tuple[Float[Array, "B N K C"], ...]
    value: tuple[Float[Array, "B N K C"], ...]
    length: Int[Array, "B"]

    @property
    def room(self) -> int:
        """N, tokens that a row can hold."""
        return self.key[0].shape[1]

    def written(
        self,
        layer: int,
        rows: Int[Array, "R"] | None,
        places: Int[Array, "R S"],
        key: Float[Array, "R S K C"],
        value: Float[Array, "R S K C"],
    ) -> Self:
        """With keys and values of a layer at these places of these rows (None: all); a place beyond N is nowhere."""
        row = jnp.arange(len(places)) if rows is None else rows
        return replaced(self, layer, lambda old, new: old.at[row[:, None], places].set(new, mode="drop"), key, value)

    def at(self, layer: int, places: Int[Array, "B S"]) -> tuple[Float[Array, "B S K C"], Float[Array, "B S K C"]]:
        """Keys and values of a layer at these places of all rows."""
        row = jnp.arange(len(places))[:, None]
        return self.key[layer][row, places], self.value[layer][row, places]

    def block(self, size: int) -> int:
        """Places of a block of about this size that `window` can read."""
        return min(size, self.room)

    def window(
        self, layer: int, rows: Int[Array, "R"] | None, first: Int[Array, ""], size: int
    ) -> tuple[Float[Array, "R n K C"], Float[Array, "R n K C"]]:
        """Keys and values of these rows at `size` places from the first."""
        cut = lambda a: jax.lax.dynamic_slice_in_dim(a, first, size, axis=1)  # noqa: E731
        return tuple(cut(a[layer]) if rows is None else cut(a[layer])[rows] for a in (self.key, self.value))


register(Rows)


def replaced(cache: Any, layer: int, write: Any, key: Array, value: Array) -> Any:
    """A cache of which one layer has new keys and values written into it."""
    key, value = write(cache.key[layer], key), write(cache.value[layer], value)
    put = lambda arrays, new: (*arrays[:layer], new, *arrays[layer + 1 :])  # noqa: E731
    return dataclasses.replace(cache, key=put(cache.key, key), value=put(cache.value, value))


def empty_arrays(config: Config, *shape: int) -> dict[str, tuple[Array, ...]]:
    """Zeros for keys and values of every layer, each in an array of its own: two are never given away as one."""
    shape = (*shape, config.kv_heads, config.head_dim)
    return {n: tuple(jnp.zeros(shape, jnp.float32) for _ in range(config.layers)) for n in ("key", "value")}


def empty_cache(config: Config, batch: int, *, room: int | None = None) -> Rows:
    """An empty cache of rows.

    Args:
        config: of the model.
        batch: B, sequences.
        room: N, tokens that a row can hold; by default the model's context.

    Raises:
        ValueError: a number is below 1 or not whole.
    """
    room = config.context if room is None else room
    check_arguments("empty_cache", between(1.0, whole=True), batch=batch, room=room)
    batch, room = int(batch), int(room)
    return Rows(**empty_arrays(config, batch, room), length=jnp.zeros(batch, jnp.int32))


def rotate(x: Float[Array, "B S H C"], positions: Int[Array, "B S"], config: Config) -> Float[Array, "B S H C"]:
    """Rotary positions: pairs (i, i + C/2) of a head turn by position / base^(2i / C) (su2024roformer).

    Positions are divided by `rope_scale`, as in position interpolation (chen2023pi).
    """
    half = config.head_dim // 2
    rate = config.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half) / config.rope_scale
    angle = positions[:, :, None, None].astype(jnp.float32) * rate
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attend(
    query: Float[Array, "B S H C"],
    key: Float[Array, "B N K C"],
    value: Float[Array, "B N K C"],
    positions: Int[Array, "B S"],
) -> Float[Array, "B S HC"]:
    """Each token attends to those up to its own position; H / K query heads share a KV head.

    The queries of a group are laid one after the other, so that each KV head is one matrix product: on a CPU twice as
    fast as `jax.nn.dot_product_attention`.
    """
    (b, s, h, c), (n, k) = query.shape, key.shape[1:3]
    query = query.reshape(b, s, k, h // k, c).transpose(0, 2, 3, 1, 4).reshape(b, k, -1, c)
    scores = query @ key.transpose(0, 2, 3, 1) * c**-0.5
    visible = jnp.arange(n) <= jnp.tile(positions, (1, h // k))[:, None, :, None]
    mixed = jax.nn.softmax(jnp.where(visible, scores, -1e30)) @ value.transpose(0, 2, 1, 3)
    return mixed.reshape(b, k, h // k, s, c).transpose(0, 3, 1, 2, 4).reshape(b, s, -1)


def causal(positions: Int[Array, "B S"]) -> Attention:
    """Attention of whole sequences, of which nothing is kept: for training."""
    return lambda query, key, value: (attend(query, key, value, positions), None)


def cached(past: tuple[Float[Array, "B N K C"], Float[Array, "B N K C"]], positions: Int[Array, "B S"]) -> Attention:
    """Attention to keys and values of a layer's rows, with those of the new tokens written at their positions."""
    row = jnp.arange(len(positions))[:, None]

    def attention(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, Array]]:
        key, value = (old.at[row, positions].set(new) for old, new in zip(past, (key, value), strict=True))
        return attend(query, key, value, positions), (key, value)

    return attention
