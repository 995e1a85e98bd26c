"""Weights of experts, as they are trained and as they are served, and what one of them computes.

Axes as in `transformer`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from anatomy.specs.base import register


@dataclasses.dataclass(frozen=True)
class Experts:
    """Weights of the experts of a layer, with E in front, or of one expert."""

    gate: Float[Array, "*E D F"]
    up: Float[Array, "*E D F"]
    down: Float[Array, "*E F D"]


@dataclasses.dataclass(frozen=True)
class FusedExpert:
    """An expert whose gate and up projections are one matrix: larger products use memory and cores better.

    Attributes:
        inner: `gate` and `up`, side by side.
        down: as in `Experts`.
    """

    inner: Float[Array, "*E D 2F"]
    down: Float[Array, "*E F D"]

    @property
    def gate(self) -> Float[Array, "*E D F"]:
        """As in `Experts`."""
        return self.inner[..., : self.inner.shape[-1] // 2]

    @property
    def up(self) -> Float[Array, "*E D F"]:
        """As in `Experts`."""
        return self.inner[..., self.inner.shape[-1] // 2 :]


for _tree in (Experts, FusedExpert):
    register(_tree)

ExpertWeights = Experts | tuple[Experts, ...] | tuple[FusedExpert, ...]  # of a layer: stacked, or one by one


def expert(x: Float[Array, "... D"], weights: Experts | FusedExpert) -> Float[Array, "... D"]:
    """One expert, fused or not: (silu(x gate) * x up) down (shazeer2020glu)."""
    if isinstance(weights, Experts):
        return (jax.nn.silu(x @ weights.gate) * (x @ weights.up)) @ weights.down
    gate, up = jnp.split(x @ weights.inner, 2, axis=-1)
    return (jax.nn.silu(gate) * up) @ weights.down


def fuse(weights: Experts | FusedExpert) -> FusedExpert:
    """One expert with its first two matrices fused: a copy. What is fused stays as it is."""
    if isinstance(weights, FusedExpert):
        return weights
    return FusedExpert(jnp.concatenate([weights.gate, weights.up], axis=-1), weights.down)


def unstack(experts: ExpertWeights) -> tuple[Experts, ...] | tuple[FusedExpert, ...]:
    """Experts in arrays of their own."""
    if isinstance(experts, tuple):
        return experts
    return tuple(jax.tree.map(lambda a, i=i: a[i], experts) for i in range(experts.gate.shape[0]))


def stack(experts: ExpertWeights) -> Experts | FusedExpert:
    """Experts with E in front."""
    return jax.tree.map(lambda *each: jnp.stack(each), *experts) if isinstance(experts, tuple) else experts
