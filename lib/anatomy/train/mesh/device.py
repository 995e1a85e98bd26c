"""What one device computes in a step: its stage of every micro-batch, forward and back."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from anatomy.model import Block, Config, Weights, block, moe, transformer
from anatomy.model.attention import causal
from anatomy.model.moe import Experts
from anatomy.model.moe.capacity import into_places
from anatomy.train.loop import Training
from anatomy.train.mesh.layout import REPLICAS, Ways, layout, named, partial_axes, vary
from anatomy.train.mesh.parts import gather_layer, gather_tables
from anatomy.train.mesh.timetable import slots, ticks, timetable


def over_experts(way: Ways, factor: float) -> moe.Dispatch:
    """Dispatch by all-to-all: each device lays its tokens into places of all experts, and computes those it holds.

    Places are `factor` times the even share; a factor of E / k and more never drops.
    """

    def dispatch(x: Float[Array, "T D"], choices: Any, experts: Experts) -> tuple[Array, Array]:
        count = experts.gate.shape[0] * way.expert
        places = min(len(x), math.ceil(factor * choices.expert.size / count))

        def compute(table: Float[Array, "E c D"]) -> Float[Array, "E c D"]:
            if way.expert > 1:
                table = lax.all_to_all(table, "expert", split_axis=0, concat_axis=1, tiled=True)
            made = jax.vmap(moe.expert)(table, experts)
            return lax.all_to_all(made, "expert", 1, 0, tiled=True) if way.expert > 1 else made

        return into_places(x, choices, count, places, compute)

    return dispatch


def layer_of(config: Config, way: Ways, factor: float, gather: Callable[[Block], Block]) -> Callable:
    """A layer of a stage: from weights, stream and tokens to the stream, and losses and drops of its router."""
    shared = transformer.Shared(
        spread=lambda x: vary(x, ("tensor",)),
        total=lambda part: lax.psum(part, "tensor"),
        mean=lambda own: lax.pmean(own, REPLICAS),
    )
    dispatch = over_experts(way, factor)

    def layer(given: Block, x: Float[Array, "B S D"], tokens: Int[Array, "B S"]) -> tuple[Array, Float[Array, "3"]]:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        x, _, routing = block(config, gather(given), x, tokens, positions, causal(positions), dispatch, shared)
        measured = jnp.stack([routing.balance, routing.z, lax.pmean(routing.dropped, REPLICAS)])
        return x, lax.pmean(vary(measured, ("tensor",)), "tensor")

    return layer


def split_cross_entropy(
    config: Config, norm: Array, unembedding: Array, x: Array, targets: Int[Array, "B S"]
) -> Float[Array, ""]:
    """Sum of the losses of all tokens, where each tensor way has a part of the vocabulary."""
    y = transformer.rms_norm(vary(x, ("tensor",)), norm, config.norm_epsilon)
    logits = y @ unembedding
    width = logits.shape[-1]
    highest = lax.pmax(lax.stop_gradient(logits.max(-1)), "tensor")
    total = lax.psum(jnp.exp(logits - highest[..., None]).sum(-1), "tensor")
    own = targets - lax.axis_index("tensor") * width
    inside = (own >= 0) & (own < width)
    picked = jnp.take_along_axis(logits, jnp.clip(own, 0, width - 1)[..., None], -1)[..., 0]
    return (jnp.log(total) + highest - lax.psum(jnp.where(inside, picked, 0.0), "tensor")).sum()


def device_gradients(
    config: Config, training: Training, way: Ways, factor: float, weights: Weights, rows: Int[Array, "m b length+1"]
) -> tuple[Weights, Float[Array, "4"]]:
    """Gradients of a step, summed over all that share an array, and loss, balance, z and dropped, everywhere the same.

    The objective is a sum over devices: each adds the losses of its tokens over the number of all, on the last stage,
    and its share of the losses of its layers' routers.
    """
    specs, m = layout(config, way), rows.shape[0]
    p, index = way.pipeline, lax.axis_index("pipeline")
    last = index == p - 1
    layer = layer_of(config, way, factor, gather_layer(config, way) if way.zero == 3 else lambda given: given)
    if way.zero == 3:
        weights = gather_tables(config, way, weights)
    weights = jax.tree.map(lambda a, name, spec: vary(a, partial_axes(name, spec)), weights, named(specs), specs)
    everywhere = ("data", "pipeline", "expert")  # the stream is the same on all tensor ways
    tokens_in_all = rows[..., 1:].size * way.replicas

    def enter(embedding: Array, x: Array, tokens: Array) -> Array:
        """What the first layer of this stage reads."""
        return jnp.where(index == 0, vary(embedding[tokens], everywhere), x)

    def part_of_loss(norm: Array, unembedding: Array, y: Array, targets: Array) -> Array:
        """Of the last stage; the others add nothing."""
        loss = split_cross_entropy(config, norm, unembedding, y, targets)
        return vary(jnp.where(last, loss, 0.0) / tokens_in_all, everywhere)

    shape = (*rows.shape[1:2], rows.shape[2] - 1, config.d_model)
    nothing = vary(jnp.zeros(shape, jnp.float32), everywhere)
    layers = config.layers // p
    held = vary(jnp.zeros((slots(way, m), layers + 1, *shape), jnp.float32), everywhere)  # what layers read, and y
    none = jax.tree.map(lambda a: vary(jnp.zeros(a.shape, a.dtype), tuple(jax.typeof(a).mat.varying)), weights)
    measured = vary(jnp.zeros(4, jnp.float32), everywhere)
    passes = config.layers * m  # of a router's losses, which are the same on all replicas
    of_routers = vary(jnp.array([training.balance, training.z, 0.0], jnp.float32) / m, ("pipeline",))

    def tick(carry: tuple, now: Array) -> tuple[tuple, None]:
        from_left, from_right, held, gradient, measured = carry
        kind, j = timetable(way, m, index, now)
        row, slot = rows[jnp.clip(j, 0, m - 1)], jnp.maximum(j, 0) % held.shape[0]
        tokens, targets = row[:, :-1], row[:, 1:]

        def wait(held: Array, gradient: Weights, measured: Array) -> tuple:
            return nothing, nothing, held, gradient, measured

        def go(held: Array, gradient: Weights, measured: Array) -> tuple:
            x = enter(weights.embedding, from_left, tokens)
            y, read = lax.scan(lambda x, given: (layer(given, x, tokens)[0], x), x, weights.blocks)
            read = jnp.concatenate([read, y[None]])
            return y, nothing, lax.dynamic_update_index_in_dim(held, read, slot, 0), gradient, measured

        def back(held: Array, gradient: Weights, measured: Array) -> tuple:
            read = lax.dynamic_index_in_dim(held, slot, keepdims=False)
            loss, pull = jax.vjp(partial(part_of_loss, targets=targets), weights.norm, weights.unembedding, read[-1])
            norm, unembedding, to_left = pull(vary(jnp.ones((), jnp.float32), everywhere))

            def again(to_left: Array, given: tuple[Block, Array]) -> tuple[Array, tuple[Block, Array]]:
                (_, routers), pull = jax.vjp(partial(layer, tokens=tokens), *given)
                more, to_left = pull((to_left, of_routers))
                return to_left, (more, routers)

            to_left = jnp.where(last, to_left, from_right)
            to_left, (blocks, routers) = lax.scan(again, to_left, (weights.blocks, read[:-1]), reverse=True)
            _, pull = jax.vjp(partial(enter, tokens=tokens), weights.embedding, nothing)
            embedding, to_left = pull(to_left)
            more = Weights(embedding, blocks, norm, unembedding)
            made = jnp.stack([loss, *vary(routers.sum(0), everywhere) / (passes * way.replicas)])
            return nothing, to_left, held, jax.tree.map(jnp.add, gradient, more), measured + made

        right, left, held, gradient, measured = lax.switch(kind, (wait, go, back), held, gradient, measured)
        if p > 1:
            right = lax.ppermute(right, "pipeline", [(i, i + 1) for i in range(p - 1)])
            left = lax.ppermute(left, "pipeline", [(i + 1, i) for i in range(p - 1)])
        return (right, left, held, gradient, measured), None

    start = (nothing, nothing, held, none, measured)
    (*_, gradient, measured), _ = lax.scan(tick, start, jnp.arange(ticks(way, m)))
    return gradient, lax.psum(measured, everywhere)
