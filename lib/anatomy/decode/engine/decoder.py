"""What the engine runs on the device: programs of fixed shapes, which know of rows and not of requests.

A decoder has state (caches) that each call takes and gives back. What is true of the rows - how long they are, and
which pages they own - the engine says anew each time, for it is the host that admits, cancels and forgets.

Axes as in `cache`; A tokens that a pass may add to a row.
"""

import dataclasses
from functools import partial
from typing import Generic, Protocol, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Int

from anatomy.decode.cache import Cache, empty_pages
from anatomy.decode.engine.requests import Limits
from anatomy.decode.forward import ServedModel, extend, last_of, logits
from anatomy.decode.sampling import Sampling, sample
from anatomy.model import Config, empty_cache

S = TypeVar("S")


class Decoder(Protocol, Generic[S]):
    """What the engine asks for. `PlainDecoder` makes a token a pass; speculation makes more."""

    config: Config
    ahead: int  # places past the end of an answer that a pass may write to

    def empty(self, slots: int, limits: Limits, chunk: int) -> S:
        """State of so many rows, all empty; `chunk` tokens of a prompt will be read at once."""

    def read(
        self,
        state: S,
        table: Int[np.ndarray, "B M"] | None,
        length: Int[np.ndarray, "B"],
        rows: Int[np.ndarray, "R"],
        tokens: Int[np.ndarray, "R S"],
        count: Int[np.ndarray, "R"],
        sampling: Sampling,
    ) -> tuple[Int[Array, "R"], S]:
        """Read tokens of prompts: the first `count` of each of these rows. Gives the token after the last of each."""

    def make(
        self,
        state: S,
        table: Int[np.ndarray, "B M"] | None,
        length: Int[np.ndarray, "B"],
        token: Int[np.ndarray, "B"],
        going: Int[np.ndarray, "B"],
        sampling: Sampling,
    ) -> tuple[Int[Array, "B A"], Int[Array, "B"], S]:
        """Go on after the newest token of each row that is going (1; the others 0): new tokens, and how many."""


@dataclasses.dataclass(frozen=True)
class PlainDecoder:
    """One token a pass for each row.

    Attributes:
        model: that decodes; its experts are fused where the fastest dispatch is asked for. The answers are the same to
            the last bit whatever the neighbours with "one_by_one" and "all_experts".
    """

    model: ServedModel
    ahead = 0

    def __post_init__(self) -> None:
        """Lay the weights out."""
        object.__setattr__(self, "model", self.model.fused())

    @property
    def config(self) -> Config:
        """Of the model."""
        return self.model.config

    def empty(self, slots: int, limits: Limits, chunk: int) -> Cache:
        """A cache of rows or of pages."""
        return cache_within(self.config, slots, limits)

    def read(self, state, table, length, rows, tokens, count, sampling):
        """As the protocol says."""
        return _pass(self.model, placed(state, table, length), tokens, count, rows, sampling)

    def make(self, state, table, length, token, going, sampling):
        """As the protocol says."""
        made, cache = _pass(self.model, placed(state, table, length), token[:, None], going, None, sampling)
        return made[:, None], going, cache


def cache_within(config: Config, slots: int, limits: Limits) -> Cache:
    """The cache that these limits ask for."""
    if limits.page is None:
        return empty_cache(config, slots, room=limits.room)
    return empty_pages(config, **page_layout(slots, limits))


def page_layout(slots: int, limits: Limits) -> dict[str, int]:
    """Arguments of `empty_pages` and of its `Pool`; a row's room is rounded up to whole pages."""
    room = -(-limits.room // limits.page) * limits.page
    count = slots * room // limits.page if limits.pages is None else limits.pages
    return {"batch": slots, "room": room, "count": count, "size": limits.page}


def placed(cache: Cache, table: Int[np.ndarray, "B M"] | None, length: Int[np.ndarray, "B"]) -> Cache:
    """A cache of whose rows this is true.

    The arrays are copied, for the host goes on writing into its own.
    """
    true = {"length": length.copy()} | ({} if table is None else {"table": table.copy()})
    return dataclasses.replace(cache, **true)


def first_after(
    model: ServedModel,
    cache: Cache,
    tokens: Int[Array, "R S"],
    count: Int[Array, "R"],
    rows: Int[Array, "R"] | None,
    sampling: Sampling,
) -> tuple[Int[Array, "R"], Cache]:
    """One pass over new tokens of some rows, and a draw after the last of each."""
    x, cache = extend(model, cache, tokens, count, rows)
    length = cache.length if rows is None else cache.length[rows]
    return sample(logits(model, last_of(x, count)), sampling, length), cache


_pass = partial(jax.jit, donate_argnums=1)(first_after)
