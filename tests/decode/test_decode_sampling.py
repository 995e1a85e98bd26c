"""Sampling: the law that is really drawn from, by formula, by sorting and by chi-square; and its keys."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from anatomy.decode import distribution, draw, make_sampling, sample, uniform
from anatomy.decode.sampling.draw import INVALID, LEAST, check_tokens
from hypothesis import given, settings

CASES = [
    {"temperature": 1.0},
    {"temperature": 0.0},
    {"temperature": 0.5, "top_k": 3},
    {"temperature": 1.5, "top_p": 0.7},
    {"temperature": 0.9, "top_k": 5, "top_p": 0.8},
]


law_of = jax.jit(distribution)


def by_sorting(logits, temperature=1.0, top_k=10**6, top_p=1.0):
    """The same distribution as the literature writes it, for logits of which no two are equal."""
    if temperature == 0:
        return np.eye(len(logits))[np.argmax(logits)]
    p = np.exp((logits - logits.max()) / temperature)
    order = np.argsort(-p)
    p[order[top_k:]] = 0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p]] = 0
    return p / p.sum()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.integers(1, 14),
    top_p=st.floats(0.05, 1.0),
)
def test_the_distribution_is_that_of_sorting(seed, temperature, top_k, top_p):
    logits = 2 * np.random.default_rng(seed).normal(size=12)
    sampling = make_sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    made = np.asarray(law_of(jnp.asarray(logits), sampling))
    wanted = by_sorting(logits, temperature, top_k, np.float32(top_p))
    np.testing.assert_allclose(made, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_each_sequence_has_its_own_settings(kind):
    logits = np.random.default_rng(3).normal(size=(len(CASES), 9)).astype(kind)
    settings_of = {n: [case.get(n, d) for case in CASES] for n, d in (("temperature", 1), ("top_k", 99), ("top_p", 1))}
    made = distribution(jnp.asarray(logits), make_sampling(len(CASES), **settings_of))
    assert made.dtype == kind
    np.testing.assert_allclose(
        made, [by_sorting(row, **case) for row, case in zip(logits.astype(float), CASES, strict=True)], atol=1e-6
    )


def test_equals_are_kept_or_left_together_and_greedy_takes_the_first():
    logits = jnp.array([1.0, 3.0, 3.0, 0.0])
    assert distribution(logits, make_sampling(temperature=0.0)).tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(distribution(logits, make_sampling(top_k=1)), [0, 0.5, 0.5, 0])
    np.testing.assert_allclose(distribution(logits, make_sampling(top_p=0.1)), [0, 0.5, 0.5, 0])


def test_settings_may_stand_in_front_of_further_axes():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 7)))
    sampling = make_sampling(2, temperature=[0.5, 1.0], top_k=[2, 7])
    wide = jax.tree.map(lambda a: a[:, None], sampling)
    made = distribution(logits, wide)
    for row in range(2):
        one = jax.tree.map(lambda a, row=row: a[row], sampling)
        np.testing.assert_allclose(made[row], [distribution(x, one) for x in logits[row]])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_draws_follow_the_law(case):
    count, logits = 200_000, np.random.default_rng(1).normal(size=8)
    sampling = make_sampling(count, seed=np.arange(count) % 1000, **case)
    drawn = jax.jit(sample)(jnp.broadcast_to(jnp.asarray(logits), (count, 8)), sampling, jnp.arange(count) // 1000)
    seen, law = np.bincount(drawn, minlength=8), by_sorting(logits, **case)
    assert (seen[law == 0] == 0).all()
    if (law > 0).sum() > 1:
        assert scipy.stats.chisquare(seen[law > 0], count * law[law > 0]).pvalue > 1e-3
    else:
        assert seen[law > 0] == count


def test_a_draw_is_keyed_by_seed_position_and_stream_alone():
    seed, position = np.arange(5, dtype=np.uint32), np.arange(10, 15)
    whole = uniform(seed, position)
    assert [float(uniform(s, p)) for s, p in zip(seed, position, strict=True)] == whole.tolist()
    numbers = np.asarray([uniform(jnp.uint32(s), jnp.int32(p), t) for s in (0, 1) for p in (0, 1) for t in (0, 1, 2)])
    assert len(set(numbers.tolist())) == 12
    assert ((numbers >= 0) & (numbers < 1)).all()


def test_streams_are_independent():
    seed = np.arange(20_000, dtype=np.uint32)
    one, two = (np.asarray(jax.jit(functools.partial(uniform, stream=s))(seed, np.zeros(20_000, int))) for s in (0, 1))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
    assert scipy.stats.kstest(one, "uniform").pvalue > 1e-3


@given(st.floats(0, 1, exclude_max=True, width=32), st.lists(st.sampled_from([0.0, 0.1, 0.5, 2.0]), min_size=1))
def test_a_token_without_weight_is_never_drawn(at, weight):
    weight = [*weight, 0.25, 0.0]
    found = int(draw(jnp.asarray(weight, jnp.float32), jnp.float32(at)))
    assert weight[found] > 0
    upto = np.cumsum(np.asarray(weight, float)) / sum(weight)
    assert upto[found] >= at - 1e-5
    assert upto[found] - weight[found] / sum(weight) <= at + 1e-5


# What cannot be drawn from


BAD = [np.nan, np.inf]
JITTED = jax.jit(sample)


@settings(max_examples=40)
@given(st.sampled_from(BAD), st.integers(0, 8), st.integers(0, len(CASES) - 1), st.integers(0, 99))
def test_logits_that_are_no_finite_numbers_are_never_drawn_from_in_silence(bad, place, case, seed):
    logits = np.random.default_rng(seed).normal(size=(2, 9)).astype(np.float32)
    logits[1, place] = bad
    sampling = make_sampling(2, **CASES[case])
    token = np.asarray(JITTED(jnp.asarray(logits), sampling, jnp.array([3, 3])))
    assert token[0] >= 0 and token[1] == INVALID
    assert np.isnan(law_of(jnp.asarray(logits), sampling)[1]).all()


def test_a_token_may_be_ruled_out_but_not_all():
    one, none = np.full((1, 4), -np.inf, np.float32), np.full((1, 4), -np.inf, np.float32)
    one[0, 2] = 1.0
    for case in CASES:
        assert sample(jnp.asarray(one), make_sampling(1, **case), jnp.array([0])).tolist() == [2]
        assert sample(jnp.asarray(none), make_sampling(1, **case), jnp.array([0])).tolist() == [INVALID]


def test_nothing_is_drawn_from_weights_that_add_up_to_nothing():
    assert int(draw(jnp.zeros(3), jnp.float32(0.5))) == INVALID


def test_what_could_not_be_drawn_is_told_with_its_place():
    tokens = np.array([[4, 5, -1], [4, -1, -1]])
    check_tokens("mine", tokens, np.array([2, 1]))  # what stands past the end does not count
    with pytest.raises(FloatingPointError, match="mine: the logits of sequence 1 are not finite at new token 1"):
        check_tokens("mine", tokens, np.array([2, 2]))


@settings(max_examples=40)
@given(st.floats(LEAST, 1e-3), st.integers(0, 99))
def test_the_lowest_temperatures_that_are_allowed_take_the_likeliest_token(temperature, seed):
    logits = 30 * np.random.default_rng(seed).normal(size=8).astype(np.float32)
    made = np.asarray(law_of(jnp.asarray(logits), make_sampling(temperature=temperature)))
    assert np.isfinite(made).all() and made.argmax() == logits.argmax() and made.sum() == pytest.approx(1, abs=1e-5)


# Seeds


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_sequences_of_a_batch_have_seeds_of_their_own_unless_they_are_given(seed, batch):
    made = make_sampling(batch, seed=seed).seed
    assert made[0] == seed and len(set(made.tolist())) == batch
    assert make_sampling(batch, seed=[seed] * batch).seed.tolist() == [seed] * batch
    assert int(make_sampling(seed=seed).seed) == seed


@pytest.mark.parametrize(
    "settings, error, says",
    [
        ({"temperature": -1}, ValueError, "sampling.temperature is -1; allowed: a number at least 0 and at most 100"),
        ({"temperature": np.nan}, ValueError, "sampling.temperature is nan"),
        *(
            (
                {"temperature": heat},
                ValueError,
                f"sampling.temperature is {heat:g}; allowed: 0, or 1e-06 to 100; .* use 0",
            )
            for heat in (1e-45, 1e-38, 1e-37, 9e-7)
        ),
        ({"temperature": [1.0, 1e-38]}, ValueError, "sampling.temperature is 1e-38"),
        ({"top_p": 1e-40}, ValueError, "sampling.top_p is 1e-40; allowed: a number from 1e-06 to 1"),
        ({"top_k": 0}, ValueError, "sampling.top_k is 0; allowed: a whole number at least 1"),
        ({"top_k": 1.5}, ValueError, "sampling.top_k is 1.5"),
        (
            {"top_p": 0},
            ValueError,
            "sampling.top_p is 0; allowed: a number from 1e-06 to 1; for the likeliest token use top_k=1",
        ),
        ({"top_p": 1.1}, ValueError, "sampling.top_p is 1.1"),
        ({"seed": -1}, ValueError, "sampling.seed is -1"),
        ({"seed": 2**32}, ValueError, "sampling.seed is 4.29497e[+]09"),
        ({"seed": "one"}, TypeError, "sampling.seed is 'one'"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(settings, error, says):
    with pytest.raises(error, match=says):
        make_sampling(2, **settings)
