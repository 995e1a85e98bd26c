"""Token trees: chances that add up, trees that are drawn, and the best of all trees by trying them."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from anatomy.cost.speculation.acceptance import expected_tokens
from anatomy.cost.speculation.trees import best_tree, depth, paths_tokens, tree_size, tree_tokens
from hypothesis import given, settings

RANKS = np.array([0.55, 0.2, 0.08])
falling = st.lists(st.floats(0.01, 1), min_size=1, max_size=4).map(
    lambda raw: np.sort(np.array(raw))[::-1] / max(1.0, sum(raw))
)


def even_tree(widths):
    """Paths of a tree whose nodes of a depth have so many children."""
    return [p for d in range(1, len(widths) + 1) for p in itertools.product(*(range(w) for w in widths[:d]))]


@given(falling, st.lists(st.integers(1, 4), max_size=4))
def test_a_tree_of_widths_is_the_sum_over_its_nodes(ranks, widths):
    widths = [min(w, len(ranks)) for w in widths]
    tree = even_tree(widths)
    assert tree_size(widths) == len(tree)
    assert float(tree_tokens(ranks, widths=widths)) == pytest.approx(float(paths_tokens(ranks, tree=tree)), rel=1e-9)
    assert depth(tree) == len(widths)


@given(st.floats(0, 1), st.integers(0, 12))
def test_a_tree_of_width_one_is_a_chain(rate, length):
    assert float(tree_tokens([rate], widths=[1] * length)) == pytest.approx(
        float(expected_tokens(acceptance_rate=rate, draft_length=length))
    )


@pytest.mark.parametrize("widths", [(3, 1, 1), (2, 2, 2), (1, 3)])
def test_trees_that_are_drawn(widths):
    rng, tokens = np.random.default_rng(0), np.ones(200_000)
    going = np.ones(tokens.size, bool)
    for width in widths:
        rank = np.searchsorted(RANKS.cumsum(), rng.random(tokens.size))  # 3 is none of them
        going &= rank < width
        tokens += going
    assert tokens.mean() == pytest.approx(
        float(tree_tokens(RANKS, widths=widths)), abs=5 * tokens.std() / tokens.size**0.5
    )


def all_trees(size, ranks):
    """Every set of so many nodes that holds the parent of each, and its elder sibling."""
    trees = {frozenset()}
    for _ in range(size):
        trees = {
            tree | {path}
            for tree in trees
            for parent in {(), *tree}
            for path in [(*parent, j) for j in range(ranks)]
            if path not in tree and (path[-1] == 0 or (*parent, path[-1] - 1) in tree)
        }
    return trees


@settings(max_examples=20, deadline=None)
@given(falling, st.integers(0, 5))
def test_the_best_tree_is_the_best_of_all(ranks, size):
    found = best_tree(ranks, size)
    assert len(set(found)) == size
    tried = max(sum(np.prod(ranks[list(path)]) for path in tree) for tree in all_trees(size, len(ranks)))
    assert float(paths_tokens(ranks, tree=found)) == pytest.approx(1 + tried, rel=1e-9)


def test_a_good_draft_wants_a_chain_and_a_poor_one_a_bush():
    good, poor = best_tree([0.95, 0.03], 6), best_tree([0.4, 0.3, 0.2], 6)
    assert depth(good) == 6 and depth(poor) <= 2


@pytest.mark.parametrize("ranks", [[], [0.2, 0.5], [0.9, 0.2], [-0.1], [0.5, float("nan")]])
def test_bad_ranks(ranks):
    with pytest.raises(ValueError, match=r"best_tree.ranks is .*; allowed: falling numbers"):
        best_tree(ranks, 3)


def test_bad_trees():
    with pytest.raises(ValueError, match=r"tree_tokens.widths has 4; allowed: 1 to 3"):
        tree_tokens(RANKS, widths=(1, 4))
    with pytest.raises(ValueError, match=r"has \(0, 1\) without its parent"):
        paths_tokens(RANKS, tree=[(0, 1)])
    with pytest.raises(ValueError, match=r"has \(7,\); allowed: ranks from 0 to 2"):
        paths_tokens(RANKS, tree=[(0,), (7,)])
    with pytest.raises(ValueError, match=r"has 1 nodes twice"):
        paths_tokens(RANKS, tree=[(0,), (0,)])
    for call in (lambda ranks: tree_tokens(ranks, widths=(2, 2)), lambda ranks: paths_tokens(ranks, tree=[(0,)])):
        with pytest.raises(ValueError, match=r"_tokens.ranks, added up, is 1.8; allowed: at most 1"):
            call(np.array([0.9, 0.9]))
    with pytest.raises(ValueError, match=r"best_tree.size is -1; allowed: a whole number at least 0"):
        best_tree(RANKS, -1)
