"""What the engine runs on the device: programs of fixed shapes, which know of rows and not of requests.

A decoder has state (caches) that each call takes and gives back. What is true of the rows - how long they are, and
which pages they own - the engine says anew each time, for it is the host that admits, cancels and forgets.

Axes as in `cache`; A tokens that a pass may add to a row.
"""

import dataclasses
from functools import partial
from typing import Generic, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from anatomy.decode import cache as caches
from anatomy.decode.cache import Cache
from anatomy.decode.requests import Limits
from anatomy.decode.sampling import Sampling, sample
from anatomy.decode.step import extend, logits, sender
from anatomy.model import Config, Weights, apart
from anatomy.model.dispatch import Dispatch

S = TypeVar("S")


class Decoder(Protocol, Generic[S]):
    """What the engine asks for. `Plain` makes a token a pass; speculation makes more."""

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
        how: Sampling,
    ) -> tuple[Int[Array, "R"], S]:
        """Read tokens of prompts: the first `count` of each of these rows. Gives the token after the last of each."""

    def make(
        self,
        state: S,
        table: Int[np.ndarray, "B M"] | None,
        length: Int[np.ndarray, "B"],
        token: Int[np.ndarray, "B"],
        going: Int[np.ndarray, "B"],
        how: Sampling,
    ) -> tuple[Int[Array, "B A"], Int[Array, "B"], S]:
        """Go on after the newest token of each row that is going (1; the others 0): new tokens, and how many."""


@dataclasses.dataclass(frozen=True)
class Plain:
    """One token a pass for each row.

    Attributes:
        config: of the model.
        weights: apart.
        send: name of the dispatch, or None for the fastest. The answers are the same to the last bit whatever the
            neighbours with "one_by_one" and "all_experts".
    """

    config: Config
    weights: Weights
    send: str | None = None
    ahead = 0

    def __post_init__(self) -> None:
        """Refuse a dispatch that drops; take the weights apart."""
        sender(self.send, "decode", 1)
        object.__setattr__(self, "weights", apart(self.weights))

    def empty(self, slots: int, limits: Limits, chunk: int) -> Cache:
        """A cache of rows or of pages."""
        return empty_cache(self.config, slots, limits)

    def read(self, state, table, length, rows, tokens, count, how):
        """As the protocol says."""
        send = sender(self.send, "prefill", tokens.size)
        return _pass(self.config, send, self.weights, placed(state, table, length), tokens, count, rows, how)

    def make(self, state, table, length, token, going, how):
        """As the protocol says."""
        send = sender(self.send, "decode", token.size)
        cache = placed(state, table, length)
        made, cache = _pass(self.config, send, self.weights, cache, token[:, None], going, None, how)
        return made[:, None], going, cache


def empty_cache(config: Config, slots: int, limits: Limits) -> Cache:
    """The cache that these limits ask for."""
    if limits.page is None:
        return caches.rows(config, slots, limits.room)
    return caches.pages(config, slots, whole_pages(limits), page_count(slots, limits), limits.page)


def whole_pages(limits: Limits) -> int:
    """`Limits.room`, in whole pages."""
    return -(-limits.room // limits.page) * limits.page


def page_count(slots: int, limits: Limits) -> int:
    """Pages of the cache."""
    return slots * whole_pages(limits) // limits.page if limits.pages is None else limits.pages


def placed(cache: Cache, table: Int[np.ndarray, "B M"] | None, length: Int[np.ndarray, "B"]) -> Cache:
    """A cache of whose rows this is true.

    The arrays are copied, for the host goes on writing into its own.
    """
    true = {"length": length.copy()} | ({} if table is None else {"table": table.copy()})
    return dataclasses.replace(cache, **true)


def first_after(
    config: Config,
    send: Dispatch,
    weights: Weights,
    cache: Cache,
    tokens: Int[Array, "R S"],
    count: Int[Array, "R"],
    rows: Int[Array, "R"] | None,
    how: Sampling,
) -> tuple[Int[Array, "R"], Cache]:
    """One pass over new tokens of some rows, and a draw after the last of each."""
    x, cache = extend(config, weights, cache, tokens, count, send, rows)
    last = jnp.take_along_axis(x, jnp.maximum(count - 1, 0)[:, None, None], axis=1)[:, 0]
    length = cache.length if rows is None else cache.length[rows]
    return sample(logits(config, weights, last), how, length), cache


_pass = partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)(first_after)
