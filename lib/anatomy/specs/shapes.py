"""Which integer shapes give the counts that somebody published?

A leak gives sums: so many parameters in attention, so many in an expert. The widths behind them are
whole numbers that tensor cores and tensor parallelism like; there are not many that give all sums at once.
"""

import dataclasses
import math
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from anatomy.specs.architecture import Architecture, Attention
from anatomy.specs.base import Scalar


@dataclasses.dataclass(frozen=True)
class Counts:
    """Published counts, in parameters, and how far a shape may stray from them."""

    attention: float
    expert: float
    total: float
    active: float
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        """Refuse counts that are not positive and a tolerance outside 0 to 1."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0 or (field.name == "tolerance" and value >= 1):
                limit = "above 0 and below 1" if field.name == "tolerance" else "above 0"
                raise ValueError(f"Counts.{field.name} is {value:g}; allowed: a number {limit}")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One shape and the counts it gives; `worst` is its largest relative error."""

    architecture: Architecture
    attention: float
    expert: float
    total: float
    active: float
    worst: float

    @property
    def kind(self) -> str:
        """Multi-head, grouped-query or multi-query."""
        attention = self.architecture.attention
        assert isinstance(attention, Attention)  # those that are searched
        heads, kv_heads = attention.heads, attention.kv_heads
        return "multi-query" if kv_heads == 1 else "multi-head" if kv_heads == heads else "grouped-query"


def errors(architecture: Architecture, counts: Counts) -> tuple[dict[str, Scalar], Any]:
    """The counts of an architecture, and the largest relative error against the published ones.

    The published counts of the article are sums of experts and attention alone, so the tables, norms
    and routers are left out here: they add about a tenth of a per cent.
    """
    parts = architecture.parameters
    found = {
        "attention": parts.attention,
        "expert": architecture.expert_parameters,
        "total": parts.attention + parts.experts,
        "active": parts.attention + parts.active_share * parts.experts,
    }
    worst: Any = 0.0
    for name, value in found.items():
        worst = np.maximum(worst, np.abs(value / getattr(counts, name) - 1.0))
    return found, worst


def search(
    like: Architecture,
    counts: Counts,
    *,
    step: int = 128,
    widest: int = 32_768,
    head_dims: tuple[int, ...] = (64, 80, 96, 128, 160, 192, 256),
    ways: int = 1,
    square: bool = True,
) -> list[Shape]:
    """All shapes like this one whose counts lie within the tolerance of the published ones.

    Args:
        like: gives layers, experts, top_k and whatever is not searched.
        counts: what was published.
        step: d_model and d_ff are multiples of this (tensor cores like 64 or 128).
        widest: largest d_model.
        head_dims: widths of a head to try.
        ways: query heads and d_ff divide by this (8 for the article's tensor parallelism); kv heads
            too, unless fewer.
        square: heads x head_dim is d_model, as in most models; else it is anything from a half to twice.

    Returns:
        Shapes from the smallest d_model up, with every d_ff that fits.
    """
    d_model, heads, kv_heads, head_dim = candidates(step, widest, head_dims, ways, square)
    attention = Attention(heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    every = dataclasses.replace(like, d_model=d_model, attention=attention)
    close = np.abs(every.parameters.attention / counts.attention - 1) <= counts.tolerance
    attention = jax.tree.map(lambda leaf: leaf[close], attention)
    grid = math.lcm(step, ways)
    found = []
    for matrices in (2.0, 3.0):
        target = counts.expert / (like.expert_layers * matrices * d_model[close])
        reach = int(np.max(target, initial=0.0) * counts.tolerance // grid) + 1
        for offset in range(-reach, reach + 1):
            d_ff = np.maximum(grid, grid * (np.round(target / grid) + offset))
            batch = dataclasses.replace(
                like, d_model=d_model[close], attention=attention, d_ff=d_ff, mlp_matrices=matrices
            )
            values, worst = errors(batch, counts)
            for index in np.flatnonzero(worst <= counts.tolerance):
                one = partial(pick, index=int(index))
                found.append(Shape(jax.tree.map(one, batch), worst=one(worst), **jax.tree.map(one, values)))
    return sorted(found, key=order)


def order(shape: Shape) -> tuple[Scalar, ...]:
    """By width, then heads, then matrices, then inner width."""
    a, attention = shape.architecture, shape.architecture.attention
    assert isinstance(attention, Attention)  # those that are searched
    return a.d_model, attention.kv_heads, attention.heads, a.mlp_matrices, a.d_ff


@cache
def candidates(
    step: int, widest: int, head_dims: tuple[int, ...], ways: int, square: bool
) -> Float[np.ndarray, "four shapes"]:
    """All d_model, heads, kv_heads and head_dim worth trying, one column each."""
    rows = [
        (d_model, heads, kv_heads, head_dim)
        for d_model in range(step, widest + 1, step)
        for head_dim in head_dims
        for heads in head_choices(d_model, head_dim, ways, square)
        for kv_heads in kv_choices(heads, ways)
    ]
    return np.array(rows, float).reshape(-1, 4).T


def head_choices(d_model: int, head_dim: int, ways: int, square: bool) -> list[int]:
    """Query heads worth trying at this width."""
    if square:
        return [d_model // head_dim] if d_model % (head_dim * ways) == 0 else []
    return [n for n in range(d_model // (2 * head_dim), 2 * d_model // head_dim + 1) if n and n % ways == 0]


def pick(leaf: Scalar, index: int) -> float:
    """One element of a batched leaf; a number that is the same for all is its own element."""
    values = np.asarray(leaf, float)
    return float(values[index]) if values.ndim else float(values)


@cache
def kv_choices(heads: int, ways: int) -> list[int]:
    """Key/value heads worth trying: divisors of the heads that split evenly over the ways, or fit in them."""
    divisors = [n for n in range(1, heads + 1) if heads % n == 0]
    return [n for n in divisors if n % ways == 0 or ways % n == 0]
