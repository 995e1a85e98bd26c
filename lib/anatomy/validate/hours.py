"""Chip-hours of published models whose plan is not known, and the utilisation that they imply.

Hours that were published include failures, restarts and the start of the batch; the cost model has none of these.
"""

import dataclasses
import tomllib
from importlib.resources import files

import jax
import numpy as np

from anatomy.cost.efficiency import efficiency
from anatomy.cost.training.run import training_flop
from anatomy.cost.training.search import every_plan, search
from anatomy.cost.training.step import Step, training_step
from anatomy.specs import Architecture, Cluster, Plan
from anatomy.validate.published import Run, architecture_of, cluster_of, plan_of


@dataclasses.dataclass(frozen=True)
class Training:
    """A model's training as it was published; a step's `batch` and the `cluster` are None where they were not."""

    name: str
    source: str
    model: Architecture
    chip: str
    peak: float  # FLOP/s of a chip, in 16 bits
    sequence_length: float
    tokens: float
    hours: float
    batch: float | None = None
    cluster: Cluster | None = None
    plan: Plan | None = None
    fused_attention: bool = True
    weak: tuple[str, ...] = ()
    note: str = ""

    @property
    def chip_seconds(self) -> float:
        """Of all chips together."""
        return 3600 * self.hours

    @property
    def by_parameters(self) -> float:
        """Utilisation that the hours imply by the rule of thumb, 6 N D, with N the parameters that a token uses."""
        return float(training_flop(parameters=self.model.parameters.active, tokens=self.tokens)) / (
            self.chip_seconds * self.peak
        )

    @property
    def by_flop(self) -> float:
        """Utilisation that the hours imply with every FLOP of the model counted, attention included."""
        flop = self.tokens * float(self.model.flop_per_token(self.sequence_length, backward=True).total)
        return flop / (self.chip_seconds * self.peak)

    def predict(self) -> Step | None:
        """A step on the published plan, or else on the fastest plain one; None where chips or batch are unknown."""
        if self.cluster is None or self.batch is None:
            return None
        share = efficiency(self.chip)
        with jax.enable_x64(True):
            plan = self.plan or plain_plan(
                self.model,
                self.cluster,
                batch=self.batch,
                sequence_length=self.sequence_length,
                key=self.chip,
                fused_attention=self.fused_attention,
            )
            return training_step(
                self.model, plan, self.cluster, batch=self.batch, sequence_length=self.sequence_length, efficiency=share
            )


def plain_plan(
    model: Architecture,
    cluster: Cluster,
    *,
    batch: float,
    sequence_length: float,
    key: str,
    fused_attention: bool = True,
) -> Plan:
    """The fastest legal plan that fits and is plain.

    All chips work, tensor ways stay inside a node, micro-batches are whole, and nothing of the exchange is hidden.

    Args:
        model: what is trained.
        cluster: on what.
        batch: sequences of a step.
        sequence_length: tokens of one.
        key: of the chip in the catalogue; its generation gives the constants.
        fused_attention: whether scores stay on the chip.

    Raises:
        ValueError: there is none.
    """
    plans = every_plan(model, cluster, batch=batch, tensor_most=int(cluster.node.chips))
    whole = np.mod(batch, plans["data"] * plans["micro_batch"]) == 0
    busy = plans["tensor"] * plans["pipeline"] * plans["data"] == cluster.chips
    like = Plan(fused_attention=float(fused_attention))
    chosen = {name: column[whole & busy] for name, column in plans.items()}
    if not len(chosen["data"]):
        raise ValueError(f"no plan lays {batch:g} sequences over {cluster.chips:g} chips without a rest")
    found = search(
        model,
        cluster,
        batch=batch,
        sequence_length=sequence_length,
        efficiency=efficiency(key),
        like=like,
        plans=chosen,
    )
    return found.plan(found.best(), like)


def published_hours() -> list[Training]:
    """The trainings of `hours.toml`."""
    rows = tomllib.loads((files("anatomy.validate") / "hours.toml").read_text("utf-8"))["training"]
    return [_training(row) for row in rows]


def of_run(run: Run) -> Training:
    """A run that published its hours, as a training whose plan is known."""
    return Training(
        name=run.name,
        source=run.source,
        model=run.model,
        chip=run.chip,
        peak=float(run.cluster.node.chip.flops_16bit),
        sequence_length=run.sequence_length,
        tokens=run.tokens_trained,
        hours=run.published["gpu_hours"],
        batch=run.batch,
        cluster=run.cluster,
        plan=run.plan,
        note=run.note,
    )


def _training(row: dict) -> Training:
    """One row of the file."""
    model = architecture_of(row["architecture"], row["sequence_length"])
    one = cluster_of(row | {"node": 1}, 1.0)
    return Training(
        name=row["name"],
        source=row["source"],
        model=model,
        chip=row["chip"],
        peak=float(one.node.chip.flops_16bit),
        sequence_length=float(row["sequence_length"]),
        tokens=float(row["tokens"]),
        hours=float(row["gpu_hours"]),
        batch=float(row["batch"]) if "batch" in row else None,
        cluster=cluster_of(row, float(row["chips"])) if "chips" in row else None,
        plan=plan_of(row["plan"], float(row["chips"])) if "plan" in row else None,
        fused_attention=row.get("fused_attention", True),
        weak=tuple(row.get("weak", ())),
        note=row.get("note", ""),
    )
