"""Generation for a batch that stays together: prompts in, tokens out, the whole loop one program.

Axes as in `cache`: B sequences, S tokens of the longest prompt; A tokens that are added at most.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anatomy.decode import cache as caches
from anatomy.decode.cache import Cache
from anatomy.decode.sampling import Sampling, sample, sampling
from anatomy.decode.step import extend, logits, sender
from anatomy.model import Config, Weights, apart
from anatomy.specs.base import check_arguments

CHUNK = 64  # tokens of a prompt that are read at once


class Generated(NamedTuple):
    """What was generated."""

    tokens: Int[np.ndarray, "B A"]  # -1 where a sequence had ended
    count: Int[np.ndarray, "B"]  # tokens of each, its end token included
    ended: Bool[np.ndarray, "B"]  # whether it ended with an end token rather than at the limit

    def of(self, row: int) -> list[int]:
        """Tokens of a sequence."""
        return self.tokens[row, : self.count[row]].tolist()


def padded(prompts: Sequence[Sequence[int]], vocabulary: int, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as one array, as long as whole chunks, and their lengths.

    Raises:
        ValueError: there is no prompt, one is empty, or has a token that the vocabulary has not.
    """
    if not len(prompts):
        raise ValueError("prompts are 0; allowed: at least 1")
    for index, prompt in enumerate(prompts):
        check_prompt(f"prompts[{index}]", prompt, vocabulary)
    length = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens = np.zeros((len(prompts), -(-length.max() // chunk) * chunk), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    return tokens, length


def check_prompt(name: str, prompt: Sequence[int], vocabulary: int) -> None:
    """Refuse a prompt that is empty or has a token that the vocabulary has not.

    Raises:
        TypeError: a token is no whole number.
        ValueError: as above.
    """
    ids = np.asarray(prompt)
    if ids.ndim != 1 or not ids.size:
        raise ValueError(f"{name} has shape {ids.shape}; allowed: at least one token, in one row")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} has {ids.dtype} tokens; allowed: whole numbers")
    if (wrong := (ids < 0) | (ids >= vocabulary)).any():
        raise ValueError(f"{name} has token {ids[wrong][0]}; allowed: 0 to {vocabulary - 1}")


def generate(
    config: Config,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    limit: int,
    how: Sampling | None = None,
    end: Sequence[int] = (),
    room: int | None = None,
    chunk: int = CHUNK,
    send: str | None = None,
) -> Generated:
    """Continue prompts until an end token or the limit.

    Args:
        config: of the model.
        weights: stacked, apart or joined; stacked they are copied, and joined they are read fastest.
        prompts: tokens of each, at least one.
        limit: A, tokens to add at most.
        how: settings of sampling, one for each prompt; by default greedy.
        end: tokens that end a sequence.
        room: tokens of the cache's rows; by default as many as are needed, in whole chunks.
        chunk: tokens of a prompt that are read at once.
        send: name of the dispatch; by default the fastest of each phase.

    Raises:
        TypeError, ValueError: an argument is not allowed, or prompt and limit together are longer than the context; the
            message names it.
    """
    check_arguments("generate", caches.COUNT, limit=limit, chunk=chunk)
    limit, chunk = int(limit), int(chunk)
    tokens, length = padded(prompts, config.vocabulary, chunk)
    most = int(length.max()) + limit
    whole = -(-most // chunk) * chunk
    for name, value, allowed in (("tokens", most, config.context), ("room", most, whole if room is None else room)):
        if value > allowed:
            raise ValueError(f"generate.{name}: prompt and limit need {value}; allowed: at most {allowed}")
    how = sampling(len(prompts), temperature=0.0) if how is None else how
    if np.shape(how.seed) != (len(prompts),):
        raise ValueError(f"generate.how is for {np.shape(how.seed)} sequences; allowed: {len(prompts)}, as prompts")
    check_prompt("generate.end", end if len(end) else [0], config.vocabulary)
    sends = sender(send, "prefill", len(prompts) * chunk), sender(send, "decode", len(prompts))
    cache = caches.rows(config, len(prompts), whole if room is None else room)
    made = _generate(config, limit, chunk, sends, apart(weights), cache, tokens, length, how, np.array(end, np.int32))
    return Generated(*jax.tree.map(np.asarray, made[:3]))


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def _generate(
    config: Config,
    limit: int,
    chunk: int,
    sends: tuple,
    weights: Weights,
    cache: Cache,
    tokens: Int[Array, "B S"],
    length: Int[Array, "B"],
    how: Sampling,
    end: Int[Array, "e"],
) -> tuple[Int[Array, "B A"], Int[Array, "B"], Bool[Array, "B"], Cache]:
    """Prefill, then a step for each token; the cache is given back only so that it is written in place."""
    last, cache = prefill(config, weights, cache, tokens, length, chunk, sends[0])
    first = sample(logits(config, weights, last), how, length)

    class At(NamedTuple):
        step: Array
        token: Array
        going: Array
        count: Array
        made: Array
        cache: Cache

    def note(step: Array, token: Array, going: Array, count: Array, made: Array) -> tuple[Array, Array, Array]:
        made = made.at[:, step].set(jnp.where(going, token, -1))
        return going & ~jnp.isin(token, end), count + going, made

    def more(at: At) -> Array:
        return (at.step < limit) & at.going.any()

    def step(at: At) -> At:
        x, cache = extend(config, weights, at.cache, at.token[:, None], at.going.astype(jnp.int32), sends[1])
        token = sample(logits(config, weights, x[:, 0]), how, cache.length)
        return At(at.step + 1, token, *note(at.step, token, at.going, at.count, at.made), cache)

    nothing = jnp.zeros_like(length), jnp.full((len(tokens), limit), -1, jnp.int32)
    going = jnp.ones(len(tokens), bool)
    at = jax.lax.while_loop(more, step, At(jnp.int32(1), first, *note(jnp.int32(0), first, going, *nothing), cache))
    return at.made, at.count, ~at.going, at.cache


def prefill(
    config: Config,
    weights: Weights,
    cache: Cache,
    tokens: Int[Array, "B S"],
    length: Int[Array, "B"],
    chunk: int,
    send: object,
) -> tuple[Float[Array, "B D"], Cache]:
    """Read prompts chunk by chunk.

    Args:
        config: of the model.
        weights: apart.
        cache: in which all rows are of length 0.
        tokens: padded to whole chunks.
        length: of each prompt, at least 1.
        chunk: tokens of a chunk.
        send: an exact dispatch.

    Returns:
        The stream at the last token of each prompt, and the cache.
    """

    def read(index: Array, at: tuple[Array, Cache]) -> tuple[Array, Cache]:
        last, cache = at
        some = jax.lax.dynamic_slice_in_dim(tokens, index * chunk, chunk, axis=1)
        count = jnp.clip(length - index * chunk, 0, chunk)
        x, cache = extend(config, weights, cache, some, count, send)
        here = jnp.take_along_axis(x, jnp.maximum(count - 1, 0)[:, None, None], axis=1)[:, 0]
        return jnp.where((count > 0)[:, None], here, last), cache

    last = jnp.zeros((len(tokens), config.d_model), weights.embedding.dtype)
    return jax.lax.fori_loop(0, tokens.shape[1] // chunk, read, (last, cache))
