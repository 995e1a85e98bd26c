"""How the next token is drawn: greedily or at a temperature, from the k likeliest or from the top of the probability.

Settings are arrays with an entry for each sequence, so that one program serves all of them. A draw is keyed by the
sequence's seed and by the position of the token that is drawn, and by nothing else: it is the same whatever the
neighbours in the batch, and after a restart.

Axes: B sequences, V tokens of the vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from anatomy.specs.base import between, check_arguments, register

TEMPERATURE, TOP_K, TOP_P = between(high=100.0), between(1.0, whole=True), between(above=0.0, high=1.0)
SEED = between(high=2**32 - 1, whole=True)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Settings of B sequences.

    Attributes:
        temperature: by which logits are divided; 0 is greedy.
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


def sampling(
    sequences: int | None = None, *, temperature: float = 1.0, top_k: int = ALL, top_p: float = 1.0, seed: int = 0
) -> Sampling:
    """Settings, each given for all sequences alike or as a sequence of numbers, one for each.

    Args:
        sequences: B; None makes settings of one sequence, without an axis.
        temperature: 0 to 100.
        top_k: at least 1.
        top_p: above 0, at most 1.
        seed: whole, 32 bits.

    Raises:
        TypeError, ValueError: a setting is not allowed; the message names it.
    """
    check_arguments("sampling", TEMPERATURE, temperature=temperature)
    check_arguments("sampling", TOP_K, top_k=top_k)
    check_arguments("sampling", TOP_P, top_p=top_p)
    check_arguments("sampling", SEED, seed=seed)
    shape = () if sequences is None else (sequences,)
    # As NumPy: nothing is computed on a device for what is only put there.
    put = lambda value, kind: np.broadcast_to(np.asarray(value).astype(kind), shape)  # noqa: E731
    return Sampling(
        put(temperature, np.float32),
        put(np.minimum(top_k, ALL), np.int32),
        put(top_p, np.float32),
        put(seed, np.uint32),
    )


def distribution(logits: Float[Array, "*B V"], how: Sampling) -> Float[Array, "*B V"]:
    """The distribution that a token is drawn from, after temperature, top-k and top-p, in this order.

    Greedy has all of it on the largest logit, the first of equals. Top-k and top-p keep all tokens that are as likely
    as the last one that is kept, so the order of equals never matters.

    Args:
        logits: of each sequence.
        how: settings of each sequence; where `logits` has further axes in front of V, with as many of size 1.
    """
    vocabulary, greedy = logits.shape[-1], (how.temperature == 0)[..., None]
    heat = jnp.where(greedy, 1, how.temperature[..., None]).astype(logits.dtype)
    p = jax.nn.softmax(logits / heat)
    top_k, top_p = how.top_k[..., None], how.top_p[..., None].astype(p.dtype)
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
    return jnp.where(greedy, best, p)


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


def draw(weight: Float[Array, "*B V"], at: Float[Array, "*B"]) -> Int[Array, "*B"]:
    """The token at this share of the summed weights: for a uniform share, a draw in proportion to the weights.

    Weights need not add up to 1, so the rest of two distributions may be drawn from as it is. A token of weight 0 is
    never drawn.
    """
    upto = jnp.cumsum(weight, axis=-1)
    found = (upto > at[..., None] * upto[..., -1:]) & (weight > 0)
    # Sums may round so that the share lies past the last token.
    return jnp.where(found.any(-1), jnp.argmax(found, axis=-1), jnp.argmax(weight, axis=-1)).astype(jnp.int32)


def sample(logits: Float[Array, "*B V"], how: Sampling, position: Int[Array, "*B"]) -> Int[Array, "*B"]:
    """The next token of each sequence, which will stand at `position`."""
    return draw(distribution(logits, how), uniform(how.seed, position))
