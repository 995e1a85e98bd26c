"""The text drafts: what followed the last time that its newest tokens stood there.

Axes as in `drafts`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from anatomy.decode.speculation.drafts import Drafted
from anatomy.decode.speculation.trees import Tree, chain
from anatomy.specs.base import COUNT, check_arguments, register


@dataclasses.dataclass(frozen=True)
class PromptLookup:
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
        check_arguments("PromptLookup", COUNT, vocabulary=self.vocabulary, longest=self.longest)
        if not self.tree.is_chain:
            raise ValueError(
                f"PromptLookup.tree is {self.tree}; allowed: a chain, for the text goes on in one way only"
            )

    def empty(self, batch: int, room: int) -> tuple[()]:
        """No state."""
        return ()

    def read(self, state: tuple[()], tokens: Array, count: Array, rows: Array | None) -> tuple[()]:
        """Nothing to do: the text is its own memory."""
        return state

    def propose(self, state, history, known, length, going, sampling, stage):
        """As `Drafter.propose`."""
        after, index = self._found(history, known), jnp.arange(self.tree.drafted)
        places = after[:, None] + index
        mask = (index < length[:, None]) & (places < known[:, None]) & going[:, None]
        token = jnp.take_along_axis(history, jnp.minimum(places, history.shape[1] - 1), axis=1)
        q = jax.nn.one_hot(token, self.vocabulary, dtype=jnp.float32)
        return Drafted(token, q, mask), state

    def commit(self, state: tuple[()], known: Array, path: Array | None) -> tuple[()]:
        """Nothing to do."""
        return state

    def _found(self, history: Int[Array, "B N"], known: Int[Array, "B"]) -> Int[Array, "B"]:
        """Place after the last match of the most of the newest tokens; `known` where none of them was there before."""
        place = jnp.arange(history.shape[1])
        matches, score = jnp.ones(history.shape, bool), jnp.zeros(history.shape, jnp.int32)
        for back in range(self.longest):
            newest = jnp.take_along_axis(history, jnp.maximum(known - 1 - back, 0)[:, None], axis=1)
            matches &= (jnp.roll(history, back, axis=1) == newest) & (place >= back)
            score += matches  # tokens that match, ending at this place
        score = jnp.where(place < known[:, None] - 1, score, 0)
        best = jnp.argmax(score * history.shape[1] + place, axis=1)
        return jnp.where(score.max(1) > 0, best + 1, known)


register(PromptLookup)
