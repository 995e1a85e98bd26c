"""Statistics of sweeps: errors against draws of known spread, loads against counts."""

from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
from anatomy.cost.routing.expert_load import active_experts
from anatomy.model import Config
from anatomy.train import recipes, sweeps
from anatomy.train.data import sources
from anatomy.train.data.markov import random_markov
from anatomy.train.loop import Training
from anatomy.train.recipes import Recipe, registry
from anatomy.train.sweeps import by_seed, difference, effective_experts, mean, slope, touched
from hypothesis import given

values = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


def test_standard_errors_are_the_spread_of_means():
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, (4000, 3))
    made = [mean(row) for row in draws]
    assert np.mean([m.value for m in made]) == pytest.approx(3.0, abs=0.1)
    # s squared is unbiased, s is not; and the spread of the means is what the errors say it is.
    assert np.mean([m.error**2 for m in made]) == pytest.approx(2.0**2 / 3, rel=0.1)
    assert np.var([m.value for m in made]) == pytest.approx(2.0**2 / 3, rel=0.1)


@given(values, values)
def test_differences_turn_round(one, other):
    there, back = difference(one, other), difference(other, one)
    assert (there.value, there.error) == (pytest.approx(-back.value), pytest.approx(back.error))
    assert there.error >= max(mean(one).error, mean(other).error)


def test_slopes_of_lines_and_of_noise():
    x = np.repeat([0.0, 1, 2, 3], 3)
    exact = slope(x, 2 * x - 1)
    assert exact.value == pytest.approx(2) and exact.error == pytest.approx(0, abs=1e-9)
    rng = np.random.default_rng(1)
    made = [slope(x, 0.5 * x + rng.normal(0, 0.3, x.size)) for _ in range(1500)]
    assert np.mean([m.value for m in made]) == pytest.approx(0.5, abs=0.01)
    assert np.mean([m.error**2 for m in made]) == pytest.approx(np.var([m.value for m in made]), rel=0.15)
    assert made[0].errors == pytest.approx(made[0].value / made[0].error)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: mean([1.0]), "mean: number of values is 1; allowed: at least 2"),
        (lambda: difference([1.0, 2.0], [1.0]), "mean: number of values is 1; allowed: at least 2"),
        (lambda: slope([0, 1, 2], [0, 1, 2]), "slope: number of points is 3; allowed: at least 4"),
        (lambda: effective_experts(np.array([0.5, 0.4])), "sum of load is 0.9; allowed: 1"),
        (lambda: effective_experts(np.array([1.2, -0.2])), "load is 1.2; allowed: a number at least 0 and at most 1"),
        (lambda: touched(np.array([0.5, 1.5]), 3), "touched.visits is 1.5; allowed: a number at least 0 and at most 1"),
        (lambda: touched(np.array([0.5, 0.5]), -1), "touched.tokens is -1; allowed: a whole number at least 0"),
        (lambda: sweeps.batch_tokens("cake"), "recipe is 'cake'; allowed: target"),
    ],
)
def test_impossible_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@given(st.integers(1, 40), st.integers(1, 40))
def test_effective_experts_of_some_that_share_all(used, idle):
    load = np.concatenate([np.full(used, 1 / used), np.zeros(idle)])
    assert effective_experts(load) == pytest.approx(used)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=20))
def test_effective_experts_lie_between_one_and_all(weights):
    load = np.array(weights) / np.sum(weights)
    assert 1 - 1e-9 <= effective_experts(load) <= len(weights) + 1e-9
    assert effective_experts(np.stack([load, load[::-1]])) == pytest.approx([effective_experts(load)] * 2)


@given(st.integers(0, 200), st.integers(2, 64))
def test_even_experts_are_touched_as_the_closed_form_says(tokens, experts):
    even = np.full(experts, 2 / experts)
    assert touched(even, tokens) == pytest.approx(
        float(active_experts(tokens=tokens, experts=experts, top_k=2)), rel=1e-9
    )


def test_preferred_experts_are_touched_as_counted():
    rng = np.random.default_rng(2)
    visits = np.array([0.9, 0.5, 0.3, 0.1, 0.1, 0.05, 0.05])
    seen = (rng.random((5000, 6, visits.size)) < visits).any(1).sum(-1)
    assert touched(visits, 6) == pytest.approx(seen.mean(), rel=0.01)
    # For the same mean, uneven experts are touched by fewer.
    assert touched(visits, 6) < touched(np.full(visits.size, visits.mean()), 6)


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    """A small sweep of two seeds, its tunings, and a cache of its own."""
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path))
    config = Config(
        vocabulary=16, layers=1, d_model=16, heads=1, kv_heads=1, head_dim=8, d_ff=16, experts=4, context=16
    )

    # Two symbols may follow a pair: easy to learn.
    counts_up = partial(random_markov, 16, successors=2)

    def recipe(seed, start=None):
        training = Training(steps=45, batch=4, warm_up=5, learning_rate=1e-2, seed=seed)
        return Recipe(about="Small.", config=config, training=training, data="up", start=start)

    made = {"small_0": recipe(0), "small_1": recipe(1), "tuned": recipe(0, "small_0")}
    monkeypatch.setattr(registry, "RECIPES", made)
    monkeypatch.setattr(recipes, "SEEDS", (0, 1))
    for name in ("up", sweeps.TUNED_ON):
        monkeypatch.setitem(sources.DATA, name, counts_up)


def test_quantities_of_trainings(kitchen):
    before, after = sweeps.on_tuning_rows("small_0"), sweeps.on_tuning_rows("tuned")
    assert after < before  # it learned these rows
    assert by_seed("small", sweeps.on_tuning_rows)[0] == before  # from the file, and by name
    assert len(set(by_seed("small", sweeps.on_tuning_rows))) == 2
    load = sweeps.final_load("tuned")
    assert load.shape == (sweeps.LAST, 1, 4) and np.allclose(load.sum(-1), 1, atol=1e-5)
    assert sweeps.kept("tuned") == pytest.approx(np.mean(0.25 / load.max(-1))) and 0.25 <= sweeps.kept("tuned") < 1
    assert 0 <= sweeps.final_dropped("tuned") < 1
    assert sweeps.batch_tokens("tuned") == 4 * 16
    # Two of four experts for 45 x 64 tokens; an expert has three matrices of 16 x 16.
    assert sweeps.tokens_per_parameter("tuned") == pytest.approx(45 * 64 * 2 / 4 / (3 * 16 * 16))


def test_gaps_are_differences(monkeypatch):
    losses = {"experts_4_0": 5.0, "tuned_4_0": 4.0}
    monkeypatch.setattr(recipes, "held_out", lambda name: {"code": losses[name], "prose": 3.0})
    monkeypatch.setattr(sweeps, "on_tuning_rows", {"experts_4_0": 4.8, "tuned_4_0": 2.5}.get)
    assert sweeps.held_out("experts_4_0") == 4.0
    assert sweeps.gap("tuned_4_0") == 1.5 and sweeps.gap_opened(4, 0) == pytest.approx(1.3)
