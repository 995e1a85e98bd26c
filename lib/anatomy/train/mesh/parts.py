"""Weights in parts: scattered over replicas and made whole again, as ZeRO needs them."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from anatomy.model import Block, Config, Weights, transformer
from anatomy.specs import Plan
from anatomy.train.mesh.layout import (
    AXES,
    REPLICAS,
    Ways,
    layout,
    replicas_of,
    split_over,
    used_axes,
    ways,
)

TABLES = ("embedding", "norm", "unembedding")


def parts_of(size: int, ways: int) -> int:
    """Values of each part where an array of this size is split so many ways, padded at the end."""
    return -(-size // ways)


def scatter_leaf(a: Array, axes: tuple[str, ...], ways: int, total: bool) -> Float[Array, "k"]:
    """This replica's part of an array, or of the sum of the replicas' arrays, flattened and padded."""
    flat = a.reshape(-1)
    flat = jnp.pad(flat, (0, parts_of(flat.size, ways) * ways - flat.size))
    if ways == 1:
        return flat
    if total:
        return lax.psum_scatter(flat, axes, tiled=True)
    return lax.dynamic_slice_in_dim(flat, lax.axis_index(axes) * (flat.size // ways), flat.size // ways)


def gather_leaf(part: Float[Array, "k"], axes: tuple[str, ...], shape: tuple[int, ...]) -> Array:
    """The whole array from the parts of the replicas."""
    flat = lax.all_gather(part, axes, tiled=True) if axes else part
    return flat[: math.prod(shape)].reshape(shape)


def local_shapes(config: Config, way: Ways) -> Weights:
    """Shapes of the arrays that a device holds, where replicas hold them whole."""
    whole = jax.eval_shape(partial(transformer.init, config), jax.random.key(0))
    size = dict(zip(AXES, way[:4], strict=True))

    def local(a: jax.ShapeDtypeStruct, spec: P) -> jax.ShapeDtypeStruct:
        names = (*spec, *(None,) * (a.ndim - len(spec)))
        shape = tuple(n // (size[axis] if axis else 1) for n, axis in zip(a.shape, names, strict=True))
        return jax.ShapeDtypeStruct(shape, a.dtype)

    return jax.tree.map(local, whole, layout(config, way))


def gather_layer(config: Config, way: Ways) -> Callable[[Block], Block]:
    """Makes a layer whole from the parts of the replicas, under ZeRO 3."""
    shapes, specs = local_shapes(config, way).blocks, layout(config, way).blocks

    def gather(parts: Block) -> Block:
        return jax.tree.map(
            lambda part, a, spec: gather_leaf(part, used_axes(way, spec), a.shape[1:]), parts, shapes, specs
        )

    return gather


def gather_tables(config: Config, way: Ways, parts: Weights) -> Weights:
    """Makes what is in no layer whole, under ZeRO 3."""
    shapes, specs = local_shapes(config, way), layout(config, way)
    whole = {
        name: gather_leaf(getattr(parts, name), used_axes(way, getattr(specs, name)), getattr(shapes, name).shape)
        for name in TABLES
    }
    return dataclasses.replace(parts, **whole)


def stored(config: Config, way: Ways) -> Weights:
    """How the weights lie on the mesh between steps: by `layout`, or under ZeRO 3 each device its own parts."""
    specs = layout(config, way)
    if way.zero < 3:
        return specs

    def differ(spec: P) -> tuple[str, ...]:
        return tuple(axis for axis in AXES if axis in (split_over(spec) | set(REPLICAS)) - {"pipeline"})

    tables = jax.tree.map(lambda spec: P(differ(spec)), specs)
    return dataclasses.replace(tables, blocks=jax.tree.map(lambda spec: P("pipeline", differ(spec)), specs.blocks))


def place(config: Config, plan: Plan, mesh: Mesh, weights: Weights) -> Weights:
    """Lay weights over the mesh."""
    way, specs = ways(plan), layout(config, ways(plan))
    weights = jax.tree.map(lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec)), weights, specs)
    if way.zero < 3:
        return weights

    def split(weights: Weights) -> Weights:
        def part(a: Array, spec: P) -> Array:
            return scatter_leaf(a, used_axes(way, spec), replicas_of(way, spec), total=False)

        blocks = jax.tree.map(lambda a, spec: jax.vmap(lambda one: part(one, spec))(a), weights.blocks, specs.blocks)
        tables = {name: part(getattr(weights, name), getattr(specs, name)) for name in TABLES}
        return dataclasses.replace(weights, blocks=blocks, **tables)

    return on_mesh(mesh, split, (specs,), stored(config, way))(weights)


def collect(config: Config, plan: Plan, mesh: Mesh, weights: Weights) -> Weights:
    """The weights as one device has them, from those that lie on the mesh."""
    way = ways(plan)
    if way.zero < 3:
        return weights

    def join(parts: Weights) -> Weights:
        parts = gather_tables(config, way, parts)
        return dataclasses.replace(parts, blocks=lax.map(gather_layer(config, way), parts.blocks))

    return on_mesh(mesh, join, (stored(config, way),), layout(config, way))(weights)


def on_mesh(mesh: Mesh, function: Callable, given: Any, made: Any, check: bool = False) -> Callable:
    """A compiled function of what each device holds; `check` follows what differs between devices, for gradients."""
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=given, out_specs=made, check_vma=check))
