"""The small model: a decoder-only mixture of experts, from tokens to logits.

Named axes, here and in the other files of this room:

    B sequences, S tokens of each, T = B S tokens in all, N tokens that a cache can hold;
    V vocabulary, D d_model, H query heads, K KV heads, C width of a head,
    E experts, F width of an expert, L layers.

Everything is a pure function of weights; weights are dataclasses of arrays that JAX can walk through. Weights of
all layers are stacked along L to be trained, and unstacked, layer by layer and expert by expert, to be served.

Source: jiang2024mixtral for the whole; zhang2019rmsnorm, su2024roformer, shazeer2019mqa, ainslie2023gqa,
shazeer2020glu and shazeer2017moe for its parts.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from anatomy.model import moe
from anatomy.model.attention import Attention, Rows, cached, causal, rotate
from anatomy.model.config import Config
from anatomy.model.moe.experts import Experts, fuse
from anatomy.model.moe.experts import unstack as unstack_experts
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


class Output(NamedTuple):
    """What a pass gives, besides logits what training and the chapters look at."""

    logits: Float[Array, "B S V"]
    balance: Float[Array, ""]  # losses of the routers, mean over layers
    z: Float[Array, ""]
    dropped: Float[Array, ""]  # share of the choices of tokens that no expert took
    load: Float[Array, "L E"]  # share of the choices that fell on each expert
    cache: Rows | None


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
for _tree in (Block, Weights):
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


def block(
    config: Config,
    weights: Block,
    x: Float[Array, "B S D"],
    tokens: Int[Array, "B S"],
    positions: Int[Array, "B S"],
    attention: Attention,
    dispatch: moe.Dispatch = moe.all_experts,
    shared: Shared = ALONE,
    mask: Bool[Array, "B S"] | None = None,
) -> tuple[Float[Array, "B S D"], Any, moe.Routing]:
    """One layer: attention, then experts, each reading a norm of the stream and adding to it.

    Heads are counted from the weights, so that a chip may hold some of them (shoeybi2019megatron).

    Args:
        config: of the model.
        weights: of this layer.
        x: the residual stream.
        tokens: ids; hash routing goes by them.
        positions: of the tokens.
        attention: keeps keys and values, and reads them.
        dispatch: brings tokens to experts.
        shared: how chips that share the layer work together.
        mask: which tokens are real; None: all.

    Returns:
        The stream; the cache as the attention leaves it; and what the router did.
    """

    def heads(y: Float[Array, "B S HC"]) -> Float[Array, "B S H C"]:
        return y.reshape(*y.shape[:2], -1, config.head_dim)

    y = rms_norm(shared.spread(x), weights.attention_norm, config.norm_epsilon)
    query = rotate(heads(y @ weights.query), positions, config)
    key, value = rotate(heads(y @ weights.key), positions, config), heads(y @ weights.value)
    context, cache = attention(query, key, value)
    x = x + shared.total(context @ weights.output)

    y = rms_norm(shared.spread(x), weights.experts_norm, config.norm_epsilon).reshape(-1, x.shape[-1])
    real = None if mask is None else mask.reshape(-1)
    routing = moe.route(config, y @ weights.router, tokens.reshape(-1), shared.mean, real)
    mixed, dropped = dispatch(y, routing.choices, weights.experts)
    x = x + shared.total(mixed).reshape(x.shape)
    return x, cache, routing._replace(dropped=dropped)


def forward(
    config: Config,
    weights: Weights,
    tokens: Int[Array, "B S"],
    cache: Rows | None = None,
    dispatch: moe.Dispatch = moe.all_experts,
    mask: Bool[Array, "B S"] | None = None,
) -> Output:
    """Logits of the token after each token.

    Padding stands behind the real tokens of its sequence. Nothing of it reaches them: they do not look ahead, and it
    takes no expert's place and no part in losses, load and dropped share. At equal shapes the same real tokens give the
    same to the last bit, whatever padding stands beside them.

    Args:
        config: of the model.
        weights: stacked or unstacked.
        tokens: ids; with a cache they follow those that it holds.
        cache: of earlier tokens, or none.
        dispatch: brings tokens to experts; one of `moe.TRAINABLE`.
        mask: which tokens are real, and no padding; None: all. Logits of padding mean nothing. A cache grows by the
            real tokens.

    Raises:
        ValueError: a sequence has more tokens than the context or than the cache has room for, a token is beyond the
            vocabulary, the weights have another number of layers, or a mask has another shape than the tokens or a real
            token behind padding. Values are looked at where they are known.
    """
    _check(config, weights, tokens, cache)
    check_mask(tokens, mask)
    positions = positions_of(tokens, cache)
    x = weights.embedding[tokens]

    def layer(x: Array, inputs: tuple[Block, tuple[Array, Array] | None]) -> tuple[Array, tuple]:
        weights, past = inputs
        attention = causal(positions) if past is None else cached(past, positions)
        x, past, routing = block(config, weights, x, tokens, positions, attention, dispatch, mask=mask)
        return x, (past, routing._replace(choices=None))

    past = None if cache is None else (cache.key, cache.value)
    if isinstance(weights.blocks, tuple):
        each = []
        for index, one in enumerate(weights.blocks):
            x, made = layer(x, (one, None if past is None else (cache.key[index], cache.value[index])))
            each.append(made)
        kept, routings = zip(*each, strict=True)
        past = None if cache is None else tuple(zip(*kept, strict=True))
        routing = jax.tree.map(lambda *parts: jnp.stack(parts), *routings)
    else:
        past = None if past is None else tuple(map(jnp.stack, past))
        # Layers that are unrolled cost no copies of what gradients need; deep models compile as a loop of eights.
        x, (past, routing) = jax.lax.scan(layer, x, (weights.blocks, past), unroll=8)

    logits = rms_norm(x, weights.norm, config.norm_epsilon) @ weights.unembedding
    return output(logits, routing, grown(cache, past, tokens, mask))


def positions_of(tokens: Int[Array, "B S"], cache: Rows | None) -> Int[Array, "B S"]:
    """Positions of tokens that follow those of a cache, or begin where there is none."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return positions if cache is None else positions + cache.length[:, None]


def grown(cache: Rows | None, past: Any, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"] | None) -> Rows | None:
    """A cache with these keys and values, L of each, and the lengths that the real tokens make."""
    if cache is None:
        return None
    added = tokens.shape[1] if mask is None else mask.sum(1, dtype=jnp.int32)
    return Rows(tuple(past[0]), tuple(past[1]), cache.length + added)


def output(logits: Float[Array, "B S V"], routing: moe.Routing, cache: Rows | None) -> Output:
    """What a pass gives, from the routing of all layers with L in front."""
    return Output(logits, routing.balance.mean(), routing.z.mean(), routing.dropped.mean(), routing.load, cache)


def _check(config: Config, weights: Weights, tokens: Int[Array, "B S"], cache: Rows | None) -> None:
    """Refuse what `forward` cannot compute."""
    check_types("forward", config=(config, Config), weights=(weights, Weights))
    check_types("forward", tokens=(tokens, hasattr(tokens, "shape"), "an array of ids"))
    layers = len(weights.blocks) if isinstance(weights.blocks, tuple) else len(weights.blocks.attention_norm)
    if layers != config.layers:
        raise ValueError(f"weights have {layers} layers; allowed: {config.layers}, Config.layers")
    room, limit = config.context, "Config.context"
    if cache is not None and cache.room < room:
        room, limit = cache.room, "room of the cache"
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


def unstack(weights: Weights) -> Weights:
    """The same weights with each layer and each expert in arrays of its own, as serving reads them fastest."""
    if isinstance(weights.blocks, tuple):
        return weights
    layers = weights.blocks.attention_norm.shape[0]
    blocks = [jax.tree.map(lambda a, i=i: a[i], weights.blocks) for i in range(layers)]
    return dataclasses.replace(
        weights, blocks=tuple(dataclasses.replace(b, experts=unstack_experts(b.experts)) for b in blocks)
    )


def fuse_experts(weights: Weights) -> Weights:
    """The same weights unstacked, with fused experts: a copy, which serves faster. What is fused stays as it is."""
    weights = unstack(weights)
    blocks = tuple(dataclasses.replace(b, experts=tuple(map(fuse, b.experts))) for b in weights.blocks)
    return dataclasses.replace(weights, blocks=blocks)
