"""The source of known entropy: against closed forms, enumeration, and long samples."""

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from anatomy.train.data.markov import Markov, cumulative, random_markov
from hypothesis import given
from scipy.special import entr

sources = st.builds(
    random_markov,
    length=st.integers(1, 12),
    symbols=st.sampled_from([4, 6, 9]),
    successors=st.just(4),
    source=st.integers(0, 50),
    seed=st.integers(0, 9),
)
small = st.builds(
    random_markov, length=st.just(4), symbols=st.just(3), successors=st.just(3), source=st.integers(0, 200)
)


def entropy(*p):
    return -sum(x * math.log(x) for x in p if x > 0)


def independent(p):
    return Markov(np.broadcast_to(np.array(p), (len(p),) * 3), length=5)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6))
def test_independent_symbols_have_the_entropy_of_their_law(weights):
    p = np.array(weights) / sum(weights)
    source = independent(p)
    assert source.entropy_rate == pytest.approx(entropy(*p), abs=1e-12)
    assert source.least_loss == pytest.approx(entropy(*p), abs=1e-12)
    np.testing.assert_allclose(source.stationary, np.outer(p, p), atol=1e-12)


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_chain_of_order_1_has_its_closed_form(up, down):
    chain = np.array([[1 - up, up], [down, 1 - down]])
    source = Markov(np.broadcast_to(chain, (2, 2, 2)), length=7)  # what follows (a, b) depends on b alone
    rate = (down * entropy(up, 1 - up) + up * entropy(down, 1 - down)) / (up + down)
    assert source.entropy_rate == pytest.approx(rate, abs=1e-12)
    assert source.least_loss == pytest.approx(rate, abs=1e-12)
    np.testing.assert_allclose(source.stationary.sum(0), [down / (up + down), up / (up + down)], atol=1e-12)


def test_a_cycle_has_no_entropy():
    a, b = np.divmod(np.arange(9), 3)
    steps = np.zeros((3, 3, 3))
    steps[a, b, (b + 1) % 3] = 1.0
    source = Markov(steps, length=8)
    assert source.entropy_rate == 0
    tokens, _ = source.rows(0, 50)
    assert ((tokens[:, 1:] - tokens[:, :-1]) % 3 == 1).all()
    np.testing.assert_allclose(source.log_probability(tokens), -math.log(3), atol=1e-12)  # three places to begin
    assert source.log_probability(np.array([0, 2])) == -np.inf  # a pair that never comes back
    assert source.log_probability(np.array([0, 1, 0])) == -np.inf


@given(sources)
def test_the_stationary_distribution_stays(source):
    share = source.stationary
    assert share.dtype == np.float64 and share.min() >= 0 and share.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(np.einsum("ab,abc->bc", share, source.transitions), share, atol=1e-14)
    np.testing.assert_allclose(share.sum(0), share.sum(1), atol=1e-14)


@given(small, st.integers(1, 5))
def test_probabilities_of_all_sequences_add_up(source, length):
    every = np.array(list(itertools.product(range(3), repeat=length)))
    probability = np.exp(source.log_probability(every))
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    if length > 1:  # the chain rule, where only the first steps are not of order 2
        rest = (length - 2) * source.entropy_rate
        assert entr(probability).sum() == pytest.approx(entr(source.stationary).sum() + rest, abs=1e-10)
    if length == source.length + 1:
        first = entr(source.stationary.sum(1)).sum()
        assert entr(probability).sum() == pytest.approx(first + source.length * source.least_loss, abs=1e-10)


@given(small)
def test_the_rate_is_what_a_longer_memory_leaves(source):
    steps = source.transitions
    direct = -sum(
        source.stationary[a, b] * steps[a, b, c] * math.log(steps[a, b, c])
        for a, b, c in itertools.product(range(3), repeat=3)
    )
    assert source.entropy_rate == pytest.approx(direct, abs=1e-12)


@pytest.mark.parametrize("source", [0, 1, 2])
def test_a_long_sample_has_the_entropy_and_the_shares(source):
    made = random_markov(255, source=source, seed=source)
    tokens, labels = made.rows(1000, 2000)
    assert tokens.dtype == labels.dtype == np.int32 and not labels.any() and tokens.shape == (2000, 256)
    per_row = -made.log_probability(tokens)
    expected = entr(made.stationary).sum() + 254 * made.entropy_rate
    assert abs(per_row.mean() - expected) < 4 * per_row.std() / math.sqrt(len(per_row))
    assert per_row.std() / math.sqrt(len(per_row)) < 0.002 * expected  # the line above could tell a difference
    for place in (0, 100, 254):  # stationary from the first pair on
        seen = np.zeros((16, 16))
        np.add.at(seen, (tokens[:, place], tokens[:, place + 1]), 1 / len(tokens))
        assert np.abs(seen - made.stationary).sum() < 1.5 * np.sqrt(made.stationary / len(tokens)).sum()
    followed = np.zeros((16, 16, 16))
    np.add.at(followed, (tokens[:, :-2], tokens[:, 1:-1], tokens[:, 2:]), 1.0)
    assert not followed[made.transitions == 0].any()
    counts = followed.sum(2, keepdims=True)
    error = np.abs(followed / np.maximum(counts, 1) - made.transitions)
    assert (error <= 6 * np.sqrt(made.transitions / np.maximum(counts, 1)) + 10 / np.maximum(counts, 1)).all()


@given(sources, st.integers(0, 2**40), st.integers(0, 9), st.integers(0, 9))
def test_any_parts_make_up_the_whole(source, start, first, second):
    whole, _ = source.rows(start, first + second)
    parts = [source.rows(start, first)[0], source.rows(start + first, second)[0]]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_rows_and_seeds_differ():
    one, other = random_markov(64, seed=1), random_markov(64, seed=2)
    np.testing.assert_array_equal(one.transitions, other.transitions)
    rows = np.concatenate([one.rows(0, 500)[0], other.rows(0, 500)[0]])
    assert len(np.unique(rows, axis=0)) == 1000
    assert (random_markov(64, source=1).transitions != one.transitions).any()


@given(st.integers(1, 16), st.integers(1, 4), st.integers(0, 20))
def test_a_random_source_is_as_described(symbols, successors, source):
    successors = min(successors, symbols)
    try:
        made = random_markov(4, symbols, successors, source)
    except ValueError as error:  # few symbols may fall apart
        assert "closed classes" in str(error) and successors < 4
        return
    assert ((made.transitions > 0).sum(2) == successors).all()
    np.testing.assert_allclose(made.transitions.sum(2), 1, atol=1e-12)
    if successors > 1:
        top = np.sort(made.transitions, axis=2)[..., -successors:]
        assert (np.diff(top, axis=2) > 0).all()  # unequal
    assert 0 <= made.entropy_rate <= math.log(successors) + 1e-12


def test_the_default_source_is_for_ever():
    made = random_markov(7)
    assert (made.symbols, made.length) == (16, 7)
    assert made.entropy_rate == pytest.approx(1.1088341827065702, abs=1e-12)
    assert made.rows(3, 1)[0].tolist() == ROW_3


ROW_3 = [[11, 5, 12, 1, 0, 8, 6, 8]]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(any))
def test_rounding_picks_no_impossible_symbol(weights):
    p = np.array(weights) / np.sum(weights)
    total = cumulative(p)
    assert (total[np.flatnonzero(p)[-1] :] == 1.0).all() and total.max() == 1.0


@pytest.mark.parametrize(
    "transitions, text",
    [
        (np.ones((2, 2)), "shape"),
        (np.ones((2, 2, 3)) / 3, "shape"),
        (np.ones((0, 0, 0)), "shape"),
        (np.ones((2, 2, 2)), "sums to 1 but for 1; allowed"),
        (np.array([1.5, -0.5]) * np.ones((2, 2, 2)), "is -0.5 somewhere; allowed: at least 0"),
        (np.full((2, 2, 2), np.nan), "is nan somewhere"),
        (np.broadcast_to(np.eye(2), (2, 2, 2)), "has 2 closed classes of pairs; allowed: 1"),
    ],
)
def test_what_is_no_source_is_refused(transitions, text):
    with pytest.raises(ValueError, match=rf"Markov\.transitions {text}|Markov\.transitions .*{text}"):
        Markov(transitions, length=4)


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: random_markov(0), "Markov.length is 0"),
        (lambda: random_markov(4, seed=-1), "Markov.seed is -1"),
        (lambda: random_markov(4, symbols=0), "random_markov.symbols is 0"),
        (
            lambda: random_markov(4, successors=17),
            "successors is 17; allowed: a whole number at least 1 and at most 16",
        ),
        (lambda: random_markov(4, source=-1), "random_markov.source is -1"),
        (lambda: random_markov(4).rows(-1, 1), "Markov.start is -1"),
        (lambda: random_markov(4).rows(0, 1.5), "Markov.count is 1.5"),
        (lambda: random_markov(4).log_probability(np.array([0, 16])), "tokens are 0 to 16; allowed: 0 to 15"),
        (lambda: random_markov(4).log_probability(np.zeros((3, 0), int)), "at least one symbol"),
    ],
)
def test_bad_input_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()
