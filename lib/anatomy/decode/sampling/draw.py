"""How the next token is drawn: greedily or at a temperature, from the k likeliest or from the top of the probability.

Settings are arrays with an entry for each sequence, so that one program serves all of them. A draw is keyed by the
sequence's seed and by the position of the token that is drawn, and by nothing else: it is the same whatever the
neighbours in the batch, and after a restart.

Logits that are no numbers, or infinite, are not drawn from: the token is then `INVALID`, and whoever fetches tokens on
the host raises an error (`check_tokens`).

Axes: B sequences, V tokens of the vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from anatomy.specs.base import between, check_arguments, refuse_where, register

LEAST = 1e-6  # temperature and top_p; below, single precision gives no numbers or the likeliest token
TEMPERATURE, TOP_K = between(high=100.0), between(1.0, whole=True)
TOP_P = between(LEAST, high=1.0) | {"allowed": f"a number from {LEAST:g} to 1; for the likeliest token use top_k=1"}
SEED = between(high=2**32 - 1, whole=True)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of B sequences.

    Attributes:
        temperature: by which logits are divided; 0 is greedy, the smallest other is `LEAST`.
        top_k: only so many of the likeliest tokens; as large as the vocabulary, all.
        top_p: only the likeliest tokens that together have this probability; 1 is all.
        seed: of a sequence.
    """

    temperature: Float[Array, "*B"]
    top_k: Int[Array, "*B"]
    top_p: Float[Array, "*B"]
    seed: UInt[Array, "*B"]


register(Sampling)

ALL = 2**31 - 1  # a top_k that keeps every token
INVALID = -1  # in place of a token that could not be drawn


def make_sampling(
    batch: int | None = None, *, temperature: float = 1.0, top_k: int = ALL, top_p: float = 1.0, seed: int = 0
) -> Sampling:
    """Settings, each given for all sequences or as a sequence of numbers, one for each.

    Args:
        batch: B, sequences; None makes settings of one sequence, without an axis.
        temperature: 0, which is greedy, or `LEAST` to 100.
        top_k: at least 1.
        top_p: `LEAST` to 1.
        seed: whole, 32 bits. One number gives the first sequence this seed and each further one the next, so that
            equal prompts get answers of their own; for equal draws give a number for each.

    Raises:
        TypeError, ValueError: a setting is not allowed; the message names it.
    """
    check_sampling("make_sampling", temperature, top_k, top_p, seed)
    shape = () if batch is None else (batch,)
    if batch is not None and np.ndim(seed) == 0:
        seed = (int(seed) + np.arange(batch)) % 2**32
    # As NumPy: nothing is computed on a device for what is only put there.
    put = lambda value, kind: np.broadcast_to(np.asarray(value).astype(kind), shape)  # noqa: E731
    return Sampling(
        put(temperature, np.float32),
        put(np.minimum(top_k, ALL), np.int32),
        put(top_p, np.float32),
        put(seed, np.uint32),
    )


def check_sampling(owner: str, temperature: Any, top_k: Any, top_p: Any, seed: Any) -> None:
    """Refuse settings that cannot be drawn by.

    Raises:
        TypeError, ValueError: a setting is not allowed; the message names it and its owner.
    """
    check_arguments(owner, TEMPERATURE, temperature=temperature)
    heat = np.asarray(temperature, float)
    allowed = f"0, or {LEAST:g} to 100; for the likeliest token use 0, which is greedy"
    refuse_where((heat > 0) & (heat < LEAST), f"{owner}.temperature", heat, allowed)
    check_arguments(owner, TOP_K, top_k=top_k)
    check_arguments(owner, TOP_P, top_p=top_p)
    check_arguments(owner, SEED, seed=seed)


def distribution(logits: Float[Array, "*B V"], sampling: Sampling) -> Float[Array, "*B V"]:
    """The distribution that a token is drawn from, after temperature, top-k and top-p, in this order.

    Greedy has all of it on the largest logit, the first of equals. Top-k and top-p keep all tokens that are as likely
    as the last one that is kept, so the order of equals never matters. Where a logit is no number or positive infinity,
    or none is finite, the whole distribution is no number.

    Args:
        logits: of each sequence.
        sampling: settings of each sequence; where `logits` has further axes in front of V, with as many of size 1.
    """
    vocabulary, greedy = logits.shape[-1], (sampling.temperature == 0)[..., None]
    heat = jnp.where(greedy, 1, sampling.temperature[..., None]).astype(logits.dtype)
    p = jax.nn.softmax(logits / heat)
    valid = jnp.isfinite(p).all(-1, keepdims=True)
    top_k, top_p = sampling.top_k[..., None], sampling.top_p[..., None].astype(p.dtype)
    p = jax.lax.cond(
        jnp.any((top_k < vocabulary) & ~greedy),
        lambda p: _kept(p, jnp.ones_like(p), jnp.minimum(top_k, vocabulary).astype(p.dtype)),
        lambda p: p,
        p,
    )
    p = jax.lax.cond(
        jnp.any((top_p < 1) & ~greedy),
        lambda p: jnp.where(top_p < 1, _kept(p, p, top_p), p),
        lambda p: p,
        p,
    )
    best = jax.nn.one_hot(jnp.argmax(logits, axis=-1), vocabulary, dtype=p.dtype)
    return jnp.where(valid, jnp.where(greedy, best, p), jnp.nan)


def _kept(p: Float[Array, "*B V"], weight: Float[Array, "*B V"], needed: Float[Array, "*B 1"]) -> Float[Array, "*B V"]:
    """p on the fewest likeliest tokens whose weights add up to what is needed, renormalised.

    The probability of the last token kept is found bit by bit: positive numbers are in the order of their bits, so no
    sort is needed, which a CPU does slowly.
    """
    kind = jnp.uint32 if p.dtype == jnp.float32 else jnp.uint64
    bits = jax.lax.bitcast_convert_type(p, kind)

    def narrower(index: Array, lowest: Array) -> Array:
        higher = lowest | (kind(1) << (jnp.finfo(p.dtype).bits - 2 - index).astype(kind))
        enough = jnp.sum(jnp.where(bits >= higher, weight, 0), axis=-1, keepdims=True) >= needed
        return jnp.where(enough, higher, lowest)

    lowest = jax.lax.fori_loop(0, jnp.finfo(p.dtype).bits - 1, narrower, jnp.zeros((*p.shape[:-1], 1), kind))
    kept = jnp.where(bits >= lowest, p, 0)
    return kept / kept.sum(-1, keepdims=True)


def uniform(
    seed: UInt[Array, "*B"], position: Int[Array, "*B"], stream: int | Int[np.ndarray, "*B"] = 0
) -> Float[Array, "*B"]:
    """A number from [0, 1) for each sequence and position, the same ever after.

    Args:
        seed: of the sequence.
        position: of the token that is decided.
        stream: which of the independent numbers of this position: 0 draws the token; speculation needs more.
    """

    def one(seed: Array, position: Array, stream: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), position), stream)
        return jax.random.uniform(key, dtype=jnp.float32)

    return jnp.vectorize(one)(seed, position, jnp.asarray(stream, jnp.int32))


def draw(weight: Float[Array, "*B V"], u: Float[Array, "*B"]) -> Int[Array, "*B"]:
    """The token at this share of the summed weights: for a uniform share, a draw in proportion to the weights.

    Weights need not add up to 1, so a residual of two distributions may be drawn from as it is. A token of weight 0 is
    never drawn. Where weights add up to nothing, or to no finite number, the token is `INVALID`.
    """
    upto = jnp.cumsum(weight, axis=-1)
    found = (upto > u[..., None] * upto[..., -1:]) & (weight > 0)
    # Sums may round so that the share lies past the last token.
    token = jnp.where(found.any(-1), jnp.argmax(found, axis=-1), jnp.argmax(weight, axis=-1)).astype(jnp.int32)
    return jnp.where(jnp.isfinite(upto[..., -1]) & (upto[..., -1] > 0), token, INVALID)


def sample(logits: Float[Array, "*B V"], sampling: Sampling, position: Int[Array, "*B"]) -> Int[Array, "*B"]:
    """The next token of each sequence, which will stand at `position`."""
    return draw(distribution(logits, sampling), uniform(sampling.seed, position))


def check_tokens(owner: str, tokens: Int[np.ndarray, "B A"], count: Int[np.ndarray, "B"]) -> None:
    """Refuse what was drawn from logits that are no finite numbers.

    Args:
        owner: function that made them.
        tokens: of each sequence.
        count: how many of them there are.

    Raises:
        FloatingPointError: one of them is `INVALID`; the message has its place.
    """
    wrong = (tokens == INVALID) & (np.arange(tokens.shape[1]) < count[:, None])
    if wrong.any():
        row = int(np.argmax(wrong.any(1)))
        raise FloatingPointError(
            f"{owner}: the logits of sequence {row} are not finite at new token {int(np.argmax(wrong[row]))}; "
            "allowed: finite numbers. Look for NaN or infinity in the weights"
        )
