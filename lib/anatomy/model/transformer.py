"""The small model: a decoder-only mixture of experts, from tokens to logits, in one file.

Named axes, here and in the other files of this room:

    B sequences, S tokens of each, T = B S tokens in all, N tokens that a cache can hold;
    V vocabulary, D d_model, H query heads, K key and value heads, C width of a head,
    E experts, F width of an expert, L layers.

Everything is a pure function of weights; weights are dataclasses of arrays that JAX can walk through. Weights of
all layers are stacked along L to be trained, and apart, layer by layer and expert by expert, to be served.

Source: jiang2024mixtral for the whole; zhang2019rmsnorm, su2024roformer, shazeer2019mqa, ainslie2023gqa,
shazeer2020glu and shazeer2017moe for its parts.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anatomy.model import dispatch, routing
from anatomy.model.config import Config
from anatomy.model.dispatch import Dispatch, Experts
from anatomy.specs.base import check_types, is_concrete, register


@dataclasses.dataclass(frozen=True)
class Block:
    """Weights of a layer, or of all of them with L in front."""

    attention_norm: Float[Array, "*L D"]
    query: Float[Array, "*L D HC"]
    key: Float[Array, "*L D KC"]
    value: Float[Array, "*L D KC"]
    output: Float[Array, "*L HC D"]
    experts_norm: Float[Array, "*L D"]
    router: Float[Array, "*L D E"]
    experts: Experts


@dataclasses.dataclass(frozen=True)
class Weights:
    """All weights. `blocks` is one `Block` with L in front, or a tuple of blocks."""

    embedding: Float[Array, "V D"]
    blocks: Block | tuple[Block, ...]
    norm: Float[Array, "D"]
    unembedding: Float[Array, "D V"]


@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens seen so far, a row for each sequence."""

    key: Float[Array, "L B N K C"]
    value: Float[Array, "L B N K C"]
    length: Int[Array, "B"]


class Output(NamedTuple):
    """What a pass gives, besides logits what training and the chapters look at."""

    logits: Float[Array, "B S V"]
    balance: Float[Array, ""]  # losses of the routers, mean over layers
    z: Float[Array, ""]
    dropped: Float[Array, ""]  # share of the choices of tokens that no expert took
    load: Float[Array, "L E"]  # share of the choices that fell on each expert
    cache: Cache | None


class Shared(NamedTuple):
    """How chips that share a layer work together; on one chip each of these leaves its argument as it is.

    With tensor ways a chip has some of the heads and a part of every expert. `spread` hands the stream to all of
    them, which adds up its gradients on the way back; `total` adds up what they computed (shoeybi2019megatron, f and
    g). `mean` averages over the chips that have other tokens.
    """

    spread: Callable[[Array], Array] = lambda whole: whole
    total: Callable[[Array], Array] = lambda part: part
    mean: Callable[[Array], Array] = lambda own: own


ALONE = Shared()
for _tree in (Block, Weights, Cache):
    register(_tree)


def init(config: Config, key: PRNGKeyArray) -> Weights:
    """Weights to begin training from.

    Matrices are normal with deviation 1 / sqrt(inputs), those that write to the residual stream smaller by
    sqrt(2 L), so that its size does not grow with depth (radford2019language, section 2.3).
    """
    check_types("init", config=(config, Config))
    c = config
    width, narrow = c.heads * c.head_dim, c.kv_heads * c.head_dim
    shapes = {
        "query": (c.d_model, width), "key": (c.d_model, narrow), "value": (c.d_model, narrow),
        "output": (width, c.d_model), "router": (c.d_model, c.experts),
        "gate": (c.experts, c.d_model, c.d_ff), "up": (c.experts, c.d_model, c.d_ff),
        "down": (c.experts, c.d_ff, c.d_model),
    }  # fmt: skip
    keys = dict(zip((*shapes, "embedding", "unembedding"), jax.random.split(key, len(shapes) + 2), strict=True))

    def normal(name: str, shape: tuple[int, ...], deviation: float) -> Array:
        return deviation * jax.random.normal(keys[name], shape, jnp.float32)

    def matrix(name: str) -> Array:
        writes = (2 * c.layers) ** -0.5 if name in ("output", "down") else 1.0
        return normal(name, (c.layers, *shapes[name]), writes * shapes[name][-2] ** -0.5)

    ones = jnp.ones((c.layers, c.d_model), jnp.float32)
    blocks = Block(
        attention_norm=ones,
        **{name: matrix(name) for name in ("query", "key", "value", "output", "router")},
        experts_norm=ones,
        experts=Experts(*(matrix(name) for name in ("gate", "up", "down"))),
    )
    return Weights(
        embedding=normal("embedding", (c.vocabulary, c.d_model), 0.02),
        blocks=blocks,
        norm=ones[0],
        unembedding=normal("unembedding", (c.d_model, c.vocabulary), c.d_model**-0.5),
    )


def rms_norm(x: Float[Array, "... D"], scale: Float[Array, "D"], epsilon: float) -> Float[Array, "... D"]:
    """x over its root mean square, times a learned scale (zhang2019rmsnorm)."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * scale


def rotate(x: Float[Array, "B S H C"], positions: Int[Array, "B S"], config: Config) -> Float[Array, "B S H C"]:
    """Rotary positions: pairs (i, i + C/2) of a head turn by position / base^(2i / C) (su2024roformer).

    Positions are divided by `rope_scale`, as in position interpolation (chen2023pi).
    """
    half = config.head_dim // 2
    rate = config.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half) / config.rope_scale
    angle = positions[:, :, None, None].astype(jnp.float32) * rate
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attend(
    query: Float[Array, "B S H C"],
    key: Float[Array, "B N K C"],
    value: Float[Array, "B N K C"],
    positions: Int[Array, "B S"],
) -> Float[Array, "B S HC"]:
    """Each token looks at those up to its own position; H / K query heads share a key and value head.

    The queries of a group are laid one after the other, so that each key head is one matrix product: on a CPU twice as
    fast as `jax.nn.dot_product_attention`.
    """
    (b, s, h, c), (n, k) = query.shape, key.shape[1:3]
    query = query.reshape(b, s, k, h // k, c).transpose(0, 2, 3, 1, 4).reshape(b, k, -1, c)
    scores = query @ key.transpose(0, 2, 3, 1) * c**-0.5
    visible = jnp.arange(n) <= jnp.tile(positions, (1, h // k))[:, None, :, None]
    mixed = jax.nn.softmax(jnp.where(visible, scores, -1e30)) @ value.transpose(0, 2, 1, 3)
    return mixed.reshape(b, k, h // k, s, c).transpose(0, 3, 1, 2, 4).reshape(b, s, -1)


def block(
    config: Config,
    weights: Block,
    x: Float[Array, "B S D"],
    tokens: Int[Array, "B S"],
    positions: Int[Array, "B S"],
    past: tuple[Float[Array, "B N K C"], Float[Array, "B N K C"]] | None = None,
    send: Dispatch = dispatch.all_experts,
    shared: Shared = ALONE,
    mask: Bool[Array, "B S"] | None = None,
) -> tuple[Float[Array, "B S D"], tuple[Array, Array], routing.Routed]:
    """One layer: attention, then experts, each reading a norm of the stream and adding to it.

    Heads are counted from the weights, so that a chip may hold some of them (shoeybi2019megatron).

    Args:
        config: of the model.
        weights: of this layer.
        x: the residual stream.
        tokens: ids; hash routing goes by them.
        positions: of the tokens.
        past: keys and values of a cache, into which those of these tokens are written.
        send: brings tokens to experts.
        shared: how chips that share the layer work together.
        mask: which tokens are real; None: all.

    Returns:
        The stream; keys and values, with those of the cache; and what the router did.
    """

    def heads(y: Float[Array, "B S HC"]) -> Float[Array, "B S H C"]:
        return y.reshape(*y.shape[:2], -1, config.head_dim)

    y = rms_norm(shared.spread(x), weights.attention_norm, config.norm_epsilon)
    query = rotate(heads(y @ weights.query), positions, config)
    key, value = rotate(heads(y @ weights.key), positions, config), heads(y @ weights.value)
    if past is not None:
        row = jnp.arange(x.shape[0])[:, None]
        key, value = (old.at[row, positions].set(new) for old, new in zip(past, (key, value), strict=True))
    x = x + shared.total(attend(query, key, value, positions) @ weights.output)

    y = rms_norm(shared.spread(x), weights.experts_norm, config.norm_epsilon).reshape(-1, x.shape[-1])
    real = None if mask is None else mask.reshape(-1)
    routed = routing.route(config, y @ weights.router, tokens.reshape(-1), shared.mean, real)
    mixed, dropped = send(y, routed.choices, weights.experts)
    x = x + shared.total(mixed).reshape(x.shape)
    return x, (key, value), routed._replace(dropped=dropped)


def forward(
    config: Config,
    weights: Weights,
    tokens: Int[Array, "B S"],
    cache: Cache | None = None,
    send: Dispatch = dispatch.all_experts,
    mask: Bool[Array, "B S"] | None = None,
) -> Output:
    """Logits of the token after each token.

    Padding stands behind the real tokens of its sequence. Nothing of it reaches them: they do not look ahead, and it
    takes no expert's place and no part in losses, load and dropped share. At equal shapes the same real tokens give the
    same to the last bit, whatever padding stands beside them.

    Args:
        config: of the model.
        weights: stacked or apart.
        tokens: ids; with a cache they follow those that it holds.
        cache: of earlier tokens, or none.
        send: brings tokens to experts; see `dispatch`.
        mask: which tokens are real, and no padding; None: all. Logits of padding mean nothing. A cache grows by the
            real tokens.

    Raises:
        ValueError: a sequence has more tokens than the context or than the cache has room for, a token is beyond the
            vocabulary, the weights have another number of layers, or a mask has another shape than the tokens or a real
            token behind padding. Values are looked at where they are known.
    """
    _check(config, weights, tokens, cache)
    check_mask(tokens, mask)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    if cache is not None:
        positions = positions + cache.length[:, None]
    x = weights.embedding[tokens]

    def layer(x: Array, given: tuple[Block, tuple[Array, Array] | None]) -> tuple[Array, tuple]:
        x, held, routed = block(config, given[0], x, tokens, positions, given[1], send, mask=mask)
        return x, (held if cache is not None else None, routed.balance, routed.z, routed.dropped, routed.load)

    past = None if cache is None else (cache.key, cache.value)
    if isinstance(weights.blocks, tuple):
        each = []
        for index, one in enumerate(weights.blocks):
            x, made = layer(x, (one, jax.tree.map(lambda a, i=index: a[i], past)))
            each.append(made)
        held, balance, z, dropped, load = jax.tree.map(lambda *parts: jnp.stack(parts), *each)
    else:
        # Layers that are unrolled cost no copies of what gradients need; deep models compile as a loop of eights.
        x, (held, balance, z, dropped, load) = jax.lax.scan(layer, x, (weights.blocks, past), unroll=8)

    logits = rms_norm(x, weights.norm, config.norm_epsilon) @ weights.unembedding
    if cache is not None:
        cache = Cache(*held, cache.length + (tokens.shape[1] if mask is None else mask.sum(1, dtype=jnp.int32)))
    return Output(logits, balance.mean(), z.mean(), dropped.mean(), load, cache)


def _check(config: Config, weights: Weights, tokens: Int[Array, "B S"], cache: Cache | None) -> None:
    """Refuse what `forward` cannot compute."""
    check_types("forward", config=(config, Config), weights=(weights, Weights))
    check_types("forward", tokens=(tokens, hasattr(tokens, "shape"), "an array of ids"))
    layers = len(weights.blocks) if isinstance(weights.blocks, tuple) else len(weights.blocks.attention_norm)
    if layers != config.layers:
        raise ValueError(f"weights have {layers} layers; allowed: {config.layers}, Config.layers")
    room, limit = config.context, "Config.context"
    if cache is not None and cache.key.shape[2] < room:
        room, limit = cache.key.shape[2], "room of the cache"
    held = 0 if cache is None or not is_concrete(cache.length) else int(np.max(cache.length))
    if held + tokens.shape[1] > room:
        raise ValueError(f"tokens of a sequence are {held + tokens.shape[1]}; allowed: at most {room}, the {limit}")
    if is_concrete(tokens) and ((wrong := (np.asarray(tokens) < 0) | (np.asarray(tokens) >= config.vocabulary)).any()):
        token = np.asarray(tokens)[wrong][0]
        raise ValueError(f"a token is {token}; allowed: 0 to {config.vocabulary - 1}, below Config.vocabulary")


def check_mask(tokens: Int[Array, "B S"], mask: Bool[Array, "B S"] | None) -> None:
    """Refuse a mask that is not one of these tokens, or that has padding in front of a real token.

    Raises:
        ValueError: as above; the message says what is allowed.
    """
    if mask is None:
        return
    if mask.shape != tokens.shape or mask.dtype != bool:
        allowed = f"{tokens.shape} of bool, as tokens; give one truth value for each token"
        raise ValueError(f"forward.mask is {mask.shape} of {mask.dtype}; allowed: {allowed}")
    if is_concrete(mask) and (gap := ~np.asarray(mask)[:, :-1] & np.asarray(mask)[:, 1:]).any():
        row = int(np.argmax(gap.any(1)))
        raise ValueError(f"forward.mask has padding before a token in row {row}; allowed: padding at the end only")


def empty_cache(config: Config, sequences: int, room: int | None = None) -> Cache:
    """A cache for so many sequences of up to `room` tokens, by default the model's context."""
    shape = (config.layers, sequences, room or config.context, config.kv_heads, config.head_dim)
    return Cache(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32), jnp.zeros(sequences, jnp.int32))


def apart(weights: Weights) -> Weights:
    """The same weights with each layer and each expert in arrays of its own, as serving reads them fastest."""
    if isinstance(weights.blocks, tuple):
        return weights
    layers = weights.blocks.attention_norm.shape[0]
    blocks = [jax.tree.map(lambda a, i=i: a[i], weights.blocks) for i in range(layers)]
    return dataclasses.replace(
        weights, blocks=tuple(dataclasses.replace(b, experts=dispatch.each_expert(b.experts)) for b in blocks)
    )
