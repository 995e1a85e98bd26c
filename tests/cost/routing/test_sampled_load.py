"""Sampled loads of experts: against the exact distributions, and what the slowest way has to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.efficiency import overheads
from anatomy.cost.routing import active_experts, expert_load, sampled_load
from anatomy.cost.serving.steps import decode
from anatomy.specs import Serving, architecture, catalogue

KEY, STEPS = jax.random.key(5), 1500
SKEWED = np.asarray(active_experts.zipf(experts=8, exponent=0.8))


@pytest.mark.parametrize("weights", [np.ones(8), SKEWED], ids=["even", "skewed"])
@pytest.mark.parametrize("top_k, correlation, group", [(2, 0.0, 1), (2, 0.3, 4)])
def test_samples_follow_the_exact_distributions(weights, top_k, correlation, group):
    n = 12
    made = np.asarray(
        sampled_load.sample_loads(
            KEY, tokens=n, weights=weights, top_k=top_k, correlation=correlation, group_size=group, steps=STEPS
        )
    )
    assert made.shape == (STEPS, 8)
    assert np.all(made.sum(1) == n * top_k) and np.all((made >= 0) & (made <= n))
    share = np.asarray(active_experts.inclusion_probabilities(weights, top_k=top_k))
    for e in (0, 7):
        law = np.asarray(
            active_experts.expert_load_distribution(
                tokens=n, probability=share[e], correlation=correlation, group_size=group
            )
        )
        assert np.bincount(made[:, e].astype(int), minlength=n + 1) / STEPS == pytest.approx(law, abs=0.05)
    law = np.asarray(
        active_experts.most_active_experts_distribution(
            active_experts.active_sets_distribution(
                tokens=n, weights=weights, top_k=top_k, correlation=correlation, group_size=group
            )
        )
    )
    assert np.bincount((made > 0).sum(1), minlength=9) / STEPS == pytest.approx(law, abs=0.05)
    if correlation == 0 and top_k < 3:
        law = active_experts.max_load_distribution(tokens=n, weights=weights, top_k=top_k)
        assert np.bincount(made.max(1).astype(int), minlength=n + 1) / STEPS == pytest.approx(law, abs=0.05)


def test_a_key_gives_one_sample():
    one, again, other = (
        sampled_load.sample_loads(jax.random.key(k), tokens=64, weights=SKEWED, top_k=2, steps=3) for k in (1, 1, 2)
    )
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_many_tokens_have_the_spread_of_the_formula():
    made = sampled_load.sample_loads(
        KEY, tokens=4096, weights=np.ones(16), top_k=2, correlation=0.1, group_size=256, steps=200
    )
    expected = float(
        expert_load.load_standard_deviation(tokens=4096, experts=16.0, top_k=2.0, correlation=0.1, group_size=256)
    )
    assert float(made.std()) == pytest.approx(expected, rel=0.1)


def test_a_router_that_leaves_experts_out_never_fills_them():
    made = np.asarray(
        sampled_load.sample_loads(KEY, tokens=10, weights=np.array([1.0, 1.0, 0.0, 0.0]), top_k=2, steps=5)
    )
    assert np.array_equal(made, [[10, 10, 0, 0]] * 5)


def test_the_slowest_way_is_the_one_with_most():
    found = sampled_load.slowest_way(jnp.array([[4, 0, 1, 1], [0, 0, 3, 3]]), ways=2)
    assert found.active_experts.tolist() == [4, 4] and found.imbalance.tolist() == pytest.approx([4 / 3, 2])
    one = sampled_load.slowest_way(jnp.array([4, 0, 1, 1]), ways=1)
    assert one.active_experts == 3 and one.imbalance == 1


def test_a_step_waits_for_the_slowest_way():
    model, chips = architecture("gpt4_mqa"), catalogue.cluster("a100_sxm_40gb", 16)
    plan = Serving(tensor=8.0, data=16.0, expert=16.0, cache_by_sequence=1.0)

    def seconds(**how):
        return float(decode(model, plan, chips, overheads("a100_sxm_80gb"), batch=128.0, context=4096.0, **how).seconds)

    # A way that holds one expert reads it or not, however many tokens it has; its products grow with them.
    even, skewed = (float(seconds(active_experts=16.0, imbalance=by)) for by in (1.0, 2.0))
    assert even < skewed < 2 * even
    made = decode(
        model, plan, chips, overheads("a100_sxm_80gb"), batch=128.0, context=4096.0, active_experts=16.0, imbalance=8.0
    )
    assert float(made.weights) == pytest.approx(
        float(
            decode(
                model, plan, chips, overheads("a100_sxm_80gb"), batch=128.0, context=4096.0, active_experts=16.0
            ).weights
        )
    )


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: sampled_load.sample_loads(KEY, tokens=10, weights=SKEWED, top_k=2, group_size=3),
            r"group_size is 3; allowed: a divisor of tokens \(10\)",
        ),
        (
            lambda: sampled_load.sample_loads(KEY, tokens=10, weights=SKEWED, top_k=2, correlation=2.0),
            "sample_loads.correlation is 2",
        ),
        (
            lambda: sampled_load.sample_loads(KEY, tokens=10, weights=np.ones(3), top_k=5),
            r"sample_loads.top_k is 5; .* at most 3",
        ),
        (
            lambda: sampled_load.slowest_way(jnp.zeros((2, 4)), ways=2),
            "slowest_way.loads, added up, is 0; allowed",
        ),
        (lambda: sampled_load.slowest_way(jnp.ones(4), ways=3), r"ways is 3; allowed: a divisor of the experts \(4\)"),
    ],
)
def test_nonsense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
