"""Dispatch by expert: choices sorted, and each expert computes the rows that chose it and no others.

Exact. An expert that nobody chose is read by none but `ragged`. A product of a few rows takes as long as reading the
weights, and one of many rows as long as its rows: so rows are computed in blocks of a few fixed sizes, which keep
shapes fixed while the router does what it wants.

Axes as in `transformer`; k choices of a token.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.model.moe.experts import Experts, ExpertWeights, FusedExpert, expert, stack, unstack
from anatomy.model.moe.routing import Choices


def ragged(x: Float[Array, "T D"], choices: Choices, experts: ExpertWeights) -> tuple:
    """Choices sorted by expert, and XLA's product of ragged groups; exact."""
    experts = stack(experts)
    chosen = choices.expert.reshape(-1)
    order = jnp.argsort(chosen, stable=True)
    size = jnp.bincount(chosen, length=experts.gate.shape[0])
    rows = x[order // choices.expert.shape[1]]
    inner = jax.nn.silu(jax.lax.ragged_dot(rows, experts.gate, size)) * jax.lax.ragged_dot(rows, experts.up, size)
    made = jax.lax.ragged_dot(inner, experts.down, size)
    back = jnp.zeros_like(made).at[order].set(made).reshape(*choices.expert.shape, -1)
    return jnp.einsum("tk,tkd->td", choices.weight, back), jnp.zeros((), x.dtype)


def one_by_one(x: Float[Array, "T D"], choices: Choices, experts: ExpertWeights) -> tuple:
    """Each choice on its own, its expert picked by `lax.switch`, which reads no other; exact, for a few tokens."""
    each = unstack(experts)
    branches = [*(partial(lambda w, row: expert(row, w), w) for w in each), jnp.zeros_like]  # last: does not exist

    def one(index: Int[Array, ""]) -> Float[Array, "D"]:
        token, place = index // choices.expert.shape[1], index % choices.expert.shape[1]
        return jax.lax.switch(choices.expert[token, place], branches, x[token][None])[0]

    made = jax.lax.map(one, jnp.arange(choices.expert.size)).reshape(*choices.expert.shape, -1)
    return jnp.einsum("tk,tkd->td", choices.weight, made), jnp.zeros((), x.dtype)


def in_buckets(x: Float[Array, "T D"], choices: Choices, experts: ExpertWeights) -> tuple:
    """Choices sorted by expert; each expert computes its rows, padded to a power of two; exact.

    An expert that nobody chose is not read. Rows are picked by `lax.switch` over the sizes, so shapes stay fixed.
    """
    each = unstack(experts)
    chosen, k = choices.expert.reshape(-1), choices.expert.shape[1]
    order = jnp.argsort(chosen, stable=True)
    start = jnp.searchsorted(chosen[order], jnp.arange(len(each) + 1))
    sizes = [0, *(2**i for i in range(math.ceil(math.log2(max(len(x), 1))))), len(x)]  # an expert has a token once
    rows = jnp.concatenate([x[order // k], jnp.zeros((len(x), x.shape[1]), x.dtype)])  # room to read past the end
    made = jnp.zeros_like(rows)
    for index, weights in enumerate(each):
        count = start[index + 1] - start[index]

        def compute(size: int, made: Array, first: Array, count: Array, weights: Experts = weights) -> Array:
            if not size:
                return made
            some = jax.lax.dynamic_slice_in_dim(rows, first, size)
            old = jax.lax.dynamic_slice_in_dim(made, first, size)
            new = jnp.where((jnp.arange(size) < count)[:, None], expert(some, weights), old)
            return jax.lax.dynamic_update_slice_in_dim(made, new, first, 0)

        bucket = jnp.searchsorted(jnp.array(sizes), count)
        made = jax.lax.switch(bucket, [partial(compute, size) for size in sizes], made, start[index], count)
    back = jnp.zeros((chosen.size, x.shape[1]), x.dtype).at[order].set(made[: chosen.size])
    return jnp.einsum("tk,tkd->td", choices.weight, back.reshape(*choices.expert.shape, -1)), jnp.zeros((), x.dtype)


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
