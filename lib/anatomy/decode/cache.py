"""Keys and values of the tokens seen so far: rows of fixed length, or pages of a common pool.

Both are trees of arrays, a pair for each layer, that a program takes as its own (donated) and writes in place. Which
tokens count is said by `length` alone: what lies beyond is never looked at, so a sequence is shortened, as after a
refused draft, by a smaller `length`, and a row is used again by `length` 0.

Axes as in `model.transformer`: B rows, N tokens that a row can hold, K key and value heads (all of the query heads,
some, or one: shazeer2019mqa, ainslie2023gqa), C width of a head; besides P pages of G tokens, M pages of a row, R rows
that a pass is about.

`Rows` reads a row where it lies; `Pages` gathers its pages first, which costs a copy and saves the memory that rows
reserve for tokens that never come (kwon2023vllm).
"""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from anatomy.model import Config
from anatomy.specs.base import between, check_arguments, register

COUNT = between(1.0, whole=True)


@dataclasses.dataclass(frozen=True)
class Rows:
    """A row of N places for each sequence."""

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
        return _replaced(self, layer, lambda old, new: old.at[row[:, None], places].set(new, mode="drop"), key, value)

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


@dataclasses.dataclass(frozen=True)
class Pages:
    """Pages of G places, which belong to the rows that `table` gives them to; the host decides (`Pool`)."""

    key: tuple[Float[Array, "P G K C"], ...]
    value: tuple[Float[Array, "P G K C"], ...]
    table: Int[Array, "B M"]
    length: Int[Array, "B"]

    @property
    def room(self) -> int:
        """N = M G, tokens that a row can hold at most."""
        return self.table.shape[1] * self.key[0].shape[1]

    def written(
        self,
        layer: int,
        rows: Int[Array, "R"] | None,
        places: Int[Array, "R S"],
        key: Float[Array, "R S K C"],
        value: Float[Array, "R S K C"],
    ) -> Self:
        """As `Rows.written`. Rows must own the pages of these places."""
        table, (count, size) = self.table if rows is None else self.table[rows], self.key[0].shape[:2]
        page = jnp.take_along_axis(table, jnp.minimum(places // size, table.shape[1] - 1), axis=1)
        page = jnp.where(places < self.room, page, count)  # one past the end is nowhere
        return _replaced(self, layer, lambda old, new: old.at[page, places % size].set(new, mode="drop"), key, value)

    def at(self, layer: int, places: Int[Array, "B S"]) -> tuple[Float[Array, "B S K C"], Float[Array, "B S K C"]]:
        """As `Rows.at`."""
        size = self.key[0].shape[1]
        page = jnp.take_along_axis(self.table, jnp.minimum(places // size, self.table.shape[1] - 1), axis=1)
        return self.key[layer][page, places % size], self.value[layer][page, places % size]

    def block(self, size: int) -> int:
        """As `Rows.block`: whole pages."""
        return min(max(size // self.key[0].shape[1], 1), self.table.shape[1]) * self.key[0].shape[1]

    def window(
        self, layer: int, rows: Int[Array, "R"] | None, first: Int[Array, ""], size: int
    ) -> tuple[Float[Array, "R n K C"], Float[Array, "R n K C"]]:
        """As `Rows.window`, gathered page by page; both numbers are whole pages."""
        page = self.key[0].shape[1]
        table = jax.lax.dynamic_slice_in_dim(self.table, first // page, size // page, axis=1)
        table = table if rows is None else table[rows]
        return tuple(a[layer][table].reshape(len(table), size, *a[layer].shape[2:]) for a in (self.key, self.value))


Cache = Rows | Pages
for _tree in (Rows, Pages):
    register(_tree)


def _replaced(cache: Cache, layer: int, write: object, key: Array, value: Array) -> Cache:
    """A cache of which one layer has new keys and values written into it."""
    key, value = write(cache.key[layer], key), write(cache.value[layer], value)
    put = lambda arrays, new: (*arrays[:layer], new, *arrays[layer + 1 :])  # noqa: E731
    return dataclasses.replace(cache, key=put(cache.key, key), value=put(cache.value, value))


def moved(cache: Cache, source: Int[Array, "B S"], target: Int[Array, "B S"]) -> Cache:
    """A cache in which what lay at some places lies at others; lengths stay. A place beyond N is nowhere."""
    for layer in range(len(cache.key)):
        cache = cache.written(layer, None, target, *cache.at(layer, source))
    return cache


def _arrays(config: Config, *shape: int) -> dict[str, tuple[Array, ...]]:
    """Zeros for keys and values of every layer, each in an array of its own: two are never given away as one."""
    shape = (*shape, config.kv_heads, config.head_dim)
    return {n: tuple(jnp.zeros(shape, jnp.float32) for _ in range(config.layers)) for n in ("key", "value")}


def rows(config: Config, sequences: int, room: int | None = None) -> Rows:
    """An empty cache of rows.

    Args:
        config: of the model.
        sequences: B.
        room: N, by default the model's context.

    Raises:
        ValueError: a number is below 1 or not whole.
    """
    room = config.context if room is None else room
    check_arguments("rows", COUNT, sequences=sequences, room=room)
    sequences, room = int(sequences), int(room)
    return Rows(**_arrays(config, sequences, room), length=jnp.zeros(sequences, jnp.int32))


def pages(config: Config, sequences: int, room: int, count: int, size: int) -> Pages:
    """An empty cache of pages, none of which belongs to a row yet.

    Args:
        config: of the model.
        sequences: B.
        room: N, tokens that a row can hold at most; a multiple of `size`.
        count: P.
        size: G.

    Raises:
        ValueError: a number is below 1 or not whole, or `room` is no multiple of `size`.
    """
    check_arguments("pages", COUNT, sequences=sequences, room=room, count=count, size=size)
    if room % size:
        raise ValueError(f"pages.room is {room}; allowed: a multiple of size ({size})")
    table = jnp.zeros((sequences, room // size), jnp.int32)
    return Pages(**_arrays(config, count, size), table=table, length=jnp.zeros(sequences, jnp.int32))


def bytes_per_token(config: Config) -> int:
    """Bytes of a token's keys and values in all layers: 2 L K C of 4 bytes."""
    return 2 * config.layers * config.kv_heads * config.head_dim * 4


class OutOfPages(Exception):
    """The pool has fewer free pages than are asked for; the message says how many of each."""


class Pool:
    """Which pages of a pool are free, and which belong to a row; kept on the host.

    Attributes:
        free: pages that belong to no row.
        table: B x M page numbers as `Pages.table` needs them; of a row without pages, zeros.
    """

    def __init__(self, sequences: int, room: int, count: int, size: int) -> None:
        """All pages free; arguments as of `pages`."""
        self.size, self.count = size, count
        self.free = list(range(count - 1, -1, -1))
        self.held: dict[int, list[int]] = {}
        self.table = np.zeros((sequences, room // size), np.int32)

    def pages_for(self, tokens: int) -> int:
        """Pages that so many tokens fill."""
        return -(-tokens // self.size)

    def take(self, row: int, tokens: int) -> None:
        """Give a row the pages for so many tokens.

        Raises:
            ValueError: the row has pages, or cannot hold so many tokens.
            OutOfPages: too few are free; nothing is taken.
        """
        need = self.pages_for(tokens)
        if row in self.held:
            raise ValueError(f"Pool.row is {row}; allowed: a row without pages")
        if not 1 <= need <= self.table.shape[1]:
            raise ValueError(f"Pool.tokens is {tokens}; allowed: 1 to {self.table.shape[1] * self.size}")
        if need > len(self.free):
            raise OutOfPages(f"Pool.tokens is {tokens}, of {need} pages; allowed: the {len(self.free)} pages free")
        self.held[row] = [self.free.pop() for _ in range(need)]
        self.table[row, :need] = self.held[row]

    def give_back(self, row: int) -> None:
        """Free the pages of a row.

        Raises:
            ValueError: the row has none.
        """
        if row not in self.held:
            raise ValueError(f"Pool.row is {row}; allowed: a row with pages")
        self.free += reversed(self.held.pop(row))
        self.table[row] = 0
