"""Speculation inside the engine: each pass of a slot makes from one token to a whole draft and one more.

Rows of the engine speculate together, whatever they are at: those that read prompts or are empty take no part. The
draft keeps rows of its own; pages are for the target, whose cache is the large one.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode import accepting
from anatomy.decode.accepting import Rule
from anatomy.decode.cache import Cache
from anatomy.decode.decoder import empty_cache, first_after, placed
from anatomy.decode.drafts import Drafter, State
from anatomy.decode.requests import Limits
from anatomy.decode.sampling import Sampling
from anatomy.decode.speculative import Adapted, At, check_adapted, check_vocabulary, take_round, written
from anatomy.decode.step import sender
from anatomy.model import Config, Weights, apart
from anatomy.model.dispatch import Dispatch


class Kept(NamedTuple):
    """What lies on the device between passes."""

    target: Cache
    draft: State
    history: Int[Array, "B N"]
    seen: Float[Array, "B 2"]  # as `Adapted` counts


@dataclasses.dataclass(frozen=True)
class Speculating:
    """A decoder for the engine (`decoder.Decoder`) that speculates.

    Attributes:
        config: of the target.
        weights: of the target, apart.
        drafter: who drafts.
        rule: what is accepted.
        adapted: how the length of a chain follows acceptance; by default drafts are as long as they can be.
        send: name of the dispatch, or None for the fastest.

    Raises:
        ValueError: the vocabularies differ, the dispatch drops, or a tree is to be adapted.
    """

    config: Config
    weights: Weights
    drafter: Drafter
    rule: Rule = accepting.exact
    adapted: Adapted | None = None
    send: str | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit together; take the weights apart."""
        sender(self.send, "decode", 1)
        check_vocabulary("Speculating", self.config, self.drafter)
        check_adapted("Speculating", self.adapted, self.drafter)
        object.__setattr__(self, "weights", apart(self.weights))

    @property
    def ahead(self) -> int:
        """Nodes of a tree behind the newest token, which may be the last of an answer but one."""
        return self.drafter.tree.drafted

    def empty(self, slots: int, limits: Limits, chunk: int) -> Kept:
        """Empty caches and texts."""
        cache = empty_cache(self.config, slots, limits)
        history = jnp.zeros((slots, cache.room), jnp.int32)
        return Kept(cache, self.drafter.empty(slots, cache.room), history, Adapted.before(slots))

    def read(self, state, table, length, rows, tokens, count, how):
        """As the protocol says; the draft reads too."""
        send = sender(self.send, "prefill", tokens.size)
        state = state._replace(target=placed(state.target, table, length))
        return _read(self.config, send, self.weights, self.drafter, state, tokens, count, rows, how)

    def make(self, state, table, length, token, going, how):
        """As the protocol says: a round."""
        fixed = self.config, sender(self.send, "decode", len(token) * (self.ahead + 1)), self.rule, self.adapted
        state = state._replace(target=placed(state.target, table, length))
        return _make(*fixed, self.weights, self.drafter, state, token, going.astype(bool), how)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _read(
    config: Config,
    send: Dispatch,
    weights: Weights,
    drafter: Drafter,
    state: Kept,
    tokens: Int[Array, "R S"],
    count: Int[Array, "R"],
    rows: Int[Array, "R"],
    how: Sampling,
) -> tuple[Int[Array, "R"], Kept]:
    """Target and draft read a part of prompts."""
    start = state.target.length[rows]
    history = state.history.at[rows].set(written(state.history[rows], start, tokens, count))
    # Of rows that do not read the host may not know yet what was accepted in this step: their drafts stay as they are.
    whatever = history.shape[1] + 1
    known = jnp.full(len(history), whatever, jnp.int32).at[rows].set(jnp.where(count > 0, start + 1, whatever))
    draft = drafter.read(drafter.settle(state.draft, known, None), tokens, count, rows)
    seen = jnp.where(((start == 0) & (count > 0))[:, None], Adapted.before(len(rows)), state.seen[rows])
    first, target = first_after(config, send, weights, state.target, tokens, count, rows, how)
    return first, Kept(target, draft, history, state.seen.at[rows].set(seen))


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=6)
def _make(
    config: Config,
    send: Dispatch,
    rule: Rule,
    adapted: Adapted | None,
    weights: Weights,
    drafter: Drafter,
    state: Kept,
    token: Int[Array, "B"],
    going: Bool[Array, "B"],
    how: Sampling,
) -> tuple[Int[Array, "B A"], Int[Array, "B"], Kept]:
    """A round of all rows that are going."""
    length = state.target.length
    history = written(state.history, length, token[:, None], going.astype(jnp.int32))
    draft = drafter.settle(state.draft, length + 1, None)
    at = At(state.target, draft, history, length + 1)
    wanted, seen = jnp.full(len(token), drafter.tree.height, jnp.int32), state.seen
    if adapted is not None:
        wanted = adapted.length(seen, drafter.tree.drafted)
    one, at = take_round(config, weights, drafter, rule, send, at, wanted, going, how)
    if adapted is not None:
        seen = adapted.noted(seen, one)
    return one.tokens, one.count, Kept(at.target, at.draft, at.history, seen)
