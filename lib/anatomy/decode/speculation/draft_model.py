"""A small model drafts.

Axes as in `drafts`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from anatomy.decode.forward import ServedModel, extend, last_of, logits
from anatomy.decode.sampling import Sampling, distribution, draw, uniform
from anatomy.decode.speculation.drafts import DRAW, Drafted, committed, pending, stream
from anatomy.decode.speculation.trees import Tree, chain
from anatomy.model import Rows, empty_cache
from anatomy.specs.base import register


@dataclasses.dataclass(frozen=True)
class DraftModel:
    """A small model drafts.

    Attributes:
        model: that drafts.
        tree: of what it drafts.

    Raises:
        ValueError: a node of the tree has more children than the vocabulary tokens.
    """

    model: ServedModel
    tree: Tree = dataclasses.field(default=chain(4), metadata={"static": True})

    def __post_init__(self) -> None:
        """Refuse more siblings than there are tokens: they are drawn without replacement."""
        if (width := self.tree.children.shape[1]) > self.vocabulary:
            allowed = f"at most the vocabulary ({self.vocabulary}), for siblings are different tokens"
            raise ValueError(f"DraftModel.tree has {width} children at a node; allowed: {allowed}")

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.model.config.vocabulary

    def empty(self, batch: int, room: int) -> Rows:
        """An empty cache."""
        return empty_cache(self.model.config, batch, room=room)

    def read(self, state: Rows, tokens: Array, count: Array, rows: Array | None) -> Rows:
        """As `Drafter.read`."""
        return extend(self.model, state, tokens, count, rows)[1]

    def propose(self, state, history, known, length, going, sampling, stage):
        """As `Drafter.propose`: in chains as long as the longest that is asked for, or in trees level by level."""
        tokens, count = pending(history, known, state.length, 1 + stage)
        x, cache = extend(self.model, state, tokens, jnp.where(going, count, 0))
        first = logits(self.model, last_of(x, count))
        if self.tree.is_chain:
            return self._chain(cache, first, known, jnp.where(going, length, 0), sampling, stage)
        return self._branching(cache, first[:, None], known, (length > 0) & going, sampling, stage)

    def commit(self, state: Rows, known: Array, path: Array | None) -> Rows:
        """As `Drafter.commit`."""
        return committed(state, known, self.tree, path, self.tree.height - 1)

    def _chain(
        self, cache: Rows, first: Array, known: Array, length: Array, sampling: Sampling, stage: int
    ) -> tuple[Drafted, Rows]:
        """Token after token; a row that wants no more waits for the others."""
        batch, most = len(known), jnp.max(length)

        def note(index: Array, logit: Array, token: Array, q: Array) -> tuple[Array, Array]:
            here = distribution(logit, sampling)
            drawn = draw(here, uniform(sampling.seed, known + index, stream(stage, DRAW)))
            return token.at[:, index].set(drawn), q.at[:, index].set(here)

        def more(index: Array, state: tuple[Rows, Array, Array]) -> tuple[Rows, Array, Array]:
            cache, token, q = state
            before = jax.lax.dynamic_slice_in_dim(token, index - 1, 1, axis=1)
            x, cache = extend(self.model, cache, before, (index < length).astype(jnp.int32))
            return cache, *note(index, logits(self.model, x[:, 0]), token, q)

        empty = (
            jnp.zeros((batch, self.tree.drafted), jnp.int32),
            jnp.zeros((batch, self.tree.drafted, self.vocabulary), first.dtype),
        )
        cache, token, q = jax.lax.fori_loop(1, most, more, (cache, *note(jnp.int32(0), first, *empty)))
        return Drafted(token, q, jnp.arange(self.tree.drafted) < length[:, None]), cache

    def _branching(
        self, cache: Rows, logit: Array, known: Array, going: Array, sampling: Sampling, stage: int
    ) -> tuple[Drafted, Rows]:
        """Level after level: all children of the nodes of a level, then one pass over them."""
        tree, token, q = self.tree, [], []
        for depth in range(1, tree.height + 1):
            parents, level = tree.level(depth - 1), tree.level(depth)
            drawn, here = children(tree, parents, logit, sampling, known + depth - 1, stage)
            token.append(drawn)
            q.append(here)
            if depth < tree.height:
                count = jnp.where(going, drawn.shape[1], 0)
                x, cache = extend(self.model, cache, drawn, count, nodes=tree.nodes(level))
                logit = logits(self.model, x)
        token, q = jnp.concatenate(token, axis=1), jnp.concatenate(q, axis=1)
        return Drafted(token, q, jnp.broadcast_to(going[:, None], token.shape)), cache


register(DraftModel)


def children(
    tree: Tree, parents: slice, logit: Float[Array, "B m V"], sampling: Sampling, position: Int[Array, "B"], stage: int
) -> tuple[Int[Array, "B c"], Float[Array, "B c V"]]:
    """Children of the nodes of a level, drawn without replacement: each from the distribution without its elders.

    Temperature, top-k and top-p act on what the elders leave, so that a greedy draft proposes the likeliest tokens,
    one after the other, and there are always enough.

    Args:
        tree: which node follows which.
        parents: the level.
        logit: of its nodes.
        sampling: settings of each sequence.
        position: of the children in the text.
        stage: of the draft.

    Returns:
        Tokens of the children, in the order of their numbers, and the distribution of each.
    """
    wide = jax.tree.map(lambda a: a[:, None], sampling)
    found = {}
    for rank, nodes in enumerate(tree.children[parents].T):
        has = np.flatnonzero(nodes)
        q = distribution(logit[:, has], wide)
        u = uniform(sampling.seed, position, stream(stage, DRAW, rank))
        token = draw(q, jnp.broadcast_to(u[:, None], q.shape[:2]))
        found |= {int(nodes[h]): (token[:, i], q[:, i]) for i, h in enumerate(has)}
        logit = logit.at[:, has].add(jnp.where(jax.nn.one_hot(token, logit.shape[-1], dtype=bool), -jnp.inf, 0))
    made = [found[node] for node in sorted(found)]
    return jnp.stack([token for token, _ in made], axis=1), jnp.stack([q for _, q in made], axis=1)
