"""A cache whose rows share a pool of pages, so that no memory is reserved for tokens that never come.

As `model.Rows`, which reads a row where it lies; pages are gathered first, which costs a copy.

Axes as in `model.attention`: B rows, N tokens that a row can hold at most, K KV heads, C width of a head; besides P
pages of G tokens, M pages of a row, R rows that a pass is about.

Source: kwon2023vllm.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from anatomy.model import Config
from anatomy.model.attention import empty_arrays, replaced
from anatomy.specs.base import COUNT, check_arguments, register


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
    ) -> "Pages":
        """As `Rows.written`. Rows must own the pages of these places."""
        table, (count, size) = self.table if rows is None else self.table[rows], self.key[0].shape[:2]
        page = jnp.take_along_axis(table, jnp.minimum(places // size, table.shape[1] - 1), axis=1)
        page = jnp.where(places < self.room, page, count)  # one past the end is nowhere
        return replaced(self, layer, lambda old, new: old.at[page, places % size].set(new, mode="drop"), key, value)

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


register(Pages)


def empty_pages(config: Config, *, batch: int, room: int, count: int, size: int) -> Pages:
    """An empty cache of pages, none of which belongs to a row yet.

    Args:
        config: of the model.
        batch: B, sequences.
        room: N, tokens that a row can hold at most; a multiple of `size`.
        count: P.
        size: G.

    Raises:
        ValueError: a number is below 1 or not whole, or `room` is no multiple of `size`.
    """
    check_arguments("empty_pages", COUNT, batch=batch, room=room, count=count, size=size)
    if room % size:
        raise ValueError(f"empty_pages.room is {room}; allowed: a multiple of size ({size})")
    table = jnp.zeros((batch, room // size), jnp.int32)
    return Pages(**empty_arrays(config, count, size), table=table, length=jnp.zeros(batch, jnp.int32))


class OutOfPages(Exception):
    """The pool has fewer free pages than are asked for; the message says how many of each."""


class Pool:
    """Which pages of a pool are free, and which belong to a row; kept on the host.

    Attributes:
        free: pages that belong to no row.
        table: B x M page numbers as `Pages.table` needs them; of a row without pages, zeros.
    """

    def __init__(self, *, batch: int, room: int, count: int, size: int) -> None:
        """All pages free; arguments as of `empty_pages`."""
        self.size, self.count = size, count
        self.free = list(range(count - 1, -1, -1))
        self.held: dict[int, list[int]] = {}
        self.table = np.zeros((batch, room // size), np.int32)

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
            raise ValueError(f"Pool.take.row is {row}; allowed: a row without pages; give back those that it has first")
        if not 1 <= need <= self.table.shape[1]:
            raise ValueError(f"Pool.take.tokens is {tokens}; allowed: 1 to {self.table.shape[1] * self.size}")
        if need > len(self.free):
            raise OutOfPages(f"Pool.take.tokens is {tokens}, of {need} pages; allowed: the {len(self.free)} pages free")
        self.held[row] = [self.free.pop() for _ in range(need)]
        self.table[row, :need] = self.held[row]

    def give_back(self, row: int) -> None:
        """Free the pages of a row.

        Raises:
            ValueError: the row has none.
        """
        if row not in self.held:
            raise ValueError(f"Pool.give_back.row is {row}; allowed: a row with pages")
        self.free += reversed(self.held.pop(row))
        self.table[row] = 0
