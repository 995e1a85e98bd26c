"""One training step of the small model as XLA compiled it for a mesh, held against the cost models.

Three things are read from the compiled program of one device: the FLOP of its matrix products, the bytes of its
arguments, and the bytes of its collectives, by kind and by the axes of the mesh that they go over. For each there is a
closed form, and the two must be equal to the last byte.

In a second kind of row the bytes that a device sends are those of `cost.training.step` on links of one byte a second.
These are not equal, and the row says why: the models describe programs for large clusters.

A mesh has as many devices as JAX was started with, so `in_subprocess` asks a process of its own, by `--json`.

    python -m anatomy.validate.compiled             prints all cases; the exit code is 1 if bytes differ
    python -m anatomy.validate.compiled "1 device"  prints one
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from anatomy.cost import collectives
from anatomy.cost.efficiency import IDEAL
from anatomy.cost.training.step import training_step
from anatomy.memo import remembered
from anatomy.model import Config, init
from anatomy.specs import Chip, Cluster, Link, Node, Plan, Recompute
from anatomy.train import mesh as meshes
from anatomy.train.loop import Training
from anatomy.train.mesh.layout import AXES, REPLICAS
from anatomy.validate import hlo
from anatomy.validate.closed_forms import (
    BYTES,
    Case,
    expected_arguments,
    expected_collectives,
    expected_flop,
    shape,
)

NARROW = 2.0  # bytes of a value, a weight and a gradient in the cost models


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
_plan = partial(Plan, recompute=float(Recompute.FULL))  # the only one that runs on a mesh
CASES = (
    Case("1 device", _SMALL, _plan(micro_batch=2), 6),
    Case("2 x 2 x 2, ZeRO 1", _SMALL, _plan(data=2, pipeline=2, tensor=2, zero=1), 6),
    Case(
        "2 x 2 x 2, ZeRO 3, expert ways 2", _SMALL.replace(kv_heads=2),
        _plan(data=2, pipeline=2, tensor=2, expert=2, zero=3, gpipe=1), 6,
    ),
    Case("2 x 2 x 4, ZeRO 1, expert ways 2", _SMALL, _plan(data=2, pipeline=2, tensor=4, expert=2, zero=1), 6),
    Case("4 x 2 x 2, ZeRO 3, expert ways 2", _SMALL, _plan(data=4, pipeline=2, tensor=2, expert=2, zero=3), 12),
    Case("2 x 2 x 4, ZeRO 3", _SMALL, _plan(data=2, pipeline=2, tensor=4, zero=3), 6),
    Case("1 x 15 x 8", _DEEP, _plan(pipeline=15, tensor=8, zero=1), 15),
)  # fmt: skip


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
        lowered = made.step.lower(weights, state, rows)  # type: ignore[attr-defined]  # it is jitted
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


def _row(case: Case, quantity: str, unit: str, terms: Mapping[str, float], compiled: float) -> Row:
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
    step = training_step(
        c.architecture,
        case.plan,
        cluster,
        batch=float(case.sequences),
        sequence_length=float(c.context),
        efficiency=IDEAL,
    )

    def sent(kind: str, axes: tuple[str, ...], size: int) -> float:
        if kind == "collective-permute":
            return float(size)
        ring = getattr(collectives, kind.replace("-", "_"))
        chips = float(math.prod(getattr(way, axis) for axis in axes))
        return float(ring(float(size), chips=chips, bandwidth=1.0))

    exchange = [key for key in moved if key[1] and set(key[1]) <= set(REPLICAS) and key[0] != "all-to-all"]
    about = (
        ("tensor", [("all-reduce", ("tensor",))],
         "an all-reduce of each recomputed layer is dropped; logits and copied arrays have their own"),
        ("expert", [("all-to-all", ("expert",))],
         "every tensor way sends whole tokens, and empty places are sent too"),
        ("stages", [("collective-permute", ("pipeline",))],
         "every tensor way sends whole tokens, and both ways at every tick"),
        ("gradient_reduction", exchange,
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
        ValueError: there are no cases.
        RuntimeError: the process failed; the message is the last that it said.
    """
    if not cases:
        raise ValueError("cases are empty; allowed: at least 1")
    question = [
        case._asdict() | {"config": dataclasses.asdict(case.config), "plan": dataclasses.asdict(case.plan)}
        for case in cases
    ]
    answer = remembered(rows_from_subprocess, json.dumps(question))
    return [Row(**row | {"terms": tuple(map(tuple, row["terms"]))}) for row in answer]


def rows_from_subprocess(asked: str) -> list[dict[str, Any]]:
    """What `in_subprocess` keeps: rows of cases that are given as JSON."""
    command = [sys.executable, "-m", "anatomy.validate.compiled", "--json"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the steps were not compiled: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def read(text: str) -> list[Case]:
    """Cases from JSON.

    Raises:
        ValueError: the text is no list of at least one case.
    """
    try:
        cases = [
            Case(**given | {"config": Config(**given["config"]), "plan": Plan(**given["plan"])})
            for given in json.loads(text)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cases cannot be read: {error!r}; allowed: a list of them in JSON") from error
    if not cases:
        raise ValueError("cases are empty; allowed: at least 1")
    return cases


def compile_all(cases: Sequence[Case]) -> list[Row]:
    """Rows of all cases, in this process, which must not have used JAX yet."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(case.devices for case in cases))
    rows = []
    for case in cases:
        rows += compare(case)
        jax.clear_caches()
    return rows


def report(rows: Sequence[Row]) -> list[str]:
    """A line for each row, and at the end the bytes that should be equal and are not."""
    width = max(len(row.quantity) for row in rows)
    lines, case = [], ""
    for row in rows:
        if row.case != case:
            case = row.case
            lines.append(case)
        numbers = f"{row.expected:>14,.0f} {row.compiled:>14,.0f} {row.difference:>12,.0f} {row.unit}"
        lines.append(f"  {row.quantity:<{width}} {numbers}  {row.why}".rstrip())
    return [*lines, f"formula, compiled, difference; of what must be equal {mismatch(rows):,.0f} bytes differ"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print rows of cases; 0 if the bytes that must be equal are, else 1."""
    about = "The compiled training step of the small model, held against the cost models."
    parser = argparse.ArgumentParser(prog="python -m anatomy.validate.compiled", description=about)
    names = {case.name: case for case in CASES}
    parser.add_argument("cases", nargs="*", metavar="case", help=f"all by default: {'; '.join(names)}")
    parser.add_argument("--json", action="store_true", help="read cases as JSON from standard input, print JSON")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.cases if name not in names]:
        parser.error(f"case is {unknown[0]!r}; allowed: {'; '.join(names)}")
    if not options.json:
        rows = in_subprocess([names[name] for name in options.cases] or CASES)
        print("\n".join(report(rows)))
        return int(mismatch(rows) != 0)
    try:
        cases = read(sys.stdin.read())
    except ValueError as error:
        parser.error(str(error))
    print(json.dumps([row._asdict() for row in compile_all(cases)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
