"""Speculative decoding: a draft proposes, the target reads all of it in one pass and keeps what it agrees with.

One function, `take_round`, is speculation at batch 1, in a batch (`speculate`), in the engine (`speculating`) and
inside a draft that has a draft of its own (`Staged`). A refused token costs nothing to forget: the caches get smaller
lengths.

Axes as in `cache`; n drafted nodes, A = height + 1 tokens that a round makes at most, V tokens of the vocabulary.

Source: leviathan2023fast; chen2023speculative; spector2023staged for drafts in stages.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anatomy.cost.inference.speculation import best_length, even_survival
from anatomy.decode import accepting
from anatomy.decode import cache as caches
from anatomy.decode.accepting import Rule, Walk
from anatomy.decode.cache import Cache
from anatomy.decode.drafts import ACCEPT, DRAW, Drafted, Drafter, State, kept, pending, stream
from anatomy.decode.generate import CHUNK, Generated, check_prompt, padded, prefill
from anatomy.decode.sampling import Sampling, distribution, draw, sample, sampling, uniform
from anatomy.decode.step import extend, logits, sender
from anatomy.decode.trees import Tree, chain
from anatomy.model import Config, Weights, apart
from anatomy.model.dispatch import Dispatch
from anatomy.specs.base import AT_LEAST_ZERO, between, check_arguments, register


class At(NamedTuple):
    """Where a batch is between rounds. The target's cache has all that is known but the newest token."""

    target: Cache
    draft: State
    history: Int[Array, "B N"]  # tokens of each row
    known: Int[Array, "B"]  # how many of them are known


class Round(NamedTuple):
    """What happened in a round; all that decided is there."""

    drafted: Drafted
    p: Float[Array, "B n+1 V"]  # target's distribution after each node, the root first
    accept: Float[Array, "B n"]  # chance of each node, once it is its turn
    at: Float[Array, "B n"]  # the number that decided: accepted if it is below
    left: Float[Array, "B V"]  # what the last token was drawn from, not normalised
    walk: Walk
    tokens: Int[Array, "B A"]  # accepted, and one that the target drew; then -1
    count: Int[Array, "B"]  # of them


def take_round(
    config: Config,
    weights: Weights,
    drafter: Drafter,
    rule: Rule,
    send: Dispatch,
    at: At,
    wanted: Int[Array, "B"],
    going: Bool[Array, "B"],
    how: Sampling,
    stage: int = 0,
) -> tuple[Round, At]:
    """Draft, read, accept, draw: 1 to A tokens for each row that is going.

    Args:
        config: of the target.
        weights: of the target, apart.
        drafter: who drafts.
        rule: what is accepted; `accepting.exact` keeps the target's law.
        send: an exact dispatch.
        at: where the batch is. Rows have room for all nodes behind what is known.
        wanted: tokens to draft for each row; of a tree all or none.
        going: rows that take part.
        how: settings of sampling.
        stage: 0 for the target, for a draft that speculates its own.
    """
    tree, wide = drafter.tree, jax.tree.map(lambda a: jnp.asarray(a)[:, None], how)
    drafted, draft = drafter.propose(at.draft, at.history, at.known, wanted, going, how, stage + 1)
    newest = jnp.take_along_axis(at.history, at.known[:, None] - 1, axis=1)
    tokens = jnp.concatenate([newest, drafted.token], axis=1)
    count = jnp.where(going, 1 + drafted.there.sum(1, dtype=jnp.int32), 0)
    x, target = extend(config, weights, at.target, tokens, count, send, branches=tree.branches(slice(0, None)))
    p = distribution(logits(config, weights, x), wide)

    accept, left = accepting.weigh(tree, rule, p, drafted.token, drafted.q, drafted.there)
    position = at.known[:, None] + tree.depth[1:] - 1
    number = uniform(wide.seed, position, stream(stage, ACCEPT, tree.rank[1:]))
    walk = accepting.walk(tree, accept, number)
    left = jnp.take_along_axis(left, walk.end[:, None, None], axis=1)[:, 0]
    last = draw(left, uniform(how.seed, at.known + walk.accepted, stream(stage, DRAW)))

    index = jnp.arange(tree.height + 1)
    made = jnp.take_along_axis(tokens, jnp.roll(walk.path, -1, axis=1), axis=1)  # node at depth i + 1
    made = jnp.where(
        index < walk.accepted[:, None], made, jnp.where(index == walk.accepted[:, None], last[:, None], -1)
    )
    added = jnp.where(going, walk.accepted + 1, 0)
    made = jnp.where(going[:, None], made, -1)
    one = Round(drafted, p, accept, number, left, walk, made, added)

    path = jnp.where(going[:, None], walk.path, 0)
    known = at.known + added
    history = written(at.history, at.known, made, added)
    # A row that does not take part keeps what it has: nothing of it moves, for all lengths are as before.
    target = kept(target, known, tree, path, tree.height)
    return one, At(target, drafter.settle(draft, known, path), history, known)


def started(
    config: Config,
    weights: Weights,
    drafter: Drafter,
    history: Int[Array, "B N"],
    known: Int[np.ndarray, "B"],
    send: Dispatch,
) -> At:
    """Where a batch is before a first round that drafts from the first new token on.

    Target and draft have read all that is known but the newest token of each row, which the round begins with.

    Args:
        config: of the target.
        weights: of the target, apart.
        drafter: who drafts.
        history: tokens of each row, and room for all that rounds may add.
        known: how many of them are known; of one row at least two.
        send: an exact dispatch.
    """
    empty = caches.rows(config, *history.shape), drafter.empty(*history.shape)
    read = _started(config, send, weights, drafter, empty, history[:, : int(known.max()) - 1], known - 1)
    return At(*read, jnp.asarray(history), jnp.asarray(known))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=4)
def _started(
    config: Config,
    send: Dispatch,
    weights: Weights,
    drafter: Drafter,
    empty: tuple[Cache, State],
    tokens: Int[Array, "B S"],
    count: Int[Array, "B"],
) -> tuple[Cache, State]:
    """Target and draft read the first tokens of each row."""
    _, target = extend(config, weights, empty[0], tokens, count, send)
    return target, drafter.read(empty[1], tokens, count, None)


def written(
    history: Int[Array, "B N"], start: Int[Array, "B"], tokens: Int[Array, "B S"], count: Int[Array, "B"]
) -> Int[Array, "B N"]:
    """A history with the first `count` of these tokens from `start` on."""
    index = jnp.arange(tokens.shape[1])
    places = jnp.where(index < count[:, None], start[:, None] + index, history.shape[1])
    return history.at[jnp.arange(len(history))[:, None], places].set(tokens, mode="drop")


@dataclasses.dataclass(frozen=True)
class Staged:
    """A draft with a draft of its own: the middle model's tokens are made by speculation, exactly.

    What it drafts has the middle model's law, so that is the q by which the target judges.

    Attributes:
        weights: of the middle model, apart.
        drafter: drafts for the middle model, a chain or a tree.
        config: of the middle model.
        tree: a chain, of what is drafted for the target.
        send: name of the dispatch; by default the fastest.

    Raises:
        ValueError: the tree is no chain, the vocabularies differ, or the dispatch drops.

    Source: spector2023staged.
    """

    weights: Weights
    drafter: Drafter
    config: Config = dataclasses.field(metadata={"static": True})
    tree: Tree = dataclasses.field(default=chain(4), metadata={"static": True})
    send: str | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        """Refuse what does not fit together; take the weights apart."""
        sender(self.send, "decode", 1)
        check_vocabulary("Staged", self.config, self.drafter)
        if not self.tree.is_chain:
            raise ValueError(f"Staged.tree is {self.tree}; allowed: a chain")
        object.__setattr__(self, "weights", apart(self.weights))

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.config.vocabulary

    def empty(self, sequences: int, room: int) -> tuple[Cache, State]:
        """Empty caches."""
        room += self.drafter.tree.drafted
        return caches.rows(self.config, sequences, room), self.drafter.empty(sequences, room)

    def read(self, state: tuple[Cache, State], tokens: Array, count: Array, rows: Array | None) -> tuple[Cache, State]:
        """Both read."""
        send = sender(self.send, "prefill", tokens.size)
        _, cache = extend(self.config, self.weights, state[0], tokens, count, send, rows)
        return cache, self.drafter.read(state[1], tokens, count, rows)

    def propose(self, state, history, known, wanted, going, how, stage):
        """As `Drafter.propose`: rounds of speculation until all rows have what is wanted."""
        batch, most, inner = len(known), self.tree.drafted, self.drafter.tree
        wanted = jnp.where(going, wanted, 0)
        send = sender(self.send, "decode", batch * (inner.drafted + 1))
        cache = self._caught_up(state[0], history, known, going, stage)
        room = jnp.zeros((batch, inner.drafted), history.dtype)  # the last round may go beyond
        start = At(cache, state[1], jnp.concatenate([history, room], axis=1), known)
        # Rounds may make more than is wanted: that falls off the end.
        q = jnp.zeros((batch, most, self.vocabulary), self.weights.embedding.dtype)

        def open_rows(at: At) -> Array:
            return at.known - known < wanted

        def more(given: tuple[At, Array]) -> tuple[At, Array]:
            at, q = given
            first, going = at.known - known, open_rows(at)
            asked = jnp.full(batch, inner.drafted, jnp.int32)
            one, at = take_round(
                self.config, self.weights, self.drafter, accepting.exact, send, at, asked, going, how, stage
            )
            law = jnp.take_along_axis(one.p, one.walk.path[..., None], axis=1)
            index = jnp.arange(inner.height + 1)
            places = jnp.where(index < one.count[:, None], first[:, None] + index, most)
            return at, q.at[jnp.arange(batch)[:, None], places].set(law, mode="drop")

        at, q = jax.lax.while_loop(lambda given: open_rows(given[0]).any(), more, (start, q))
        index = jnp.arange(most)
        token = jnp.take_along_axis(at.history, jnp.minimum(known[:, None] + index, at.history.shape[1] - 1), axis=1)
        return Drafted(token, q, index < wanted[:, None]), (at.target, at.draft)

    def settle(self, state: tuple[Cache, State], known: Array, path: Array | None) -> tuple[Cache, State]:
        """As `Drafter.settle`: of both, whose own drafts are settled already."""
        return kept(state[0], known, self.tree, path, self.tree.height), self.drafter.settle(state[1], known, None)

    def _caught_up(self, cache: Cache, history: Array, known: Array, going: Array, stage: int) -> Cache:
        """All read but the newest token."""
        tokens, count = pending(history, known - 1, cache.length, stage)
        count = jnp.where(going, count, 0)

        def read(cache: Cache) -> Cache:
            send = sender(self.send, "decode", tokens.size)
            return extend(self.config, self.weights, cache, tokens, count, send)[1]

        return jax.lax.cond(count.any(), read, lambda cache: cache, cache)


register(Staged)


@dataclasses.dataclass(frozen=True)
class Adapted:
    """Draft length that follows acceptance: for each row the best for its own alignment so far.

    The alignment of a row is the share of accepted tokens among those that were judged, older ones counting less. The
    length is that with the largest expected speed-up by the cost model of speculation.

    Attributes:
        draft: c, seconds of a step of the draft over one of the target.
        more: what each token that the target reads adds to its pass, over a step.
        memory: by which a judged token counts less with each later one.

    Raises:
        TypeError, ValueError: a cost is below 0 or memory not above 0 and below 1.
    """

    draft: float
    more: float = 0.0
    memory: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_arguments("Adapted", AT_LEAST_ZERO, draft=self.draft, more=self.more)
        check_arguments("Adapted", between(above=0.0, high=1.0), memory=self.memory)

    def length(self, seen: Float[Array, "B 2"], most: int) -> Int[Array, "B"]:
        """Tokens to draft for each row, at least 1.

        Args:
            seen: accepted tokens and judged ones, as they count.
            most: longest draft.
        """
        block = 1 + self.more * jnp.arange(most + 1)
        best = lambda a: best_length(even_survival(a, most), self.draft, block)  # noqa: E731
        return jnp.maximum(jax.vmap(best)(seen[:, 0] / seen[:, 1]), 1).astype(jnp.int32)

    @staticmethod
    def before(batch: int) -> Float[Array, "B 2"]:
        """Counts before the first round: as if four of five were accepted."""
        return jnp.tile(jnp.array([1.0, 1.25], jnp.float32), (batch, 1))

    def noted(self, seen: Float[Array, "B 2"], one: Round) -> Float[Array, "B 2"]:
        """Counts after a round; of a row that took no part, as they were."""
        accepted = jnp.where(one.count > 0, one.walk.accepted, 0)
        judged = jnp.where(one.count > 0, jnp.minimum(accepted + 1, one.drafted.there.sum(1)), 0)
        new = jnp.stack([accepted, judged], axis=1).astype(seen.dtype)
        return seen * (self.memory**judged)[:, None].astype(seen.dtype) + new


class Speculated(NamedTuple):
    """What was generated, and how."""

    tokens: Int[np.ndarray, "B A"]  # -1 where a sequence had ended
    count: Int[np.ndarray, "B"]  # tokens of each, its end token included
    ended: Bool[np.ndarray, "B"]  # whether it ended with an end token rather than at the limit
    rounds: Int[np.ndarray, "B"]  # passes of the target
    drafted: Int[np.ndarray, "B"]  # tokens proposed
    accepted: Int[np.ndarray, "B"]  # of them

    of = Generated.of

    @property
    def tokens_per_round(self) -> float:
        """Mean over the batch; the token that reading the prompt gives is no round's."""
        return float((self.count - 1).sum() / max(self.rounds.sum(), 1))


def check_vocabulary(owner: str, config: Config, drafter: Drafter) -> None:
    """Refuse a draft that speaks another language.

    Raises:
        ValueError: the vocabularies differ.
    """
    if drafter.vocabulary != config.vocabulary:
        raise ValueError(f"{owner}.drafter has a vocabulary of {drafter.vocabulary}; allowed: {config.vocabulary}")


def check_adapted(owner: str, adapted: Adapted | None, drafter: Drafter) -> None:
    """Refuse to adapt the length of what has none.

    Raises:
        ValueError: the draft is a tree.
    """
    if adapted is not None and not drafter.tree.is_chain:
        raise ValueError(f"{owner}.adapted is for chains; allowed: None for a tree")


def speculate(
    config: Config,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    limit: int,
    drafter: Drafter,
    how: Sampling | None = None,
    end: Sequence[int] = (),
    *,
    rule: Rule = accepting.exact,
    adapted: Adapted | None = None,
    length: int | None = None,
    chunk: int = CHUNK,
    send: str | None = None,
) -> Speculated:
    """Continue prompts as `generate` does, by speculation: with the exact rule, in the same law.

    Args:
        config: of the target.
        weights: of the target, stacked or apart; apart they are not copied.
        prompts: tokens of each, at least one.
        limit: tokens to add at most.
        drafter: who drafts.
        how: settings of sampling, one for each prompt; by default greedy. The draft draws by the same.
        end: tokens that end a sequence.
        rule: what is accepted.
        adapted: how the length of a chain follows acceptance; by default it does not.
        length: tokens of a chain to draft, where that is fixed: 0, which drafts nothing in passes of the same shape, to
            those of the drafter's tree; by default all.
        chunk: tokens of a prompt that are read at once.
        send: name of the dispatch; by default the fastest of each phase.

    Raises:
        TypeError, ValueError: an argument is not allowed, or prompt and limit together are longer than the context; the
            message names it.
    """
    tree = drafter.tree
    check_arguments("speculate", caches.COUNT, limit=limit, chunk=chunk)
    limit, chunk = int(limit), int(chunk)
    check_vocabulary("speculate", config, drafter)
    length = tree.drafted if length is None else length
    check_arguments("speculate", between(high=tree.drafted, whole=True), length=length)
    check_adapted("speculate", adapted, drafter)
    tokens, size = padded(prompts, config.vocabulary, chunk)
    if (most := int(size.max()) + limit) > config.context:
        raise ValueError(f"speculate.tokens: prompt and limit need {most}; allowed: at most {config.context}")
    how = sampling(len(prompts), temperature=0.0) if how is None else how
    if np.shape(how.seed) != (len(prompts),):
        raise ValueError(f"speculate.how is for {np.shape(how.seed)} sequences; allowed: {len(prompts)}, as prompts")
    check_prompt("speculate.end", end if len(end) else [0], config.vocabulary)
    room = -(-(most + tree.drafted) // chunk) * chunk
    block = sender(send, "decode", len(prompts) * (tree.drafted + 1))
    fixed = Fixed(config, limit, chunk, sender(send, "prefill", len(prompts) * chunk), block, rule, adapted)
    history = np.zeros((len(prompts), room), np.int32)
    history[:, : tokens.shape[1]] = tokens
    at = At(caches.rows(config, len(prompts), room), drafter.empty(len(prompts), room), jnp.asarray(history), size)
    made = _speculate(fixed, at, apart(weights), drafter, tokens, how, np.array(end, np.int32), np.int32(length))
    return Speculated(*jax.tree.map(np.asarray, made[:6]))


class Fixed(NamedTuple):
    """What is fixed when the loop is compiled."""

    config: Config
    limit: int
    chunk: int
    read: Dispatch
    block: Dispatch
    rule: Rule
    adapted: Adapted | None


class Loop(NamedTuple):
    """What the loop carries."""

    at: At
    going: Bool[Array, "B"]
    made: Int[Array, "B A"]
    count: Int[Array, "B"]
    rounds: Int[Array, "B"]
    drafted: Int[Array, "B"]
    accepted: Int[Array, "B"]
    seen: Float[Array, "B 2"]


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _speculate(
    fixed: Fixed,
    at: At,
    weights: Weights,
    drafter: Drafter,
    tokens: Int[Array, "B S"],
    how: Sampling,
    end: Int[Array, "e"],
    length: Int[Array, ""],
) -> tuple[Any, ...]:
    """Read the prompts, then round after round; what was given away is given back, to be written in place."""
    config, chunk, batch, tree = fixed.config, fixed.chunk, len(tokens), drafter.tree
    size = at.known
    last, target = prefill(config, weights, at.target, tokens, size, chunk, fixed.read)

    def read(index: Array, draft: State) -> State:
        some = jax.lax.dynamic_slice_in_dim(tokens, index * chunk, chunk, axis=1)
        return drafter.read(draft, some, jnp.clip(size - index * chunk, 0, chunk), None)

    draft = jax.lax.fori_loop(0, tokens.shape[1] // chunk, read, at.draft)
    first = sample(logits(config, weights, last), how, size)[:, None]
    one = jnp.ones(batch, jnp.int32)
    made = jnp.full((batch, fixed.limit), -1, jnp.int32).at[:, :1].set(first)
    going = ~jnp.isin(first[:, 0], end) & (fixed.limit > 1)
    at = At(target, draft, written(at.history, size, first, one), size + 1)

    def more(loop: Loop) -> Loop:
        left = fixed.limit - loop.count
        wanted = jnp.broadcast_to(length, (batch,))
        if fixed.adapted is not None:
            wanted = fixed.adapted.length(loop.seen, tree.drafted)
        if tree.is_chain:
            wanted = jnp.minimum(wanted, left - 1)  # one comes of itself
        one, at = take_round(config, weights, drafter, fixed.rule, fixed.block, loop.at, wanted, loop.going, how)
        stops = jnp.isin(one.tokens, end)
        until = jnp.where(stops.any(1), 1 + jnp.argmax(stops, axis=1).astype(jnp.int32), one.count)
        added = jnp.minimum(jnp.minimum(one.count, until), left)
        going = loop.going & (added < left) & ~stops.any(1)
        drafted = jnp.where(loop.going, one.drafted.there.sum(1, dtype=jnp.int32), 0)
        accepted = jnp.where(loop.going, one.walk.accepted, 0)
        seen = loop.seen
        if fixed.adapted is not None:
            seen = fixed.adapted.noted(seen, one)
        return Loop(
            at, going, written(loop.made, loop.count, one.tokens, added), loop.count + added,
            loop.rounds + loop.going, loop.drafted + drafted, loop.accepted + accepted, seen,
        )  # fmt: skip

    nothing = jnp.zeros(batch, jnp.int32)
    start = Loop(at, going, made, one, nothing, nothing, nothing, Adapted.before(batch))
    loop = jax.lax.while_loop(lambda loop: loop.going.any(), more, start)
    ended = jnp.isin(jnp.take_along_axis(loop.made, loop.count[:, None] - 1, axis=1)[:, 0], end)
    return loop.made, loop.count, ended, loop.rounds, loop.drafted, loop.accepted, loop.at
