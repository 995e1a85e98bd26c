"""One training step of the small model as XLA compiled it for a mesh, held against the cost models.

Three things are read from the compiled program of one device: the FLOP of its matrix products, the bytes of its
arguments, and the bytes of its collectives, by kind and by the axes of the mesh that they go over. For each there is a
closed form, a sum of terms, and the two must be equal to the last byte. Where a cost model speaks of the same thing
the first term is the model's own number, and the others say what this program does besides.

In a second kind of row the bytes that a device sends are those of `cost.training.step` on links of one byte a second.
These are not equal, and the row says why: the models describe programs for large clusters.

Symbols: t tensor ways, p stages, r replicas, e expert ways, m micro-batches of a replica; T tokens of a micro-batch,
d = d_model, V vocabulary, E experts, k choices of a token, c places of an expert for the tokens of a device, L layers.

A mesh has as many devices as JAX was started with, so `in_subprocess` asks a process of its own:
`python -m anatomy.validate.compiled` reads cases as JSON and prints rows.
"""

import dataclasses
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from anatomy.cost import collectives, training
from anatomy.cost.memory import state_parameters
from anatomy.model import Config, init
from anatomy.specs import Chip, Cluster, Link, Node, Plan, Recompute
from anatomy.train import mesh as meshes
from anatomy.train.cache import answered
from anatomy.train.loop import Training
from anatomy.train.mesh.layout import AXES, REPLICAS
from anatomy.validate import hlo

BYTES = 4  # of a value: the small model is in single precision
MOMENTS, COUNTS = 2, 2  # of AdamW for each value, and of steps: its own and that of the learning rate
NARROW = 2.0  # bytes of a value, a weight and a gradient in the cost models


class Case(NamedTuple):
    """A step to be compiled."""

    name: str
    config: Config
    plan: Plan
    sequences: int
    factor: float = 1.25  # places of an expert over its even share

    @property
    def devices(self) -> int:
        """Of its mesh."""
        return math.prod(meshes.ways(self.plan)[:4])


class Row(NamedTuple):
    """One quantity of one device."""

    case: str
    quantity: str
    unit: str
    expected: float
    compiled: float
    terms: tuple[tuple[str, float], ...]  # of what was expected
    why: str = ""  # it is not equal; empty where it must be

    @property
    def difference(self) -> float:
        """Of what was compiled from what was expected."""
        return self.compiled - self.expected


_SMALL = Config(vocabulary=96, layers=4, d_model=32, heads=8, kv_heads=1, head_dim=4, d_ff=24, experts=4, context=16)
_DEEP = Config(vocabulary=64, layers=120, d_model=16, heads=8, kv_heads=1, head_dim=4, d_ff=16, context=8)
CASES = (
    Case("1 device", _SMALL, Plan(micro_batch=2), 6),
    Case("2 x 2 x 2, ZeRO 1", _SMALL, Plan(data=2, pipeline=2, tensor=2, zero=1), 6),
    Case(
        "2 x 2 x 2, ZeRO 3, expert ways 2", _SMALL.replace(kv_heads=2),
        Plan(data=2, pipeline=2, tensor=2, expert=2, zero=3, gpipe=1), 6,
    ),
    Case("2 x 2 x 4, ZeRO 1, expert ways 2", _SMALL, Plan(data=2, pipeline=2, tensor=4, expert=2, zero=1), 6),
    Case("4 x 2 x 2, ZeRO 3, expert ways 2", _SMALL, Plan(data=4, pipeline=2, tensor=2, expert=2, zero=3), 12),
    Case("2 x 2 x 4, ZeRO 3", _SMALL, Plan(data=2, pipeline=2, tensor=4, zero=3), 6),
    Case("1 x 15 x 8", _DEEP, Plan(pipeline=15, tensor=8, zero=1), 15),
)  # fmt: skip


# What the program must hold and do, in closed form.


class Shape(NamedTuple):
    """Whole numbers that the closed forms share."""

    way: meshes.Ways
    layers: int  # of a stage
    micro_batches: int
    tokens: int  # T
    table: int  # E c, rows of the table in which experts find their tokens


def shape(case: Case) -> Shape:
    """The numbers of a case."""
    config, way = case.config, meshes.ways(case.plan)
    tokens = way.micro_batch * config.context
    places = min(tokens, math.ceil(case.factor * tokens * config.top_k / config.experts))
    micro_batches = case.sequences // (way.replicas * way.micro_batch)
    return Shape(way, config.layers // way.pipeline, micro_batches, tokens, config.experts * places)


class Held(NamedTuple):
    """An array of the weights on one device, where replicas hold it whole."""

    size: int  # values of one layer
    layers: int  # 0 for an array of no layer
    summed_over: tuple[str, ...]  # axes other than replicas over which its gradient is summed
    replicas: tuple[str, ...]  # axes that hold the same array with other tokens

    @property
    def whole(self) -> int:
        """Values of all layers."""
        return self.size * max(self.layers, 1)


def arrays(case: Case) -> dict[str, Held]:
    """All arrays of the weights."""
    c, s = case.config, shape(case)
    t, e, d = s.way.tensor, s.way.expert, c.d_model
    heads, copied = c.kv_heads * c.head_dim, c.kv_heads % t != 0

    def layer(size: int, whole: bool, replicas: tuple[str, ...] = REPLICAS) -> Held:
        return Held(size // (1 if whole else t), s.layers, ("tensor",) if whole else (), replicas)

    width = c.heads * c.head_dim
    expert = partial(layer, c.experts // e * d * c.d_ff, False, ("data",))
    return {
        "attention_norm": layer(d, True),
        "query": layer(d * width, False),
        "key": layer(d * heads, copied),
        "value": layer(d * heads, copied),
        "output": layer(width * d, False),
        "experts_norm": layer(d, True),
        "router": layer(d * c.experts, True),
        "gate": expert(),
        "up": expert(),
        "down": expert(),
        "embedding": Held(c.vocabulary * d, 0, ("pipeline",), REPLICAS),
        "norm": Held(d, 0, ("pipeline", "tensor"), REPLICAS),
        "unembedding": Held(d * c.vocabulary // t, 0, ("pipeline",), REPLICAS),
    }


def expected_flop(case: Case) -> dict[str, float]:
    """FLOP of the matrix products of a device, as terms.

    Everything is computed once forward and, all but the logits, once more for the backward pass, which costs twice
    as much again: 4 forward passes of the layers, 3 of the logits.
    """
    c, s, model = case.config, shape(case), case.config.architecture
    t, p = s.way.tensor, s.way.pipeline
    forward = model.flop_per_token(c.context)
    tokens = s.micro_batches * s.tokens
    counted = training.hardware_flop(
        model, case.plan.replace(recompute=float(Recompute.FULL)), case.sequences, c.context
    )
    router = 2 * c.d_model * c.experts * s.layers - forward.router / (p * t)
    fill = s.table / (s.tokens * c.top_k)
    copies = 2 * s.layers * model.attention.copied_weights(c.d_model, t) * (c.kv_heads % t != 0)
    return {
        "cost.training.hardware_flop over chips": float(counted / case.plan.chips),
        "places of experts that stay empty or overflow": float(4 * tokens * forward.mlp / (t * p) * (fill - 1)),
        "routers on every tensor way": float(4 * tokens * router),
        "key and value heads on every tensor way": float(4 * tokens * copies),
        "logits on every stage": float(3 * tokens * forward.unembedding / t * (1 - 1 / p)),
        # Forward, and the gradient of the weights; a single choice needs no sum.
        "sum of what a token's experts made": 2 * tokens * 2 * c.top_k * c.d_model * s.layers * (c.top_k > 1),
    }


def expected_arguments(case: Case) -> dict[str, float]:
    """Bytes of the arguments of a device: weights, state of AdamW, and rows; as terms."""
    c, s, model = case.config, shape(case), case.config.architecture
    way, t, p, d = s.way, s.way.tensor, s.way.pipeline, c.d_model
    sharing = {stage: way.replicas if way.zero >= stage else 1 for stage in (1, 3)}

    def state(values: float) -> float:
        """Bytes of values that all replicas share."""
        return BYTES * (values / sharing[3] + MOMENTS * values / sharing[1])

    def padding(held: Held) -> float:
        ways = math.prod(getattr(way, axis) for axis in held.replicas)
        if way.zero == 3:
            return (1 + MOMENTS) * max(held.layers, 1) * (-(-held.size // ways) - held.size / ways)
        return MOMENTS * (-(-held.whole // ways) - held.whole / ways) if way.zero else 0.0

    tables = c.vocabulary * d * (1 if p > 1 else 1 - 1 / t)
    norms = 2 * d * s.layers * (1 - 1 / t) + d * (1 - 1 / (p * t))
    router = d * c.experts * s.layers - float(model.parameters.router) / (p * t)
    by_rules = [float(state_parameters(model, case.plan, stage)) for stage in (3, 1)]
    return {
        "cost.memory.state_parameters, weights and two moments": BYTES * (by_rules[0] + MOMENTS * by_rules[1]),
        "both tables on every stage, the embedding on every tensor way": state(tables),
        "norms and routers on every tensor way": state(norms + router),
        "padding of what replicas share": BYTES * sum(map(padding, arrays(case).values())),
        "counts of steps": COUNTS * 4,
        "rows of all replicas": 4 * case.sequences * (c.context + 1),
    }


class Term(NamedTuple):
    """Bytes of some collectives of a device in a step."""

    kind: str
    axes: tuple[str, ...]
    what: str
    bytes: int


def expected_collectives(case: Case) -> list[Term]:
    """Every collective of a step over more than one device."""
    c, s = case.config, shape(case)
    way, m = s.way, s.micro_batches
    stream, passes = BYTES * s.tokens * c.d_model, m * s.layers
    everywhere = ("data", "pipeline", "expert")
    reduce = partial(Term, "all-reduce")
    found = [
        # A compiler drops the sum after the experts that are computed again: nothing reads it.
        reduce(("tensor",), "layers: 2 forward, 1 again, 2 backward", 5 * passes * stream),
        reduce(("tensor",), "logits: maximum, sum and target of each token", 3 * m * BYTES * s.tokens),
        reduce(("tensor",), "logits: gradient of the stream", m * stream),
        reduce(("tensor",), "losses and drops of routers", passes * 3 * BYTES),
        reduce(REPLICAS, "losses of routers: loads, probabilities, z, drops", passes * (2 * c.experts + 2) * BYTES),
        reduce(everywhere, "what is measured", 4 * BYTES),
        reduce(("tensor",), "what is measured", 4 * BYTES),
        reduce(AXES, "norm of the gradient", BYTES),
        Term("collective-permute", ("pipeline",), "streams, each way at every tick", 2 * meshes.ticks(way, m) * stream),
        Term(
            "all-to-all", ("expert",), "tokens there and back: 2 forward, 2 again, 2 backward",
            6 * passes * BYTES * s.table * c.d_model,
        ),
    ]  # fmt: skip
    for name, held in arrays(case).items():
        found += _of_gradients(case, name, held)
    used = ((term, tuple(axis for axis in term.axes if getattr(way, axis) > 1)) for term in found)
    return [term._replace(axes=axes) for term, axes in used if axes]


def _of_gradients(case: Case, name: str, held: Held) -> Iterable[Term]:
    """Collectives that sum the gradient of an array, and that gather it where replicas share it."""
    s = shape(case)
    way, ways = s.way, math.prod(getattr(s.way, axis) for axis in held.replicas)

    def padded(size: int) -> int:
        return -(-size // ways) * ways * BYTES

    in_parts = way.zero == 3 and held.layers > 0
    own = s.layers * padded(held.size) // ways if in_parts else BYTES * held.whole
    if held.summed_over:
        yield Term("all-reduce", held.summed_over, f"gradient of {name}", own)
    if way.zero == 0:
        yield Term("all-reduce", held.replicas, f"gradient of {name}", own)
        return
    whole = s.layers * padded(held.size) if in_parts else padded(held.whole)
    often = s.micro_batches if in_parts else 1
    yield Term("reduce-scatter", held.replicas, f"gradient of {name}", often * whole)
    yield Term("all-gather", held.replicas, f"weights of {name}", (2 * often if in_parts else 1) * whole)


# What was compiled.


def compile_step(case: Case) -> hlo.Program:
    """The step of a case, compiled and taken apart. Nothing runs, and no array is made.

    Raises:
        ValueError: the plan cannot be run, or there are too few devices.
    """
    config, plan = case.config, case.plan
    mesh = meshes.make_mesh(plan)
    with jax.enable_x64(False):
        made = meshes.make_step(
            config, Training(steps=2, batch=case.sequences, warm_up=1), plan, mesh, case.sequences, case.factor
        )
        weights = jax.eval_shape(
            partial(meshes.place, config, plan, mesh), jax.eval_shape(partial(init, config), jax.random.key(0))
        )
        state = jax.eval_shape(made.start, weights)
        everywhere = NamedSharding(mesh, P())
        rows = jax.ShapeDtypeStruct((case.sequences, config.context + 1), jnp.int32, sharding=everywhere)
        lowered = made.step.lower(weights, state, rows)
        # How well machine code is made changes nothing in the program that is read here.
        return hlo.parse(lowered.compile({"xla_backend_optimization_level": 0}).as_text())


def branch_shares(case: Case) -> tuple[Fraction, Fraction, Fraction]:
    """Of the ticks of a stage those in which it waits, passes a micro-batch forward, and passes one back."""
    s = shape(case)
    ticks, m = meshes.ticks(s.way, s.micro_batches), s.micro_batches
    return Fraction(ticks - 2 * m, ticks), Fraction(m, ticks), Fraction(m, ticks)


def axes_of(case: Case, group: Sequence[int]) -> tuple[str, ...]:
    """Axes of the mesh along which the devices of a group lie."""
    places = np.unravel_index(list(group), meshes.ways(case.plan)[:4])
    return tuple(axis for axis, place in zip(AXES, places, strict=True) if len(set(place.tolist())) > 1)


def compare(case: Case) -> list[Row]:
    """Compile the step of a case and hold it against closed forms and cost models.

    Returns:
        Matrix products, arguments and collectives, which must be equal; then bytes sent, which need not.

    Raises:
        ValueError: as `compile_step`; or a router has weights that change nothing, of which the compiler leaves out
            as much as it can.
    """
    config = case.config
    if config.router != "top_k" or config.experts == 1:
        raise ValueError(
            f"router is {config.router!r} of {config.experts} experts; allowed: 'top_k' of at least 2, "
            "because closed forms count every router"
        )
    program, shares = compile_step(case), branch_shares(case)
    moved: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for key, size in hlo.collectives(program, shares).items():
        moved[key.kind, axes_of(case, key.group)] += size
    with jax.enable_x64(True):
        flop, arguments = expected_flop(case), expected_arguments(case)
        by_model = list(_sent(case, moved))
    rows = [
        _row(case, "matrix products", "FLOP", flop, hlo.dot_flop(program, shares)),
        _row(case, "arguments", "bytes", arguments, hlo.entry_arguments(program)),
    ]
    terms: dict[tuple[str, tuple[str, ...]], Counter[str]] = {key: Counter() for key in moved}
    for term in expected_collectives(case):
        terms.setdefault((term.kind, term.axes), Counter())[term.what] += term.bytes
    for kind, axes in sorted(terms, key=lambda key: (hlo.KINDS.index(key[0]), key[1])):
        rows.append(_row(case, f"{kind} over {', '.join(axes)}", "bytes", terms[kind, axes], moved[kind, axes]))
    return rows + by_model


def _row(case: Case, quantity: str, unit: str, terms: dict[str, float], compiled: float) -> Row:
    """A row that must be equal. Terms are whole numbers, up to the rounding of the cost models."""
    shown = tuple((what, amount) for what, amount in terms.items() if amount)
    return Row(case.name, quantity, unit, round(math.fsum(terms.values())), compiled, shown)


def _sent(case: Case, moved: Counter[tuple[str, tuple[str, ...]]]) -> Iterable[Row]:
    """Bytes that a device sends by the ring algorithms of the cost models, in the step's own terms."""
    c, way = case.config, meshes.ways(case.plan)
    one = Link(bandwidth=1.0)
    chip = Chip(flops_16bit=1.0, flops_8bit=1.0, flops_4bit=1.0, memory=1.0, memory_bandwidth=1.0)  # links alone matter
    cluster = Cluster(
        node=Node(chip=chip, chips=float(case.devices), link=one), nodes=1.0, inside=one, between=one, segment_nodes=1.0
    )
    share = training.Efficiency(matmul=1.0, half_size=0.0, memory=1.0, link=1.0, network=1.0)
    plan = case.plan.replace(recompute=float(Recompute.FULL))
    step = training.step(c.architecture, plan, cluster, float(case.sequences), float(c.context), share)

    def sent(kind: str, axes: tuple[str, ...], size: int) -> float:
        if kind == "collective-permute":
            return float(size)
        ring = getattr(collectives, kind.replace("-", "_"))
        return float(ring(float(size), float(math.prod(getattr(way, axis) for axis in axes)), 1.0))

    exchange = [key for key in moved if key[1] and set(key[1]) <= set(REPLICAS) and key[0] != "all-to-all"]
    about = (
        ("tensor", [("all-reduce", ("tensor",))],
         "an all-reduce of each layer that is computed again is dropped; logits and copied arrays have their own"),
        ("expert", [("all-to-all", ("expert",))],
         "every tensor way sends whole tokens, and empty places are sent too"),
        ("stages", [("collective-permute", ("pipeline",))],
         "every tensor way sends whole tokens, and both ways at every tick"),
        ("replicas", exchange,
         "copied arrays and tables are exchanged by each device that holds them; routers' losses come on top"),
    )  # fmt: skip
    for name, keys, why in about:
        said = float(getattr(step, name)) * BYTES / NARROW
        made = sum(sent(*key, moved[key]) for key in keys)
        if said or made:
            yield Row(case.name, f"sent, {name}", "bytes", said, made, ((f"cost.training.step.{name}", said),), why)


def mismatch(rows: Iterable[Row]) -> float:
    """Bytes by which rows that must be equal differ: 0."""
    return sum(abs(row.difference) for row in rows if row.unit == "bytes" and not row.why)


# In a process of its own.


def in_subprocess(cases: Sequence[Case] = CASES) -> list[Row]:
    """Rows of all cases, from a process that has as many devices as the largest needs; kept in the cache.

    Raises:
        RuntimeError: the process failed; the message is the last that it said.
    """
    question = [
        case._asdict() | {"config": dataclasses.asdict(case.config), "plan": dataclasses.asdict(case.plan)}
        for case in cases
    ]
    asked = json.dumps(question)

    def compiled() -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "anatomy.validate.compiled"], input=asked, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"the steps were not compiled: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(done.stdout.splitlines()[-1])

    answer = answered(asked, ("specs", "cost", "model", "train", "validate"), compiled)
    return [Row(**row | {"terms": tuple(map(tuple, row["terms"]))}) for row in answer]


def main() -> None:
    """Read cases from standard input and print their rows."""

    def case(given: dict[str, Any]) -> Case:
        return Case(**given | {"config": Config(**given["config"]), "plan": Plan(**given["plan"])})

    cases = [case(given) for given in json.load(sys.stdin)]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(case.devices for case in cases))
    rows = []
    for case in cases:
        rows += compare(case)
        jax.clear_caches()
    print(json.dumps([row._asdict() for row in rows]))


if __name__ == "__main__":
    main()
