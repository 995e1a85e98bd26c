"""What one device computes in a step: its stage of every micro-batch, forward and back."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from anatomy.model import Block, Config, Weights, block, dispatch, transformer
from anatomy.model.dispatch import Experts
from anatomy.train.loop import Training
from anatomy.train.mesh.layout import REPLICAS, Ways, layout, named, partial_axes, vary
from anatomy.train.mesh.parts import gather_layer, gather_tables
from anatomy.train.mesh.timetable import slots, ticks, timetable


def over_experts(way: Ways, factor: float) -> dispatch.Dispatch:
    """Dispatch by all-to-all: each device lays its tokens into places of all experts, and computes those it holds.

    Places are `factor` times the even share; a factor of E / k and more never drops.
    """

    def send(x: Float[Array, "T D"], choices: Any, experts: Experts) -> tuple[Array, Array]:
        count = experts.gate.shape[0] * way.expert
        places = min(len(x), math.ceil(factor * choices.expert.size / count))

        def compute(table: Float[Array, "E c D"]) -> Float[Array, "E c D"]:
            if way.expert > 1:
                table = lax.all_to_all(table, "expert", split_axis=0, concat_axis=1, tiled=True)
            made = jax.vmap(dispatch.expert)(table, experts)
            return lax.all_to_all(made, "expert", 1, 0, tiled=True) if way.expert > 1 else made

        return dispatch.into_places(x, choices, count, places, compute)

    return send


def stage_of(config: Config, way: Ways, factor: float, gather: Callable[[Block], Block]) -> Callable:
    """The layers of a stage: from stream to stream, with losses and drops of the routers, summed over layers."""
    shared = transformer.Shared(
        spread=lambda x: vary(x, ("tensor",)),
        total=lambda part: lax.psum(part, "tensor"),
        mean=lambda own: lax.pmean(own, REPLICAS),
    )
    send = over_experts(way, factor)

    def layer(x: Array, given: Block, tokens: Array, positions: Array) -> tuple[Array, Array]:
        x, _, routed = block(config, gather(given), x, tokens, positions, None, send, shared)
        measured = jnp.stack([routed.balance, routed.z, lax.pmean(routed.dropped, REPLICAS)])
        return x, lax.pmean(vary(measured, ("tensor",)), "tensor")

    def stage(blocks: Block, x: Float[Array, "B S D"], tokens: Int[Array, "B S"]) -> tuple[Array, Float[Array, "3"]]:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        one = jax.checkpoint(partial(layer, tokens=tokens, positions=positions))
        x, measured = lax.scan(one, x, blocks)
        return x, measured.sum(0)

    return stage


def split_cross_entropy(config: Config, weights: Weights, x: Array, targets: Int[Array, "B S"]) -> Float[Array, ""]:
    """Sum of the losses of all tokens, where each tensor way has a part of the vocabulary."""
    y = transformer.rms_norm(vary(x, ("tensor",)), weights.norm, config.norm_epsilon)
    logits = y @ weights.unembedding
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
    gather = gather_layer(config, way) if way.zero == 3 else lambda given: given
    stage = stage_of(config, way, factor, gather)
    if way.zero == 3:
        weights = gather_tables(config, way, weights)
    weights = jax.tree.map(lambda a, name, spec: vary(a, partial_axes(name, spec)), weights, named(specs), specs)
    everywhere = ("data", "pipeline", "expert")  # the stream is the same on all tensor ways
    tokens_in_all = rows[..., 1:].size * way.replicas

    def passed(weights: Weights, x: Array, row: Array) -> tuple[Array, Array]:
        """One micro-batch through this stage: what it sends on, and its part of the objective and of the measures."""
        tokens, targets = row[:, :-1], row[:, 1:]
        x = jnp.where(index == 0, vary(weights.embedding[tokens], everywhere), x)
        y, routers = stage(weights.blocks, x, tokens)
        loss = jnp.where(last, split_cross_entropy(config, weights, y, targets), 0.0) / tokens_in_all
        routers = vary(routers, everywhere) / (config.layers * m * way.replicas)
        objective = loss + training.balance * routers[0] + training.z * routers[1]
        return y, jnp.stack([objective, vary(loss, everywhere), *routers])

    shape = (*rows.shape[1:2], rows.shape[2] - 1, config.d_model)
    nothing = vary(jnp.zeros(shape, jnp.float32), everywhere)
    held = vary(jnp.zeros((slots(way, m), *shape), jnp.float32), everywhere)
    none = jax.tree.map(lambda a: vary(jnp.zeros(a.shape, a.dtype), tuple(jax.typeof(a).mat.varying)), weights)
    measured = vary(jnp.zeros(5, jnp.float32), everywhere)

    def tick(carry: tuple, now: Array) -> tuple[tuple, None]:
        from_left, from_right, held, gradient, measured = carry
        kind, j = timetable(way, m, index, now)
        row, slot = rows[jnp.clip(j, 0, m - 1)], jnp.maximum(j, 0) % held.shape[0]

        def wait(held: Array, gradient: Weights, measured: Array) -> tuple:
            return nothing, nothing, held, gradient, measured

        def go(held: Array, gradient: Weights, measured: Array) -> tuple:
            y, _ = passed(weights, from_left, row)
            return y, nothing, lax.dynamic_update_index_in_dim(held, from_left, slot, 0), gradient, measured

        def back(held: Array, gradient: Weights, measured: Array) -> tuple:
            x = lax.dynamic_index_in_dim(held, slot, keepdims=False)
            (_, made), pull = jax.vjp(lambda w, x: passed(w, x, row), weights, x)
            first = vary(jnp.array([1.0, 0.0, 0.0, 0.0, 0.0]), everywhere)  # the objective alone is minimised
            more, to_left = pull((jnp.where(last, 0.0, from_right), first))
            return nothing, to_left, held, jax.tree.map(jnp.add, gradient, more), measured + made

        right, left, held, gradient, measured = lax.switch(kind, (wait, go, back), held, gradient, measured)
        if p > 1:
            right = lax.ppermute(right, "pipeline", [(i, i + 1) for i in range(p - 1)])
            left = lax.ppermute(left, "pipeline", [(i + 1, i) for i in range(p - 1)])
        return (right, left, held, gradient, measured), None

    start = (nothing, nothing, held, none, measured)
    (*_, gradient, measured), _ = lax.scan(tick, start, jnp.arange(ticks(way, m)))
    return gradient, lax.psum(measured, everywhere)[1:]
