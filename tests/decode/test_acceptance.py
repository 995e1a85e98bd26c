"""Laws of what comes out: every draft of small pairs of models is enumerated, and every acceptance."""

import itertools

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from anatomy.cost.speculation.acceptance import tokens_distribution
from anatomy.decode.sampling.acceptance import (
    acceptance_rate,
    cross_entropy,
    divergence,
    exact,
    lenient,
    multi_round,
    threshold,
    total_variation,
)
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

SYMBOLS = 4


@st.composite
def laws(draw, size=SYMBOLS):
    """Distributions, some with zeros."""
    raw = draw(arrays.arrays(float, size, elements=st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5])))
    raw[draw(st.integers(0, size - 1))] += 0.5
    return raw / raw.sum()


def pair(seed, temperature=1.0):
    """Target and draft that look at the last two tokens: their distributions after every context."""
    rng = np.random.default_rng(seed)
    p, q = (rng.dirichlet(np.full(SYMBOLS, 0.5), (SYMBOLS, SYMBOLS)) for _ in range(2))
    sharp = q ** (1 / temperature)
    return p, sharp / sharp.sum(-1, keepdims=True)


def after(model, text):
    return model[text[-2], text[-1]]


def round_outcomes(p, q, rule, text, left, chance=1.0, out=None):
    """Chance of every text that a round can end with: every draft, and for each every place of a rejection."""
    out = {} if out is None else out

    def end(law, weight):
        for token in range(SYMBOLS):
            out[(*text, token)] = out.get((*text, token), 0.0) + weight * float(law[token])

    if not left:
        end(after(p, text), chance)
        return out
    made = rule(after(p, text), after(q, text))
    for token in range(SYMBOLS):
        drawn, accept = chance * after(q, text)[token], float(made.accept[token])
        end(made.residual, drawn * (1 - accept))
        round_outcomes(p, q, rule, (*text, token), left - 1, drawn * accept, out)
    return out


def completed(outcomes, p, size):
    """Law of the first tokens, where texts that are shorter go on as the target would."""
    law = {}
    for text, chance in outcomes.items():
        for tail in itertools.product(range(SYMBOLS), repeat=max(size - len(text), 0)):
            whole, weight = text, chance
            for token in tail:
                weight = weight * after(p, whole)[token]
                whole = (*whole, token)
            law[whole] = law.get(whole, 0.0) + weight
    return law


@pytest.mark.parametrize("temperature", [0.3, 1.0])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_exact_rule_leaves_the_law_as_it_is(length, temperature):
    p, q = pair(length, temperature)
    start = (0, 1)
    law = completed(round_outcomes(p, q, exact, start, length), p, len(start) + length + 1)
    assert len(law) == SYMBOLS ** (length + 1)
    for text, chance in law.items():
        expected = np.prod([after(p, text[:i])[text[i]] for i in range(len(start), len(text))])
        assert chance == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "rule", [lambda p, q: lenient(p, q, 0.5), lambda p, q: threshold(p, 0.2)], ids=["lenient", "threshold"]
)
def test_relaxed_rules_change_it_as_the_formula_says(rule):
    """Drafted places have the law `out`; the last token of a round that was accepted whole has the target's."""
    p, q = pair(7)
    start = (2, 3)
    outcomes = round_outcomes(p, q, rule, start, 2)
    assert sum(outcomes.values()) == pytest.approx(1, abs=1e-12)
    first = np.zeros(SYMBOLS)
    for text, chance in outcomes.items():
        first[text[2]] += chance
    np.testing.assert_allclose(first, rule(after(p, start), after(q, start)).output(after(q, start)), atol=1e-12)
    assert float(total_variation(first, after(p, start))) > 0.02
    # Given a first token that was accepted, the second has the law of its place.
    made = rule(after(p, start), after(q, start))
    for token in range(SYMBOLS):
        context = (*start, token)
        both = np.zeros(SYMBOLS)
        for text, chance in outcomes.items():
            if text[:3] == context and len(text) > 3:
                both[text[3]] += chance
        reached = after(q, start)[token] * float(made.accept[token])
        law = rule(after(p, context), after(q, context)).output(after(q, context))
        np.testing.assert_allclose(both, reached * np.asarray(law), atol=1e-12)


@given(laws(), laws())
def test_the_exact_rule_in_one_place(p, q):
    rule = exact(p, q)
    np.testing.assert_allclose(rule.output(q), p, atol=1e-12)
    assert float(rule.rate(q)) == pytest.approx(float(acceptance_rate(p, q)), abs=1e-12)
    assert float(acceptance_rate(p, q)) == pytest.approx(1 - float(total_variation(p, q)), abs=1e-12)


@given(laws(), laws(), st.floats(0.01, 1))
def test_lenience_gains_acceptance_and_is_bounded(p, q, lenience):
    rule = lenient(p, q, lenience)
    law = np.asarray(rule.output(q))
    assert law.sum() == pytest.approx(1) and np.asarray(rule.residual).sum() == pytest.approx(1)
    assert (law <= p / lenience + 1e-12).all()
    assert float(rule.rate(q)) >= float(acceptance_rate(p, q)) - 1e-12
    gained = float(rule.rate(q) - acceptance_rate(p, q))  # in acceptance, and lost in law
    assert float(total_variation(law, p)) == pytest.approx(gained, abs=1e-12)


@given(laws(), laws())
def test_a_threshold_of_zero_lets_the_draft_speak(p, q):
    np.testing.assert_allclose(threshold(p, 0.0).output(q), q, atol=1e-12)
    none = np.max(p) < 1
    if none:
        np.testing.assert_allclose(threshold(p, 1.0).output(q), p, atol=1e-12)


@settings(max_examples=20)
@given(laws(3), laws(3), st.integers(1, 3))
def test_several_draws_of_one_place(p, q, draws):
    """All sequences of draws are enumerated: the law is the target's, and the chances are those of the formula."""
    law, won = np.zeros(3), np.zeros(draws)
    for drawn in itertools.product(range(3), repeat=draws):
        chance, left = np.prod(q[list(drawn)]), p
        for j, token in enumerate(drawn):
            rule = exact(left, q)
            accept = float(rule.accept[token])
            law[token] += chance * accept
            won[j] += chance * accept
            chance, left = chance * (1 - accept), np.asarray(rule.residual)
        law += chance * left
    np.testing.assert_allclose(law, p, atol=1e-12)
    np.testing.assert_allclose(multi_round(p, q, draws), won, atol=1e-12)


@given(laws(), laws())
def test_distances(p, q):
    tv, kl = float(total_variation(p, q)), float(divergence(p, q))
    assert 0 <= tv <= 1 and kl >= -1e-12
    assert kl >= 2 * tv**2 - 1e-12  # Pinsker
    if np.isfinite(kl):
        assert float(cross_entropy(p, q) - cross_entropy(p, p)) == pytest.approx(kl, abs=1e-9)
    else:
        assert np.any((p > 0) & (q == 0))


def test_batches_gradients_and_the_laws_of_rounds():
    p, q = pair(5)
    many = lenient(p, q, 0.5)
    one = lenient(p[1, 2], q[1, 2], 0.5)
    np.testing.assert_allclose(many.output(q)[1, 2], one.output(q[1, 2]), rtol=1e-12)
    slope = jax.grad(lambda much: lenient(p[0, 0], q[0, 0], much).rate(q[0, 0]))(0.5)
    assert np.isfinite(float(slope)) and float(slope) <= 0
    # Enumerated lengths of rounds are those of survivals.
    lengths = np.zeros(3)
    flat = np.broadcast_to(p[0, 0], p.shape), np.broadcast_to(q[0, 0], q.shape)
    for text, chance in round_outcomes(*flat, exact, (0, 0), 2).items():
        lengths[len(text) - 3] += chance
    a = float(acceptance_rate(p[0, 0], q[0, 0]))
    np.testing.assert_allclose(lengths, tokens_distribution(np.array([1, a, a * a])), atol=1e-12)


@pytest.mark.parametrize("lenience", [0.0, -1.0, 1.5])
def test_bad_lenience(lenience):
    with pytest.raises(ValueError, match=r"lenient.lenience is .*; allowed: a number above 0 and at most 1"):
        lenient(np.array([1.0]), np.array([1.0]), lenience)


def test_bad_threshold():
    with pytest.raises(ValueError, match=r"threshold.least is 2; allowed"):
        threshold(np.array([1.0]), 2.0)


@pytest.mark.parametrize("draws", [0, -1, 1.5])
def test_bad_draws(draws):
    with pytest.raises(ValueError, match=r"multi_round.draws is .*; allowed: a whole number at least 1"):
        multi_round(np.array([1.0]), np.array([1.0]), draws)


P, TWO, NEGATIVE = np.array([0.5, 0.5]), np.array([[0.5, 0.5], [0.5, 1.5]]), np.array([1.5, -0.5])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: acceptance_rate(np.array([3, 3]), np.array([5, 5])), "acceptance_rate.p, added up, is 6; allowed: 1"),
        (lambda: exact(P, TWO), "exact.q, added up, is 2"),
        (lambda: exact(NEGATIVE, P), "exact.p is -0.5"),
        (lambda: exact(P * np.nan, P), "exact.p is nan"),
        (lambda: lenient(P, 2 * P, 0.5), "lenient.q, added up, is 2"),
        (lambda: threshold(TWO, 0.1), "threshold.p, added up, is 2"),
        (lambda: multi_round(0 * P, P, 2), "multi_round.p, added up, is 0"),
        (lambda: total_variation(P, NEGATIVE), "total_variation.other is -0.5"),
        (lambda: divergence(TWO, P), "divergence.one, added up, is 2"),
        (lambda: cross_entropy(P, TWO), "cross_entropy.judge, added up, is 2"),
    ],
)
def test_what_is_no_distribution_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_single_precision_and_traced_laws_pass():
    p, q = (np.random.default_rng(seed).dirichlet(np.ones(50_000)).astype(np.float32) for seed in (0, 1))
    assert float(jax.jit(acceptance_rate)(p, q)) == pytest.approx(float(acceptance_rate(p, q)), rel=1e-5)
