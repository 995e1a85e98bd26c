"""Compiled steps against closed forms: what is read from HLO, and what the small model's step must hold and move."""

import io
import json
import math
import subprocess
import sys
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from anatomy.model import Config
from anatomy.specs import Plan, Recompute
from anatomy.validate import closed_forms, compiled, hlo
from anatomy.validate.compiled import CASES, Case, Row
from anatomy.validate.hlo import Collective

# What is read from the text of a program.

TEXT = """HloModule by_hand, entry_computation_layout={(f32[4,6]{1,0}, s32[])->f32[4,8]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%product (left: f32[4,6], right: f32[6,8]) -> f32[4,8] {
  %left = f32[4,6]{1,0} parameter(0)
  %right = f32[6,8]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,8]{1,0} dot(%left, %right), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%idle (x.0: f32[4,6]) -> f32[4,6] {
  ROOT %x.0 = f32[4,6]{1,0} parameter(0)
}

%busy (x.1: f32[4,6]) -> f32[4,6] {
  %x.1 = f32[4,6]{1,0} parameter(0)
  %half = bf16[6]{0} constant({...})
  %both = (f32[4,6]{1,0}, bf16[6]{0}) all-reduce(%x.1, %half), replica_groups=[4,2]<=[2,2,2]T(2,1,0), to_apply=%add
  %alone = f32[4,6]{1,0} all-reduce(%x.1), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  ROOT %first = f32[4,6]{1,0} get-tuple-element(%both), index=0
}

%turn (state: (s32[], f32[4,6])) -> (s32[], f32[4,6]) {
  %state = (s32[], /*index=1*/f32[4,6]{1,0}) parameter(0)
  %now = s32[] get-tuple-element(%state), index=0
  %x.2 = f32[4,6]{1,0} get-tuple-element(%state), index=1
  %next = f32[4,6]{1,0} conditional(%now, %x.2, %x.2), branch_computations={%idle, %busy}
  %moved = f32[4,6]{1,0} collective-permute(%next), channel_id=1, source_target_pairs={{0,2},{1,3}}
  ROOT %out = (s32[], f32[4,6]{1,0}) tuple(%now, %moved)
}

%again (state.1: (s32[], f32[4,6])) -> pred[] {
  %state.1 = (s32[], f32[4,6]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (x: f32[4,6], n: s32[]) -> f32[4,8] {
  %x = f32[4,6]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %start = (s32[], f32[4,6]{1,0}) tuple(%n, %x)
  %loop = (s32[], f32[4,6]{1,0}) while(%start), condition=%again, body=%turn, backend_config={"known_trip_count":{"n":"6"}}
  %part = f32[4,6]{1,0} get-tuple-element(%loop), index=1
  %all = f32[8,6]{1,0} all-gather(%part), replica_groups={{0,1},{2,3}}, dimensions={0}
  %some = f32[2,6]{1,0} reduce-scatter(%part), replica_groups={{0,1},{2,3}}, dimensions={0}, to_apply=%add
  %weights = f32[6,8]{1,0} constant({...})
  ROOT %made = f32[4,8]{1,0} fusion(%part, %weights), kind=kOutput, calls=%product
}
"""  # noqa: E501
THIRDS = (Fraction(2, 3), Fraction(1, 3))


def test_collectives_count_as_often_as_they_run():
    assert hlo.collectives(hlo.parse(TEXT), THIRDS) == {
        Collective("all-reduce", (0, 4)): 2 * (4 * 6 * 4 + 6 * 2),  # a tuple, in a third of six turns
        Collective("collective-permute", (0, 2)): 6 * 96,
        Collective("all-gather", (0, 1)): 192,  # the result, of which it had a half
        Collective("reduce-scatter", (0, 1)): 96,  # what goes in
    }


def test_products_and_arguments_of_a_text():
    program = hlo.parse(TEXT)
    assert hlo.dot_flop(program, THIRDS) == 2 * 4 * 8 * 6
    assert hlo.entry_arguments(program) == 4 * 6 * 4 + 4


@pytest.mark.parametrize(
    "text, shares, words",
    [
        ("nothing", THIRDS, "allowed: a compiled HLO module, which has an ENTRY computation"),
        (TEXT.replace("known", "rumoured"), THIRDS, "loop has no known trip count"),
        (TEXT, (Fraction(1),), "next has 2 branches; allowed: 1, one for each share"),
        (TEXT, (Fraction(3, 4), Fraction(1, 5)), "allowed: shares of branches that divide the trips of their loop"),
        (
            TEXT.replace(" all-gather(", " all-gather-start("),
            THIRDS,
            "all is all-gather-start; allowed: collectives in",
        ),
        (TEXT.replace("replica_groups={{0,1}", "groups={{0,1}"), THIRDS, "all names no groups"),
    ],
)
def test_texts_that_cannot_be_counted_are_refused(text, shares, words):
    with pytest.raises(ValueError, match=words):
        hlo.collectives(hlo.parse(text), shares)


def test_products_of_a_program_that_was_compiled():
    def program(x, many):
        def turn(x, matrix):
            return jax.lax.cond(x[0, 0] > 0, lambda: jnp.tanh(x @ matrix), lambda: x), None

        return jax.lax.scan(turn, x, many)[0] @ many[0]

    shapes = (jax.ShapeDtypeStruct((24, 32), jnp.float32), jax.ShapeDtypeStruct((5, 32, 32), jnp.float32))
    made = hlo.parse(jax.jit(program).lower(*shapes).compile().as_text())
    one = 2 * 24 * 32 * 32
    assert hlo.dot_flop(made, (Fraction(1, 5), Fraction(4, 5))) == 4 * one + one
    assert hlo.dot_flop(made, (Fraction(4, 5), Fraction(1, 5))) == 1 * one + one
    assert hlo.entry_arguments(made) == 4 * (24 * 32 + 5 * 32 * 32)


ON_FOUR = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
jax.config.update("jax_num_cpu_devices", 4)
from anatomy.validate import hlo
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))

def program(x):
    x, _ = lax.scan(lambda x, _: (jnp.sin(lax.psum(x, "a")), None), x, length=5)
    x = lax.all_gather(x, "b", tiled=True)
    x = lax.psum_scatter(jnp.cos(x), ("a", "b"), tiled=True)
    x = lax.all_to_all(jnp.sin(x), "b", 0, 0, tiled=True)
    return lax.ppermute(x, "a", [(0, 1)])

made = jax.jit(jax.shard_map(program, mesh=mesh, in_specs=P(("a", "b")), out_specs=P(("a", "b")), check_vma=False))
text = made.lower(jax.ShapeDtypeStruct((64, 3), jnp.float32)).compile().as_text()
print(json.dumps([[*key, size] for key, size in hlo.collectives(hlo.parse(text)).items()]))
"""


def test_collectives_of_a_program_that_was_compiled():
    done = subprocess.run([sys.executable, "-c", ON_FOUR], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = {(kind, tuple(group)): size for kind, group, size in json.loads(done.stdout.splitlines()[-1])}
    own = 16 * 3 * 4  # bytes of a device's rows
    assert found == {
        ("all-reduce", (0, 2)): 5 * own,
        ("all-gather", (0, 1)): 2 * own,
        ("reduce-scatter", (0, 1, 2, 3)): 2 * own,
        ("all-to-all", (0, 1)): own // 2,
        ("collective-permute", (0, 2)): own // 2,
    }


# The step of the small model.

ODD = Config(
    vocabulary=22, layers=2, d_model=10, heads=2, kv_heads=2, head_dim=6, d_ff=14, experts=4, top_k=2, context=12
)
planned = partial(Plan, recompute=float(Recompute.FULL))
USUAL = CASES[:3]
LARGE = (
    *CASES[3:],
    Case("odd widths, ZeRO 3", ODD, planned(data=4, zero=3), 4),
    Case("odd widths, ZeRO 1", ODD, planned(data=4, tensor=2, zero=1, micro_batch=2), 16),
    Case("one layer a stage, no ZeRO, one choice", ODD.replace(top_k=1), planned(data=4, pipeline=2, expert=2), 8),
)


@pytest.fixture(scope="module")
def usual():
    return compiled.in_subprocess(USUAL)


@pytest.fixture(scope="module")
def large():
    return compiled.in_subprocess(LARGE)


def check(rows, cases):
    assert {row.case for row in rows} == {case.name for case in cases}
    for row in rows:
        assert row.expected == pytest.approx(math.fsum(amount for _, amount in row.terms), abs=1e-3), row
        assert row.compiled > 0, row
        if not row.why:
            assert row.difference == 0, row
    assert compiled.mismatch(rows) == 0


def of(rows, case, quantity):
    (row,) = [row for row in rows if (row.case, row.quantity) == (case, quantity)]
    return row


def test_the_compiled_step_is_what_was_expected(usual):
    check(usual, USUAL)


@pytest.mark.slow
def test_large_meshes_are_what_was_expected(large):
    check(large, LARGE)
    assert {case.devices for case in LARGE} >= {16, 120}


def test_every_kind_of_collective_is_looked_at(usual):
    kinds = {row.quantity.split(" over ")[0] for row in usual if " over " in row.quantity}
    assert kinds == set(hlo.KINDS)
    assert {row.quantity for row in usual if row.case == CASES[0].name} == {"matrix products", "arguments"}


def test_most_of_the_flop_and_of_the_arguments_are_those_of_the_cost_models(usual):
    for case in USUAL:
        for quantity, named in (
            ("matrix products", "cost.training.step.hardware_flop"),
            ("arguments", "cost.training.memory.state_parameters"),
        ):
            row = of(usual, case.name, quantity)
            what, amount = row.terms[0]
            assert what.startswith(named) and 0.65 < amount / row.expected < 1


def test_numbers_that_were_worked_out_by_hand(usual):
    """2 x 2 x 2: a micro-batch of 16 tokens of 32 values, 3 of them, 2 layers a stage."""
    name, stream = CASES[1].name, 16 * 32 * 4
    assert of(usual, name, "collective-permute over pipeline").compiled == 2 * 8 * stream  # ways, ticks
    layers, logits, routers = 5 * 2 * 3 * stream, 3 * (stream + 3 * 16 * 4), 2 * 3 * 12
    copied = 4 * 2 * (32 + 32 + 32 * 4 + 32 * 4 + 32 * 4)  # two norms, router, key, value
    assert of(usual, name, "all-reduce over tensor").compiled == layers + logits + routers + copied + 16
    assert of(usual, name, "all-reduce over pipeline").compiled == 4 * (96 * 32 + 96 * 32 / 2)


def test_what_the_models_say_of_bytes_sent_is_shown_with_the_reason(usual):
    rows = [row for row in usual if row.why]
    parts = ("tensor", "expert", "stages", "gradient_reduction")
    assert {row.quantity for row in rows} == {f"sent, {part}" for part in parts}
    # 2 (t - 1) / t of 6 all-reduces in the model, of which 5 are left, for 2 layers and 3 micro-batches.
    row = of(usual, CASES[1].name, "sent, tensor")
    assert row.expected == 6 * 2 * 3 * 16 * 32 * 4 and 5 / 6 < row.compiled / row.expected < 1.05
    # Whole tokens from each of two tensor ways, both ways at each of 8 ticks, for 3 micro-batches.
    row = of(usual, CASES[1].name, "sent, stages")
    assert row.compiled / row.expected == pytest.approx(2 * 8 / 3)


def test_a_wrong_expectation_is_seen(usual):
    """A program differs from the closed forms of its neighbours."""
    made = {row.quantity: row.compiled for row in usual if row.case == CASES[1].name}

    def said(case):
        total = {}
        for term in closed_forms.expected_collectives(case):
            key = f"{term.kind} over {', '.join(term.axes)}"
            total[key] = total.get(key, 0) + term.bytes
        return total

    right = said(CASES[1])
    assert right == {name: size for name, size in made.items() if " over " in name}
    config, plan = CASES[1].config, CASES[1].plan
    for wrong in (
        CASES[1]._replace(config=config.replace(kv_heads=2)),
        CASES[1]._replace(config=config.replace(experts=8)),
        CASES[1]._replace(plan=plan.replace(zero=3.0)),
        CASES[1]._replace(sequences=8),
    ):
        assert said(wrong) != right
    row = of(usual, CASES[1].name, "arguments")
    assert compiled.mismatch([row._replace(compiled=row.compiled - 3)]) == 3


def test_arrays_of_one_device_are_the_parameters_of_the_architecture():
    for config in (ODD, CASES[0].config, CASES[-1].config):
        held = closed_forms.arrays(Case("", config, planned(), 1))
        assert sum(one.whole for one in held.values()) == config.architecture.parameters.total


def test_routers_that_change_nothing_are_refused():
    with pytest.raises(ValueError, match="router is 'hash' of 4 experts; allowed: 'top_k' of at least 2"):
        compiled.compare(Case("", ODD.replace(router="hash"), planned(), 4))
    with pytest.raises(ValueError, match="router is 'top_k' of 1 experts"):
        compiled.compare(Case("", ODD.replace(experts=1, top_k=1), planned(), 4))


def test_a_plan_that_cannot_be_run_is_named_by_the_process():
    with pytest.raises(RuntimeError, match="not compiled: ValueError: the plan cannot be run: 2 layers do not split"):
        compiled.in_subprocess([Case("", ODD, planned(pipeline=3), 4)])


# From the command line.


def test_a_case_is_printed_with_what_differs(monkeypatch, capsys):
    equal = Row("one", "arguments", "bytes", 1200.0, 1200.0, ())
    rough = equal._replace(quantity="sent, tensor", compiled=900.0, why="for a reason")
    asked = []
    monkeypatch.setattr(compiled, "in_subprocess", lambda cases: asked.extend(cases) or [equal, rough])
    assert compiled.main(["1 device"]) == 0 and asked == [CASES[0]]
    case, first, second, last = capsys.readouterr().out.splitlines()
    assert case == "one" and first.split() == ["arguments", "1,200", "1,200", "0", "bytes"]
    assert second.endswith("-300 bytes  for a reason") and "must be equal 0 bytes differ" in last
    monkeypatch.setattr(compiled, "in_subprocess", lambda cases: asked.extend(cases) or [equal._replace(compiled=7.0)])
    assert compiled.main([]) == 1 and asked[1:] == list(CASES)
    assert "1,193 bytes differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "cases cannot be read: JSONDecodeError"),
        ("[]", "cases are empty; allowed: at least 1"),
        ('[{"name": "x"}]', "cases cannot be read: KeyError"),
        ('{"name": "x"}', "cases cannot be read: TypeError"),
        ("5", "cases cannot be read: TypeError"),
        ('[{"config": {"layers": 0}, "plan": {}}]', "Config.layers is 0; allowed: a whole number at least 1"),
    ],
)
def test_cases_that_cannot_be_read_are_refused(text, words, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    with pytest.raises(SystemExit) as end:
        compiled.main(["--json"])
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_a_case_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        compiled.main(["3 x 3"])
    assert "case is '3 x 3'; allowed: 1 device; 2 x 2 x 2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="cases are empty; allowed: at least 1"):
        compiled.in_subprocess([])
