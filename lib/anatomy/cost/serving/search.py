"""The frontier of serving: every plan and batch, and those that no other beats in latency and in cost.

A deployment is one group of replicas that share their experts; more of the same serve more users at the same latency
and cost, so replicas are as many as the expert ways. Millions of plans are evaluated at once by the same `decode`
or `prefill` that answers for one.
"""

from collections.abc import Callable
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int

from anatomy.cost import explore
from anatomy.cost.efficiency import Overheads
from anatomy.cost.serving.memory import memory
from anatomy.cost.serving.steps import Pass, decode, prefill
from anatomy.cost.training.search import divisors
from anatomy.specs import Architecture, Cluster, Scalar, Serving
from anatomy.specs.base import ABOVE_ZERO, AT_LEAST_ONE, check_arguments

SEARCHED = (
    "tensor", "rows", "gathered", "pipeline", "first_stage_share", "expert", "micro_batches", "cache_by_sequence",
    "batch",
)  # fmt: skip
LENGTHS = {decode: "context", prefill: "prompt"}  # what of a sequence each is asked about
IN_FLIGHT = (0.25, 0.5, 1, 2, 4)  # micro-batches in flight, over stages


class SearchResult(NamedTuple):
    """Plans, one a row: their fields, and what the cost model says of a pass of each."""

    plans: dict[str, Float[np.ndarray, "plans"]]
    seconds: Float[np.ndarray, "plans"]  # until the pass is out: a user's next token, or the first
    chip_seconds: Float[np.ndarray, "plans"]  # for a token; times a price, dollars
    memory: Float[np.ndarray, "plans"]  # bytes on the fullest chip
    mfu: Float[np.ndarray, "plans"]
    fits: Bool[np.ndarray, "plans"]

    @property
    def chips(self) -> Float[np.ndarray, "plans"]:
        """Chips of each deployment."""
        return self.plans["tensor"] * self.plans["pipeline"] * self.plans["expert"]

    def plan(self, index: SupportsIndex, like: Serving) -> Serving:
        """One row as a plan; what was not searched is as in `like`."""
        fields = {name: float(column[index]) for name, column in self.plans.items() if name != "batch"}
        return like.replace(**fields, data=fields["expert"])

    def frontier(self) -> Int[np.ndarray, "front"]:
        """Rows that fit and that no other beats in seconds and in chip-seconds a token, the fastest first.

        Of plans that are equal in both there is one.
        """
        columns = {"seconds": self.seconds, "chip_seconds": self.chip_seconds}
        front = explore.pareto(columns, minimise=("seconds", "chip_seconds"), where=self.fits)
        return front[np.unique(self.seconds[front], return_index=True)[1]]

    def cheapest(self, seconds: float = np.inf) -> int:
        """The row with the least chip-seconds a token among those that fit and are no slower than this.

        Raises:
            ValueError: there is none.
        """
        allowed = self.fits & (self.seconds <= seconds)
        if not allowed.any():
            raise ValueError(f"no plan that fits answers in {seconds:g} s")
        return int(np.argmin(np.where(allowed, self.chip_seconds, np.inf)))


def layouts(model: Architecture, *, node: int, tensor_most: int) -> list[tuple[int, int, int]]:
    """Tensor ways, rows and whether weights are gathered: ways divide a node or fill several, columns divide heads and
    d_ff, rows d_model; gathered weights are whole and need not divide.
    """
    found = []
    for tensor in range(1, tensor_most + 1):
        if max(tensor, node) % min(tensor, node):
            continue
        for rows in divisors(tensor, tensor):
            columns = tensor // rows
            if model.attention.heads % columns == 0 and model.d_ff % columns == 0 and model.d_model % rows == 0:
                found.append((tensor, rows, 0))
        if tensor > 1:
            found.append((tensor, 1, 1))
    return found


def every_plan(
    model: Architecture,
    cluster: Cluster,
    *,
    batch: Float[np.ndarray, "batches"],
    tensor_most: int = 16,
) -> dict[str, Float[np.ndarray, "plans"]]:
    """Columns of all plans and batches worth trying; all of them can be run.

    Tensor ways come in all `layouts`; expert ways divide the experts; stages all have layers, but for a head stage
    without any; a micro-batch has a sequence at least, one for each tensor way where they split the cache.

    Args:
        model: whose layers, heads and experts are split.
        cluster: a deployment has at most its chips.
        batch: sequences in flight, of one replica, to try.
        tensor_most: largest ways of tensor parallelism.

    Raises:
        TypeError, ValueError: a number of sequences is below 1.
    """
    check_arguments("every_plan", AT_LEAST_ONE, batch=batch, tensor_most=tensor_most)
    layers, experts, chips = int(model.layers), int(model.experts), int(cluster.chips)
    rows = []
    for layout in layouts(model, node=int(cluster.node.chips), tensor_most=int(tensor_most)):
        for expert in divisors(experts, experts):
            most = chips // (layout[0] * expert)
            stages = [(p, 1) for p in range(1, min(most, layers) + 1)]
            stages += [(p, 0) for p in range(2, min(most, layers + 1) + 1)]
            for pipeline, head in stages:
                in_flight = sorted({max(1, int(pipeline * share)) for share in IN_FLIGHT})
                rows += [(*layout, pipeline, head, expert, m, by) for m in in_flight for by in (0, 1)]
    base, batches = np.array(rows, float), np.asarray(batch, float)
    left, right = np.repeat(base, len(batches), axis=0), np.tile(batches, len(base))
    columns = dict(zip(SEARCHED, (*left.T, right), strict=True))
    possible = right >= columns["micro_batches"] * np.where(columns["cache_by_sequence"], columns["tensor"], 1)
    return {name: column[possible] for name, column in columns.items()}


def search(
    model: Architecture,
    cluster: Cluster,
    constants: Overheads,
    *,
    context: Scalar,
    like: Serving,
    plans: dict[str, Float[np.ndarray, "plans"]],
    run: Callable[..., Pass] = decode,
    progress: bool = False,
) -> SearchResult:
    """Evaluate a pass of all plans, in double precision.

    Args:
        model: that serves.
        cluster: on what.
        constants: what of the peaks is reached, and what it takes to start.
        context: tokens that each sequence holds in the cache, those of its prompt where that is read.
        like: gives what is not searched, such as precision.
        plans: columns, as `every_plan` makes them.
        run: `decode` for a user's next token, `prefill` for the prompt before the first.
        progress: whether a bar is shown.

    Raises:
        TypeError, ValueError: the context is not above 0.
        KeyError: `run` is neither `decode` nor `prefill`.
    """
    check_arguments("search", ABOVE_ZERO, context=context)
    if run not in LENGTHS:
        raise KeyError(f"search.run is {run!r}; allowed: decode, prefill")

    def outcome(batch: Scalar, **fields: Scalar) -> dict[str, Scalar]:
        plan = like.replace(**fields, data=fields["expert"])
        made = run(model, plan, cluster, constants, batch=batch, **{LENGTHS[run]: context})
        held = memory(model, plan, batch=batch, context=context, tokens=made.tokens / made.sequences).total
        return {
            "seconds": made.seconds,
            "chip_seconds": made.chips * made.period / made.tokens,
            "memory": held,
            "mfu": made.mfu,
            "fits": held <= cluster.node.chip.memory,
        }

    table = explore.sweep(outcome, points=plans, progress=progress)
    return SearchResult({name: table.pop(name) for name in plans}, **table)
