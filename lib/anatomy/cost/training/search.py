"""Plan search: every way to lay a model over a cluster, and the best of them.

SlowestWay of tensor and expert parallelism are divisors; stages are whatever the layers allow; replicas are as many as
the chips give, half as many, or a quarter. Millions of plans are evaluated at once by the same `training.step`
that answers for one.
"""

import itertools
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float

from anatomy.cost import explore
from anatomy.cost.efficiency import Efficiency
from anatomy.cost.training.step import training_step
from anatomy.specs import Architecture, Cluster, Plan, Recompute, Scalar
from anatomy.specs.base import AT_LEAST_ONE, check_arguments

SEARCHED = (
    "tensor", "pipeline", "data", "expert", "micro_batch", "chunks", "zero", "recompute", "sequence_parallel",
)  # fmt: skip
OPTIONS = ((1, 2, 4, 8), range(4), tuple(Recompute), (0, 1))  # micro-batch, ZeRO, recompute, sequence parallelism
SHARES = (1, 2, 4)  # of the replicas that the chips would give, the reciprocal
MOST_CHUNKS = 8


class SearchResult(NamedTuple):
    """Legal plans, one a row: their fields, and what the cost model says of each."""

    plans: dict[str, Float[np.ndarray, "plans"]]
    seconds: Float[np.ndarray, "plans"]
    cost: Float[np.ndarray, "plans"]  # chip-seconds of a step; times a price, dollars
    memory: Float[np.ndarray, "plans"]
    mfu: Float[np.ndarray, "plans"]
    fits: Bool[np.ndarray, "plans"]

    @property
    def chips(self) -> Float[np.ndarray, "plans"]:
        """Chips that each plan uses."""
        return self.plans["tensor"] * self.plans["pipeline"] * self.plans["data"]

    def plan(self, index: SupportsIndex, like: Plan) -> Plan:
        """One row as a plan; what was not searched is as in `like`."""
        return like.replace(**{name: float(column[index]) for name, column in self.plans.items()})

    def best(self, by: str = "seconds") -> int:
        """The row with the least `seconds`, `cost` or `memory` among the plans that fit.

        Raises:
            ValueError: nothing fits, or `by` is something else.
        """
        objectives = ("seconds", "cost", "memory")
        if by not in objectives:
            raise ValueError(f"by is {by!r}; allowed: {', '.join(objectives)}")
        if not self.fits.any():
            raise ValueError("no plan fits into the memory of a chip")
        return int(np.argmin(np.where(self.fits, getattr(self, by), np.inf)))


def divisors(number: float, most: float) -> list[int]:
    """Divisors up to a limit."""
    return [n for n in range(1, int(most) + 1) if int(number) % n == 0]


def every_plan(
    model: Architecture, cluster: Cluster, *, batch: float, tensor_most: int = 16
) -> dict[str, Float[np.ndarray, "plans"]]:
    """Columns of all plans worth trying; those that are not legal among them are dropped by `search`.

    Args:
        model: whose layers, heads and experts are split.
        cluster: its chips are used as fully as the ways allow, or a half or a quarter of them.
        batch: sequences of a step; replicas are at most these.
        tensor_most: largest ways of tensor parallelism.

    Raises:
        ValueError: there are fewer than one sequence, or no plan.
    """
    check_arguments("every_plan", AT_LEAST_ONE, batch=batch, tensor_most=tensor_most)
    heads, layers, experts = (int(x) for x in (model.attention.heads, model.layers, model.experts))
    rows = []
    for tensor, pipeline in itertools.product(divisors(heads, tensor_most), range(1, layers + 1)):
        if (pipeline - 1) * -(-layers // pipeline) >= layers:
            continue  # fewer stages have as many layers each, and no longer a bubble
        most = min(int(cluster.chips) // (tensor * pipeline), int(batch))
        chunks = [1] if pipeline == 1 else divisors(-(-layers // pipeline), MOST_CHUNKS)
        for expert in divisors(experts, experts):
            replicas = {most // share // expert * expert for share in SHARES}  # whole expert groups only
            rows += [(tensor, pipeline, d, expert, v) for d in sorted(replicas - {0}) for v in chunks]
    if not rows:
        raise ValueError(f"no way leads to a plan on {cluster.chips:g} chips with {batch:g} sequences")
    base, options = np.array(rows, float), np.array(list(itertools.product(*OPTIONS)), float)
    left, right = np.repeat(base, len(options), axis=0), np.tile(options, (len(base), 1))
    columns = (*left[:, :4].T, right[:, 0], left[:, 4], *right[:, 1:].T)
    return dict(zip(SEARCHED, columns, strict=True))


def search(
    model: Architecture,
    cluster: Cluster,
    *,
    batch: float,
    sequence_length: float,
    efficiency: Efficiency,
    like: Plan,
    plans: dict[str, Float[np.ndarray, "plans"]] | None = None,
    progress: bool = False,
) -> SearchResult:
    """Evaluate all plans, in double precision, and keep the legal ones.

    Args:
        model: what is trained.
        cluster: on what.
        batch: sequences of a step.
        sequence_length: tokens of one.
        efficiency: constants of the chips' generation.
        like: gives what is not searched: fused attention, overlap, hybrid groups.
        plans: columns to evaluate instead of `every_plan`.
        progress: whether a bar is shown.
    """

    def outcome(**values: Scalar) -> dict[str, Scalar]:
        plan = like.replace(**values)
        made = training_step(model, plan, cluster, batch=batch, sequence_length=sequence_length, efficiency=efficiency)
        return {
            "seconds": made.seconds,
            "cost": made.seconds * made.chips,
            "memory": made.memory.total,
            "mfu": made.mfu,
            "fits": made.fits,
            "legal": made.legal,
        }

    points = every_plan(model, cluster, batch=batch) if plans is None else plans
    table = explore.sweep(outcome, points=points, progress=progress)
    legal = {name: column[table["legal"]] for name, column in table.items() if name != "legal"}
    return SearchResult({name: legal.pop(name) for name in points}, **legal)
