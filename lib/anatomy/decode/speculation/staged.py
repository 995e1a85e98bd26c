"""A draft with a draft of its own.

Axes as in `drafts`.

Source: spector2023staged.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from anatomy.decode.cache import Cache
from anatomy.decode.forward import ServedModel, extend
from anatomy.decode.speculation.drafts import Drafted, Drafter, State, check_vocabulary, committed, pending
from anatomy.decode.speculation.step import Speculation, SpeculationState, draft_verify_step
from anatomy.decode.speculation.trees import Tree, chain
from anatomy.model import empty_cache
from anatomy.specs.base import register


@dataclasses.dataclass(frozen=True)
class StagedDraft:
    """A middle model whose tokens are made by speculation, exactly.

    What it drafts has the middle model's distribution, so that is the q by which the target judges.

    Attributes:
        model: the middle one.
        drafter: drafts for the middle model, a chain or a tree.
        tree: a chain, of what is drafted for the target.

    Raises:
        ValueError: the tree is no chain, or the vocabularies differ.
    """

    model: ServedModel
    drafter: Drafter
    tree: Tree = dataclasses.field(default=chain(4), metadata={"static": True})

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        check_vocabulary("StagedDraft", self.model.config, self.drafter)
        if not self.tree.is_chain:
            raise ValueError(f"StagedDraft.tree is {self.tree}; allowed: a chain; give the tree to its drafter")

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.model.config.vocabulary

    def empty(self, batch: int, room: int) -> tuple[Cache, State]:
        """Empty caches."""
        room += self.drafter.tree.drafted
        return empty_cache(self.model.config, batch, room=room), self.drafter.empty(batch, room)

    def read(self, state: tuple[Cache, State], tokens: Array, count: Array, rows: Array | None) -> tuple[Cache, State]:
        """Both read."""
        _, cache = extend(self.model, state[0], tokens, count, rows)
        return cache, self.drafter.read(state[1], tokens, count, rows)

    def propose(self, state, history, known, length, going, sampling, stage):
        """As `Drafter.propose`: steps of speculation until all rows have what is asked for."""
        batch, most, inner = len(known), self.tree.drafted, self.drafter.tree
        length = jnp.where(going, length, 0)
        speculation = Speculation(self.model, self.drafter, stage=stage)
        cache = self._caught_up(state[0], history, known, going, stage)
        room = jnp.zeros((batch, inner.drafted), history.dtype)  # the last step may go beyond
        start = SpeculationState(cache, state[1], jnp.concatenate([history, room], axis=1), known)
        # Steps may make more than is asked for: that falls off the end.
        q = jnp.zeros((batch, most, self.vocabulary), self.model.weights.embedding.dtype)

        def open_rows(state: SpeculationState) -> Array:
            return state.known - known < length

        def more(carry: tuple[SpeculationState, Array]) -> tuple[SpeculationState, Array]:
            state, q = carry
            first, going = state.known - known, open_rows(state)
            step, state = draft_verify_step(
                speculation, state, jnp.full(batch, inner.drafted, jnp.int32), going, sampling
            )
            p = jnp.take_along_axis(step.p, step.walk.path[..., None], axis=1)
            index = jnp.arange(inner.height + 1)
            places = jnp.where(index < step.count[:, None], first[:, None] + index, most)
            return state, q.at[jnp.arange(batch)[:, None], places].set(p, mode="drop")

        end, q = jax.lax.while_loop(lambda carry: open_rows(carry[0]).any(), more, (start, q))
        index = jnp.arange(most)
        token = jnp.take_along_axis(end.history, jnp.minimum(known[:, None] + index, end.history.shape[1] - 1), axis=1)
        return Drafted(token, q, index < length[:, None]), (end.target, end.draft)

    def commit(self, state: tuple[Cache, State], known: Array, path: Array | None) -> tuple[Cache, State]:
        """As `Drafter.commit`: of both, whose own drafts are committed already."""
        return committed(state[0], known, self.tree, path, self.tree.height), self.drafter.commit(state[1], known, None)

    def _caught_up(self, cache: Cache, history: Array, known: Array, going: Array, stage: int) -> Cache:
        """All read but the newest token."""
        tokens, count = pending(history, known - 1, cache.length, stage)
        count = jnp.where(going, count, 0)
        read = lambda cache: extend(self.model, cache, tokens, count)[1]  # noqa: E731
        return jax.lax.cond(count.any(), read, lambda cache: cache, cache)


register(StagedDraft)
