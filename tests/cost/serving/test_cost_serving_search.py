"""The frontier of serving: every plan can be run, and no plan beats those on it."""

import jax
import numpy as np
import pytest
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.legality import legal
from anatomy.cost.serving.memory import largest_batch, memory
from anatomy.cost.serving.search import every_plan, search
from anatomy.cost.serving.steps import decode, prefill
from anatomy.specs import Serving, architecture, catalogue

MODEL, CLUSTER = architecture("gpt4_mqa"), catalogue.cluster("a100_sxm_40gb", 16.0)
AMPERE, CONTEXT = overheads("a100_sxm_80gb"), 4096.0
PLANS = every_plan(MODEL, CLUSTER, batch=np.array([1.0, 16.0, 256.0, 4096.0]))


@pytest.fixture(scope="module")
def found():
    return search(MODEL, CLUSTER, AMPERE, context=CONTEXT, like=Serving(), plans=PLANS)


def test_every_plan_can_be_run():
    fields = {name: column for name, column in PLANS.items() if name != "batch"}
    allowed = jax.vmap(lambda n, **plan: legal(MODEL, Serving(**plan, data=plan["expert"]), CLUSTER, batch=n))
    assert allowed(PLANS["batch"], **fields).all()
    assert len(np.unique(np.stack(list(PLANS.values())), axis=1).T) == len(PLANS["tensor"])
    article = {
        "tensor": 8,
        "rows": 1,
        "gathered": 0,
        "pipeline": 16,
        "expert": 1,
        "micro_batches": 16,
        "batch": 256,
    }
    same = np.all([PLANS[name] == value for name, value in article.items()], axis=0)
    found = zip(PLANS["first_stage_share"][same], PLANS["cache_by_sequence"][same], strict=True)
    assert set(found) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for name, others in (("gathered", 1), ("rows", 4)):
        assert (PLANS[name] == others).any()


def test_a_row_says_what_decode_says(found):
    for index in np.random.default_rng(0).integers(0, len(found.seconds), 5):
        plan = found.plan(index, Serving())
        made = decode(MODEL, plan, CLUSTER, AMPERE, batch=found.plans["batch"][index], context=CONTEXT)
        assert float(made.seconds) == pytest.approx(found.seconds[index], rel=1e-12)
        per_token = float(made.dollars_per_million(3600.0)) / 1e6
        assert per_token == pytest.approx(found.chip_seconds[index], rel=1e-9)
        most = float(largest_batch(MODEL, plan, chip_memory=CLUSTER.node.chip.memory, context=CONTEXT))
        assert bool(found.fits[index]) == (found.plans["batch"][index] <= most)


def test_prompts_are_searched_by_what_reads_them():
    plans = {name: column[::97] for name, column in PLANS.items()}
    read = search(MODEL, CLUSTER, AMPERE, context=2048.0, like=Serving(), plans=plans, run=prefill)
    for index in np.random.default_rng(1).integers(0, len(read.seconds), 5):
        batch = plans["batch"][index]
        made = prefill(MODEL, read.plan(index, Serving()), CLUSTER, AMPERE, batch=batch, prompt=2048.0)
        assert float(made.seconds) == pytest.approx(read.seconds[index], rel=1e-12)
        each = float(made.dollars_per_million(3600.0)) / 1e6
        assert each == pytest.approx(read.chip_seconds[index], rel=1e-9)
        held = memory(MODEL, read.plan(index, Serving()), batch=batch, context=2048.0, tokens=2048.0)
        assert float(held.total) == pytest.approx(read.memory[index], rel=1e-12)


def test_nothing_that_fits_beats_the_frontier(found):
    front = found.frontier()
    assert found.fits[front].all() and (np.diff(found.seconds[front]) > 0).all()
    assert (np.diff(found.chip_seconds[front]) < 0).all()
    for index in front:
        better = found.fits & (found.seconds < found.seconds[index]) & (found.chip_seconds < found.chip_seconds[index])
        assert not better.any()


def test_the_cheapest_in_time_is_on_the_frontier(found):
    limit = float(np.median(found.seconds[found.frontier()]))
    index = found.cheapest(limit)
    assert found.seconds[index] <= limit
    assert (
        found.chip_seconds[index]
        == found.chip_seconds[found.frontier()][found.seconds[found.frontier()] <= limit].min()
    )
    with pytest.raises(ValueError, match="no plan that fits answers in 1e-09 s"):
        found.cheapest(1e-9)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"every_plan.batch is 0"):
        every_plan(MODEL, CLUSTER, batch=np.array([0.0]))
    with pytest.raises(ValueError, match=r"search.context is 0"):
        search(MODEL, CLUSTER, AMPERE, context=0.0, like=Serving(), plans=PLANS)
