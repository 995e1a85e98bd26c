"""Dispatch by expert: choices sorted, and each expert computes the rows that chose it and no others.

Exact. An expert that nobody chose is read by none but `ragged`.

Axes as in `transformer`; k choices of a token.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.model.moe.experts import Experts, ExpertWeights, expert, stack, unstack
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
