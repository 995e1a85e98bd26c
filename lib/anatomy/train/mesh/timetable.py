"""The order in which stages pass micro-batches."""

import jax.numpy as jnp
from jaxtyping import Array

from anatomy.train.mesh.layout import Ways


def timetable(way: Ways, micro_batches: int, stage: Array, tick: Array) -> tuple[Array, Array]:
    """What a stage does at a tick: 0 waits, 1 is a forward pass, 2 a backward pass; and of which micro-batch.

    A pass takes one tick, and what it sends arrives at the next. GPipe: forward of micro-batch j at stage i at tick
    i + j; all backwards after all forwards. 1F1B: forward at i + 2 j, backward at 2 p - 1 - i + 2 j, so that a stage
    holds p - i micro-batches at most. Both take 2 (m + p - 1) ticks.
    """
    p, m = way.pipeline, micro_batches
    if way.gpipe:
        forward, backward, pace = tick - stage, tick - (m + p - 1) - (p - 1 - stage), 1
    else:
        forward, backward, pace = tick - stage, tick - (2 * p - 1 - stage), 2

    def now(since: Array) -> Array:
        return (since >= 0) & (since < pace * m) & (since % pace == 0)

    kind = jnp.where(now(forward), 1, jnp.where(now(backward), 2, 0))
    return kind, jnp.where(kind == 1, forward, backward) // pace


def ticks(way: Ways, micro_batches: int) -> int:
    """Of a step: 2 (m + p - 1)."""
    return 2 * (micro_batches + way.pipeline - 1)


def slots(way: Ways, micro_batches: int) -> int:
    """Micro-batches whose inputs a stage must be able to hold."""
    return micro_batches if way.gpipe else min(way.pipeline, micro_batches)
