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

from anatomy.decode.cache import Cache
from anatomy.decode.engine.decoder import cache_within, first_after, placed
from anatomy.decode.engine.requests import Limits
from anatomy.decode.forward import ServedModel
from anatomy.decode.sampling import AcceptanceRule, Sampling, exact
from anatomy.decode.speculation.adaptive import AdaptiveLength, check_adaptive
from anatomy.decode.speculation.drafts import Drafter, State, check_vocabulary
from anatomy.decode.speculation.step import Speculation, SpeculationState, append_tokens, draft_verify_step
from anatomy.model import Config


class DecoderState(NamedTuple):
    """What lies on the device between passes."""

    target: Cache
    draft: State
    history: Int[Array, "B N"]
    counts: Float[Array, "B 2"]  # as `AdaptiveLength` counts


@dataclasses.dataclass(frozen=True)
class SpeculativeDecoder:
    """A decoder for the engine (`decoder.Decoder`) that speculates.

    Attributes:
        model: the target.
        drafter: who drafts.
        rule: what is accepted.
        adaptive: how the length of a chain follows acceptance; by default drafts are as long as they can be.

    Raises:
        ValueError: the vocabularies differ, or a tree is to be adapted.
    """

    model: ServedModel
    drafter: Drafter
    rule: AcceptanceRule = exact
    adaptive: AdaptiveLength | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        check_vocabulary("SpeculativeDecoder", self.config, self.drafter)
        check_adaptive("SpeculativeDecoder", self.adaptive, self.drafter)

    @property
    def config(self) -> Config:
        """Of the target."""
        return self.model.config

    @property
    def ahead(self) -> int:
        """Nodes of a tree behind the newest token, which may be the last of an answer but one."""
        return self.drafter.tree.drafted

    @property
    def _speculation(self) -> Speculation:
        return Speculation(self.model, self.drafter, self.rule)

    def empty(self, slots: int, limits: Limits, chunk: int) -> DecoderState:
        """Empty caches and texts."""
        cache = cache_within(self.config, slots, limits)
        history = jnp.zeros((slots, cache.room), jnp.int32)
        return DecoderState(cache, self.drafter.empty(slots, cache.room), history, AdaptiveLength.prior(slots))

    def read(self, state, table, length, rows, tokens, count, sampling):
        """As the protocol says; the draft reads too."""
        state = state._replace(target=placed(state.target, table, length))
        return _read(self._speculation, state, tokens, count, rows, sampling)

    def make(self, state, table, length, token, going, sampling):
        """As the protocol says: a draft-verify step."""
        state = state._replace(target=placed(state.target, table, length))
        return _make(self.adaptive, self._speculation, state, token, going.astype(bool), sampling)


@partial(jax.jit, donate_argnums=1)
def _read(
    speculation: Speculation,
    state: DecoderState,
    tokens: Int[Array, "R S"],
    count: Int[Array, "R"],
    rows: Int[Array, "R"],
    sampling: Sampling,
) -> tuple[Int[Array, "R"], DecoderState]:
    """Target and draft read a part of prompts."""
    drafter, start = speculation.drafter, state.target.length[rows]
    history = state.history.at[rows].set(append_tokens(state.history[rows], start, tokens, count))
    # Of rows that do not read the host may not know yet what was accepted in this step: their drafts stay as they are.
    whatever = history.shape[1] + 1
    known = jnp.full(len(history), whatever, jnp.int32).at[rows].set(jnp.where(count > 0, start + 1, whatever))
    draft = drafter.read(drafter.commit(state.draft, known, None), tokens, count, rows)
    counts = jnp.where(((start == 0) & (count > 0))[:, None], AdaptiveLength.prior(len(rows)), state.counts[rows])
    first, target = first_after(speculation.target, state.target, tokens, count, rows, sampling)
    return first, DecoderState(target, draft, history, state.counts.at[rows].set(counts))


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def _make(
    adaptive: AdaptiveLength | None,
    speculation: Speculation,
    state: DecoderState,
    token: Int[Array, "B"],
    going: Bool[Array, "B"],
    sampling: Sampling,
) -> tuple[Int[Array, "B A"], Int[Array, "B"], DecoderState]:
    """A step of all rows that are going."""
    drafter, known, counts = speculation.drafter, state.target.length, state.counts
    history = append_tokens(state.history, known, token[:, None], going.astype(jnp.int32))
    before = SpeculationState(state.target, drafter.commit(state.draft, known + 1, None), history, known + 1)
    length = jnp.full(len(token), drafter.tree.height, jnp.int32)
    if adaptive is not None:
        length = adaptive.length(counts, drafter.tree.drafted)
    step, after = draft_verify_step(speculation, before, length, going, sampling)
    if adaptive is not None:
        counts = adaptive.observe(counts, step)
    return step.tokens, step.count, DecoderState(after.target, after.draft, after.history, counts)
