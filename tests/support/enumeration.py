"""The distribution of what speculation makes, by going through every draft and everything that can become of it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from anatomy.decode import Tree, chain, distribution, make_sampling, wide
from anatomy.decode.speculation.verification import verify

SETTINGS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.5},
    {"top_k": 2},
    {"top_p": 0.6},
    {"temperature": 1.7, "top_k": 3, "top_p": 0.8},
]
# Trees, and tokens of the vocabulary, so that all drafts can be gone through.
TREES = [(chain(1), 4), (chain(3), 3), (wide((3,)), 4), (wide((2, 1)), 4), (wide((2, 2)), 3), (Tree((0, 0, 1, 3)), 4)]


law_of = jax.jit(distribution)  # not compiled anew for every text
verified = jax.jit(verify, static_argnums=(0, 1))


@functools.cache
def laws(vocabulary, most, seed):
    """Logits of the next token after each text of up to so many tokens."""
    random = np.random.default_rng(seed)
    texts = [t for n in range(most + 1) for t in itertools.product(range(vocabulary), repeat=n)]
    return {text: 1.5 * random.normal(size=vocabulary) for text in texts}


def every_draft(tree, vocabulary, q_of, replacement):
    """All drafts of a tree: tokens, distribution of each, and the chance that the draft is drawn."""
    drafts = [((), (), 1.0)]
    for node, parent in enumerate(tree.parents, 1):
        longer = []
        for tokens, laws_of, chance in drafts:
            elders = [tokens[e - 1] for e in tree.children[parent][: tree.rank[node]]]
            q = q_of(text_of(tree, tokens, parent), () if replacement else tuple(elders))
            longer += [((*tokens, x), (*laws_of, q), chance * q[x]) for x in range(vocabulary) if q[x] > 0]
        drafts = longer
    return [np.array(part) for part in zip(*drafts, strict=True)]


def text_of(tree, tokens, node):
    """Tokens from the root to a node."""
    return () if node == 0 else (*text_of(tree, tokens, tree.parents[node - 1]), int(tokens[node - 1]))


def law_of_steps(tree, vocabulary, rule, p_of, q_of, replacement):
    """Law of as many tokens as a step can make: those that it makes, then the target's own."""
    token, q, chance = every_draft(tree, vocabulary, q_of, replacement)
    p = np.array([[p_of(text_of(tree, row, node)) for node in range(tree.drafted + 1)] for row in token])
    accept, left = map(np.asarray, verified(tree, rule, *map(jnp.asarray, (p, token, q)), jnp.ones(token.shape, bool)))
    left = left / left.sum(-1, keepdims=True)
    law = np.zeros((vocabulary,) * (tree.height + 1))

    def spread(text, weight):
        """The target goes on from here."""
        if len(text) == tree.height + 1:
            law[text] += weight
        elif weight > 0:
            for x, one in enumerate(p_of(text)):
                spread((*text, x), weight * one)

    for row in range(len(token)):
        ends = [(0, chance[row])]
        while ends:
            node, weight = ends.pop()
            for child in (c for c in tree.children[node] if c):
                ends.append((child, weight * accept[row, child - 1]))
                weight *= 1 - accept[row, child - 1]
            text = text_of(tree, token[row], node)
            for x in range(vocabulary):
                spread((*text, x), weight * left[row, node, x])
    return law


def a_pair(vocabulary, most, how, heat=1.0):
    """p and q after a text; q of a place, without the tokens of elder siblings, as `draft_model.children` has it."""
    sampling = make_sampling(**how)

    @functools.cache
    def p_of(text):
        return np.asarray(law_of(jnp.asarray(laws(vocabulary, most, 0)[text]), sampling))

    @functools.cache
    def q_of(text, elders):
        logits = 0.6 * laws(vocabulary, most, 0)[text] + heat * laws(vocabulary, most, 1)[text]
        logits[list(elders)] = -np.inf
        return np.asarray(law_of(jnp.asarray(logits), sampling))

    return p_of, q_of


def error(tree, vocabulary, how, rule, replacement=False):
    """Largest difference between a probability of the law of a step and the target's own."""
    p_of, q_of = a_pair(vocabulary, tree.height, how)
    law = law_of_steps(tree, vocabulary, rule, p_of, q_of, replacement)
    texts = itertools.product(range(vocabulary), repeat=tree.height + 1)
    return max(abs(law[t] - np.prod([p_of(t[:i])[x] for i, x in enumerate(t)])) for t in texts)
