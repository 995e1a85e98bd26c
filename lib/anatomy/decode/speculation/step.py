"""The draft-verify step: a draft proposes, the target reads all of it in one pass and keeps what it agrees with.

One function, `draft_verify_step`, is speculation at batch 1, in a batch (`speculate`), in the engine and inside a draft
that has a draft of its own (`StagedDraft`). A refused token costs nothing to forget: the caches get smaller lengths.

Axes as in `cache`; n drafted nodes, A = height + 1 tokens that a step makes at most, V tokens of the vocabulary.

Source: leviathan2023fast; chen2023speculative.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode.cache import Cache
from anatomy.decode.forward import ServedModel, extend, logits
from anatomy.decode.sampling import AcceptanceRule, Sampling, distribution, draw, exact, uniform
from anatomy.decode.speculation.drafts import ACCEPT, DRAW, Drafted, Drafter, State, committed, stream
from anatomy.decode.speculation.verification import Walk, verify, walk
from anatomy.model import empty_cache
from anatomy.specs.base import register


@dataclasses.dataclass(frozen=True)
class Speculation:
    """Who speculates and by which rule; a tree of arrays.

    Attributes:
        target: whose tokens are to come out.
        drafter: who drafts.
        rule: what is accepted; `exact` keeps the target's distribution.
        stage: 0 for the target, for a draft that speculates its own.
    """

    target: ServedModel
    drafter: Drafter
    rule: AcceptanceRule = dataclasses.field(default=exact, metadata={"static": True})
    stage: int = dataclasses.field(default=0, metadata={"static": True})


register(Speculation)


class SpeculationState(NamedTuple):
    """A batch between steps. The target's cache has all that is known but the newest token."""

    target: Cache
    draft: State
    history: Int[Array, "B N"]  # tokens of each row
    known: Int[Array, "B"]  # how many of them are known


class Step(NamedTuple):
    """What happened in a step; all that decided is there."""

    drafted: Drafted
    p: Float[Array, "B nodes V"]  # target's distribution after each node, the root first
    accept: Float[Array, "B n"]  # probability that each node is accepted, once it is its turn
    u: Float[Array, "B n"]  # the uniform number that decided: accepted if it is below
    residual: Float[Array, "B V"]  # what the last token was drawn from, not normalised
    walk: Walk
    tokens: Int[Array, "B A"]  # accepted, and one that the target drew; then -1
    count: Int[Array, "B"]  # of them

    @property
    def accepted(self) -> Int[Array, "B"]:
        """Tokens that were accepted; 0 of a row that took no part."""
        return jnp.where(self.count > 0, self.walk.accepted, 0)

    @property
    def judged(self) -> Int[Array, "B"]:
        """Drafted tokens that came to be judged: those accepted and the first that was not."""
        return jnp.where(self.count > 0, jnp.minimum(self.walk.accepted + 1, self.drafted.mask.sum(1)), 0)


def draft_verify_step(
    speculation: Speculation,
    state: SpeculationState,
    length: Int[Array, "B"],
    going: Bool[Array, "B"],
    sampling: Sampling,
) -> tuple[Step, SpeculationState]:
    """Draft, read, accept, draw: 1 to A tokens for each row that is going.

    Args:
        speculation: target, drafter and rule.
        state: of the batch. Rows have room for all nodes behind what is known.
        length: tokens to draft for each row; of a tree all or none.
        going: rows that take part.
        sampling: settings of each row.
    """
    model, drafter, stage = speculation.target, speculation.drafter, speculation.stage
    tree, wide = drafter.tree, jax.tree.map(lambda a: jnp.asarray(a)[:, None], sampling)
    drafted, draft = drafter.propose(state.draft, state.history, state.known, length, going, sampling, stage + 1)
    newest = jnp.take_along_axis(state.history, state.known[:, None] - 1, axis=1)
    tokens = jnp.concatenate([newest, drafted.token], axis=1)
    count = jnp.where(going, 1 + drafted.mask.sum(1, dtype=jnp.int32), 0)
    x, target = extend(model, state.target, tokens, count, nodes=tree.nodes(slice(0, None)))
    p = distribution(logits(model, x), wide)

    accept, residual = verify(tree, speculation.rule, p, drafted.token, drafted.q, drafted.mask)
    position = state.known[:, None] + tree.depth[1:] - 1
    u = uniform(wide.seed, position, stream(stage, ACCEPT, tree.rank[1:]))
    path = walk(tree, accept, u)
    residual = jnp.take_along_axis(residual, path.end[:, None, None], axis=1)[:, 0]
    last = draw(residual, uniform(sampling.seed, state.known + path.accepted, stream(stage, DRAW)))

    index = jnp.arange(tree.height + 1)
    made = jnp.take_along_axis(tokens, jnp.roll(path.path, -1, axis=1), axis=1)  # node at depth i + 1
    made = jnp.where(
        index < path.accepted[:, None], made, jnp.where(index == path.accepted[:, None], last[:, None], -1)
    )
    added = jnp.where(going, path.accepted + 1, 0)
    made = jnp.where(going[:, None], made, -1)
    step = Step(drafted, p, accept, u, residual, path, made, added)

    nodes = jnp.where(going[:, None], path.path, 0)
    known = state.known + added
    history = append_tokens(state.history, state.known, made, added)
    # A row that does not take part keeps what it has: nothing of it moves, for all lengths are as before.
    target = committed(target, known, tree, nodes, tree.height)
    return step, SpeculationState(target, drafter.commit(draft, known, nodes), history, known)


def start_speculation(
    model: ServedModel, drafter: Drafter, history: Int[Array, "B N"], known: Int[np.ndarray, "B"]
) -> SpeculationState:
    """A batch before a first step that drafts from the first new token on.

    Target and draft have read all that is known but the newest token of each row, which the step begins with.

    Args:
        model: the target.
        drafter: who drafts.
        history: tokens of each row, and room for all that steps may add.
        known: how many of them are known; of one row at least two.
    """
    empty = empty_cache(model.config, history.shape[0], room=history.shape[1]), drafter.empty(*history.shape)
    read = _prefill(model, drafter, empty, history[:, : int(known.max()) - 1], known - 1)
    return SpeculationState(*read, jnp.asarray(history), jnp.asarray(known))


@partial(jax.jit, donate_argnums=2)
def _prefill(
    model: ServedModel, drafter: Drafter, empty: tuple[Cache, State], tokens: Int[Array, "B S"], count: Int[Array, "B"]
) -> tuple[Cache, State]:
    """Target and draft read the first tokens of each row."""
    return extend(model, empty[0], tokens, count)[1], drafter.read(empty[1], tokens, count, None)


def append_tokens(
    history: Int[Array, "B N"], start: Int[Array, "B"], tokens: Int[Array, "B S"], count: Int[Array, "B"]
) -> Int[Array, "B N"]:
    """A history with the first `count` of these tokens from `start` on."""
    index = jnp.arange(tokens.shape[1])
    places = jnp.where(index < count[:, None], start[:, None] + index, history.shape[1])
    return history.at[jnp.arange(len(history))[:, None], places].set(tokens, mode="drop")
