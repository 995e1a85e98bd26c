"""Dispatch to places: each expert has room for so many tokens, so that its work is one product of a fixed shape.

Axes as in `transformer`; k choices of a token, c places of an expert.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.model.moe.dense import all_experts
from anatomy.model.moe.experts import ExpertWeights, expert, stack
from anatomy.model.moe.routing import Choices


def by_capacity(x: Float[Array, "T D"], choices: Choices, experts: ExpertWeights, factor: float = 1.25) -> tuple:
    """Each expert has places for `factor` times its even share of choices; what comes later is dropped.

    The share is that of all T tokens, for shapes are fixed: padding leaves more room to real tokens, and takes none.

    Source: lepikhin2021gshard, with a sort in place of one-hot masks.
    """
    experts = stack(experts)
    count = experts.gate.shape[0]
    return into_places(x, choices, count, room(choices, count, factor), lambda table: jax.vmap(expert)(table, experts))


def room(choices: Choices, count: int, factor: float) -> int:
    """Places of each expert: `factor` times its even share of the choices, and no more than there are tokens."""
    return min(len(choices.expert), math.ceil(factor * choices.expert.size / count))


@jax.custom_vjp
def rearranged(rows: Float[Array, "n D"], source: Int[Array, "m"], target: Int[Array, "n"]) -> Float[Array, "m D"]:
    """Rows in another order: the i-th comes from `source[i]`; zero where that is past the end.

    `target` says the same from the other side: where each row went. So gradients are picked too, not scattered, which
    is slow on a CPU.
    """
    return rows.at[source].get(mode="fill", fill_value=0.0)


def _rearranged_forward(rows: Array, source: Array, target: Array) -> tuple[Array, Array]:
    return rearranged(rows, source, target), target


def _rearranged_backward(target: Array, gradient: Array) -> tuple[Array, None, None]:
    return gradient.at[target].get(mode="fill", fill_value=0.0), None, None


rearranged.defvjp(_rearranged_forward, _rearranged_backward)


def into_places(
    x: Float[Array, "T D"],
    choices: Choices,
    count: int,
    places: int,
    compute: Callable[[Float[Array, "E c D"]], Float[Array, "E c D"]],
) -> tuple[Float[Array, "T D"], Float[Array, ""]]:
    """Lay tokens into a table of places, compute there, and bring the results back; overflow is dropped."""
    k = choices.expert.shape[1]
    place, kept = place_in_expert(choices, count, places)
    slot = jnp.where(kept, choices.expert.reshape(-1) * places + place, count * places)  # one past the end is nowhere
    choice = jnp.full(count * places, slot.size, jnp.int32)
    choice = choice.at[slot].set(jnp.arange(slot.size, dtype=jnp.int32), mode="drop")  # of each place
    table = rearranged(jnp.repeat(x, k, axis=0), choice, slot).reshape(count, places, -1)
    made = compute(table).reshape(count * places, -1)
    back = rearranged(made, slot, choice).reshape(*choices.expert.shape, -1)
    wanted = (choices.weight > 0).sum()
    dropped = jnp.where(wanted > 0, 1 - kept.sum() / jnp.maximum(wanted, 1), 0)
    return jnp.einsum("tk,tkd->td", choices.weight, back), dropped.astype(x.dtype)


def place_in_expert(choices: Choices, count: int, places: int) -> tuple[Int[Array, "Tk"], Array]:
    """For each choice its place in the queue of its expert, in the order of tokens, and whether there is room."""
    wanted = choices.weight.reshape(-1) > 0
    chosen = jnp.where(wanted, choices.expert.reshape(-1), count)
    order = jnp.argsort(chosen, stable=True)
    start = jnp.searchsorted(chosen[order], jnp.arange(count + 1))
    place = jnp.zeros_like(order).at[order].set(jnp.arange(order.size) - start[chosen[order]])
    return place, wanted & (place < places)


def with_overflow(x: Float[Array, "T D"], choices: Choices, experts: ExpertWeights, factor: float = 2.0) -> tuple:
    """As `by_capacity`, and exact: where a place is missing, all experts compute all tokens instead."""
    experts = stack(experts)
    count = experts.gate.shape[0]
    _, kept = place_in_expert(choices, count, room(choices, count, factor))
    enough = kept.sum() == (choices.weight > 0).sum()
    return jax.lax.cond(enough, partial(by_capacity, factor=factor), all_experts, x, choices, experts)
