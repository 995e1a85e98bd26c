"""Dispatch in tiles, as serving computes experts; it has no gradients, so it stands apart from what trains.

A product of a few rows takes as long as reading the weights, and one of many rows as long as its rows. So rows of one
expert are computed in tiles of a few fixed sizes: weights are read once for most experts, few rows are padding, and
shapes stay fixed while the router does what it wants.

Axes as in `transformer`; k choices of a token.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.model.moe.experts import Experts, ExpertWeights, FusedExpert, expert, unstack
from anatomy.model.moe.routing import Choices


def tile_sizes(tokens: int) -> list[int]:
    """Rows of a tile that pay, in rising order, where an expert has at most so many rows."""
    if tokens < 64:
        return [*(size for size in (1, 2, 4, 8) if size < tokens), min(tokens, 16)]
    return [8, 16, 24, 32, 48] if tokens < 512 else [16, 32, 64, 128]


def in_tiles(x: Float[Array, "T D"], choices: Choices, experts: ExpertWeights) -> tuple:
    """Choices sorted by expert, and computed in tiles of rows of one expert, for as many turns as there are tiles.

    An expert with more rows than the largest tile gets several; its last is the smallest that holds what is left. What
    a tile computes beyond its rows the next ones overwrite. Exact; an expert that nobody chose is not read.
    """
    each, sizes, k = unstack(experts), jnp.array(tile_sizes(len(x))), choices.expert.shape[1]
    most, chosen = tile_sizes(len(x))[-1], choices.expert.reshape(-1)
    order = jnp.argsort(chosen, stable=True)
    start = jnp.sum(chosen[:, None] < jnp.arange(len(each) + 1), axis=0)
    tiles = -(-jnp.diff(start) // most)
    upto = jnp.cumsum(tiles)
    rows = jnp.concatenate([x[order // k], jnp.zeros((most, x.shape[1]), x.dtype)])  # room to read past the end

    def tile(weights: Experts | FusedExpert, size: int, some: Float[Array, "most D"]) -> Float[Array, "most D"]:
        return jnp.pad(expert(some[:size], weights), ((0, most - size), (0, 0)))

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
