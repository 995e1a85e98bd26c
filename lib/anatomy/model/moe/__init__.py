"""The mixture of experts: routers choose, and a dispatch brings tokens to their experts and back.

A dispatch takes tokens, their choices and the experts of a layer. It gives the weighted sum of what the chosen experts
make of each token, and the share of choices that were dropped. `EXACT` names those that never drop. One that does must
not serve: what a sequence gets would depend on its neighbours in the batch. Choices of masked tokens
(`routing.masked`) take no place, count in no share and come back as 0 from every one.

Which one trains is said by `train.Training.dispatch`, and which one serves by `decode.dispatch.select_dispatch`.
"""

from collections.abc import Callable

from jaxtyping import Array, Float

from anatomy.model.moe.capacity import by_capacity, with_overflow
from anatomy.model.moe.dense import all_experts
from anatomy.model.moe.experts import Experts, ExpertWeights, FusedExpert, expert
from anatomy.model.moe.grouped import in_buckets, one_by_one, ragged
from anatomy.model.moe.routing import Choices, Routing, route
from anatomy.model.moe.tiles import in_tiles

Dispatch = Callable[[Float[Array, "T D"], Choices, ExpertWeights], tuple[Float[Array, "T D"], Float[Array, ""]]]

TRAINABLE: dict[str, Dispatch] = {  # those that have gradients; training reaches no other
    "all_experts": all_experts,
    "by_capacity": by_capacity,
    "with_overflow": with_overflow,
    "ragged": ragged,
    "one_by_one": one_by_one,
    "in_buckets": in_buckets,
}
DISPATCHES = TRAINABLE | {"in_tiles": in_tiles}
EXACT = frozenset(DISPATCHES) - {"by_capacity"}

__all__ = [
    "DISPATCHES",
    "EXACT",
    "TRAINABLE",
    "Choices",
    "Dispatch",
    "ExpertWeights",
    "Experts",
    "FusedExpert",
    "Routing",
    "all_experts",
    "by_capacity",
    "expert",
    "in_buckets",
    "in_tiles",
    "one_by_one",
    "ragged",
    "route",
    "with_overflow",
]
