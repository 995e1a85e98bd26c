"""Experts as serving computes them: weights laid out for it, and exact dispatches in which no row waits for shapes.

A product of a few rows takes as long as reading the weights, and that of many as long as its rows. So rows of one
expert are computed in tiles of a few fixed sizes: weights are read once for most experts, few rows are padding, and
shapes stay fixed while the router does what it wants. As in `model.dispatch`, and faster where gradients are not
asked for.

Axes as in `model.dispatch`: T tokens, k choices of a token, D width, F width within an expert.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.model import Weights, apart
from anatomy.model.dispatch import Experts, each_expert
from anatomy.model.dispatch import expert as plain_expert
from anatomy.model.routing import Choices
from anatomy.specs.base import register


@dataclasses.dataclass(frozen=True)
class Joined:
    """An expert whose first two products are one: larger products read memory faster, and on more than one core.

    Attributes:
        inner: `gate` and `up`, side by side.
        down: as in `Experts`.
    """

    inner: Float[Array, "*E D 2F"]
    down: Float[Array, "*E F D"]

    @property
    def gate(self) -> Float[Array, "*E D F"]:
        """As in `Experts`."""
        return self.inner[..., : self.inner.shape[-1] // 2]

    @property
    def up(self) -> Float[Array, "*E D F"]:
        """As in `Experts`."""
        return self.inner[..., self.inner.shape[-1] // 2 :]


register(Joined)

Served = Experts | tuple[Experts, ...] | tuple[Joined, ...]


def joined(weights: Weights) -> Weights:
    """The same weights apart, with experts joined: a copy, which serves faster. What is joined stays as it is."""
    weights = apart(weights)
    blocks = tuple(dataclasses.replace(b, experts=tuple(map(_join, b.experts))) for b in weights.blocks)
    return dataclasses.replace(weights, blocks=blocks)


def _join(weights: Experts | Joined) -> Joined:
    if isinstance(weights, Joined):
        return weights
    return Joined(jnp.concatenate([weights.gate, weights.up], axis=-1), weights.down)


def expert(weights: Experts | Joined, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """One expert, joined or not: (silu(x gate) * x up) down (shazeer2020glu)."""
    if isinstance(weights, Experts):
        return plain_expert(x, weights)
    gate, up = jnp.split(x @ weights.inner, 2, axis=-1)
    return (jax.nn.silu(gate) * up) @ weights.down


def one_by_one(x: Float[Array, "T D"], choices: Choices, experts: Served) -> tuple:
    """As `dispatch.one_by_one`, for experts joined or not; the expert that does not exist reads nothing."""
    none = jnp.zeros((x.shape[1], 0), x.dtype)
    branches = [partial(expert, w) for w in (*each_expert(experts), Experts(none, none, none.T))]

    def one(index: Int[Array, ""]) -> Float[Array, "D"]:
        token, place = index // choices.expert.shape[1], index % choices.expert.shape[1]
        return jax.lax.switch(choices.expert[token, place], branches, x[token][None])[0]

    made = jax.lax.map(one, jnp.arange(choices.expert.size)).reshape(*choices.expert.shape, -1)
    return jnp.einsum("tk,tkd->td", choices.weight, made), jnp.zeros((), x.dtype)


def tile_sizes(tokens: int) -> list[int]:
    """Rows of a tile that pay, in rising order, where an expert has at most so many rows."""
    if tokens < 64:
        return [*(size for size in (1, 2, 4, 8) if size < tokens), min(tokens, 16)]
    return [8, 16, 24, 32, 48] if tokens < 512 else [16, 32, 64, 128]


def in_tiles(x: Float[Array, "T D"], choices: Choices, experts: Served) -> tuple:
    """Choices sorted by expert, and computed in tiles of rows of one expert, for as many turns as there are tiles.

    An expert with more rows than the largest tile gets several; its last is the smallest that holds what is left. What
    a tile computes beyond its rows the next ones overwrite. Exact; an expert that nobody chose is not read.
    """
    each, sizes, k = each_expert(experts), jnp.array(tile_sizes(len(x))), choices.expert.shape[1]
    most, chosen = tile_sizes(len(x))[-1], choices.expert.reshape(-1)
    order = jnp.argsort(chosen, stable=True)
    start = jnp.sum(chosen[:, None] < jnp.arange(len(each) + 1), axis=0)
    tiles = -(-jnp.diff(start) // most)
    upto = jnp.cumsum(tiles)
    rows = jnp.concatenate([x[order // k], jnp.zeros((most, x.shape[1]), x.dtype)])  # room to read past the end

    def tile(weights: Experts | Joined, size: int, some: Float[Array, "most D"]) -> Float[Array, "most D"]:
        return jnp.pad(expert(weights, some[:size]), ((0, most - size), (0, 0)))

    branches = [partial(tile, weights, size) for weights in each for size in tile_sizes(len(x))]

    def turn(index: Int[Array, ""], made: Float[Array, "n D"]) -> Float[Array, "n D"]:
        who = jnp.sum(upto <= index)
        first = start[who] + (index - upto[who] + tiles[who]) * most
        size = jnp.sum(sizes < jnp.minimum(start[who + 1] - first, most))
        some = jax.lax.dynamic_slice_in_dim(rows, first, most)
        new = jax.lax.switch(who * len(sizes) + size, branches, some)
        return jax.lax.dynamic_update_slice_in_dim(made, new, first, 0)

    made = jax.lax.fori_loop(0, upto[-1], turn, jnp.zeros_like(rows))
    back = jnp.zeros((chosen.size, x.shape[1]), x.dtype).at[order].set(made[: chosen.size])
    return jnp.einsum("tk,tkd->td", choices.weight, back.reshape(*choices.expert.shape, -1)), jnp.zeros((), x.dtype)
