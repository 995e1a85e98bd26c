"""Tokens per expert: the formulas against tokens that are really routed."""

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from anatomy.cost.routing.expert_load import (
    active_experts,
    load_standard_deviation,
    max_load,
    max_load_of_normal,
    tokens_per_expert,
)
from hypothesis import given

EXPERTS, TRIALS = 8, 2000
shares = st.floats(0, 1)


def choices(rng: np.random.Generator, shape: tuple[int, ...], top_k: int) -> np.ndarray:
    """For each token k distinct experts, every set as likely as the next: ones where it goes."""
    order = rng.random((*shape, EXPERTS)).argsort(-1)
    return order < top_k


@pytest.mark.parametrize("top_k", [1, 2, 5, 8])
def test_independent_tokens(top_k):
    batch = 128
    counts = choices(np.random.default_rng(0), (TRIALS, batch), top_k).sum(1)
    mean, spread = (
        tokens_per_expert(tokens=batch, experts=EXPERTS, top_k=top_k),
        float(load_standard_deviation(tokens=batch, experts=EXPERTS, top_k=top_k)),
    )
    # The mean over all experts is exact: every token takes k places. For one expert it is an estimate.
    assert counts.mean() == mean == batch * top_k / EXPERTS
    assert counts[:, 0].mean() == pytest.approx(mean, abs=4 * spread / TRIALS**0.5 + 1e-12)
    # The standard error of a spread is its share 1 / sqrt(2 n); 2 % is four of them over eight experts.
    assert counts.std() == pytest.approx(spread, rel=0.02, abs=1e-12)


@pytest.mark.parametrize("correlation", [0.1, 0.5])
@pytest.mark.parametrize("top_k", [1, 2])
def test_tokens_that_follow_their_sequence(correlation, top_k):
    """Each token goes where a hidden leader of its sequence goes, with probability sqrt(rho).

    Two tokens follow the same leader with probability rho and are independent otherwise, so rho is the
    correlation of their choices, and every expert is as likely as before.
    """
    rng, sequences, length = np.random.default_rng(1), 8, 16
    leaders = choices(rng, (TRIALS, sequences, 1), top_k)
    own = choices(rng, (TRIALS, sequences, length), top_k)
    follow = rng.random((TRIALS, sequences, length, 1)) < correlation**0.5
    went = np.where(follow, leaders, own)
    # The construction has the correlation that it promises.
    pair = np.corrcoef(went[:, :, 0].ravel(), went[:, :, 1].ravel())[0, 1]
    assert pair == pytest.approx(correlation, abs=0.02)
    counts = went.sum((1, 2))
    spread = float(
        load_standard_deviation(
            tokens=sequences * length, experts=EXPERTS, top_k=top_k, correlation=correlation, group_size=length
        )
    )
    assert counts.std() == pytest.approx(spread, rel=0.03)
    assert spread > 1.4 * float(load_standard_deviation(tokens=sequences * length, experts=EXPERTS, top_k=top_k))


@given(st.integers(1, 1000), st.integers(1, 500), st.integers(1, 64), st.data())
def test_limits(sequences, length, experts, data):
    top_k, tokens = data.draw(st.integers(1, experts)), sequences * length
    p = top_k / experts
    alone = float(
        load_standard_deviation(tokens=tokens, experts=experts, top_k=top_k, correlation=0.0, group_size=length)
    )
    assert alone == pytest.approx((tokens * p * (1 - p)) ** 0.5, rel=1e-9, abs=1e-9)
    # Wholly correlation, a sequence is one thing of `length` tokens.
    together = float(
        load_standard_deviation(tokens=tokens, experts=experts, top_k=top_k, correlation=1.0, group_size=length)
    )
    assert together == pytest.approx(length * (sequences * p * (1 - p)) ** 0.5, rel=1e-9, abs=1e-9)
    # A group of one cannot be correlation.
    assert float(
        load_standard_deviation(tokens=tokens, experts=experts, top_k=top_k, correlation=1.0, group_size=1.0)
    ) == pytest.approx(alone, rel=1e-12)


@given(shares, shares, st.integers(2, 8192))
def test_alike_tokens_spread_more(left, right, length):
    low, high = sorted((left, right))
    narrow, wide = (
        float(load_standard_deviation(tokens=6e7, experts=16, top_k=2, correlation=rho, group_size=length))
        for rho in (low, high)
    )
    assert narrow <= wide


def test_no_spread_where_every_token_visits_every_expert():
    assert float(load_standard_deviation(tokens=1000, experts=8, top_k=8, correlation=0.5, group_size=10)) == 0
    assert tokens_per_expert(tokens=1000, experts=8, top_k=8) == 1000


def test_the_article_batch():
    assert tokens_per_expert(tokens=60e6, experts=16, top_k=2) == 7.5e6
    batched = jax.vmap(lambda k: load_standard_deviation(tokens=60e6, experts=16.0, top_k=k))(np.array([1.0, 2.0]))
    assert batched[1] == pytest.approx((60e6 * 0.125 * 0.875) ** 0.5)


# The experts that some token visits, and the fullest of them.


def routed(tokens: int, experts: int, top_k: int, trials: int = 400) -> np.ndarray:
    """Tokens of each expert, trial by trial."""
    order = np.random.default_rng(2).random((trials, tokens, experts)).argsort(-1).argsort(-1)
    return (order < top_k).sum(1)


ROUTED = [(8, 16, 2), (64, 16, 2), (8, 64, 2), (64, 128, 2), (1, 8, 3), (200, 4, 1)]


@pytest.mark.parametrize("tokens, experts, top_k", ROUTED)
def test_experts_touched_are_those_that_tokens_visit(tokens, experts, top_k):
    visited = (routed(tokens, experts, top_k) > 0).sum(1)
    expected = float(active_experts(tokens=tokens, experts=experts, top_k=top_k))
    assert visited.mean() == pytest.approx(expected, abs=4 * visited.std() / visited.size**0.5 + 0.02)


@given(st.integers(1, 5000), st.integers(1, 512), st.data())
def test_limits_of_experts_touched(tokens, experts, data):
    top_k = data.draw(st.integers(1, experts))
    active = float(active_experts(tokens=tokens, experts=experts, top_k=top_k))
    assert top_k * (1 - 1e-9) <= active <= min(experts, tokens * top_k) * (1 + 1e-9)
    assert float(active_experts(tokens=1, experts=experts, top_k=top_k)) == pytest.approx(top_k)
    assert active <= float(active_experts(tokens=tokens + 1, experts=experts, top_k=top_k)) * (1 + 1e-12)
    assert float(active_experts(tokens=tokens, experts=experts, top_k=experts)) == experts


@pytest.mark.parametrize("tokens, experts, top_k", [*ROUTED, (1024, 16, 2), (1024, 64, 2)])
def test_fullest_expert_is_the_one_that_is_counted(tokens, experts, top_k):
    largest = routed(tokens, experts, top_k, 200).max(1)
    expected = float(max_load(tokens=tokens, experts=experts, top_k=top_k))
    assert largest.mean() == pytest.approx(expected, rel=0.02, abs=4 * largest.std() / largest.size**0.5)


@pytest.mark.parametrize("tokens, experts", [(4096, 4), (4096, 16), (4096, 64), (4096, 128), (256, 16)])
def test_fullest_in_closed_form_is_near(tokens, experts):
    mean, spread = (
        tokens_per_expert(tokens=tokens, experts=experts, top_k=2),
        load_standard_deviation(tokens=tokens, experts=experts, top_k=2),
    )
    about = float(max_load_of_normal(mean=mean, standard_deviation=spread, experts=experts))
    assert about == pytest.approx(float(max_load(tokens=tokens, experts=experts, top_k=2)), rel=0.02)
    assert float(max_load_of_normal(mean=mean, standard_deviation=0.0, experts=experts)) == mean


def test_fullest_expert_at_the_ends():
    assert float(max_load(tokens=100, experts=1, top_k=1)) == pytest.approx(100)  # one expert sees all
    assert float(max_load(tokens=100, experts=8, top_k=8)) == pytest.approx(100)  # and so do eight of eight
    assert float(max_load(tokens=1, experts=8, top_k=2)) == pytest.approx(1, rel=0.06)  # of one token, it is rough


# What cannot be.


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: active_experts(tokens=8, experts=2, top_k=16),
            r"active_experts.top_k is 16; allowed: at most experts \(2\)",
        ),
        (lambda: active_experts(tokens=8, experts=16, top_k=np.array([2.0, 17.0])), "active_experts.top_k is 17"),
        (lambda: active_experts(tokens=-1.0, experts=16, top_k=2), "active_experts.tokens is -1"),
        (lambda: active_experts(tokens=1.0, experts=0.5, top_k=0.5), "active_experts.experts is 0.5"),
        (lambda: tokens_per_expert(tokens=8, experts=16, top_k=-2), "tokens_per_expert.top_k is -2"),
        (
            lambda: load_standard_deviation(tokens=8, experts=16, top_k=2, correlation=1.5),
            "load_standard_deviation.correlation is 1.5",
        ),
        (
            lambda: load_standard_deviation(tokens=8, experts=16, top_k=2, correlation=0.5, group_size=0.5),
            "load_standard_deviation.group_size is 0.5",
        ),
        (lambda: max_load(tokens=8, experts=2, top_k=16), "max_load.top_k is 16"),
        (lambda: max_load(tokens=2.5, experts=16, top_k=2), "max_load.tokens is 2.5; allowed: a whole number"),
        (
            lambda: max_load_of_normal(mean=8.0, standard_deviation=-1.0, experts=16),
            "max_load_of_normal.standard_deviation is -1",
        ),
        (
            lambda: max_load_of_normal(mean=8.0, standard_deviation=1.0, experts=1),
            "max_load_of_normal.experts is 1; allowed: a number at least 2",
        ),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_traced_numbers_pass():
    def active(k):
        return active_experts(tokens=8.0, experts=16.0, top_k=k)

    found = jax.jit(jax.vmap(active))(np.array([2.0, 4.0]))
    assert np.asarray(found) == pytest.approx([float(active_experts(tokens=8, experts=16, top_k=k)) for k in (2, 4)])
    assert np.isfinite(jax.grad(active)(2.0))
