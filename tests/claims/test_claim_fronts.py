"""The frontier of serving plans that the page carries: each point is what the cost model says of that plan."""

import jax
import numpy as np
import pytest
from anatomy.claims.article.frontier import ARTICLE, BEST, COLUMNS, fronts, layout_of_the_article, serving_plan
from anatomy.claims.article.serving import SERVING, machine, model
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.legality import problems
from anatomy.cost.serving.memory import memory
from anatomy.cost.serving.search import SEARCHED
from anatomy.cost.serving.steps import decode
from anatomy.specs import Serving

KEY, CONTEXT = "a100_sxm_40gb", 4096.0


@pytest.fixture(scope="module")
def made():
    return fronts([KEY], chips=(64.0, 128.0), weight_bytes=(2.0, 1.0), contexts=(CONTEXT,))


def plans(columns):
    """Each point as a plan with its sequences, and what the columns say of it."""
    for row in zip(*(columns[name] for name in COLUMNS), strict=True):
        yield dict(zip(COLUMNS, map(float, row), strict=True))


def test_each_choice_has_both_series(made):
    assert set(made) == {(0.0, chips, width, CONTEXT) for chips in (64.0, 128.0) for width in (2.0, 1.0)}
    for both in made.values():
        assert list(both) == [BEST, ARTICLE] and all(set(series) == set(COLUMNS) for series in both.values())
    assert not len(made[0.0, 64.0, 2.0, CONTEXT][BEST]["seconds"])  # 64 chips of 40 GB do not hold it in FP16
    assert len(made[0.0, 128.0, 2.0, CONTEXT][BEST]["seconds"]) > 5


def test_points_are_what_the_cost_model_says(made):
    for (_, most, width, context), both in made.items():
        for row in plans(both[BEST]):
            layout = {name: row[name] for name in SEARCHED if name != "batch"}
            plan = Serving(weight_bytes=width, data=row["expert"], **layout)
            with jax.enable_x64(True):
                step = decode(model(), plan, machine(KEY), overheads(KEY), batch=row["batch"], context=context)
                held = memory(model(), plan, batch=row["batch"], context=context).total
            assert row["seconds"] == pytest.approx(float(step.seconds), rel=1e-9)
            assert row["chip_seconds"] == pytest.approx(float(plan.chips / step.tokens_per_second), rel=1e-9)
            assert row["memory"] == pytest.approx(float(held), rel=1e-9) and plan.chips <= most
            assert problems(model(), plan, machine(KEY), batch=row["batch"], context=context) == []


def test_no_point_of_a_frontier_beats_another(made):
    for both in made.values():
        seconds, cost = both[BEST]["seconds"], both[BEST]["chip_seconds"]
        assert np.all(np.diff(seconds) > 0) and np.all(np.diff(cost) < 0)


def test_more_chips_never_make_the_frontier_worse(made):
    for width in (2.0, 1.0):
        few, many = (made[0.0, chips, width, CONTEXT][BEST] for chips in (64.0, 128.0))
        for seconds, cost in zip(few["seconds"], few["chip_seconds"], strict=True):
            allowed = many["chip_seconds"][many["seconds"] <= seconds * (1 + 1e-9)]
            assert len(allowed) and allowed.min() <= cost * (1 + 1e-9)


def test_the_layout_of_the_article_grows_in_its_batch_until_memory_ends():
    columns = layout_of_the_article(KEY, 2.0, CONTEXT)
    rows = list(plans(columns))
    assert {(row["tensor"], row["pipeline"]) for row in rows} == {(8.0, 16.0)}
    assert np.all(np.diff(columns["batch"]) > 0) and np.all(np.diff(columns["chip_seconds"]) < 0)
    twice = memory(model(), SERVING, batch=2 * rows[-1]["batch"], context=CONTEXT).total
    assert rows[-1]["memory"] <= 40e9 < float(twice)


def test_what_a_point_stands_for():
    row = dict(zip(COLUMNS, (0.05, 0.2, 3e10, 8.0, 4.0, 0.0, 2.0, 0.0, 4.0, 2.0, 1.0, 64.0), strict=True))
    stands = serving_plan(**row, price=1.8)
    assert (stands["ms"], stands["per_user"], stands["per_chip"]) == pytest.approx((50, 20, 5))
    assert stands["dollars"] == pytest.approx(1e6 * 0.2 / 3600 * 1.8)
    assert (stands["chips"], stands["users"], stands["by_sequence"]) == (64, 256, True)
    assert (stands["rows"], stands["gathered"], stands["first_stage_share"]) == (4, False, True)
