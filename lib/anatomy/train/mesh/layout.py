"""Meshes: which axes there are, which plans can be run on them, and how arrays are split over them."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from anatomy.model import Block, Config, Weights
from anatomy.model.moe import Experts
from anatomy.specs import Plan, Recompute

AXES = ("data", "pipeline", "tensor", "expert")
REPLICAS = ("data", "expert")
ONLY = {"recompute": float(Recompute.FULL)}  # where a field of plans has one value here that is not its default


class Ways(NamedTuple):
    """A plan in whole numbers, as the compiled program needs it."""

    data: int
    pipeline: int
    tensor: int
    expert: int
    micro_batch: int
    zero: int
    gpipe: bool

    @property
    def replicas(self) -> int:
        """That have other tokens."""
        return self.data * self.expert


def ways(plan: Plan) -> Ways:
    """The mesh of a plan; its expert ways are an axis of their own, split off its replicas."""
    return Ways(
        data=int(plan.data // plan.expert),
        pipeline=int(plan.pipeline),
        tensor=int(plan.tensor),
        expert=int(plan.expert),
        micro_batch=int(plan.micro_batch),
        zero=int(plan.zero),
        gpipe=bool(plan.gpipe),
    )


def problems(config: Config, plan: Plan, sequences: int, devices: int) -> list[str]:
    """What keeps a plan from being run on so many devices; empty if nothing does."""
    way = ways(plan)
    needed = math.prod(way[:4])
    rules = (
        (needed <= devices, f"the plan needs {needed} devices; there are {devices}"),
        (config.layers % way.pipeline == 0, f"{config.layers} layers do not split into {way.pipeline} equal stages"),
        (config.heads % way.tensor == 0, f"{config.heads} heads do not split {way.tensor} ways"),
        (
            config.kv_heads == 1 or config.kv_heads % way.tensor == 0,
            f"{config.kv_heads} key and value heads do not split {way.tensor} ways; 1 would be copied",
        ),
        (config.d_ff % way.tensor == 0, f"d_ff of {config.d_ff} does not split {way.tensor} ways"),
        (config.vocabulary % way.tensor == 0, f"a vocabulary of {config.vocabulary} does not split {way.tensor} ways"),
        (config.experts % way.expert == 0, f"{config.experts} experts do not split {way.expert} ways"),
        (
            sequences > 0 and sequences % (way.replicas * way.micro_batch) == 0,
            f"{sequences} sequences are no whole micro-batches of {way.micro_batch} on {way.replicas} replicas",
        ),
        (way.zero in (0, 1, 3), f"ZeRO {way.zero} does not run here; allowed: 0, 1, 3"),
        (config.router != "expert_choice", "expert choice looks at the tokens of all replicas"),
    )
    unknown = [field for field in dataclasses.fields(plan) if field.name not in Ways._fields]
    unknown = [(field.name, getattr(plan, field.name), ONLY.get(field.name, field.default)) for field in unknown]
    return [words for right, words in rules if not right] + [
        f"{name} of {value:g} does not run here; allowed: {only:g}" for name, value, only in unknown if value != only
    ]


def make_mesh(plan: Plan, devices: list[jax.Device] | None = None) -> Mesh:
    """Devices in the order of the plan: tensor innermost, pipeline outermost.

    Raises:
        ValueError: there are too few.
    """
    way, devices = ways(plan), jax.devices() if devices is None else devices
    if len(devices) < (needed := math.prod(way[:4])):
        raise ValueError(f"the plan needs {needed} devices; there are {len(devices)}")
    grid = np.array(devices[:needed]).reshape(way.pipeline, way.data, way.expert, way.tensor)
    return Mesh(grid.transpose(1, 0, 3, 2), AXES)


def layout(config: Config, way: Ways) -> Weights:
    """How each array of the weights is split over the axes, as partition specs."""
    heads = "tensor" if config.kv_heads % way.tensor == 0 else None  # a single key head is copied
    blocks = Block(
        attention_norm=P("pipeline"),
        query=P("pipeline", None, "tensor"),
        key=P("pipeline", None, heads),
        value=P("pipeline", None, heads),
        output=P("pipeline", "tensor"),
        experts_norm=P("pipeline"),
        router=P("pipeline"),
        experts=Experts(
            gate=P("pipeline", "expert", None, "tensor"),
            up=P("pipeline", "expert", None, "tensor"),
            down=P("pipeline", "expert", "tensor"),
        ),
    )
    return Weights(embedding=P(), blocks=blocks, norm=P(), unembedding=P(None, "tensor"))


def split_over(spec: P) -> frozenset[str]:
    """Axes over which an array is split."""
    return frozenset(axis for axis in spec if axis is not None)


def replica_axes(spec: P) -> tuple[str, ...]:
    """Axes of replicas that hold the same array."""
    return tuple(axis for axis in REPLICAS if axis not in split_over(spec))


def partial_axes(name: str, spec: P) -> tuple[str, ...]:
    """Axes on which an array is whole and its gradient a part, so that gradients are summed over them.

    The embedding is the exception: what follows it is the same on all tensor ways.
    """
    whole = tuple(axis for axis in AXES if axis not in split_over(spec))
    return tuple(axis for axis in whole if not (name == "embedding" and axis == "tensor"))


def named(tree: Any) -> Any:
    """The name of each array of the weights, in their place."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].name, tree, is_leaf=lambda x: isinstance(x, P))


def vary(x: Array, axes: tuple[str, ...]) -> Array:
    """Declare that an array may differ along these axes."""
    missing = tuple(axis for axis in axes if axis not in jax.typeof(x).mat.varying)
    return lax.pcast(x, missing, to="varying") if missing else x


def used_axes(way: Ways, spec: P) -> tuple[str, ...]:
    """Axes of more than one device over which an array's replicas lie."""
    return tuple(axis for axis in replica_axes(spec) if getattr(way, axis) > 1)


def replicas_of(way: Ways, spec: P) -> int:
    """How many devices hold the same array with other tokens."""
    return math.prod(getattr(way, axis) for axis in used_axes(way, spec))
