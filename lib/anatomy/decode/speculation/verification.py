"""Verification of a drafted tree: of each node's children the target accepts one, or draws another token itself.

The children of a node are tried one after the other. The first is judged by the target's p and the q that it was
really drawn from; each rejection leaves a residual of p, by which the next is judged, with the q that it was drawn
from, given those before it. Whatever these q are, with the exact rule the token that comes out has the distribution p:
of one child that is speculative sampling, of several drawn from the same distribution SpecInfer's rule, of several
drawn without replacement Sequoia's.

Named axes: n nodes besides the root, V tokens of the vocabulary, w children of a node at most.

Source: leviathan2023fast; chen2023speculative; miao2024specinfer; chen2024sequoia.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode.sampling import AcceptanceRule
from anatomy.decode.speculation.trees import Tree


class Verification(NamedTuple):
    """What the target makes of a drafted tree, before any chance has its say."""

    accept: Float[Array, "*B n"]  # probability of each node, once its parent is accepted and its elder siblings are not
    residual: Float[
        Array, "*B nodes V"
    ]  # distribution of the token after each node, the root first, if no child is accepted


def verify(
    tree: Tree,
    rule: AcceptanceRule,
    p: Float[Array, "*B nodes V"],
    token: Int[Array, "*B n"],
    q: Float[Array, "*B n V"],
    mask: Bool[Array, "*B n"],
) -> Verification:
    """Probabilities of acceptance of all nodes, and the residual distribution after each.

    Args:
        tree: which node follows which.
        rule: `exact`, or one that is not.
        p: target's distribution of the token after each node, the root first.
        token: of each node.
        q: distribution that it was drawn from, given its elder siblings.
        mask: whether it was drafted at all; else it is never accepted, and nothing is lost by that.
    """
    residual, accept = p, jnp.zeros(token.shape, p.dtype)
    for nodes in tree.children.T:
        parents = nodes > 0
        child = nodes[parents] - 1
        acceptance = rule(residual[..., parents, :], q[..., child, :])
        drafted = mask[..., child]
        chance = jnp.take_along_axis(acceptance.accept, token[..., child, None], axis=-1)[..., 0]
        accept = accept.at[..., child].set(jnp.where(drafted, chance, 0).astype(p.dtype))
        rest = jnp.where(drafted[..., None], acceptance.residual, residual[..., parents, :]).astype(p.dtype)
        residual = rest if parents.all() else residual.at[..., parents, :].set(rest)
    return Verification(accept, residual)


class Walk(NamedTuple):
    """The way from the root to where nothing more was accepted."""

    accepted: Int[Array, "*B"]  # tokens
    path: Int[Array, "*B depths"]  # nodes at depth 0, 1, ...; beyond the end, the last one again
    end: Int[Array, "*B"]  # the last one


def walk(tree: Tree, accept: Float[Array, "*B n"], u: Float[Array, "*B n"]) -> Walk:
    """Go from child to child, to the first of each node that is accepted: where u is below its probability.

    Args:
        tree: which node follows which.
        accept: probabilities.
        u: a uniform number from [0, 1) for each node; those of one depth and rank may be the same.
    """
    yes = jnp.concatenate([jnp.zeros((*accept.shape[:-1], 1), bool), u < accept], axis=-1)  # node 0 is no child
    wins = yes[..., tree.children]
    best = jnp.argmax(wins, axis=-1)[..., None]
    chosen = jnp.where(
        wins.any(-1), jnp.take_along_axis(jnp.broadcast_to(tree.children, wins.shape), best, -1)[..., 0], 0
    )
    end, going = jnp.zeros(accept.shape[:-1], jnp.int32), jnp.ones(accept.shape[:-1], bool)
    accepted, path = end, [end]
    for _ in range(tree.height):
        following = jnp.take_along_axis(chosen, end[..., None], axis=-1)[..., 0].astype(jnp.int32)
        going &= following > 0
        end, accepted = jnp.where(going, following, end), accepted + going
        path.append(end)
    return Walk(accepted, jnp.stack(path, axis=-1), end)
