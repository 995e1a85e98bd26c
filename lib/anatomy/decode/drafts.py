"""Who drafts: a small model, or the text itself. (A draft with a draft of its own is in `speculative`.)

A draft proposes the nodes of its tree to a whole batch, and says of each the distribution that it was really drawn
from: after temperature, top-k and top-p, and without the elder siblings. It has state of its own, which never holds
more than what is known. It lags behind by the newest token, and by one more for each stage above it: the last token of
a draft that was wholly accepted was never read.

The numbers that decide are keyed by seed, position and stream as in `sampling`. A stream belongs to a stage (0 is the
target, each draft one more), to a rank among siblings, and to a purpose. A token depends on numbers of its own and
earlier positions alone, so what was drafted and thrown away leaves no trace in later rounds.

Axes as in `cache`; n drafted nodes, V tokens of the vocabulary, N tokens of a history.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode import cache as caches
from anatomy.decode.cache import Cache, Rows
from anatomy.decode.sampling import Sampling, distribution, draw, uniform
from anatomy.decode.step import extend, logits, sender
from anatomy.decode.trees import Tree, chain
from anatomy.model import Config, Weights, apart
from anatomy.specs.base import check_arguments, register

DRAW, ACCEPT = 0, 1
RANKS = 1 << 16  # more siblings than any tree has

State = Any  # of a draft: a tree of arrays


class Drafted(NamedTuple):
    """Nodes of a tree, without the root."""

    token: Int[Array, "B n"]
    q: Float[Array, "B n V"]  # distribution that each was drawn from, given its elder siblings
    there: Bool[Array, "B n"]


class Drafter(Protocol):
    """What speculation asks of a draft; a tree of arrays, with `tree` and `vocabulary` static."""

    tree: Tree
    vocabulary: int

    def empty(self, sequences: int, room: int) -> State:
        """State of so many sequences of up to so many tokens, that knows none of them."""

    def read(self, state: State, tokens: Int[Array, "R S"], count: Int[Array, "R"], rows: Array | None) -> State:
        """Read a part of prompts, as `step.extend`."""

    def propose(
        self, state: State, history: Int[Array, "B N"], known: Int[Array, "B"], wanted: Int[Array, "B"],
        going: Bool[Array, "B"], how: Sampling, stage: int,
    ) -> tuple[Drafted, State]:  # fmt: skip
        """Draft after the `known` first tokens of a history: of a chain `wanted` tokens, of a tree all if any."""

    def settle(self, state: State, known: Int[Array, "B"], path: Int[Array, "B height+1"] | None) -> State:
        """Keep of a draft what was accepted.

        Args:
            state: after `propose`, or any.
            known: tokens that are now known, the newest included.
            path: nodes at each depth that were accepted, as `accepting.walk` has them; None where there was no draft.
        """


def stream(stage: int, purpose: int, rank: int | Int[np.ndarray, "..."] = 0) -> Any:
    """Which of a position's independent numbers; the target's own draw has 0, as in plain decoding."""
    return 2 * (RANKS * stage + rank) + purpose


def kept(cache: Cache, known: Int[Array, "B"], tree: Tree, path: Int[Array, "B height+1"] | None, read: int) -> Cache:
    """A cache of which only what is known counts, less the newest token; of a tree, the path is moved together.

    Args:
        cache: in which nodes lie behind the root, in order.
        known: tokens that are now known; where a path was accepted the root is its end's depth before the newest.
        tree: of the draft.
        path: that was accepted; None if nothing was drafted.
        read: depth of the deepest nodes in the cache.
    """
    most = jnp.maximum(known - 1, 0)
    if path is not None and not tree.is_chain:
        accepted = jnp.asarray(tree.depth)[path[:, -1]]
        root, step = known - 2 - accepted, jnp.arange(tree.height + 1)
        moves = (step > 0) & (step <= accepted[:, None])
        cache = caches.moved(cache, root[:, None] + path, jnp.where(moves, root[:, None] + step, cache.room))
        most = jnp.clip(root + 1 + read, 0, most)
    return dataclasses.replace(cache, length=jnp.minimum(cache.length, most).astype(jnp.int32))


def pending(
    history: Int[Array, "B N"], known: Int[Array, "B"], read: Int[Array, "B"], most: int
) -> tuple[Int[Array, "B most"], Int[Array, "B"]]:
    """Tokens that a draft has not read, and how many."""
    places = jnp.minimum(read[:, None] + jnp.arange(most), history.shape[1] - 1)
    return jnp.take_along_axis(history, places, axis=1), jnp.clip(known - read, 0, most)


@dataclasses.dataclass(frozen=True)
class Model:
    """A small model drafts.

    Attributes:
        weights: apart.
        config: of the model.
        tree: of what it drafts.
        send: name of the dispatch; by default the fastest.

    Raises:
        ValueError: the dispatch drops tokens, or there is none of this name.
    """

    weights: Weights
    config: Config = dataclasses.field(metadata={"static": True})
    tree: Tree = dataclasses.field(default=chain(4), metadata={"static": True})
    send: str | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        """Refuse a dispatch that drops; take the weights apart."""
        sender(self.send, "decode", 1)
        object.__setattr__(self, "weights", apart(self.weights))

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.config.vocabulary

    def empty(self, sequences: int, room: int) -> Rows:
        """An empty cache."""
        return caches.rows(self.config, sequences, room)

    def read(self, state: Rows, tokens: Array, count: Array, rows: Array | None) -> Rows:
        """As `Drafter.read`."""
        send = sender(self.send, "prefill", tokens.size)
        return extend(self.config, self.weights, state, tokens, count, send, rows)[1]

    def propose(self, state, history, known, wanted, going, how, stage):
        """As `Drafter.propose`: in chains as long as the longest that is wanted, or in trees level by level."""
        tokens, count = pending(history, known, state.length, 1 + stage)
        x, cache = self._extend(state, tokens, jnp.where(going, count, 0))
        first = logits(
            self.config, self.weights, jnp.take_along_axis(x, jnp.maximum(count - 1, 0)[:, None, None], axis=1)
        )
        if self.tree.is_chain:
            return self._chain(cache, first[:, 0], known, jnp.where(going, wanted, 0), how, stage)
        return self._branching(cache, first, known, (wanted > 0) & going, how, stage)

    def settle(self, state: Rows, known: Array, path: Array | None) -> Rows:
        """As `Drafter.settle`."""
        return kept(state, known, self.tree, path, self.tree.height - 1)

    def _extend(self, cache: Rows, tokens: Array, count: Array, branches: Any = None) -> tuple[Array, Rows]:
        send = sender(self.send, "decode", tokens.size)
        return extend(self.config, self.weights, cache, tokens, count, send, branches=branches)

    def _chain(
        self, cache: Rows, first: Array, known: Array, wanted: Array, how: Sampling, stage: int
    ) -> tuple[Drafted, Rows]:
        """Token after token; a row that wants no more waits for the others."""
        batch, most = len(known), jnp.max(wanted)

        def note(index: Array, logit: Array, token: Array, q: Array) -> tuple[Array, Array]:
            law = distribution(logit, how)
            made = draw(law, uniform(how.seed, known + index, stream(stage, DRAW)))
            return token.at[:, index].set(made), q.at[:, index].set(law)

        def more(index: Array, at: tuple[Rows, Array, Array]) -> tuple[Rows, Array, Array]:
            cache, token, q = at
            before = jax.lax.dynamic_slice_in_dim(token, index - 1, 1, axis=1)
            x, cache = self._extend(cache, before, (index < wanted).astype(jnp.int32))
            return cache, *note(index, logits(self.config, self.weights, x[:, 0]), token, q)

        empty = (
            jnp.zeros((batch, self.tree.drafted), jnp.int32),
            jnp.zeros((batch, self.tree.drafted, self.vocabulary), first.dtype),
        )
        cache, token, q = jax.lax.fori_loop(1, most, more, (cache, *note(jnp.int32(0), first, *empty)))
        return Drafted(token, q, jnp.arange(self.tree.drafted) < wanted[:, None]), cache

    def _branching(
        self, cache: Rows, logit: Array, known: Array, going: Array, how: Sampling, stage: int
    ) -> tuple[Drafted, Rows]:
        """Level after level: all children of the nodes of a level, then one pass over them."""
        tree, token, q = self.tree, [], []
        for depth in range(1, tree.height + 1):
            parents, level = tree.level(depth - 1), tree.level(depth)
            made, law = children(tree, parents, logit, how, known + depth - 1, stage)
            token.append(made)
            q.append(law)
            if depth < tree.height:
                count = jnp.where(going, made.shape[1], 0)
                x, cache = self._extend(cache, made, count, tree.branches(level))
                logit = logits(self.config, self.weights, x)
        token, q = jnp.concatenate(token, axis=1), jnp.concatenate(q, axis=1)
        return Drafted(token, q, jnp.broadcast_to(going[:, None], token.shape)), cache


register(Model)


def children(
    tree: Tree, parents: slice, logit: Float[Array, "B m V"], how: Sampling, position: Int[Array, "B"], stage: int
) -> tuple[Int[Array, "B c"], Float[Array, "B c V"]]:
    """Children of the nodes of a level, drawn without replacement: each from the distribution without its elders.

    Temperature, top-k and top-p act on what the elders leave, so that a greedy draft proposes the likeliest tokens,
    one after the other, and there are always enough.

    Args:
        tree: which node follows which.
        parents: the level.
        logit: of its nodes.
        how: settings of each sequence.
        position: of the children in the text.
        stage: of the draft.

    Returns:
        Tokens of the children, in the order of their numbers, and the distribution of each.
    """
    wide = jax.tree.map(lambda a: a[:, None], how)
    found = {}
    for rank, nodes in enumerate(tree.children[parents].T):
        has = np.flatnonzero(nodes)
        law = distribution(logit[:, has], wide)
        at = uniform(how.seed, position, stream(stage, DRAW, rank))
        token = draw(law, jnp.broadcast_to(at[:, None], law.shape[:2]))
        found |= {int(nodes[h]): (token[:, i], law[:, i]) for i, h in enumerate(has)}
        logit = logit.at[:, has].add(jnp.where(jax.nn.one_hot(token, logit.shape[-1], dtype=bool), -jnp.inf, 0))
    made = [found[node] for node in sorted(found)]
    return jnp.stack([token for token, _ in made], axis=1), jnp.stack([law for _, law in made], axis=1)


@dataclasses.dataclass(frozen=True)
class Lookup:
    """The text drafts: what followed the last time that the newest tokens stood there. q is 1 for what it says.

    Attributes:
        vocabulary: V.
        tree: a chain.
        longest: newest tokens that are looked for; where they are not found, fewer, down to one.

    Raises:
        ValueError: the tree is no chain, or a number is below 1 or not whole.
    """

    vocabulary: int = dataclasses.field(metadata={"static": True})
    tree: Tree = dataclasses.field(default=chain(4), metadata={"static": True})
    longest: int = dataclasses.field(default=3, metadata={"static": True})

    def __post_init__(self) -> None:
        """Refuse trees."""
        check_arguments("Lookup", caches.COUNT, vocabulary=self.vocabulary, longest=self.longest)
        if not self.tree.is_chain:
            raise ValueError(f"Lookup.tree is {self.tree}; allowed: a chain, for the text goes on in one way only")

    def empty(self, sequences: int, room: int) -> tuple[()]:
        """No state."""
        return ()

    def read(self, state: tuple[()], tokens: Array, count: Array, rows: Array | None) -> tuple[()]:
        """Nothing to do: the text is its own memory."""
        return state

    def propose(self, state, history, known, wanted, going, how, stage):
        """As `Drafter.propose`."""
        after, index = self._found(history, known), jnp.arange(self.tree.drafted)
        places = after[:, None] + index
        there = (index < wanted[:, None]) & (places < known[:, None]) & going[:, None]
        token = jnp.take_along_axis(history, jnp.minimum(places, history.shape[1] - 1), axis=1)
        q = jax.nn.one_hot(token, self.vocabulary, dtype=jnp.float32)
        return Drafted(token, q, there), state

    def settle(self, state: tuple[()], known: Array, path: Array | None) -> tuple[()]:
        """Nothing to do."""
        return state

    def _found(self, history: Int[Array, "B N"], known: Int[Array, "B"]) -> Int[Array, "B"]:
        """Place after the last match of the most of the newest tokens; `known` where none of them was there before."""
        place = jnp.arange(history.shape[1])
        alike, score = jnp.ones(history.shape, bool), jnp.zeros(history.shape, jnp.int32)
        for back in range(self.longest):
            newest = jnp.take_along_axis(history, jnp.maximum(known - 1 - back, 0)[:, None], axis=1)
            alike &= (jnp.roll(history, back, axis=1) == newest) & (place >= back)
            score += alike  # tokens that match, ending at this place
        score = jnp.where(place < known[:, None] - 1, score, 0)
        best = jnp.argmax(score * history.shape[1] + place, axis=1)
        return jnp.where(score.max(1) > 0, best + 1, known)


register(Lookup)
