"""The frontier of serving: every plan and batch, and those that no other beats in latency and in cost.

A deployment is one group of replicas that share their experts; more of the same serve more users at the same latency
and cost, so replicas are as many as the expert ways. Millions of plans are evaluated at once by the same `decode`
that answers for one.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from anatomy.cost import explore
from anatomy.cost.inference.memory import memory
from anatomy.cost.inference.steps import Overheads, decode
from anatomy.cost.search import divisors
from anatomy.specs import Architecture, Cluster, Scalar, Serving
from anatomy.specs.base import ABOVE_ZERO, AT_LEAST_ONE, check_arguments

SEARCHED = ("tensor", "pipeline", "expert", "micro_batches", "cache_by_sequence", "sequences")
ROUNDS = (0.25, 0.5, 1, 2, 4)  # micro-batches in flight, over stages


class Served(NamedTuple):
    """Plans, one a row: their fields, and what the cost model says of a decode step of each."""

    plans: dict[str, Float[np.ndarray, "plans"]]
    seconds: Float[np.ndarray, "plans"]  # of a token of one user
    chip_seconds: Float[np.ndarray, "plans"]  # for a token; times a price, dollars
    memory: Float[np.ndarray, "plans"]  # bytes on the fullest chip
    mfu: Float[np.ndarray, "plans"]
    fits: Bool[np.ndarray, "plans"]

    @property
    def chips(self) -> Float[np.ndarray, "plans"]:
        """Chips of each deployment."""
        return self.plans["tensor"] * self.plans["pipeline"] * self.plans["expert"]

    def plan(self, index: int, like: Serving) -> Serving:
        """One row as a plan; what was not searched is as in `like`."""
        fields = {name: float(column[index]) for name, column in self.plans.items() if name != "sequences"}
        return like.replace(**fields, data=fields["expert"])

    def frontier(self) -> Int[np.ndarray, "front"]:
        """Rows that fit and that no other beats in seconds and in chip-seconds a token, the fastest first."""
        columns = {"seconds": self.seconds, "chip_seconds": self.chip_seconds}
        front = explore.pareto(columns, minimise=("seconds", "chip_seconds"), where=self.fits)
        return front[np.argsort(self.seconds[front])]

    def cheapest(self, seconds: float = np.inf) -> int:
        """The row with the least chip-seconds a token among those that fit and are no slower than this.

        Raises:
            ValueError: there is none.
        """
        allowed = self.fits & (self.seconds <= seconds)
        if not allowed.any():
            raise ValueError(f"no plan that fits gives a token in {seconds:g} s")
        return int(np.argmin(np.where(allowed, self.chip_seconds, np.inf)))


def every_plan(
    model: Architecture,
    cluster: Cluster,
    sequences: Float[np.ndarray, "batches"],
    tensor_most: int = 16,
) -> dict[str, Float[np.ndarray, "plans"]]:
    """Columns of all plans and batches worth trying; all of them can be run.

    Tensor ways divide heads and d_ff, and a node or whole nodes; expert ways divide the experts; stages all have
    layers; a micro-batch has a sequence at least.

    Args:
        model: whose layers, heads and experts are split.
        cluster: a deployment has at most its chips.
        sequences: in flight, of one replica, to try.
        tensor_most: largest ways of tensor parallelism.

    Raises:
        TypeError, ValueError: a number of sequences is below 1.
    """
    check_arguments("every_plan", AT_LEAST_ONE, sequences=sequences, tensor_most=tensor_most)
    heads, layers, experts = (int(x) for x in (model.attention.heads, model.layers, model.experts))
    node = int(cluster.node.chips)
    rows = []
    for tensor in divisors(heads, tensor_most):
        if int(model.d_ff) % tensor or (min(tensor, node) and max(tensor, node) % min(tensor, node)):
            continue
        stages = [p for p in range(1, layers + 1) if (p - 1) * -(-layers // p) < layers]
        for pipeline, expert in itertools.product(stages, divisors(experts, experts)):
            if tensor * pipeline * expert <= cluster.chips:
                in_flight = sorted({max(1, int(pipeline * share)) for share in ROUNDS})
                rows += [(tensor, pipeline, expert, m, by) for m in in_flight for by in (0, 1)]
    base, batches = np.array(rows, float), np.asarray(sequences, float)
    left, right = np.repeat(base, len(batches), axis=0), np.tile(batches, len(base))
    kept = right >= left[:, 3]
    return dict(zip(SEARCHED, (*left[kept].T, right[kept]), strict=True))


def search(
    model: Architecture,
    cluster: Cluster,
    constants: Overheads,
    context: Scalar,
    like: Serving,
    plans: dict[str, Float[np.ndarray, "plans"]],
    progress: bool = False,
) -> Served:
    """Evaluate a decode step of all plans, in double precision.

    Args:
        model: that serves.
        cluster: on what.
        constants: what of the peaks is reached, and what it takes to start.
        context: tokens that each sequence holds in the cache.
        like: gives what is not searched, such as precision.
        plans: columns, as `every_plan` makes them.
        progress: whether a bar is shown.

    Raises:
        TypeError, ValueError: the context is not above 0.
    """
    check_arguments("search", ABOVE_ZERO, context=context)

    def outcome(sequences: Scalar, **fields: Scalar) -> dict[str, Scalar]:
        plan = like.replace(**fields, data=fields["expert"])
        made = decode(model, plan, cluster, constants, sequences, context)
        held = memory(model, plan, sequences, context).total
        return {
            "seconds": made.seconds,
            "chip_seconds": made.chips * made.seconds / made.tokens,
            "memory": held,
            "mfu": made.mfu,
            "fits": held <= cluster.node.chip.memory,
        }

    table = explore.sweep(outcome, points=plans, progress=progress)
    return Served({name: table.pop(name) for name in plans}, **table)
