"""Ways to bring tokens to their experts and back, behind one interface.

A dispatch takes the tokens, their choices and the experts, and gives the weighted sum of what the chosen experts
make of each token, and the share of choices that were dropped. `EXACT` says which never drop. Those that do must not
serve: what a sequence gets would depend on its neighbours in the batch. Choices of masked tokens (`routing.masked`)
take no place, count in no share and come back as 0 from every one. `DEFAULT` is the fastest of each phase as
`make bench` measures it; in decoding few tokens go `one_by_one`.

Axes as in `transformer`; k choices of a token, c places of an expert.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.model.routing import Choices
from anatomy.specs.base import register


@dataclasses.dataclass(frozen=True)
class Experts:
    """Weights of the experts of a layer, with E in front, or of one expert."""

    gate: Float[Array, "*E D F"]
    up: Float[Array, "*E D F"]
    down: Float[Array, "*E F D"]


register(Experts)

Dispatch = Callable[
    [Float[Array, "T D"], Choices, "Experts | tuple[Experts, ...]"], tuple[Float[Array, "T D"], Float[Array, ""]]
]


def expert(x: Float[Array, "... D"], weights: Experts) -> Float[Array, "... D"]:
    """One expert: (silu(x gate) * x up) down (shazeer2020glu)."""
    return (jax.nn.silu(x @ weights.gate) * (x @ weights.up)) @ weights.down


def each_expert(experts: Experts | tuple[Experts, ...]) -> tuple[Experts, ...]:
    """Experts in arrays of their own."""
    if isinstance(experts, tuple):
        return experts
    return tuple(jax.tree.map(lambda a, i=i: a[i], experts) for i in range(experts.gate.shape[0]))


def stacked(experts: Experts | tuple[Experts, ...]) -> Experts:
    """Experts with E in front."""
    return jax.tree.map(lambda *each: jnp.stack(each), *experts) if isinstance(experts, tuple) else experts


def all_experts(x: Float[Array, "T D"], choices: Choices, experts: Experts | tuple[Experts, ...]) -> tuple:
    """Every expert computes every token; the plain formula, and E / k times the work."""
    each = jax.vmap(expert, in_axes=(None, 0))(x, stacked(experts))  # E x T x D
    weight = jnp.zeros((len(x), len(each)), x.dtype)
    weight = weight.at[jnp.arange(len(x))[:, None], choices.expert].add(choices.weight, mode="drop")
    return jnp.einsum("te,etd->td", weight, each), jnp.zeros((), x.dtype)


def by_capacity(
    x: Float[Array, "T D"], choices: Choices, experts: Experts | tuple[Experts, ...], factor: float = 1.25
) -> tuple:
    """Each expert has places for `factor` times its even share of choices; what comes later is dropped.

    The share is that of all T tokens, for shapes are fixed: padding leaves more room to real tokens, and takes none.

    Source: lepikhin2021gshard, with a sort in place of one-hot masks.
    """
    experts = stacked(experts)
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


def with_overflow(
    x: Float[Array, "T D"], choices: Choices, experts: Experts | tuple[Experts, ...], factor: float = 2.0
) -> tuple:
    """As `by_capacity`, and exact: where a place is missing, all experts compute all tokens instead."""
    experts = stacked(experts)
    count = experts.gate.shape[0]
    _, kept = place_in_expert(choices, count, room(choices, count, factor))
    enough = kept.sum() == (choices.weight > 0).sum()
    return jax.lax.cond(enough, partial(by_capacity, factor=factor), all_experts, x, choices, experts)


def ragged(x: Float[Array, "T D"], choices: Choices, experts: Experts | tuple[Experts, ...]) -> tuple:
    """Choices sorted by expert, and XLA's product of ragged groups; exact."""
    experts = stacked(experts)
    chosen = choices.expert.reshape(-1)
    order = jnp.argsort(chosen, stable=True)
    size = jnp.bincount(chosen, length=experts.gate.shape[0])
    rows = x[order // choices.expert.shape[1]]
    inner = jax.nn.silu(jax.lax.ragged_dot(rows, experts.gate, size)) * jax.lax.ragged_dot(rows, experts.up, size)
    made = jax.lax.ragged_dot(inner, experts.down, size)
    back = jnp.zeros_like(made).at[order].set(made).reshape(*choices.expert.shape, -1)
    return jnp.einsum("tk,tkd->td", choices.weight, back), jnp.zeros((), x.dtype)


def one_by_one(x: Float[Array, "T D"], choices: Choices, experts: Experts | tuple[Experts, ...]) -> tuple:
    """Each choice on its own, its expert picked by `lax.switch`, which reads no other; exact, for a few tokens."""
    each = each_expert(experts)
    branches = [*(partial(lambda w, row: expert(row, w), w) for w in each), jnp.zeros_like]  # last: does not exist

    def one(index: Int[Array, ""]) -> Float[Array, "D"]:
        token, place = index // choices.expert.shape[1], index % choices.expert.shape[1]
        return jax.lax.switch(choices.expert[token, place], branches, x[token][None])[0]

    made = jax.lax.map(one, jnp.arange(choices.expert.size)).reshape(*choices.expert.shape, -1)
    return jnp.einsum("tk,tkd->td", choices.weight, made), jnp.zeros((), x.dtype)


def in_buckets(x: Float[Array, "T D"], choices: Choices, experts: Experts | tuple[Experts, ...]) -> tuple:
    """Choices sorted by expert; each expert computes its rows, padded to a power of two; exact.

    An expert that nobody chose is not read. Rows are picked by `lax.switch` over the sizes, so shapes stay fixed.
    """
    each = each_expert(experts)
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


DISPATCHES: dict[str, Dispatch] = {
    "all_experts": all_experts,
    "by_capacity": by_capacity,
    "with_overflow": with_overflow,
    "ragged": ragged,
    "one_by_one": one_by_one,
    "in_buckets": in_buckets,
}
EXACT = frozenset(DISPATCHES) - {"by_capacity"}
FEW = 8  # tokens that pass at once in decoding
DEFAULT = {"training": "by_capacity", "prefill": "in_buckets", "decode": "in_buckets"}


def of_phase(phase: str, tokens: int) -> Dispatch:
    """The fastest dispatch for a phase and a number of tokens, exact where it serves.

    Raises:
        ValueError: there is no such phase.
    """
    if phase not in DEFAULT:
        raise ValueError(f"phase is {phase!r}; allowed: {', '.join(DEFAULT)}")
    if phase == "decode" and tokens <= FEW:
        return one_by_one
    return DISPATCHES[DEFAULT[phase]]
