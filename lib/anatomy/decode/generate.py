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

from anatomy.decode.cache import Cache
from anatomy.decode.forward import ServedModel, extend, last_of, logits
from anatomy.decode.sampling import Sampling, check_tokens, make_sampling, sample
from anatomy.model import Config, Weights, empty_cache
from anatomy.specs.base import COUNT, check_arguments

CHUNK = 64  # tokens of a prompt that are read at once


class Generated(NamedTuple):
    """What was generated."""

    tokens: Int[np.ndarray, "B A"]  # -1 where a sequence had ended
    count: Int[np.ndarray, "B"]  # tokens of each, its end token included
    ended: Bool[np.ndarray, "B"]  # whether it ended with an end token rather than at the limit

    def of(self, row: int) -> list[int]:
        """Tokens of a sequence."""
        return self.tokens[row, : self.count[row]].tolist()


class Inputs(NamedTuple):
    """What generation by any means is asked for, checked, and as arrays."""

    tokens: Int[np.ndarray, "B S"]  # prompts, padded to whole chunks
    length: Int[np.ndarray, "B"]  # of each prompt
    limit: int
    chunk: int
    most: int  # tokens of the longest prompt and its answer
    sampling: Sampling
    end: Int[np.ndarray, "e"]


def checked_inputs(
    owner: str,
    config: Config,
    prompts: Sequence[Sequence[int]],
    limit: int,
    sampling: Sampling | None,
    end: Sequence[int],
    chunk: int,
) -> Inputs:
    """Arguments of `generate` and `speculate`, made ready.

    Raises:
        TypeError, ValueError: one of them is not allowed; the message names the function and the argument.
    """
    check_arguments(owner, COUNT, limit=limit, chunk=chunk)
    limit, chunk = int(limit), int(chunk)
    tokens, length = padded(owner, prompts, config.vocabulary, chunk)
    if (most := int(length.max()) + limit) > config.context:
        allowed = f"at most the context ({config.context}); shorten the prompts or lower the limit"
        raise ValueError(f"{owner}.prompts and limit need {most} tokens; allowed: {allowed}")
    sampling = make_sampling(len(prompts), temperature=0.0) if sampling is None else sampling
    if np.shape(sampling.seed) != (len(prompts),):
        allowed = f"({len(prompts)},), one for each prompt; use make_sampling({len(prompts)}, ...)"
        raise ValueError(f"{owner}.sampling has settings of shape {np.shape(sampling.seed)}; allowed: {allowed}")
    check_prompt(f"{owner}.end", end if len(end) else [0], config.vocabulary)
    return Inputs(tokens, length, limit, chunk, most, sampling, np.array(end, np.int32))


def padded(
    owner: str, prompts: Sequence[Sequence[int]], vocabulary: int, chunk: int
) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, "B"]]:
    """Prompts as one array, as long as whole chunks, and their lengths.

    Raises:
        ValueError: there is no prompt, one is empty, or has a token that the vocabulary has not.
    """
    if not len(prompts):
        raise ValueError(f"{owner}.prompts is empty; allowed: at least one prompt")
    for index, prompt in enumerate(prompts):
        check_prompt(f"{owner}.prompts[{index}]", prompt, vocabulary)
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
    sampling: Sampling | None = None,
    end: Sequence[int] = (),
    *,
    room: int | None = None,
    chunk: int = CHUNK,
    dispatch: str | None = None,
) -> Generated:
    """Continue prompts until an end token or the limit.

    Args:
        config: of the model.
        weights: stacked, unstacked or fused (`model.fuse_experts`); stacked they are copied, fused they are read
            fastest.
        prompts: tokens of each, at least one.
        limit: A, tokens to add at most.
        sampling: settings, one for each prompt; by default greedy.
        end: tokens that end a sequence.
        room: tokens of the cache's rows; by default as many as are needed, in whole chunks.
        chunk: tokens of a prompt that are read at once.
        dispatch: its name; by default the fastest of each pass.

    Raises:
        TypeError, ValueError: an argument is not allowed, or prompt and limit together are longer than the context; the
            message names it.
        FloatingPointError: logits are not finite.
    """
    inputs = checked_inputs("generate", config, prompts, limit, sampling, end, chunk)
    whole = -(-inputs.most // inputs.chunk) * inputs.chunk
    room = whole if room is None else room
    if inputs.most > room:
        raise ValueError(f"generate.room is {room}; allowed: at least {inputs.most}, that prompts and limit need")
    model, cache = ServedModel(weights, config, dispatch), empty_cache(config, len(prompts), room=room)
    made = _generate(
        inputs.limit, inputs.chunk, model, cache, inputs.tokens, inputs.length, inputs.sampling, inputs.end
    )
    made = Generated(*jax.tree.map(np.asarray, made[:3]))
    check_tokens("generate", made.tokens, made.count)
    return made


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _generate(
    limit: int,
    chunk: int,
    model: ServedModel,
    cache: Cache,
    tokens: Int[Array, "B S"],
    length: Int[Array, "B"],
    sampling: Sampling,
    end: Int[Array, "e"],
) -> tuple[Int[Array, "B A"], Int[Array, "B"], Bool[Array, "B"], Cache]:
    """Prefill, then a step for each token; the cache is given back only so that it is written in place."""
    last, cache = prefill(model, cache, tokens, length, chunk)
    first = sample(logits(model, last), sampling, length)

    class Loop(NamedTuple):
        step: Array
        token: Array
        going: Array
        count: Array
        made: Array
        cache: Cache

    def note(step: Array, token: Array, going: Array, count: Array, made: Array) -> tuple[Array, Array, Array]:
        made = made.at[:, step].set(jnp.where(going, token, -1))
        return going & ~jnp.isin(token, end) & (token >= 0), count + going, made  # below 0: could not be drawn

    def more(loop: Loop) -> Array:
        return (loop.step < limit) & loop.going.any()

    def step(loop: Loop) -> Loop:
        x, cache = extend(model, loop.cache, loop.token[:, None], loop.going.astype(jnp.int32))
        token = sample(logits(model, x[:, 0]), sampling, cache.length)
        return Loop(loop.step + 1, token, *note(loop.step, token, loop.going, loop.count, loop.made), cache)

    nothing = jnp.zeros_like(length), jnp.full((len(tokens), limit), -1, jnp.int32)
    going = jnp.ones(len(tokens), bool)
    start = Loop(jnp.int32(1), first, *note(jnp.int32(0), first, going, *nothing), cache)
    loop = jax.lax.while_loop(more, step, start)
    return loop.made, loop.count, ~loop.going, loop.cache


def prefill(
    model: ServedModel, cache: Cache, tokens: Int[Array, "B S"], length: Int[Array, "B"], chunk: int
) -> tuple[Float[Array, "B D"], Cache]:
    """Read prompts chunk by chunk.

    Args:
        model: that reads.
        cache: in which all rows are of length 0.
        tokens: padded to whole chunks.
        length: of each prompt, at least 1.
        chunk: tokens of a chunk.

    Returns:
        The stream at the last token of each prompt, and the cache.
    """

    def read(index: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
        last, cache = carry
        some = jax.lax.dynamic_slice_in_dim(tokens, index * chunk, chunk, axis=1)
        count = jnp.clip(length - index * chunk, 0, chunk)
        x, cache = extend(model, cache, some, count)
        return jnp.where((count > 0)[:, None], last_of(x, count), last), cache

    last = jnp.zeros((len(tokens), model.config.d_model), model.weights.embedding.dtype)
    return jax.lax.fori_loop(0, tokens.shape[1] // chunk, read, (last, cache))
