"""What speculation asks of a draft, and the numbers that decide.

A draft proposes the nodes of its tree to a whole batch, and says of each the distribution that it was really drawn
from: after temperature, top-k and top-p, and without the elder siblings. It has state of its own, which never holds
more than what is known. It lags behind by the newest token, and by one more for each stage above it: the last token of
a draft that was wholly accepted was never read.

The numbers that decide are keyed by seed, position and stream as in `sampling`. A stream belongs to a stage (0 is the
target, each draft one more), to a rank among siblings, and to a purpose. A token depends on numbers of its own and
earlier positions alone, so what was drafted and thrown away leaves no trace in later steps.

Axes as in `cache`; n drafted nodes, V tokens of the vocabulary, N tokens of a history.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode.cache import Cache, moved
from anatomy.decode.sampling import Sampling
from anatomy.decode.speculation.trees import Tree
from anatomy.model import Config

DRAW, ACCEPT = 0, 1
RANKS = 1 << 16  # more siblings than any tree has

State = Any  # of a draft: a tree of arrays


class Drafted(NamedTuple):
    """Nodes of a tree, without the root."""

    token: Int[Array, "B n"]
    q: Float[Array, "B n V"]  # distribution that each was drawn from, given its elder siblings
    mask: Bool[Array, "B n"]  # whether it was drafted


@runtime_checkable
class Drafter(Protocol):
    """What speculation asks of a draft; a tree of arrays, with `tree` and `vocabulary` static."""

    tree: Tree
    vocabulary: int

    def empty(self, batch: int, room: int) -> State:
        """State of so many sequences of up to so many tokens, that knows none of them."""

    def read(self, state: State, tokens: Int[Array, "R S"], count: Int[Array, "R"], rows: Array | None) -> State:
        """Read a part of prompts, as `forward.extend`."""

    def propose(
        self, state: State, history: Int[Array, "B N"], known: Int[Array, "B"], length: Int[Array, "B"],
        going: Bool[Array, "B"], sampling: Sampling, stage: int,
    ) -> tuple[Drafted, State]:  # fmt: skip
        """Draft after the `known` first tokens of a history: of a chain `length` tokens, of a tree all if any."""

    def commit(self, state: State, known: Int[Array, "B"], path: Int[Array, "B depths"] | None) -> State:
        """Keep of a draft what was accepted.

        Args:
            state: after `propose`, or any.
            known: tokens that are now known, the newest included.
            path: nodes at each depth that were accepted, as `verification.walk` has them; None where none was drafted.
        """


def stream(stage: int, purpose: int, rank: int | Int[np.ndarray, "..."] = 0) -> Any:
    """Which of a position's independent numbers; the target's own draw has 0, as in plain decoding."""
    return 2 * (RANKS * stage + rank) + purpose


def committed(
    cache: Cache, known: Int[Array, "B"], tree: Tree, path: Int[Array, "B depths"] | None, read: int
) -> Cache:
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
        cache = moved(cache, root[:, None] + path, jnp.where(moves, root[:, None] + step, cache.room))
        most = jnp.clip(root + 1 + read, 0, most)
    return dataclasses.replace(cache, length=jnp.minimum(cache.length, most).astype(jnp.int32))


def pending(
    history: Int[Array, "B N"], known: Int[Array, "B"], read: Int[Array, "B"], most: int
) -> tuple[Int[Array, "B most"], Int[Array, "B"]]:
    """Tokens that a draft has not read, and how many."""
    places = jnp.minimum(read[:, None] + jnp.arange(most), history.shape[1] - 1)
    return jnp.take_along_axis(history, places, axis=1), jnp.clip(known - read, 0, most)


def check_vocabulary(owner: str, config: Config, drafter: Drafter) -> None:
    """Refuse a draft that speaks another language.

    Raises:
        ValueError: the vocabularies differ.
    """
    if drafter.vocabulary != config.vocabulary:
        allowed = f"{config.vocabulary}, as the target; draft with a model of the same tokenizer"
        raise ValueError(f"{owner}.drafter has a vocabulary of {drafter.vocabulary}; allowed: {allowed}")
