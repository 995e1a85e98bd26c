"""Published figures of models that serve: made from the rows of a file, predicted, and held against what was published.

The schema stands at the top of `serving.toml`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import minimize_scalar

from anatomy.cost.efficiency import Overheads, generation_of, overheads
from anatomy.cost.rules import Case, broken
from anatomy.cost.serving.legality import RULES
from anatomy.cost.serving.memory import memory
from anatomy.cost.serving.steps import Pass, decode, prefill
from anatomy.specs import Architecture, Cluster, Serving, catalogue
from anatomy.validate.published import (
    GIB,
    MEMORY_MARGIN,
    SLOWEST,
    Measure,
    above,
    architecture_of,
    check_agreement,
    cluster_of,
    known,
    shown,
    single,
    words,
    yes_or_no,
)

LENGTHS = {"prompt", "cached", "answer"}  # tokens of a sequence; what makes a row one of serving
NEEDED = ("name", "architecture", "chip", "chips", "plan", "batch", "published")
SHARES = {"matmul", "memory", "link", "network", "overlap"}
KEYS = {*NEEDED, *LENGTHS, "source", "fitted", "node", "link", "network", "weak", "note"}


class Prediction(NamedTuple):
    """What the cost model says of a prompt, of an answer, or of both, one after the other."""

    read: Pass | None
    step: Pass | None  # of decoding, half-way through the answer
    steps: float

    @property
    def seconds(self) -> float:
        """Seconds of the whole."""
        read = float(self.read.seconds) if self.read else 0.0
        return read + (self.steps * float(self.step.seconds) if self.step else 0.0)

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation of the whole, by the 16-bit peak."""
        flop = float(self.read.flop) if self.read else 0.0
        flop += self.steps * float(self.step.flop) if self.step else 0.0
        part = self.read or self.step
        assert part is not None, "a run has a prompt, an answer, or both"
        return flop / (self.seconds * float(part.peak))

    @property
    def least_seconds(self) -> float:
        """Seconds that the bytes or the FLOP of the chips take, whichever are more, and nothing else."""
        passes = [(self.read, 1.0), (self.step, self.steps)]
        return sum(
            n * max(float(made.weights + made.cache), float(made.compute + made.scores)) for made, n in passes if made
        )


@dataclasses.dataclass(frozen=True)
class Served:
    """Sequences that were served, as published, in the terms of the cost model."""

    name: str
    source: str
    fitted: tuple[str, ...]  # constants that were fitted on this row
    model: Architecture
    plan: Serving
    cluster: Cluster
    chip: str  # its name in the catalogue
    generation: str  # whose constants are used
    batch: float  # over all replicas
    prompt: float  # tokens that are read
    cached: float  # tokens that are in the cache before
    answer: float  # tokens that are written
    published: dict[str, float]
    weak: bool = False
    note: str = ""

    @property
    def borrowed(self) -> bool:
        """Whether the constants are those of a neighbouring generation."""
        return self.generation != catalogue.entry("chips", self.chip).get("generation")

    @property
    def measures(self) -> dict[str, Measure]:
        """What such a run may publish."""
        return MEASURES

    @property
    def constants(self) -> Overheads:
        """Those of the chip's generation."""
        return overheads(self.chip)

    @property
    def steps(self) -> float:
        """Decode steps: the first token of an answer comes from the prompt, where one is read."""
        return self.answer - (self.prompt > 0) if self.answer else 0.0

    def predict(self, constants: Overheads | None = None) -> Prediction:
        """The cost model's passes, in double precision; with other constants, if given."""
        with jax.enable_x64(True):
            asked = self.model, self.plan, self.cluster, constants or self.constants
            batch = self.batch / self.plan.data
            read = step = None
            if self.prompt and self.cached:
                read = decode(*asked, batch=batch, context=self.cached, tokens=self.prompt)
            elif self.prompt:
                read = prefill(*asked, batch=batch, prompt=self.prompt)
            if self.steps:
                step = decode(*asked, batch=batch, context=self.cached + self.prompt + self.answer / 2)
        return Prediction(read, step, self.steps)

    def error(self, constants: Overheads | None = None) -> float:
        """Predicted over published seconds, of the first measure that was published, less 1."""
        key, value = next(iter(self.published.items()))
        return (MEASURES[key].of(self.predict(constants), self) / value) ** -MEASURES[key].power - 1


MEASURES = {
    "seconds": Measure("s", lambda made, run: made.seconds, -1),
    "time_to_first_token": Measure("s", lambda made, run: float(made.read.seconds), -1),
    "time_per_output_token": Measure("s", lambda made, run: float(made.step.seconds), -1),
    "tokens_per_user": Measure("tokens/s", lambda made, run: 1 / float(made.step.seconds), 1),
    "tokens_per_second": Measure("tokens/s", lambda made, run: run.batch * run.answer / made.seconds, 1),
    "tokens_per_chip": Measure(
        "tokens/s", lambda made, run: run.batch * run.answer / made.seconds / float(run.cluster.chips), 1
    ),
    "mfu": Measure("", lambda made, run: made.mfu, 1),
}
# What of a request a figure is about, which its row must give.
OF_A_PART = {"time_to_first_token": "prompt", "time_per_output_token": "answer", "tokens_per_user": "answer"}


def run_of(row: dict[str, Any]) -> Served:
    """What was served, from one row.

    Raises:
        KeyError, TypeError, ValueError: a field is missing, unknown or impossible; the message says which.
    """
    known("run", row, KEYS)
    if missing := [key for key in NEEDED if key not in row]:
        raise ValueError(f"{', '.join(missing)} missing; a run needs {', '.join(NEEDED)}, and a prompt or an answer")
    batch, chips = (above("run", key, row[key], whole=True) for key in ("batch", "chips"))
    lengths = {key: above("run", key, row[key], whole=True) if key in row else 0.0 for key in sorted(LENGTHS)}
    if not lengths["prompt"] and not lengths["answer"]:
        raise ValueError("prompt and answer missing; a run needs one of them")
    model = architecture_of(row["architecture"], sum(lengths.values()))
    if 0 < model.learned_positions < sum(lengths.values()):
        raise ValueError(
            f"cached, prompt and answer are {sum(lengths.values()):g}; allowed: at most learned_positions "
            f"({model.learned_positions:g})"
        )
    plan, cluster = plan_of(row["plan"], chips), chips_of(row, chips)
    if batch % float(plan.data):
        raise ValueError(f"run.batch is {batch:g}; allowed: a multiple of data ({plan.data:g}), the replicas")
    if problems := broken(RULES, Case(model, plan, cluster, batch / float(plan.data))):
        raise ValueError(f"the plan cannot be run: {'; '.join(problems)}")
    run = Served(
        name=words("name", row["name"]),
        source=words("source", row.get("source", "")),
        fitted=fitted_of(row.get("fitted", [])),
        model=model,
        plan=plan,
        cluster=cluster,
        chip=row["chip"],
        generation=generation_of(row["chip"], "serving"),
        batch=batch,
        **lengths,
        published=published_of(row["published"], lengths),
        weak=yes_or_no("weak", row.get("weak", False)),
        note=words("note", row.get("note", "")),
    )
    check_possible(run)
    return run


def plan_of(value: Any, chips: float) -> Serving:
    """A plan; `data` is what remains of the chips."""
    known("plan", value, {field.name for field in dataclasses.fields(Serving)} - {"data"})
    single("plan", value)
    tensor, stages = (above("plan", name, value.get(name, 1), whole=True) for name in ("tensor", "pipeline"))
    if chips % (tensor * stages):
        raise ValueError(f"run.chips is {chips:g}; allowed: a multiple of tensor x pipeline ({tensor * stages:g})")
    return Serving(data=chips / (tensor * stages), **value)


def chips_of(row: dict[str, Any], chips: float) -> Cluster:
    """The chips that it ran on: a torus where they make one, else nodes; with the row's own link, if given."""
    key = row["chip"]
    torus = isinstance(key, str) and "axes" in catalogue.entry("chips", key)
    cluster = catalogue.torus(key, int(chips)) if torus else cluster_of(row, chips)
    if "link" not in row:
        return cluster
    link = dataclasses.replace(cluster.node.link, bandwidth=above("run", "link", row["link"]))
    return dataclasses.replace(cluster, node=dataclasses.replace(cluster.node, link=link))


def fitted_of(value: Any) -> tuple[str, ...]:
    """Names of constants that were fitted on the row.

    Raises:
        ValueError: they are something else.
    """
    allowed = constant_names()
    if not isinstance(value, list) or not all(name in allowed for name in value):
        raise ValueError(f"run.fitted is {shown(value)}; allowed: a list of {', '.join(allowed)}")
    return tuple(value)


def published_of(value: Any, lengths: dict[str, float]) -> dict[str, float]:
    """What was published.

    Raises:
        ValueError, TypeError: nothing was, or something unknown, or something of a part that the row has not.
    """
    if not isinstance(value, dict) or not value:
        raise ValueError(f"run.published is {shown(value)}; allowed: one or more of {', '.join(MEASURES)}")
    known("published", value, MEASURES)
    for key in value:
        part = OF_A_PART.get(key, "answer" if key.startswith("tokens") else None)
        if part and (not lengths[part] or (part == "answer" and lengths["prompt"] and lengths[part] < 2)):
            raise ValueError(f"published.{key} needs run.{part}, of two tokens or more where a prompt is read as well")
    return {key: above("published", key, number) for key, number in value.items()}


def check_possible(run: Served) -> None:
    """Refuse what does not fit into the chips, what they cannot do, and numbers that contradict each other.

    Raises:
        ValueError: so it is.
    """
    context, batch = run.cached + run.prompt + run.answer, run.batch / float(run.plan.data)
    capacity = float(run.cluster.node.chip.memory) * GIB
    if (needed := float(memory(run.model, run.plan, batch=batch, context=context).total)) > MEMORY_MARGIN * capacity:
        raise ValueError(
            f"the plan needs {needed:.3g} bytes a chip by the memory model; allowed: at most {MEMORY_MARGIN} times the "
            f"chip's {capacity:.3g}"
        )
    made, best = run.predict(), run.predict(reached_in_full(run.constants))
    implied = {}
    for key, value in run.published.items():
        measure, least = MEASURES[key], best.least_seconds
        if part := OF_A_PART.get(key):
            other = {"step": None} if part == "prompt" else {"read": None, "steps": 1.0}
            least = best._replace(**other).least_seconds
            of = made.read if part == "prompt" else made.step
            assert of is not None, "what is published of a part has that part"
            seconds = float(of.seconds)
        else:
            seconds = made.seconds
            implied[key] = seconds * (float(measure.of(made, run)) / value) ** measure.power
        predicted = float(measure.of(made, run))
        if not 0 < predicted < math.inf:
            raise ValueError(f"{key} of this run comes out as {predicted:g}; allowed: sizes that can be run")
        low, high = sorted(predicted * (seconds / s) ** measure.power for s in (least, SLOWEST * least))
        if not low <= value <= high:
            raise ValueError(
                f"published.{key} is {value:g}; allowed: {low:.3g} to {high:.3g}, from a {SLOWEST:g}th of what the "
                "peaks of the chips allow to all of it"
            )
    check_agreement(run.published, implied, "in all")


def reached_in_full(constants: Overheads) -> Overheads:
    """The same constants, but for the shares of compute and of memory bandwidth, which are one."""
    share = dataclasses.replace(constants.efficiency, matmul=1.0, half_size=0.0, memory=1.0)
    return dataclasses.replace(constants, efficiency=share, overlap=0.0)


def constant_names() -> tuple[str, ...]:
    """Names of the constants."""
    parts = (type(overheads("tpu_v4")), type(overheads("tpu_v4").efficiency))
    return tuple(field.name for part in parts for field in dataclasses.fields(part) if field.name != "efficiency")


def changed(constants: Overheads, name: str, value: Any) -> Overheads:
    """The constants with another value of one."""
    if hasattr(constants, name):
        return dataclasses.replace(constants, **{name: value})
    return dataclasses.replace(constants, efficiency=dataclasses.replace(constants.efficiency, **{name: value}))


def fit(runs: Sequence[Served], name: str) -> float:
    """The value of a constant for which these runs are predicted best: least squares of relative errors.

    Args:
        runs: of one generation of chips; their first measures count.
        name: of the constant; the others stay.
    """
    constants = runs[0].constants
    now = getattr(constants, name, None) or getattr(constants.efficiency, name)

    def squares(factor: float) -> float:
        other = changed(constants, name, now * math.exp(factor))
        return float(np.sum([run.error(other) ** 2 for run in runs]))

    most = -math.log(now) if name in SHARES else 2.0  # a share is one at most
    return now * math.exp(minimize_scalar(squares, bounds=(-2.0, most), method="bounded").x)
