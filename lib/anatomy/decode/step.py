"""A pass of the model over new tokens of some sequences, whose earlier tokens are in a cache.

One function, `extend`, is prefill by chunks, the decode step, and the check of a draft: rows of S tokens of which the
first `count` are there, from 0 to S of them. What is not there is padding: it writes to no cache, goes to no expert
and reads none, and no other token sees it. So shapes stay fixed while sequences come and go.

Only exact dispatches may serve (`sender`). The answer for a sequence then depends on its own tokens alone: bit for bit
where each choice is computed on its own (`one_by_one`) or all are (`all_experts`); within rounding by `in_buckets`,
for a product of two rows is added up in another order than that of one.

Axes as in `cache`; S new tokens of a row, n places that a pass looks at.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode.cache import Cache
from anatomy.model import Block, Config, Weights, dispatch, routing
from anatomy.model.dispatch import Dispatch
from anatomy.model.routing import Choices
from anatomy.model.transformer import attend, rms_norm, rotate

SMALLEST_WINDOW = 64


def sender(name: str | None, phase: str, tokens: int) -> Dispatch:
    """The dispatch of this name, or the fastest of a phase ("prefill", "decode") for so many tokens.

    Raises:
        ValueError: it may drop tokens, or there is none of this name.
    """
    if name is None:
        return dispatch.of_phase(phase, tokens)
    if name not in dispatch.EXACT:
        raise ValueError(f"dispatch is {name!r}; allowed: {', '.join(sorted(dispatch.EXACT))}, which drop no token")
    return dispatch.DISPATCHES[name]


def windows(room: int) -> list[int]:
    """Places that a pass may look at: powers of two, and all."""
    sizes = [SMALLEST_WINDOW]
    while 2 * sizes[-1] < room:
        sizes.append(2 * sizes[-1])
    return [size for size in sizes if size < room] + [room]


def extend(
    config: Config,
    weights: Weights,
    cache: Cache,
    tokens: Int[Array, "R S"],
    count: Int[Array, "R"],
    send: Dispatch,
    rows: Int[Array, "R"] | None = None,
) -> tuple[Float[Array, "R S D"], Cache]:
    """The stream after the last layer for new tokens, and the cache with them.

    Args:
        config: of the model.
        weights: apart (`model.apart`).
        cache: of the earlier tokens; donate it to the program that calls this, so that it is written in place.
        tokens: new ones of each row; they follow those that its cache holds.
        count: how many of them are there, 0 to S, the first ones; no more than the row has room for.
        send: an exact dispatch (`sender`).
        rows: of the cache, all different; None is all of them in order, R = B.

    Returns:
        The stream, of which only what belongs to tokens that are there has a meaning (`logits` reads it); the cache,
        its lengths grown by `count`.
    """
    start = cache.length if rows is None else cache.length[rows]
    index = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    there = index < count[:, None]
    positions = start[:, None] + index
    places = jnp.where(there, positions, cache.room)
    sizes = windows(cache.room)
    # Rows that have no new token may be as long as they want.
    which = jnp.searchsorted(jnp.array(sizes), jnp.max(jnp.where(count > 0, start + count, 0)))
    x = weights.embedding[tokens]
    for number, block in enumerate(weights.blocks):
        x, cache = layer(config, block, number, x, tokens, positions, there, places, cache, rows, sizes, which, send)
    grown = cache.length + count if rows is None else cache.length.at[rows].add(count)
    return x, dataclasses.replace(cache, length=grown)


def layer(
    config: Config,
    weights: Block,
    number: int,
    x: Float[Array, "R S D"],
    tokens: Int[Array, "R S"],
    positions: Int[Array, "R S"],
    there: Bool[Array, "R S"],
    places: Int[Array, "R S"],
    cache: Cache,
    rows: Int[Array, "R"] | None,
    sizes: list[int],
    which: Int[Array, ""],
    send: Dispatch,
) -> tuple[Float[Array, "R S D"], Cache]:
    """`model.block` for serving: keys and values go into a cache of any kind, of which only a window is read.

    Args:
        config: of the model.
        weights: of this layer.
        number: of the layer.
        x: the stream.
        tokens: ids.
        positions: of the tokens.
        there: which tokens are no padding.
        places: where their keys and values go.
        cache: of all layers.
        rows: of the cache that this is about.
        sizes: of the windows.
        which: the smallest window that holds all rows.
        send: an exact dispatch.
    """
    heads = lambda y: y.reshape(*y.shape[:2], -1, config.head_dim)  # noqa: E731
    y = rms_norm(x, weights.attention_norm, config.norm_epsilon)
    query = rotate(heads(y @ weights.query), positions, config)
    key, value = rotate(heads(y @ weights.key), positions, config), heads(y @ weights.value)
    cache = cache.written(number, rows, places, key, value)

    def look(size: int) -> Float[Array, "R S HC"]:
        return attend(query, *cache.window(number, rows, size), positions)

    x = x + jax.lax.switch(which, [partial(look, size) for size in sizes]) @ weights.output
    y = rms_norm(x, weights.experts_norm, config.norm_epsilon).reshape(-1, x.shape[-1])
    choices = routing.route(config, y @ weights.router, tokens.reshape(-1)).choices
    mixed, _ = send(y, only(choices, there.reshape(-1), config.experts), weights.experts)
    return x + mixed.reshape(x.shape), cache


def only(choices: Choices, there: Bool[Array, "T"], experts: int) -> Choices:
    """Choices of the tokens that are there; those of padding have weight 0, and an expert that does not exist."""
    keep = there[:, None]
    return Choices(jnp.where(keep, choices.expert, experts), jnp.where(keep, choices.weight, 0))


def logits(config: Config, weights: Weights, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """Logits of the token after each, from the stream after the last layer."""
    return rms_norm(x, weights.norm, config.norm_epsilon) @ weights.unembedding
