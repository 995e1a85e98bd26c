"""Training on meshes: every layout the same losses, and layouts that cannot work refused."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.model import Config, init
from anatomy.specs import Plan
from anatomy.train import loop
from anatomy.train import mesh as meshes
from anatomy.train.loop import Training

SCRIPT = Path(__file__).parents[1] / "support" / "mesh_run.py"
CONFIG = {
    "vocabulary": 64, "layers": 4, "d_model": 32, "heads": 4, "kv_heads": 1, "head_dim": 8, "d_ff": 16,
    "experts": 4, "top_k": 2, "context": 16,
}  # fmt: skip
SEQUENCES, STEPS = 16, 3
# A global micro-batch is four sequences in all of them, so that the routers' losses are the same sums.
PLANS = [
    {"micro_batch": 4},
    {"micro_batch": 4, "tensor": 4},
    {"micro_batch": 4, "pipeline": 4},
    {"micro_batch": 4, "pipeline": 4, "gpipe": 1},
    {"micro_batch": 2, "data": 2, "pipeline": 2, "tensor": 2},
    {"micro_batch": 2, "data": 2, "expert": 2, "pipeline": 2, "zero": 1},
    {"micro_batch": 1, "data": 4, "expert": 2, "tensor": 2, "zero": 1},
    {"micro_batch": 1, "data": 4, "expert": 2, "pipeline": 2, "zero": 3},
]


def asked(**changes) -> dict:
    usual = {"config": CONFIG, "sequences": SEQUENCES, "steps": STEPS, "factor": 2.0, "devices": 8, "plans": PLANS}
    return usual | changes


def start(question: dict) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, SCRIPT, json.dumps(question)], stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen) -> list[dict]:
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def on_one_device():
    """The same steps by the plain loop, unit by unit."""
    config = Config(**CONFIG)
    training = Training(steps=10, batch=SEQUENCES, micro_batch=4, warm_up=1, dispatch="all_experts")
    rows = np.random.default_rng(0).integers(0, 64, (SEQUENCES, 17)).astype(np.int32)

    class Same:
        def rows(self, first, count):
            return rows[first % SEQUENCES :][:count], np.zeros(count, np.int32)

    weights = init(config, jax.random.key(0))
    state, history = training.optimizer().init(weights), []
    for step in range(STEPS):
        gradient, measured = loop.accumulate(config, training, weights, Same(), step * SEQUENCES, SEQUENCES)
        change, state = training.optimizer().update(gradient, state, weights)
        weights = jax.tree.map(jnp.add, weights, change)
        history.append({name: float(measured[name]) for name in ("loss", "balance", "z")})
    return history, [float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(weights)]


@pytest.mark.slow
def test_every_mesh_gives_the_losses_of_one_device(on_one_device):
    history, sizes = on_one_device
    for plan, made in zip(PLANS, answer(start(asked())), strict=True):
        for ours, theirs in zip(history, made["history"], strict=True):
            for name in ("loss", "balance", "z"):
                assert theirs[name] == pytest.approx(ours[name], abs=1e-4), (plan, name)
            assert theirs["dropped"] == 0
        assert made["sizes"] == pytest.approx(sizes, rel=1e-4), plan


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    plans = [{"micro_batch": 2, "data": 2, "pipeline": 2, "zero": 1}]
    alone = answer(start(asked(plans=plans)))
    pair = [
        start(asked(plans=plans, devices=2, process={"address": address, "count": 2, "index": i})) for i in range(2)
    ]
    for made in [answer(process) for process in pair]:
        for ours, theirs in zip(alone[0]["history"], made[0]["history"], strict=True):
            assert theirs == pytest.approx(ours, abs=1e-4)


@pytest.mark.slow
def test_the_layout_of_the_article():
    """8 tensor ways and 15 stages on 120 devices, 120 layers, experts on the tensor ways."""
    config = CONFIG | {"layers": 120, "d_model": 16, "heads": 8, "head_dim": 4, "experts": 16, "context": 8}
    plan = {"tensor": 8, "pipeline": 15, "zero": 1, "micro_batch": 1}
    question = asked(config=config, plans=[plan], devices=120, sequences=15, steps=2, factor=8.0)
    (made,) = answer(start(question))
    first, second = made["history"]
    assert first["loss"] == pytest.approx(np.log(64), rel=0.2) and first["dropped"] == 0
    assert np.isfinite(second["gradient"]) and second["loss"] != 0


# In what order stages work.


@pytest.mark.parametrize("gpipe", [True, False])
@pytest.mark.parametrize("p, m", [(1, 1), (1, 4), (4, 2), (4, 8), (15, 15)])
def test_the_timetable_is_a_pipeline(gpipe, p, m):
    way = meshes.ways(Plan(pipeline=p, gpipe=gpipe))
    when = {}
    for tick in range(meshes.ticks(way, m)):
        for stage in range(p):
            kind, j = (int(x) for x in meshes.timetable(way, m, jnp.array(stage), jnp.array(tick)))
            if kind:
                assert (kind, stage, j) not in when and 0 <= j < m
                when[kind, stage, j] = tick
    assert len(when) == 2 * p * m  # each stage passes each micro-batch once forward and once back
    for (kind, stage, j), tick in when.items():
        if kind == 1 and stage:
            assert tick == when[1, stage - 1, j] + 1  # what was sent has just arrived
        if kind == 2 and stage < p - 1:
            assert tick == when[2, stage + 1, j] + 1
        if kind == 2:
            assert tick > when[1, stage, j]
    most = 0
    for tick in range(meshes.ticks(way, m)):
        held = [j for j in range(m) if when[1, 0, j] <= tick < when[2, 0, j]]
        slots = {j % meshes.slots(way, m) for j in held}
        assert len(slots) == len(held)  # no input is written over
        most = max(most, len(held))
    assert most == (m if gpipe else min(p, m))


# What cannot work.


@pytest.mark.parametrize(
    "plan, words",
    [
        ({"data": 16}, "the plan needs 16 devices; there are 8"),
        ({"pipeline": 3}, "4 layers do not split into 3 equal stages"),
        ({"tensor": 8}, "4 heads do not split 8 ways"),
        ({"data": 8, "expert": 8}, "4 experts do not split 8 ways"),
        ({"micro_batch": 5}, "16 sequences are no whole micro-batches of 5 on 1 replicas"),
        ({"zero": 2}, "ZeRO 2 does not run here; allowed: 0, 1, 3"),
        ({"chunks": 2}, "2 chunks do not run here; allowed: 1"),
    ],
)
def test_plans_that_cannot_be_run_are_refused_with_the_reason(plan, words):
    assert words in meshes.problems(Config(**CONFIG), Plan(**plan), SEQUENCES, 8)


def test_good_plans_are_not_refused():
    for plan in PLANS:
        assert meshes.problems(Config(**CONFIG), Plan(**plan), SEQUENCES, 8) == []


def test_widths_that_do_not_split_are_refused():
    config = Config(**CONFIG | {"d_ff": 18, "vocabulary": 66, "heads": 4, "kv_heads": 2})
    found = meshes.problems(config, Plan(tensor=4), SEQUENCES, 8)
    assert found == [
        "2 key and value heads do not split 4 ways; 1 would be copied",
        "d_ff of 18 does not split 4 ways",
        "a vocabulary of 66 does not split 4 ways",
    ]


def test_a_step_is_not_made_for_a_plan_that_cannot_be_run():
    config, plan = Config(**CONFIG), Plan(pipeline=1, micro_batch=3)
    with pytest.raises(ValueError, match="the plan cannot be run: 16 sequences are no whole micro-batches of 3"):
        meshes.make_step(config, Training(steps=1), plan, meshes.make_mesh(plan), SEQUENCES)
    with pytest.raises(ValueError, match="the plan needs 64 devices; there are"):
        meshes.make_mesh(Plan(data=64))
