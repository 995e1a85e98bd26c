"""Training on meshes: every layout the same losses, and layouts that cannot work refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.model import Config, init
from anatomy.specs import Plan, Recompute
from anatomy.train import mesh as meshes
from anatomy.train.loop import Training
from anatomy.train.mesh.run import Run, in_processes, in_subprocess, on_mesh, on_one_device
from jax.sharding import Mesh

CONFIG = {
    "vocabulary": 64, "layers": 4, "d_model": 32, "heads": 4, "kv_heads": 1, "head_dim": 8, "d_ff": 16,
    "experts": 4, "top_k": 2, "context": 16,
}  # fmt: skip
SEQUENCES, STEPS = 16, 3
planned = partial(Plan, recompute=float(Recompute.FULL))  # every layer again, as all of them do
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


def run_of(plan: dict, steps: int = STEPS, **model) -> Run:
    return Run(Config(**CONFIG | model), planned(**plan), SEQUENCES, steps)


@pytest.fixture(scope="module")
def alone():
    return on_one_device(run_of(PLANS[0]))


def check(made, alone):
    for name in ("loss", "balance", "z"):
        assert made.history[name] == pytest.approx(alone.history[name], abs=1e-4), name
    assert made.history["gradient"] == pytest.approx(alone.history["gradient"], rel=1e-3)
    assert set(made.history["dropped"]) == {0}
    assert made.sizes == pytest.approx(alone.sizes, rel=1e-4)


def test_the_loss_of_one_device_falls(alone):
    assert alone.history["loss"][0] == pytest.approx(np.log(64), rel=0.2)
    assert np.all(np.diff(alone.history["loss"]) < 0) and len(alone.history["loss"]) == STEPS


def test_a_mesh_of_one_device_is_one_device(alone):
    check(on_mesh(run_of(PLANS[0])), alone)


@pytest.mark.slow
def test_every_mesh_gives_the_losses_of_one_device(alone):
    for made in in_subprocess([run_of(plan) for plan in PLANS[1:]]):
        check(made, alone)


OTHERS = {
    "key heads split, ZeRO 3 with tensor ways": (
        {"micro_batch": 2, "data": 2, "tensor": 2, "pipeline": 2, "zero": 3}, {"kv_heads": 2},
    ),
    "dense": ({"micro_batch": 2, "data": 2, "tensor": 2, "zero": 1}, {"experts": 1, "top_k": 1}),
    "one choice": ({"micro_batch": 2, "data": 2, "expert": 2, "tensor": 2}, {"top_k": 1}),
    "hash": ({"micro_batch": 2, "data": 2, "expert": 2, "zero": 1}, {"router": "hash"}),
}  # fmt: skip


@pytest.mark.slow
def test_other_models_give_the_losses_of_one_device():
    runs = [run_of(plan, **model) for plan, model in OTHERS.values()]
    for run, made in zip(runs, in_subprocess(runs), strict=True):
        check(made, on_one_device(run))


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_device(alone):
    for (made,) in in_processes([run_of({"micro_batch": 2, "data": 2, "pipeline": 2, "zero": 1})], 2):
        check(made, alone)


@pytest.mark.slow
def test_the_layout_of_the_article():
    """8 tensor ways and 15 stages on 120 devices, 120 layers, experts on the tensor ways."""
    config = Config(**CONFIG | {"layers": 120, "d_model": 16, "heads": 8, "head_dim": 4, "context": 8})
    run = Run(config, planned(tensor=8, pipeline=15, zero=1), 15, 2)
    assert run.devices == 120
    (made,) = in_subprocess([run])
    check(made, on_one_device(run))


def test_what_cannot_be_asked_of_processes_is_refused():
    two, four = run_of({"data": 2}), run_of({"data": 4})
    with pytest.raises(ValueError, match=r"devices are \[2\]; allowed for 3 processes: one number that they divide"):
        in_processes([two], 3)
    with pytest.raises(ValueError, match=r"devices are \[2, 4\]; allowed for 2 processes"):
        in_processes([two, four], 2)
    with pytest.raises(RuntimeError, match="did not end: ValueError: the plan cannot be run: 4 layers do not split"):
        in_subprocess([run_of({"pipeline": 3})])


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
        ({"chunks": 2}, "chunks of 2 does not run here; allowed: 1"),
        ({"recompute": 0}, "recompute of 0 does not run here; allowed: 2"),
        ({"overlap": 0.5}, "overlap of 0.5 does not run here; allowed: 0"),
    ],
)
def test_plans_that_cannot_be_run_are_refused_with_the_reason(plan, words):
    assert words in meshes.problems(Config(**CONFIG), planned(**plan), SEQUENCES, 8)


def test_good_plans_are_not_refused():
    for plan in PLANS:
        assert meshes.problems(Config(**CONFIG), planned(**plan), SEQUENCES, 8) == []


@pytest.mark.parametrize("sequences", [0, -4])
def test_a_step_without_sequences_is_refused(sequences):
    words = f"{sequences} sequences are no whole micro-batches of 1 on 1 replicas"
    assert meshes.problems(Config(**CONFIG), planned(), sequences, 8) == [words]


def test_widths_that_do_not_split_are_refused():
    config = Config(**CONFIG | {"d_ff": 18, "vocabulary": 66, "heads": 4, "kv_heads": 2})
    found = meshes.problems(config, planned(tensor=4), SEQUENCES, 8)
    assert found == [
        "2 key and value heads do not split 4 ways; 1 would be copied",
        "d_ff of 18 does not split 4 ways",
        "a vocabulary of 66 does not split 4 ways",
    ]


def test_a_step_is_not_made_for_a_plan_that_cannot_be_run():
    config, plan = Config(**CONFIG), planned(pipeline=1, micro_batch=3)
    with pytest.raises(ValueError, match="the plan cannot be run: 16 sequences are no whole micro-batches of 3"):
        meshes.make_step(config, Training(steps=1), plan, meshes.make_mesh(plan), SEQUENCES)
    with pytest.raises(ValueError, match="the plan needs 64 devices; there are"):
        meshes.make_mesh(Plan(data=64))


def test_what_does_not_belong_to_a_step_is_refused():
    config, plan = Config(**CONFIG), planned(micro_batch=4)
    mesh = meshes.make_mesh(plan)
    with pytest.raises(ValueError, match=r"make_step.factor is 0; allowed: a finite number above 0"):
        meshes.make_step(config, Training(steps=1), plan, mesh, SEQUENCES, 0.0)
    other = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "pipeline", "tensor"))
    with pytest.raises(ValueError, match=r"mesh is \{'data': 1, .*; allowed: \{.*'expert': 1\}, that of the plan"):
        meshes.make_step(config, Training(steps=1), plan, other, SEQUENCES)
    made = meshes.make_step(config, Training(steps=1), plan, mesh, SEQUENCES)
    weights = init(config, jax.random.key(0))
    state = made.start(weights)
    for shape in ((SEQUENCES // 2, 17), (SEQUENCES, 18), (SEQUENCES, 1), (SEQUENCES,)):
        with pytest.raises(ValueError, match=r"rows of the step have shape .*; allowed: 16 rows of 2 to 17 tokens"):
            made.step(weights, state, np.zeros(shape, np.int32))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"dispatch": "ragged"}, r"make_step.factor is 1.25; allowed with ragged: 2 and more"),
        ({"batch_start": 4, "ramp": 32}, r"Training.ramp is 32; allowed on a mesh: 0"),
        ({"micro_batch": 8}, r"Training.micro_batch is 8; allowed: 0 or the plan's 4"),
    ],
)
def test_a_training_that_a_mesh_would_not_do_is_refused(changes, words):
    config, plan = Config(**CONFIG), planned(micro_batch=4)
    with pytest.raises(ValueError, match=words):
        meshes.make_step(config, Training(steps=1, **changes), plan, meshes.make_mesh(plan), SEQUENCES)
