"""What a choice tells about a label: closed forms, chance taken off, and a router whose rule is known."""

import dataclasses
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
from anatomy.model.moe.routing import by_hash
from anatomy.train import specialists
from anatomy.train.data import corpus, sources, tokens
from anatomy.train.data.sources import VOCABULARY
from anatomy.train.loop import Training
from anatomy.train.recipes import GPT, Recipe, registry
from anatomy.train.specialists import information, told
from hypothesis import given, settings

counts = st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=2, max_size=4)


def drawn(table):
    """Labels and choices that occur as often as a table says."""
    return tuple(np.repeat(indices.reshape(-1), np.reshape(table, -1)) for indices in np.indices(np.shape(table)))


@given(counts)
def test_information_is_that_of_the_table(table):
    total = np.sum(table)
    if not total:
        return
    joint = np.array(table) / total
    even = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    expected = sum(p * np.log2(p / q) for p, q in zip(joint.ravel(), even.ravel(), strict=True) if p)
    assert information(*drawn(table)) == pytest.approx(expected, abs=1e-9)


@given(counts)
def test_it_is_the_same_both_ways_and_at_most_an_entropy(table):
    labels, chosen = drawn(table)
    if not len(labels):
        return
    found = information(labels, chosen)
    assert found == pytest.approx(information(chosen, labels), abs=1e-9)
    assert -1e-9 <= found <= np.log2(len(np.unique(labels))) + 1e-9


def test_a_label_that_decides_tells_all_and_another_nothing():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 500)
    assert information(labels, labels[::-1]) == pytest.approx(3)
    chosen = random.integers(0, 16, labels.size)
    assert information(labels, chosen) > 0.01  # by chance
    assert told(labels, chosen) == pytest.approx(0, abs=0.01)
    assert told(labels, labels) == pytest.approx(3, abs=0.02)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: information(np.arange(3), np.arange(2)), "labels and chosen are 3 and 2; allowed: as many of each"),
        (lambda: information(np.array([], int), np.array([], int)), "labels and chosen are 0 and 0; allowed"),
        (
            lambda: told(np.arange(3), np.arange(3), shuffles=0),
            "told.shuffles is 0; allowed: a whole number",
        ),
        (lambda: specialists.told_by("cake"), "recipe is 'cake'; allowed: target"),
    ],
)
def test_impossible_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_hash_tells_which_token_it_is(tmp_path, monkeypatch):
    """The router's rule is known: the first choice is a function of the token, and the information its entropy."""
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path))
    config = dataclasses.replace(GPT, router="hash", layers=1, d_model=16, heads=1, head_dim=8, d_ff=8, context=64)
    recipe = Recipe(about="Hash.", config=config, training=Training(steps=1, batch=1), data="short")
    monkeypatch.setattr(registry, "RECIPES", {"hash": recipe})
    monkeypatch.setitem(sources.DATA, "short", partial(sources.mixture, 64))
    found = specialists.told_by("hash")
    assert set(found) == {"domain", "token", "token before", "place in the row"}
    bpe = tokens.tokenizer(VOCABULARY)
    rows = [tokens.packed(bpe, domain, "held_out", 64)[: specialists.ROWS, 1:-1] for domain in corpus.CORPORA]
    ids = np.concatenate(rows).reshape(-1)
    scores = np.zeros((ids.size, config.experts), np.float32)
    first = np.asarray(by_hash(config, scores, scores, ids).expert)[:, 0]
    share = np.bincount(first) / first.size
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
    chance = information(ids, first) - told(ids, first)
    assert found["token"][0] == pytest.approx(entropy - chance, abs=1e-6)
    assert found["token"][0] > 3 * found["token before"][0] and abs(found["place in the row"][0]) < 0.05


@settings(max_examples=5)
@given(st.integers(0, 100))
def test_the_seed_of_the_shuffles_hardly_matters(seed):
    labels, chosen = np.random.default_rng(1).integers(0, 4, (2, 4000))
    assert told(labels, chosen, seed=seed) == pytest.approx(told(labels, chosen), abs=0.002)
