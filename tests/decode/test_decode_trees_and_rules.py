"""Drafts of all kinds and what is accepted of them: the law by enumeration of everything that can happen."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.speculation.trees import best_tree, tree_size, tree_tokens
from anatomy.decode import Lenient, Threshold, Tree, chain, exact, of_paths, wide
from anatomy.decode.sampling.acceptance import acceptance_rate, distance, lenient, multi_round, threshold
from anatomy.decode.speculation.verification import walk
from hypothesis import given
from support.enumeration import SETTINGS, TREES, a_pair, error, every_draft, law_of_steps, verified


@pytest.mark.parametrize("how", SETTINGS, ids=str)
@pytest.mark.parametrize("tree, vocabulary", TREES, ids=lambda x: str(getattr(x, "parents", x)))
def test_the_law_is_the_targets_to_1e_12(tree, vocabulary, how):
    assert error(tree, vocabulary, how, exact) < 1e-12


@pytest.mark.parametrize("how", SETTINGS[:4], ids=str)
def test_siblings_that_are_drawn_alike_keep_the_law_too(how):
    assert error(wide((2, 2)), 3, how, exact, replacement=True) < 1e-12


def test_a_draft_that_says_another_q_than_it_draws_from_spoils_the_law():
    """The test of the tests: this is the mistake of many a program."""
    p_of, q_of = a_pair(4, 1, {"top_k": 2})
    lie = lambda text, elders: a_pair(4, 1, {})[1](text, elders)  # noqa: E731
    token, q, _ = every_draft(chain(1), 4, lie, False)
    truth = np.array([q_of((), ())[x] for (x,) in token])
    p = np.array([[p_of(()), p_of((int(x),))] for (x,) in token])
    accept, left = verified(chain(1), exact, *map(jnp.asarray, (p, token, q)), jnp.ones(token.shape, bool))
    left = left[:, 0] / left[:, 0].sum(-1, keepdims=True)
    law = np.einsum("d,dv->v", truth * (1 - accept[:, 0]), left)
    law[token[:, 0]] += truth * accept[:, 0]
    assert abs(law - p_of(())).max() > 0.01


@pytest.mark.parametrize(
    "rule, theory",
    [(Lenient(0.5), lambda p, q: lenient(p, q, 0.5)), (Threshold(0.2), lambda p, q: threshold(p, 0.2))],
    ids=["lenient", "threshold"],
)
def test_relaxed_rules_have_the_law_that_the_theory_says_and_tell_their_distance(rule, theory):
    p_of, q_of = a_pair(4, 1, {})
    p, q = p_of(()), q_of((), ())
    law = law_of_steps(chain(1), 4, rule, p_of, q_of, replacement=False).sum(1)
    np.testing.assert_allclose(law, theory(p, q).output(q), atol=1e-12)
    told = distance(rule, p, q)
    np.testing.assert_allclose(told.total_variation, abs(law - p).sum() / 2)
    np.testing.assert_allclose(told.divergence, np.sum(law * np.log(law / p)))
    np.testing.assert_allclose(told.perplexity, np.exp(-np.sum(law * np.log(p))))
    assert told.total_variation > 0.01


def test_the_exact_rule_is_at_no_distance():
    p_of, q_of = a_pair(4, 1, {})
    told = distance(exact, p_of(()), q_of((), ()))
    np.testing.assert_allclose(told, [acceptance_rate(p_of(()), q_of((), ())), 0, 0, told.own, told.own], atol=1e-12)


def test_a_token_that_is_not_there_is_never_accepted_and_costs_nothing():
    p, q = np.random.default_rng(0).dirichlet(np.ones(4), (2, 3, 4))[..., 0]
    accept, left = verified(chain(2), exact, p, jnp.array([1, 2]), q[:2], jnp.array([True, False]))
    assert accept[1] == 0
    np.testing.assert_array_equal(left[1:], p[1:])


@given(st.integers(0, 10**6))
def test_ranks_are_accepted_as_the_theory_of_several_draws_has_it(seed):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(3), 2)
    found = np.zeros(2)
    for x, y in itertools.product(range(3), repeat=2):
        nodes_p = np.stack([p, p, p])
        accept = verified(wide((2,)), exact, nodes_p, jnp.array([x, y]), np.stack([q, q]), jnp.ones(2, bool)).accept
        found += q[x] * q[y] * np.array([accept[0], (1 - accept[0]) * accept[1]])
    np.testing.assert_allclose(found, multi_round(p, q, 2), atol=1e-12)


# The way through a tree


@given(st.data())
def test_the_walk_goes_to_the_first_accepted_child_of_each_node(data):
    tree = data.draw(st.sampled_from([chain(4), wide((3, 2)), wide((1, 3, 1)), Tree((0, 0, 1, 1, 2, 3, 3))]))
    accepted = data.draw(st.lists(st.booleans(), min_size=tree.drafted, max_size=tree.drafted))
    made = walk(tree, jnp.array(accepted, float), jnp.full(tree.drafted, 0.5))
    path = [0]
    while yes := [c for c in tree.children[path[-1]] if c and accepted[c - 1]]:
        path.append(int(yes[0]))
    assert int(made.accepted) == len(path) - 1
    assert made.path.tolist() == path + [path[-1]] * (tree.height + 1 - len(path))
    assert int(made.end) == path[-1]


def test_a_uniform_number_accepts_with_its_chance():
    at = np.linspace(0, 1, 1001)[:-1, None]
    made = jax.vmap(lambda u: walk(chain(1), jnp.array([0.3]), u).accepted)(jnp.asarray(at))
    assert int(made.sum()) == 300


# Trees


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_wide_trees_have_the_nodes_that_the_theory_counts(widths):
    tree = wide(widths)
    assert (tree.drafted, tree.height) == (tree_size(widths), len(widths))
    ranks = np.array([0.5, 0.3, 0.1])
    chance = np.ones(tree.drafted + 1)
    for node, parent in enumerate(tree.parents, 1):
        chance[node] = chance[parent] * ranks[tree.rank[node]]
    np.testing.assert_allclose(chance.sum(), tree_tokens(ranks, widths=widths))


@given(st.integers(1, 20))
def test_the_best_tree_is_laid_out_level_by_level(size):
    paths = best_tree([0.6, 0.2, 0.1], size)
    tree = of_paths(paths)
    assert tree.drafted == size
    assert sorted(tree.depth[1:].tolist()) == sorted(map(len, paths))
    for node in range(1, size + 1):
        assert tree.ancestors[node].sum() == tree.depth[node] + 1
        assert tree.ancestors[node, tree.parents[node - 1]]
    assert sum(tree.level(d).stop - tree.level(d).start for d in range(1, tree.height + 1)) == size


@pytest.mark.parametrize("parents", [(), (1,), (0, 1, 0), (-1,)])
def test_what_is_no_tree_is_refused(parents):
    with pytest.raises(ValueError, match=r"Tree.parents is .*; allowed: at least one"):
        Tree(parents)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: chain(0), "chain.length is 0; allowed: a whole number at least 1"),
        (lambda: wide((2, 0)), "wide.widths is 0"),
        (lambda: of_paths([(1,)]), r"of_paths.paths has \(1,\)"),
        (lambda: of_paths([(0, 0)]), r"of_paths.paths has \(0, 0\)"),
        (lambda: Lenient(0.0), "Lenient.lenience is 0; allowed: a number above 0 and at most 1"),
        (lambda: Threshold(1.5), "Threshold.least is 1.5"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
