"""Dispatch without a choice: every expert computes every token.

Axes as in `transformer`; k choices of a token.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from anatomy.model.moe.experts import ExpertWeights, expert, stack
from anatomy.model.moe.routing import Choices


def all_experts(x: Float[Array, "T D"], choices: Choices, experts: ExpertWeights) -> tuple:
    """Every expert computes every token; the plain formula, and E / k times the work."""
    each = jax.vmap(expert, in_axes=(None, 0))(x, stack(experts))  # E x T x D
    weight = jnp.zeros((len(x), len(each)), x.dtype)
    weight = weight.at[jnp.arange(len(x))[:, None], choices.expert].add(choices.weight, mode="drop")
    return jnp.einsum("te,etd->td", weight, each), jnp.zeros((), x.dtype)
