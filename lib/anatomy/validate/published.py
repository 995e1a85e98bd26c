"""Published training runs: made from the rows of a file, predicted, and held against what was published.

The schema stands at the top of `runs.toml`. A row that is incomplete or impossible is refused with the
reason, and the others go on.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

import jax

from anatomy.cost.efficiency import Efficiency, efficiency, generation_of
from anatomy.cost.training import legality
from anatomy.cost.training.step import Step, hardware_flop, training_step
from anatomy.specs import Architecture, Attention, Cluster, Link, Node, Plan, Recompute, architecture, catalogue
from anatomy.specs.catalogue import chip

NEEDED = ("name", "architecture", "chip", "chips", "plan", "batch", "sequence_length", "published")
KEYS = {*NEEDED, "source", "fitted", "node", "network", "note"}
NEEDED_OF_A_CHIP = {
    "link_bandwidth": "link to other chips",
    "flops_16bit": "16-bit peak",
    "memory": "memory",
    "memory_bandwidth": "memory bandwidth",
}
COUNTED = ("kv_heads", "head_dim", "d_ff")  # of an architecture, where they are given
GIB = 2**30 / 1e9  # an "80 GB" chip holds 80 GiB
MEMORY_MARGIN = 1.25  # the memory model is up to a fifth too high for runs that were run (appendix validation)
SLOWEST = 1000.0  # a step this many times as long as the peak allows is an error of units
AGREEMENT = 1.1  # two measures of one run may differ by so much, through rounding and counting


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as it was published, in the terms of the cost model."""

    name: str
    source: str
    fitted: bool
    model: Architecture
    plan: Plan
    cluster: Cluster
    chip: str  # its name in the catalogue
    generation: str  # whose constants are used
    batch: float
    sequence_length: float
    published: dict[str, float]
    tokens_trained: float = 0.0  # of the whole run, where its hours were published
    note: str = ""

    @property
    def borrowed(self) -> bool:
        """Whether the constants are those of a neighbouring generation, and the prediction a guess."""
        return self.generation != catalogue.entry("chips", self.chip).get("generation")

    @property
    def measures(self) -> "dict[str, Measure]":
        """What such a run may publish."""
        return MEASURES

    def predict(self, share: Efficiency | None = None) -> Step:
        """The cost model's step of this run, in double precision; with other constants, if given."""
        with jax.enable_x64(True):
            constants = share if share is not None else efficiency(self.chip)
            return training_step(
                self.model,
                self.plan,
                self.cluster,
                batch=self.batch,
                sequence_length=self.sequence_length,
                efficiency=constants,
            )

    @property
    def peak(self) -> float:
        """FLOP/s of all chips, in 16 bits."""
        return float(self.cluster.chips * self.cluster.node.chip.flops_16bit)

    @property
    def least_flop(self) -> float:
        """FLOP of a token that the plan cannot avoid: what it computes again counts, what kernels skip does not."""
        length = (self.sequence_length + 1) / 2 if self.plan.fused_attention else self.sequence_length
        return float(hardware_flop(self.model, self.plan, batch=1.0, sequence_length=length)) / length


class Measure(NamedTuple):
    """Something that runs publish."""

    unit: str
    of: Callable[[Any, Any], Any]  # its prediction, from what the cost model made of a run, and the run
    power: int  # 1 where more of it is faster, -1 where less is, 0 where it says nothing of speed


MEASURES = {
    "seconds": Measure("s", lambda made, run: made.seconds, -1),
    "tflops": Measure("TFLOP/s", lambda made, run: made.mfu * made.peak / made.chips / 1e12, 1),
    "tflops_with_recompute": Measure("TFLOP/s", lambda made, run: made.hfu * made.peak / made.chips / 1e12, 1),
    "mfu": Measure("", lambda made, run: made.mfu, 1),
    "tokens_per_second": Measure("tokens/s", lambda made, run: made.tokens_per_second, 1),
    "gpu_hours": Measure("h", lambda made, run: run.tokens_trained / made.tokens_per_second * made.chips / 3600, -1),
    "memory": Measure("bytes", lambda made, run: made.memory.total, 0),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One published measure of a run beside its prediction; `error` is relative."""

    run: Any  # a Run, or another kind that has a name, measures, and what was published
    measure: str
    published: float
    predicted: float

    @property
    def unit(self) -> str:
        """Of both numbers."""
        return self.run.measures[self.measure].unit

    @property
    def error(self) -> float:
        """Predicted over published, less one."""
        return self.predicted / self.published - 1

    @property
    def speed(self) -> float:
        """Predicted speed over published speed, whichever way the measure runs; 1 for memory."""
        return (self.predicted / self.published) ** self.run.measures[self.measure].power


def run_of(row: dict[str, Any]) -> Run:
    """A run from one row.

    Raises:
        KeyError, TypeError, ValueError: a field is missing, unknown or impossible; the message says which.
    """
    known("run", row, KEYS)
    if missing := [key for key in NEEDED if key not in row]:
        raise ValueError(f"{', '.join(missing)} missing; a run needs {', '.join(NEEDED)}")
    fitted = yes_or_no("fitted", row.get("fitted", False))
    sequence_length, batch, chips = (
        above("run", key, row[key], whole=True) for key in ("sequence_length", "batch", "chips")
    )
    model = architecture_of(row["architecture"], sequence_length)
    if 0 < model.learned_positions < sequence_length:
        raise ValueError(
            f"run.sequence_length is {sequence_length:g}; allowed: at most learned_positions "
            f"({model.learned_positions:g})"
        )
    plan = plan_of(row["plan"], chips)
    cluster = cluster_of(row, chips)
    if float(plan.micro_batches(batch)) % 1:
        raise ValueError(
            f"run.batch is {batch:g}; allowed: a multiple of data x micro_batch ({plan.data:g} x {plan.micro_batch:g})"
        )
    if problems := legality.problems(model, plan, cluster, batch=batch):
        raise ValueError(f"the plan cannot be run: {'; '.join(problems)}")
    published, tokens_trained = published_of(row["published"])
    run = Run(
        name=words("name", row["name"]),
        source=words("source", row.get("source", "")),
        fitted=fitted,
        model=model,
        plan=plan,
        cluster=cluster,
        chip=row["chip"],
        generation=generation_of(row["chip"]),
        batch=batch,
        sequence_length=sequence_length,
        published=published,
        tokens_trained=tokens_trained,
        note=words("note", row.get("note", "")),
    )
    check_possible(run)
    return run


def check_possible(run: Run) -> None:
    """Refuse what no chip can do, what contradicts itself, and what the cost model cannot compute.

    Raises:
        ValueError: the plan needs far more memory than there is, a published number is beyond what is possible, two of
            them do not belong to one step, or a prediction is no number above 0.
    """
    made = run.predict()
    capacity = float(run.cluster.node.chip.memory) * GIB
    if made.memory.total > MEMORY_MARGIN * capacity:
        raise ValueError(
            f"the plan needs {made.memory.total:.3g} bytes a chip by the memory model; allowed: at most "
            f"{MEMORY_MARGIN} times the chip's {capacity:.3g}"
        )
    fastest = run.batch * run.sequence_length * run.least_flop / run.peak  # seconds
    implied = {}  # seconds of a step, by measure
    for key, value in run.published.items():
        measure = MEASURES[key]
        predicted = float(measure.of(made, run))
        if not 0 < predicted < math.inf:
            raise ValueError(f"{key} of this run comes out as {predicted:g}; allowed: sizes that can be run")
        if key == "memory":
            low, high = float(made.memory.weights), capacity
            why = "from the weights alone to all that a chip has"
        else:
            ends = sorted(predicted * (float(made.seconds) / s) ** measure.power for s in (fastest, SLOWEST * fastest))
            low, high = ends
            why = f"from a {SLOWEST:g}th of the peak to the peak, with what the plan computes again"
            if key != "gpu_hours":  # they hold more than steps
                implied[key] = float(made.seconds) * (predicted / value) ** measure.power
        if not low <= value <= high:
            raise ValueError(f"published.{key} is {value:g}; allowed: {low:.3g} to {high:.3g}, {why}")
    check_agreement(run.published, implied, "a step")


def check_agreement(published: dict[str, float], implied: dict[str, float], what: str) -> None:
    """Refuse published numbers from which different seconds follow.

    Raises:
        ValueError: so they are.
    """
    if implied and max(implied.values()) > AGREEMENT * min(implied.values()):
        contradiction = ", ".join(f"{key} {published[key]:g} is {s:.3g} s {what}" for key, s in implied.items())
        raise ValueError(
            f"published numbers contradict each other: {contradiction}; allowed: within {AGREEMENT - 1:.0%}"
        )


def known(owner: str, row: dict[str, Any], allowed: Iterable[str]) -> None:
    """Refuse a field that does not exist, and name the nearest that does.

    Raises:
        ValueError: so it is.
        TypeError: the row is not a table.
    """
    if not isinstance(row, dict):
        raise TypeError(f"{owner} is {shown(row)}; allowed: a table")
    for key in row:
        if key not in allowed:
            near = get_close_matches(key, list(allowed), n=1)
            hint = f"nearest: {near[0]}" if near else f"allowed: {', '.join(sorted(allowed))}"
            raise ValueError(f"{owner}.{key} is not a field; {hint}")


def shown(value: Any) -> str:
    """A value as a message shows it, never long."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of more than a few thousand figures
        return "a number too long to print"
    return text if len(text) <= 80 else f"{text[:60]}..."


def words(key: str, value: Any) -> str:
    """Free text; a name must not be empty.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, str) or (key == "name" and not value):
        raise ValueError(f"run.{key} is {shown(value)}; allowed: text")
    return value


def yes_or_no(key: str, value: Any) -> bool:
    """True or false.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"run.{key} is {shown(value)}; allowed: true, false")
    return value


def above(owner: str, key: str, value: Any, whole: bool = False) -> float:
    """A number above zero; of what is counted, a whole one that double precision counts exactly.

    Raises:
        ValueError: it is not.
    """
    most = 1e15 if whole else 1e30
    allowed = f"a {'whole ' if whole else ''}number above 0 and at most {most:g}"
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= most
    if not right or (whole and value % 1):
        raise ValueError(f"{owner}.{key} is {shown(value)}; allowed: {allowed}")
    return float(value)


def single(owner: str, row: dict[str, Any]) -> None:
    """Refuse lists and tables where single values belong; the specs check the rest.

    Raises:
        ValueError: a field is a list or a table.
    """
    for key, value in row.items():
        if isinstance(value, (list, dict)):
            raise ValueError(f"{owner}.{key} is {shown(value)}; allowed: a single value")


def architecture_of(value: Any, sequence_length: float) -> Architecture:
    """An architecture by its name in the catalogue, or by its numbers."""
    if isinstance(value, str):
        return architecture(value)
    inner = {field.name for field in dataclasses.fields(Attention)}
    outer = {field.name for field in dataclasses.fields(Architecture)} - {"attention", "name"}
    known("architecture", value, inner | outer)
    single("architecture", value)
    given = dict(value)
    if missing := [key for key in ("layers", "d_model", "heads", "vocabulary") if key not in given]:
        raise ValueError(f"architecture.{missing[0]} missing; give layers, d_model, heads and vocabulary, or a name")
    counted = {*COUNTED, "layers", "d_model", "heads", "vocabulary"} & set(given)
    numbers = {key: above("architecture", key, given[key], whole=True) for key in sorted(counted)}
    width = {"kv_heads": given["heads"], "head_dim": numbers["d_model"] / numbers["heads"]}
    attention = Attention(**{"heads": given["heads"]} | width | {k: v for k, v in given.items() if k in inner})
    usual = {"d_ff": 4 * numbers["d_model"], "tied_embeddings": True, "context": sequence_length}
    return Architecture(attention=attention, **usual | {k: v for k, v in given.items() if k in outer})


def plan_of(value: Any, chips: float) -> Plan:
    """A plan; `data` is what remains of the chips."""
    known("plan", value, {field.name for field in dataclasses.fields(Plan)} - {"data"})
    single("plan", value)
    given = dict(value)
    level = given.get("recompute", "none")
    if not isinstance(level, str) or level.upper() not in Recompute.__members__:
        allowed = ", ".join(name.lower() for name in Recompute.__members__)
        raise ValueError(f"plan.recompute is {shown(level)}; allowed: {allowed}")
    given["recompute"] = float(Recompute[level.upper()])
    tensor, stages = (above("plan", name, given.get(name, 1), whole=True) for name in ("tensor", "pipeline"))
    model_chips = tensor * stages
    if chips % model_chips:
        raise ValueError(f"run.chips is {chips:g}; allowed: a multiple of tensor x pipeline ({model_chips:g})")
    return Plan(data=chips / model_chips, **given)


def cluster_of(row: dict[str, Any], chips: float) -> Cluster:
    """The chips of the run, in nodes of the catalogue's size or of the row's own."""
    key = row["chip"]
    if not isinstance(key, str):
        raise ValueError(f"run.chip is {shown(key)}; allowed: a name of the catalogue")
    entry = catalogue.entry("chips", key)
    for name, what in NEEDED_OF_A_CHIP.items():
        if name not in entry:
            raise ValueError(f"chip {key!r} has no {what}; allowed: a chip that has one")
    size = min(above("run", "node", row.get("node", entry.get("node")), whole=True), chips)
    if chips % size:
        raise ValueError(f"run.chips is {chips:g}; allowed: a multiple of the node's chips ({size:g})")
    link = Link(bandwidth=float(entry["link_bandwidth"]))
    network = row.get("network", entry.get("network_bandwidth", entry["link_bandwidth"]))
    fastest = float(entry["memory_bandwidth"])
    if above("run", "network", network) > fastest:
        raise ValueError(
            f"run.network is {network:g}; allowed: at most the chip's memory bandwidth ({fastest:g} bytes/s)"
        )
    outside = Link(bandwidth=float(network))
    node = Node(chip=chip(key), chips=size, link=link)
    return Cluster(node=node, nodes=chips / size, inside=outside, between=outside, segment_nodes=chips / size)


def published_of(value: Any) -> tuple[dict[str, float], float]:
    """What was published, and the tokens of the whole run where its hours were.

    Raises:
        ValueError, TypeError: nothing was, or something unknown, or hours without tokens or tokens without hours.
    """
    if not isinstance(value, dict) or not value:
        raise ValueError(f"run.published is {shown(value)}; allowed: one or more of {', '.join(MEASURES)}")
    known("published", value, (*MEASURES, "tokens_trained"))
    numbers = {key: above("published", key, number) for key, number in value.items()}
    tokens = numbers.pop("tokens_trained", 0.0)
    if ("gpu_hours" in numbers) != (tokens > 0):
        there, absent = ("tokens_trained", "gpu_hours") if tokens else ("gpu_hours", "tokens_trained")
        raise ValueError(f"published.{absent} missing; {there} needs it")
    return numbers, tokens


def compare(runs: Iterable[Any]) -> list[Row]:
    """Every published measure of every run, of training or of serving, beside its prediction."""
    rows = []
    for run in runs:
        with jax.enable_x64(True):
            made = run.predict()
            rows += [
                Row(run, key, value, float(run.measures[key].of(made, run))) for key, value in run.published.items()
            ]
    return rows


def mean_error(rows: Iterable[Row]) -> float:
    """Mean absolute relative error, each run counted once: its measures are averaged first.

    Two runs of one name are two runs.

    Raises:
        ValueError: there are no rows.
    """
    rows = list(rows)  # as long as they live, a run's id is its own
    by_run: dict[int, list[float]] = {}
    for row in rows:
        by_run.setdefault(id(row.run), []).append(abs(row.error))
    if not by_run:
        raise ValueError("there are no rows to average")
    return sum(sum(errors) / len(errors) for errors in by_run.values()) / len(by_run)
