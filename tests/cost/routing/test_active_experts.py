"""Distributions of tokens over experts: against every case laid out, against each other, and at their limits."""

from itertools import combinations, product

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.routing import active_experts, expert_load
from hypothesis import given, settings
from scipy.stats import betabinom, binom

WEIGHTS = np.array([3.0, 1.0, 0.5, 2.0])


def sets(weights: np.ndarray, top_k: int) -> dict[tuple[int, ...], float]:
    """Chance of each set of experts, by the definition."""
    made = {chosen: float(np.prod(weights[list(chosen)])) for chosen in combinations(range(len(weights)), top_k)}
    return {chosen: weight / sum(made.values()) for chosen, weight in made.items()}


def laid_out(groups: int, group: int, weights: np.ndarray, top_k: int, correlation: float = 0.0):
    """Loads of the experts in every case there is, with its chance: leaders, who follows, and who chooses what."""
    law, f = sets(weights, top_k), correlation**0.5
    one = {}  # loads of one group
    for leader, follows in product(law, product((0, 1), repeat=group)):
        for own in product(law, repeat=group - sum(follows)):
            loads = np.zeros(len(weights), int)
            for chosen in (*own, *[leader] * sum(follows)):
                loads[list(chosen)] += 1
            chance = law[leader] * np.prod([f if x else 1 - f for x in follows]) * np.prod([law[c] for c in own])
            one[tuple(loads)] = one.get(tuple(loads), 0) + chance
    every = {tuple([0] * len(weights)): 1.0}
    for _ in range(groups):
        more = {}
        for (a, p), (b, q) in product(every.items(), one.items()):
            key = tuple(np.add(a, b))
            more[key] = more.get(key, 0) + p * q
        every = more
    return np.array(list(every)), np.array(list(every.values()))


CASES = [(1, 3, 1, 0.0), (2, 2, 1, 0.4), (1, 3, 2, 0.0), (2, 2, 2, 0.25), (3, 1, 2, 0.7), (1, 2, 3, 0.5)]
every_case = pytest.mark.parametrize("groups, group, top_k, correlation", CASES)


@every_case
@pytest.mark.parametrize("weights", [np.ones(4), WEIGHTS], ids=["even", "skewed"])
def test_against_every_case_there_is(groups, group, top_k, correlation, weights):
    loads, chances = laid_out(groups, group, weights, top_k, correlation)
    n = groups * group
    assert chances.sum() == pytest.approx(1)
    # Which experts are active, and how many of them, on one way and on two.
    indices = (loads > 0) @ 2 ** np.arange(4)
    found = active_experts.active_sets_distribution(
        tokens=n, weights=weights, top_k=top_k, correlation=correlation, group_size=group
    )
    assert np.asarray(found) == pytest.approx(np.bincount(indices, chances, 16), abs=1e-13)
    for ways in (1, 2, 4):
        most = (loads > 0).reshape(-1, ways, 4 // ways).sum(-1).max(-1)
        told = active_experts.most_active_experts_distribution(found, ways=ways)
        assert np.asarray(told) == pytest.approx(np.bincount(most, chances, 4 // ways + 1), abs=1e-13)
    count = np.bincount((loads > 0).sum(1), chances, 5)
    if weights[0] == 1:
        assert np.asarray(
            active_experts.active_experts_distribution(
                tokens=n, experts=4, top_k=top_k, correlation=correlation, group_size=group
            )
        ) == pytest.approx(count, abs=1e-13)
    # Their expectation takes no more than the chance of each.
    share = active_experts.inclusion_probabilities(weights, top_k=top_k)
    assert np.asarray(share) * n == pytest.approx(loads.T @ chances)
    assert float(
        active_experts.expected_active_experts(n, probabilities=share, correlation=correlation, group_size=group)
    ) == pytest.approx(count @ np.arange(5))
    # Tokens of one expert.
    told = active_experts.expert_load_distribution(
        tokens=n, probability=share[0], correlation=correlation, group_size=group
    )
    assert np.asarray(told) == pytest.approx(np.bincount(loads[:, 0], chances, n + 1), abs=1e-13)
    # The fullest.
    if correlation == 0 and top_k < 3:
        told = active_experts.max_load_distribution(tokens=n, weights=weights, top_k=top_k)
        assert told == pytest.approx(np.bincount(loads.max(1), chances, n + 1), abs=1e-13)


@pytest.mark.parametrize("experts, top_k", [(1, 1), (5, 3), (12, 2)])
@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_even_routing_two_ways(tokens, experts, top_k):
    """A chain of tokens, and the inversion over all sets of experts."""
    chain = np.asarray(active_experts.active_experts_distribution(tokens=tokens, experts=experts, top_k=top_k))
    inverted = active_experts.most_active_experts_distribution(
        active_experts.active_sets_distribution(tokens=tokens, weights=np.ones(experts), top_k=top_k)
    )
    assert np.asarray(inverted) == pytest.approx(chain, abs=1e-12)
    assert chain.sum() == pytest.approx(1)
    assert chain @ np.arange(experts + 1) == pytest.approx(
        float(expert_load.active_experts(tokens=tokens, experts=experts, top_k=top_k))
    )
    assert chain[:top_k].sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("top_k", [1, 2])
@given(st.lists(st.floats(0.05, 20), min_size=8, max_size=8))
@settings(max_examples=10)
def test_weights_give_back_the_shares_they_were_made_of(top_k, weights):
    share = active_experts.inclusion_probabilities(np.array(weights), top_k=top_k)
    assert float(share.sum()) == pytest.approx(top_k)
    again = active_experts.inclusion_probabilities(active_experts.weights_for(share, top_k=top_k), top_k=top_k)
    assert np.asarray(again) == pytest.approx(np.asarray(share), abs=2e-3)


def test_shares_of_one_choice_are_the_weights():
    assert np.asarray(active_experts.inclusion_probabilities(WEIGHTS, top_k=1)) == pytest.approx(
        WEIGHTS / WEIGHTS.sum()
    )
    assert np.asarray(active_experts.inclusion_probabilities(np.ones(16), top_k=2)) == pytest.approx(np.full(16, 1 / 8))
    assert np.asarray(active_experts.weights_for(np.array([0.5, 0.5, 0.0]), top_k=1)) == pytest.approx([1, 1, 0])
    assert np.asarray(active_experts.zipf(experts=3, exponent=1.0)) == pytest.approx([1, 1 / 2, 1 / 3])


@settings(max_examples=30)
@given(st.floats(0, 1), st.floats(0.01, 0.99), st.integers(1, 50))
def test_a_group_lies_between_one_choice_and_as_many_as_its_tokens(correlation, z, group):
    for nobody in (active_experts.copying_group, active_experts.polya_urn):
        alone, together, between = (
            float(nobody(z, correlation=rho, group_size=group)) for rho in (0.0, 1.0, correlation)
        )
        assert alone == pytest.approx(z**group, rel=1e-5, abs=1e-12)
        assert together == pytest.approx(z, rel=1e-5)
        assert alone * (1 - 1e-5) - 1e-12 <= between <= together * (1 + 1e-5)
        assert float(nobody(z, correlation=correlation, group_size=1.0)) == pytest.approx(
            z, rel=1e-6
        )  # nobody to follow
        # Two tokens both stay away with the chance that the correlation says.
        assert float(nobody(z, correlation=correlation, group_size=2.0)) == pytest.approx(
            z * z + correlation * z * (1 - z), rel=1e-5
        )


def test_the_urn_is_that_of_dirichlet_and_polya():
    group, p, rho = 7, 0.3, 0.2
    a = 1 / rho - 1
    law = betabinom(group, a * p, a * (1 - p))
    assert float(active_experts.polya_urn(1 - p, correlation=rho, group_size=group)) == pytest.approx(law.pmf(0))
    rng = np.random.default_rng(0)
    popularity = rng.dirichlet(a * np.full(8, 1 / 8), 4000)
    went = np.array([rng.choice(8, group, p=one) for one in popularity])
    hit = np.mean([len(set(one)) for one in went])
    assert float(
        active_experts.expected_active_experts(
            group,
            probabilities=np.full(8, 1 / 8),
            correlation=rho,
            group_size=group,
            untouched=active_experts.polya_urn,
        )
    ) == pytest.approx(hit, rel=0.02)


@pytest.mark.parametrize("correlation, group", [(0.0, 1), (0.3, 8), (1.0, 4), (0.05, 64)])
def test_spread_of_one_expert_has_the_design_effect(correlation, group):
    n, p = 64, 1 / 8
    law = np.asarray(
        active_experts.expert_load_distribution(tokens=n, probability=p, correlation=correlation, group_size=group)
    )
    count = np.arange(n + 1)
    mean = law @ count
    assert law.sum() == pytest.approx(1) and mean == pytest.approx(n * p)
    spread = (law @ (count - mean) ** 2) ** 0.5
    assert spread == pytest.approx(
        float(
            expert_load.load_standard_deviation(
                tokens=n, experts=16.0, top_k=2.0, correlation=correlation, group_size=group
            )
        )
    )
    if correlation == 0:
        assert law == pytest.approx(binom(n, p).pmf(count), abs=1e-13)


@pytest.mark.parametrize("tokens, experts, top_k", [(8, 16, 2), (32, 16, 2), (64, 16, 1), (256, 8, 1)])
def test_the_fullest_is_what_the_approximation_is_near(tokens, experts, top_k):
    law = active_experts.max_load_distribution(tokens=tokens, weights=np.ones(experts), top_k=top_k)
    assert law.sum() == pytest.approx(1) and law.min() > -1e-12
    mean = law @ np.arange(tokens + 1)
    assert float(expert_load.max_load(tokens=tokens, experts=experts, top_k=top_k)) == pytest.approx(mean, rel=0.02)


def test_skew_fills_one_expert_and_activates_fewer():
    means, hits = [], []
    for s in (0.0, 0.5, 1.0, 2.0):
        weights = np.asarray(active_experts.zipf(experts=16, exponent=s))
        means.append(active_experts.max_load_distribution(tokens=16, weights=weights, top_k=2) @ np.arange(17))
        hits.append(
            float(
                active_experts.expected_active_experts(
                    16, probabilities=active_experts.inclusion_probabilities(weights, top_k=2)
                )
            )
        )
    assert means == sorted(means) and hits == sorted(hits, reverse=True)


def test_jit_vmap_and_grad_agree_with_plain_calls():
    share = active_experts.inclusion_probabilities(WEIGHTS, top_k=2)
    plain = [
        float(active_experts.expected_active_experts(n, probabilities=share, correlation=0.2, group_size=2.0))
        for n in (2.0, 8.0)
    ]
    assert np.asarray(
        jax.vmap(
            lambda n: active_experts.expected_active_experts(n, probabilities=share, correlation=0.2, group_size=2.0)
        )(jnp.array([2.0, 8.0]))
    ) == pytest.approx(plain)
    law = jax.jit(jax.vmap(lambda n: active_experts.active_experts_distribution(tokens=n, experts=16, top_k=2)))(
        jnp.array([1, 8, 4096])
    )
    assert np.asarray(law[1]) == pytest.approx(
        np.asarray(active_experts.active_experts_distribution(tokens=8, experts=16, top_k=2))
    )
    slope = float(
        jax.grad(
            lambda rho: active_experts.expected_active_experts(
                8.0, probabilities=share, correlation=rho, group_size=4.0
            )
        )(0.2)
    )
    step = (
        float(
            active_experts.expected_active_experts(8.0, probabilities=share, correlation=0.2001, group_size=4.0)
            - active_experts.expected_active_experts(8.0, probabilities=share, correlation=0.1999, group_size=4.0)
        )
        / 2e-4
    )
    assert slope == pytest.approx(step, rel=1e-5) and slope < 0


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: active_experts.expected_active_experts(8, probabilities=[0.5, 1.5]),
            r"expected_active_experts.probabilities is 1.5; allowed: a number at least 0 and at most 1",
        ),
        (
            lambda: active_experts.expected_active_experts(8, probabilities=[0.5], correlation=-0.1),
            "expected_active_experts.correlation is -0.1",
        ),
        (
            lambda: active_experts.expected_active_experts(8, probabilities=[0.5], group_size=0.5),
            "expected_active_experts.group_size is 0.5",
        ),
        (
            lambda: active_experts.active_experts_distribution(tokens=8, experts=16, top_k=17),
            "active_experts_distribution.top_k is 17; allowed: a whole number at least 1",
        ),
        (
            lambda: active_experts.active_sets_distribution(tokens=8, weights=np.ones(21), top_k=2),
            "active_sets_distribution.experts is 21; allowed",
        ),
        (
            lambda: active_experts.most_active_experts_distribution(np.ones(16) / 16, ways=3),
            r"ways is 3; allowed: a divisor of the experts \(4\)",
        ),
        (
            lambda: active_experts.expert_load_distribution(tokens=8, probability=0.5, correlation=0.1, group_size=3),
            r"group_size is 3; allowed: a divisor of tokens \(8\)",
        ),
        (
            lambda: active_experts.max_load_distribution(tokens=33, weights=np.ones(4), top_k=2),
            "max_load_distribution.tokens is 33; allowed",
        ),
        (
            lambda: active_experts.max_load_distribution(tokens=8, weights=np.ones(4), top_k=3),
            "max_load_distribution.top_k is 3; allowed",
        ),
        (
            lambda: active_experts.inclusion_probabilities(-WEIGHTS, top_k=2),
            "inclusion_probabilities.weights is -3; allowed: a number at least 0",
        ),
        (lambda: active_experts.weights_for([2.0, 0.0], top_k=1), "weights_for.probabilities is 2"),
        (lambda: active_experts.weights_for([0.9, 0.1, 0.1], top_k=2), "weights_for.scaled_probabilities is 1.6"),
        (
            lambda: active_experts.weights_for([1.0, 0.0], top_k=2),
            "weights_for.top_k is 2; allowed",
        ),
        (
            lambda: active_experts.inclusion_probabilities(np.ones(3), top_k=5),
            r"inclusion_probabilities.top_k is 5; .* at most 3 \(experts with a weight\)",
        ),
        (
            lambda: active_experts.active_sets_distribution(tokens=2, weights=[1.0, 0.0], top_k=2),
            r"active_sets_distribution.top_k is 2; .* at most 1",
        ),
        (
            lambda: active_experts.max_load_distribution(tokens=4, weights=np.ones(1), top_k=2),
            r"max_load_distribution.top_k is 2; .* at most 1",
        ),
    ],
)
def test_nonsense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
