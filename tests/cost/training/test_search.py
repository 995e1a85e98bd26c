"""Plan search against evaluating plans one by one."""

import itertools

import numpy as np
import pytest
from anatomy import specs
from anatomy.cost.efficiency import efficiency
from anatomy.cost.training.legality import legal
from anatomy.cost.training.search import SEARCHED, every_plan, search
from anatomy.cost.training.step import training_step

MODEL = specs.architecture("mixtral_8x7b")
CLUSTER = specs.cluster("a100_sxm_80gb", 4)
SHARE = efficiency("a100_sxm_80gb")
LIKE = specs.Plan(fused_attention=1.0)
ASKED = {"batch": 256.0, "sequence_length": 4096.0, "efficiency": SHARE, "like": LIKE}


@pytest.fixture(scope="module")
def found():
    return search(MODEL, CLUSTER, **ASKED)


def test_rows_are_what_the_model_says_of_each_plan(found):
    for index in np.random.default_rng(0).integers(0, len(found.seconds), 20):
        plan = found.plan(index, LIKE)
        made = training_step(MODEL, plan, CLUSTER, batch=256.0, sequence_length=4096.0, efficiency=SHARE)
        assert found.seconds[index] == pytest.approx(float(made.seconds), rel=1e-12)
        assert found.memory[index] == pytest.approx(float(made.memory.total), rel=1e-12)
        assert found.mfu[index] == pytest.approx(float(made.mfu), rel=1e-12)
        assert bool(found.fits[index]) == bool(made.fits)
        assert bool(legal(MODEL, plan, CLUSTER, batch=256.0))


@pytest.mark.parametrize("by", ["seconds", "cost", "memory"])
def test_the_best_has_the_least_of_those_that_fit(found, by):
    best = found.best(by)
    assert found.fits[best]
    assert getattr(found, by)[best] == getattr(found, by)[found.fits].min()


def test_fewer_chips_are_cheaper_and_slower(found):
    chips = found.plans["tensor"] * found.plans["pipeline"] * found.plans["data"]
    assert np.allclose(found.cost, chips * found.seconds, rtol=1e-14)
    assert chips[found.best("cost")] <= chips[found.best("seconds")]
    assert found.cost[found.best("cost")] <= found.cost[found.best("seconds")]


def test_best_by_something_else_is_refused(found):
    with pytest.raises(ValueError, match="by is 'mfu'; allowed: seconds, cost, memory"):
        found.best("mfu")


def test_no_legal_plan_is_missed_on_a_small_grid(found):
    rows = set(zip(*(found.plans[name] for name in SEARCHED), strict=True))
    for t, p, e, b, z in itertools.product((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8), (1, 2), (0, 1)):
        data = 32 // (t * p)
        if data < 1 or data % e:
            continue
        plan = specs.Plan(tensor=t, pipeline=p, data=data, expert=e, micro_batch=b, zero=z)
        if bool(legal(MODEL, plan, CLUSTER, batch=256.0)):
            assert (t, p, data, e, b, 1, z, 0, 0) in rows


def test_plans_use_no_more_chips_than_there_are():
    columns = every_plan(MODEL, CLUSTER, batch=256.0)
    used = columns["tensor"] * columns["pipeline"] * columns["data"]
    assert used.max() == CLUSTER.chips and used.min() > 0


def test_a_model_that_fits_nowhere_says_so():
    tiny = specs.cluster("v100_sxm_32gb", 1)
    with pytest.raises(ValueError, match="no plan fits"):
        search(specs.architecture("gpt4"), tiny, batch=8.0, sequence_length=8192.0, efficiency=SHARE, like=LIKE).best()
