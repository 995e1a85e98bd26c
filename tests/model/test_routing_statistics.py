"""Routes of tokens agree with the load that a pass reports; how alike tokens choose is found where it is known."""

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from anatomy.model import Config, forward, init, unstack
from anatomy.model.routing_statistics import (
    chosen_experts,
    expert_load,
    routing_correlation,
    visits_per_sequence,
)
from hypothesis import given, settings

CONFIG = Config(
    vocabulary=32, layers=3, d_model=16, heads=2, kv_heads=1, head_dim=8, d_ff=8, experts=4, top_k=2, context=12
)


@pytest.mark.parametrize("router", ["top_k", "hash"])
@pytest.mark.parametrize("laid", [lambda w: w, unstack])
def test_routes_are_those_of_the_pass(router, laid):
    config = CONFIG.replace(router=router)
    weights = laid(init(config, jax.random.key(0)))
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, 32)
    expert, weight = chosen_experts(config, weights, tokens)
    assert expert.shape == weight.shape == (3, 2, 12, 2)
    np.testing.assert_allclose(expert_load(expert, 4), forward(config, weights, tokens).load, atol=1e-6)
    np.testing.assert_allclose(weight.sum(-1), 1, rtol=1e-6)
    assert np.all(weight[..., 0] >= weight[..., 1]) and np.all(expert[..., 0] != expert[..., 1])


# How alike the tokens of a sequence choose.


def chosen(weights, sequences, tokens, k, seed=0):
    """Choices of k experts, where each sequence prefers some by its own weights."""
    noise = np.random.default_rng(seed).gumbel(size=(1, sequences, tokens, weights.shape[-1]))
    return np.argsort(noise + np.log(weights)[None, :, None], axis=-1)[..., -k:]


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("preferred", [np.ones(8), np.arange(1.0, 9)])
def test_independent_choices_are_not_alike(preferred, k):
    """Also where all sequences prefer the same experts."""
    rho = routing_correlation(chosen(np.tile(preferred, (400, 1)), 400, 50, k), 8)
    assert abs(rho[0]) < 0.002


def test_whole_sequences_to_one_expert_are_alike_to_the_last():
    first = np.random.default_rng(0).integers(0, 4, (2, 30, 1, 1))
    np.testing.assert_allclose(routing_correlation(np.tile(first, (1, 1, 20, 1)), 4), 1, rtol=1e-12)


def test_even_sequences_are_less_alike_than_chance():
    turn = np.tile(np.arange(4), (1, 10, 5))[..., None]  # every sequence visits every expert five times
    assert routing_correlation(turn, 4)[0] == pytest.approx(-1 / 19)


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 3))
@settings(max_examples=20)
def test_the_spread_over_sequences_is_what_it_says(seed, taste):
    """var = m p (1 - p) (1 + (m - 1) rho), as `expert_load` has it, over experts that each have their own p."""
    weights = np.exp(taste * np.random.default_rng(seed).standard_normal((60, 6)))
    choices = chosen(weights, 60, 40, 1, seed)
    rho, counts = float(routing_correlation(choices, 6)[0]), np.asarray(visits_per_sequence(choices, 6)[0])
    p = counts.mean(0) / 40
    told = 40 * np.sum(p * (1 - p)) * (1 + 39 * rho)
    assert counts.var(0, ddof=1).sum() == pytest.approx(told, rel=0.02)
    assert -1 / 39 <= rho <= 1


def test_order_and_names_of_experts_do_not_matter():
    choices = chosen(np.exp(np.random.default_rng(2).standard_normal((9, 5))), 9, 12, 2)
    other = np.array([3, 0, 4, 1, 2])[choices][:, ::-1, ::-1, ::-1]
    np.testing.assert_allclose(routing_correlation(choices, 5), routing_correlation(other, 5), rtol=1e-12)


def test_counts_per_sequence_are_those_of_the_shares():
    choices = chosen(np.ones((7, 5)), 7, 12, 2)
    counts = visits_per_sequence(choices, 5)
    assert counts.shape == (1, 7, 5) and np.all(counts.sum(-1) == 24)
    np.testing.assert_allclose(counts.sum(1) / (7 * 24), expert_load(choices, 5), rtol=1e-12)


def test_alike_needs_something_to_compare():
    with pytest.raises(ValueError, match="sequences is 1; allowed: at least 2"):
        routing_correlation(np.zeros((1, 1, 5, 1), int), 2)
    with pytest.raises(ValueError, match="tokens of a sequence is 1; allowed: at least 2"):
        routing_correlation(np.zeros((1, 5, 1, 1), int), 2)
    assert np.isnan(routing_correlation(np.zeros((1, 5, 5, 1), int), 2)[0])  # nothing varies
