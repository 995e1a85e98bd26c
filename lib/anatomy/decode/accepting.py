"""What becomes of drafted tokens: of each node's children the target accepts one, or draws another token itself.

The children of a node are tried one after the other. The first is judged by the target's p and the q that it was
really drawn from; each rejection leaves a rest of p, by which the next is judged, with the q that it was drawn from,
given those before it. Whatever these q are, with the exact rule the token that comes out has the law p: of one child
that is speculative sampling, of several drawn alike SpecInfer's rule, of several drawn without replacement Sequoia's.

Named axes: n nodes besides the root, V tokens of the vocabulary, w children of a node at most.

Source: leviathan2023fast; chen2023speculative; miao2024specinfer; chen2024sequoia.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anatomy.cost.inference import acceptance
from anatomy.cost.inference.acceptance import Law
from anatomy.decode.trees import Tree
from anatomy.specs.base import SHARE, between, check_arguments

Rule = Callable[[Law, Law], acceptance.Rule]  # of p and q; hashable, as programs are compiled for it


def exact(p: Law, q: Law) -> acceptance.Rule:
    """The rule under which the target's law is kept."""
    return acceptance.exact(p, q)


@dataclasses.dataclass(frozen=True)
class Lenient:
    """Accepts more than the exact rule (`acceptance.lenient`): q is multiplied by `lenience` first."""

    lenience: float

    def __post_init__(self) -> None:
        """Refuse what is not above 0 and at most 1."""
        check_arguments("Lenient", SHARE, lenience=self.lenience)

    def __call__(self, p: Law, q: Law) -> acceptance.Rule:
        """What becomes of a token."""
        return acceptance.lenient(p, q, self.lenience)


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Accepts what the target finds at least so likely (`acceptance.threshold`)."""

    least: float

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        check_arguments("Threshold", between(high=1.0), least=self.least)

    def __call__(self, p: Law, q: Law) -> acceptance.Rule:
        """What becomes of a token."""
        return acceptance.threshold(p, self.least)


class Weighed(NamedTuple):
    """What the target makes of a drafted tree, before any chance has its say."""

    accept: Float[Array, "*B n"]  # chance of each node, once its parent is accepted and its elder siblings are not
    left: Float[Array, "*B n+1 V"]  # law of the token after each node, the root first, if no child is accepted


def weigh(
    tree: Tree,
    rule: Rule,
    p: Float[Array, "*B n+1 V"],
    token: Int[Array, "*B n"],
    q: Float[Array, "*B n V"],
    there: Bool[Array, "*B n"],
) -> Weighed:
    """Chances of all nodes, and what is left after each.

    Args:
        tree: which node follows which.
        rule: `exact`, or one that is not.
        p: target's distribution of the token after each node, the root first.
        token: of each node.
        q: distribution that it was drawn from, given its elder siblings.
        there: whether it was drafted at all; else it is never accepted, and nothing is lost by that.
    """
    left, accept = p, jnp.zeros(token.shape, p.dtype)
    for nodes in tree.children.T:
        parents = nodes > 0
        child = nodes[parents] - 1
        made = rule(left[..., parents, :], q[..., child, :])
        here = there[..., child]
        chance = jnp.take_along_axis(made.accept, token[..., child, None], axis=-1)[..., 0]
        accept = accept.at[..., child].set(jnp.where(here, chance, 0).astype(p.dtype))
        rest = jnp.where(here[..., None], made.replace, left[..., parents, :]).astype(p.dtype)
        left = rest if parents.all() else left.at[..., parents, :].set(rest)
    return Weighed(accept, left)


class Walk(NamedTuple):
    """The way from the root to where nothing more was accepted."""

    accepted: Int[Array, "*B"]  # tokens
    path: Int[Array, "*B height+1"]  # nodes at depth 0, 1, ...; beyond the end, the last one again
    end: Int[Array, "*B"]  # the last one


def walk(tree: Tree, accept: Float[Array, "*B n"], at: Float[Array, "*B n"]) -> Walk:
    """Go from child to child, to the first of each node that is accepted: where a uniform number is below its chance.

    Args:
        tree: which node follows which.
        accept: chances.
        at: a number from [0, 1) for each node; those of one depth and rank may be the same.
    """
    yes = jnp.concatenate([jnp.zeros((*accept.shape[:-1], 1), bool), at < accept], axis=-1)  # node 0 is no child
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


class Distance(NamedTuple):
    """How far what comes out for a drafted token is from the target's law; means over all places given."""

    accepted: Float[Array, ""]  # chance
    total_variation: Float[Array, ""]
    divergence: Float[Array, ""]  # nats, of what comes out from p
    perplexity: Float[Array, ""]  # of what comes out, for the target
    own: Float[Array, ""]  # perplexity of the target's own words


def distance(rule: Rule, p: Law, q: Law) -> Distance:
    """Distance of a rule's output from the target's law, exactly, place by place, for a draft of one token.

    Args:
        rule: how tokens are accepted.
        p: target.
        q: draft.
    """
    made = rule(p, q)
    out = made.law(q)
    return Distance(
        made.accepted(q).mean(),
        acceptance.total_variation(out, p).mean(),
        acceptance.divergence(out, p).mean(),
        jnp.exp(acceptance.cross_entropy(out, p).mean()),
        jnp.exp(acceptance.cross_entropy(p, p).mean()),
    )
