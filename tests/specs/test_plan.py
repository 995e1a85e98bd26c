"""Plans: the chips, micro-batches and layers that the ways of parallelism give."""

from math import gcd

import hypothesis.strategies as st
import jax
import pytest
from anatomy.specs import Plan, Recompute, architecture
from hypothesis import given

ways = st.integers(1, 64)


def test_the_article_lays_its_chips_8_by_15():
    plan = Plan(tensor=8.0, pipeline=15.0, data=208.0, micro_batch=1.0)
    assert (plan.chips, plan.model_chips) == (24_960, 120)
    assert plan.stage_layers(architecture("gpt4")) == 8


@given(ways, ways, ways, ways, st.integers(1, 1000))
def test_nothing_is_lost_when_work_is_laid_out(t, p, d, micro_batch, m):
    plan = Plan(tensor=float(t), pipeline=float(p), data=float(d), micro_batch=float(micro_batch))
    # One rank for each place in the grid.
    assert plan.chips == len(range(t)) * len(range(p)) * len(range(d)) == plan.model_chips * d
    sequences = m * micro_batch * d
    assert plan.micro_batches(sequences) == pytest.approx(m, rel=1e-14)
    gpt4 = architecture("gpt4")
    assert plan.stage_layers(gpt4) == -(-120 // p)  # the fullest stage; none of the layers is left over


@given(ways, ways, st.integers(1, 200))
def test_experts_are_split_among_the_replicas(t, d, expert):
    build = lambda: Plan(tensor=float(t), data=float(d), expert=float(expert))  # noqa: E731
    if gcd(d, expert) == expert:
        assert build().chips == t * d  # experts need no chips of their own
    else:
        with pytest.raises(ValueError, match=rf"^Plan\.expert is {expert}; allowed: a divisor of data "):
            build()


def test_levels_of_recomputation_are_numbers_in_order():
    assert Recompute.NONE < Recompute.SELECTIVE < Recompute.FULL
    plan = Plan(recompute=Recompute.FULL)
    assert plan.recompute == 2 and 2 in jax.tree.leaves(plan)
    with pytest.raises(ValueError, match=r"Plan\.recompute is 3"):
        Plan(recompute=3.0)


def test_sweeps_run_over_plans():
    chips = jax.vmap(lambda t: Plan(tensor=t, pipeline=15.0, data=2.0).chips)(jax.numpy.array([1.0, 8.0]))
    assert chips.tolist() == [30, 240]
