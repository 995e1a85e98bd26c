"""The step as a whole: gradients, their sum over devices, and the update of each replica's part."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from anatomy.model import Config, Weights, moe
from anatomy.specs import Plan
from anatomy.specs.base import FINITE, check_arguments
from anatomy.train.loop import Training
from anatomy.train.mesh.device import device_gradients
from anatomy.train.mesh.layout import (
    AXES,
    REPLICAS,
    Ways,
    layout,
    named,
    partial_axes,
    problems,
    replica_axes,
    replicas_of,
    split_over,
    used_axes,
    vary,
    ways,
)
from anatomy.train.mesh.parts import gather_leaf, local_shapes, on_mesh, scatter_leaf, stored


def scattered(config: Config, way: Ways, gradient: Weights) -> Weights:
    """Gradients summed over all devices that share an array; each replica keeps its part, or all of it without ZeRO."""
    specs = layout(config, way)

    def reduce(made: Array, name: str, spec: P, in_layer: bool) -> Array:
        others = tuple(axis for axis in partial_axes(name, spec) if axis not in REPLICAS)
        made = lax.psum(made, others) if others else made
        axes = used_axes(way, spec)
        if way.zero == 3 and in_layer:
            return made.reshape(-1)  # the gather of a layer has scattered its gradient on the way back
        if way.zero == 0:
            return (lax.psum(made, replica_axes(spec)) if replica_axes(spec) else made).reshape(-1)
        idle = tuple(axis for axis in replica_axes(spec) if axis not in axes)
        made = lax.psum(made, idle) if idle else made
        return scatter_leaf(made, axes, replicas_of(way, spec), total=True)

    names = named(specs)
    in_layer = jax.tree.map(lambda spec: False, specs)
    in_layer = dataclasses.replace(in_layer, blocks=jax.tree.map(lambda spec: True, specs.blocks))
    return jax.tree.map(reduce, gradient, names, specs, in_layer)


def mine(config: Config, way: Ways, weights: Weights) -> Weights:
    """This replica's flat part of the weights, which it updates."""
    specs = layout(config, way)

    def part(a: Array, spec: P) -> Array:
        if way.zero == 1:
            return scatter_leaf(a, used_axes(way, spec), replicas_of(way, spec), total=False)
        return a.reshape(-1)  # without ZeRO all of it, and with ZeRO 3 it holds no more

    return jax.tree.map(part, weights, specs)


def made_whole(config: Config, way: Ways, parts: Weights, like: Weights) -> Weights:
    """The weights that a device holds, from the updated parts."""
    specs = layout(config, way)

    def whole(part: Array, a: Array, spec: P) -> Array:
        return gather_leaf(part, used_axes(way, spec) if way.zero == 1 else (), a.shape)

    return jax.tree.map(whole, parts, like, specs)


class MeshStep(NamedTuple):
    """A training step on a mesh."""

    start: Callable[[Weights], Any]  # state of the optimizer, from weights on the mesh
    step: Callable[[Weights, Any, Array], tuple[Weights, Any, dict[str, Array]]]


def make_step(
    config: Config, training: Training, plan: Plan, mesh: Mesh, sequences: int, factor: float = 1.25
) -> MeshStep:
    """Compile one training step under a plan.

    Args:
        config: of the model.
        training: losses and optimizer; its batch is not used, and experts are always reached by all-to-all.
        plan: ways, order of passes (`gpipe` or 1F1B) and ZeRO; every layer is computed again, and the plan has to
            say so.
        mesh: of `make_mesh`, or any other with its axes and as many devices along each.
        sequences: of a step; micro-batch j is the j-th of equal parts of them.
        factor: places of an expert over its even share; E / k and more never drops.

    Returns:
        A function that makes the optimizer's state, and the step: from weights, state and rows [sequences, length + 1]
        to weights, state, and what was measured. The step refuses other rows than it was made for, and longer ones than
        the context.

    Raises:
        TypeError, ValueError: the plan cannot be run, the message says why; the mesh is that of another plan; the
            factor is not above 0, or lets choices be dropped though the training's dispatch is exact; or the training
            has a ramp, or passes other rows at once than the plan does.
    """
    check_arguments("make_step", FINITE, factor=factor)
    if wrong := problems(config, plan, sequences, mesh.size):
        raise ValueError(f"the plan cannot be run: {'; '.join(wrong)}")
    way, specs = ways(plan), layout(config, ways(plan))
    exact, room, at_once = (
        training.dispatch in moe.EXACT,
        config.experts / config.top_k,
        way.replicas * way.micro_batch,
    )
    if exact and factor < room:
        raise ValueError(f"make_step.factor is {factor:g}; allowed with {training.dispatch}: {room:g} and more")
    if training.ramp:
        raise ValueError(f"Training.ramp is {training.ramp}; allowed on a mesh: 0")
    if training.micro_batch not in (0, at_once):
        raise ValueError(f"Training.micro_batch is {training.micro_batch}; allowed: 0 or the plan's {at_once}")
    if dict(mesh.shape) != (planned := dict(zip(AXES, way[:4], strict=True))):
        raise ValueError(f"mesh is {dict(mesh.shape)}; allowed: {planned}, that of the plan")
    micro_batches = sequences // (way.replicas * way.micro_batch)
    adamw = training.adamw()
    part = jax.tree.map(lambda spec: P(AXES), specs)

    def begin(weights: Weights) -> Any:
        return adamw.init(mine(config, way, weights))

    def flat(weights: Weights) -> Any:
        """Shapes of the optimizer's state, which tell counts from parts."""
        local = jax.tree.map(lambda a: jnp.zeros((1,), a.dtype), weights)
        return jax.eval_shape(adamw.init, local)

    state = jax.tree.map(lambda a: P(AXES) if a.ndim else P(), flat(local_shapes(config, way)))

    def copies(name: str, spec: P) -> int:
        """Devices that hold the same part."""
        same = [axis for axis in AXES if axis not in split_over(spec)]
        if way.zero:
            same = [axis for axis in same if axis not in REPLICAS]
        return math.prod(getattr(way, axis) for axis in same)

    def compute(weights: Weights, rows: Array) -> tuple[Weights, Array]:
        gradient, measured = device_gradients(config, training, way, factor, weights, rows[:, 0])
        return scattered(config, way, gradient), lax.pmean(vary(measured, ("tensor",)), "tensor")

    def change(weights: Weights, optimizer: Any, gradient: Weights) -> tuple[Weights, Any, Array]:
        squares = jax.tree.map(lambda g, name, spec: jnp.sum(g * g) / copies(name, spec), gradient, named(specs), specs)
        norm = jnp.sqrt(lax.psum(sum(jax.tree.leaves(squares)), AXES))
        gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, training.clip / norm), gradient)
        own = mine(config, way, weights)
        steps, optimizer = adamw.update(gradient, optimizer, own)
        return made_whole(config, way, optax.apply_updates(own, steps), weights), optimizer, norm

    held = stored(config, way)
    rows_spec = P(None, REPLICAS)
    measure = on_mesh(mesh, compute, (held, rows_spec), (part, P()), check=True)
    apply = on_mesh(mesh, change, (held, state, part), (held, state, P()))

    @jax.jit
    def step(weights: Weights, optimizer: Any, rows: Array) -> tuple[Weights, Any, dict[str, Array]]:
        if rows.ndim != 2 or len(rows) != sequences or not 1 < rows.shape[1] <= config.context + 1:
            allowed = f"{sequences} rows of 2 to {config.context + 1} tokens, of which the context holds all but one"
            raise ValueError(f"rows of the step have shape {rows.shape}; allowed: {allowed}")
        rows = rows.reshape(micro_batches, way.replicas, way.micro_batch, -1)
        gradient, measured = measure(weights, rows)
        weights, optimizer, norm = apply(weights, optimizer, gradient)
        names = ("loss", "balance", "z", "dropped")
        return weights, optimizer, dict(zip(names, measured, strict=True)) | {"gradient": norm}

    return MeshStep(on_mesh(mesh, begin, (held,), state), step)
