"""The frontier of serving: every plan can be run, and no plan beats those on it."""

import numpy as np
import pytest
from anatomy.cost.inference.memory import largest_batch
from anatomy.cost.inference.search import every_plan, search
from anatomy.cost.inference.steps import decode, overheads
from anatomy.specs import Serving, architecture, catalogue

MODEL, CLUSTER = architecture("gpt4_mqa"), catalogue.cluster("a100_sxm_40gb", 16.0)
AMPERE, CONTEXT = overheads("ampere"), 4096.0
PLANS = every_plan(MODEL, CLUSTER, np.array([1.0, 16.0, 256.0, 4096.0]))


@pytest.fixture(scope="module")
def found():
    return search(MODEL, CLUSTER, AMPERE, CONTEXT, Serving(), PLANS)


def test_every_plan_can_be_run():
    tensor, pipeline, expert = (PLANS[name] for name in ("tensor", "pipeline", "expert"))
    assert (tensor * pipeline * expert <= CLUSTER.chips).all()
    assert (MODEL.attention.heads % tensor == 0).all() and (MODEL.experts % expert == 0).all()
    assert ((pipeline - 1) * np.ceil(MODEL.layers / pipeline) < MODEL.layers).all()
    assert (PLANS["micro_batches"] <= PLANS["sequences"]).all()
    assert len(np.unique(np.stack(list(PLANS.values())), axis=1).T) == len(tensor)
    article = {"tensor": 8, "pipeline": 15, "expert": 1, "micro_batches": 15, "cache_by_sequence": 1, "sequences": 256}
    assert np.all([PLANS[name] == value for name, value in article.items()], axis=0).any()


def test_a_row_says_what_decode_says(found):
    for index in np.random.default_rng(0).integers(0, len(found.seconds), 5):
        plan = found.plan(index, Serving())
        made = decode(MODEL, plan, CLUSTER, AMPERE, found.plans["sequences"][index], CONTEXT)
        assert float(made.seconds) == pytest.approx(found.seconds[index], rel=1e-12)
        per_token = float(made.dollars_per_million(3600.0)) / 1e6
        assert per_token == pytest.approx(found.chip_seconds[index], rel=1e-9)
        most = float(largest_batch(MODEL, plan, CLUSTER.node.chip.memory, CONTEXT))
        assert bool(found.fits[index]) == (found.plans["sequences"][index] <= most)


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
    with pytest.raises(ValueError, match="no plan that fits gives a token in 1e-09 s"):
        found.cheapest(1e-9)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"every_plan.sequences is 0"):
        every_plan(MODEL, CLUSTER, np.array([0.0]))
    with pytest.raises(ValueError, match=r"search.context is 0"):
        search(MODEL, CLUSTER, AMPERE, 0.0, Serving(), PLANS)
