"""Pipeline parallelism: how long stages wait for each other, and what they hold meanwhile.

Symbols: p stages, m micro-batches of a step, v model chunks a stage (1 is plain 1F1B).
"""

import jax.numpy as jnp

from anatomy.specs import Scalar
from anatomy.specs.base import ABOVE_ZERO, AT_LEAST_ONE, check_arguments


def bubble(*, stages: Scalar, chunks: Scalar = 1.0) -> Scalar:
    """Idle time of a stage in a step, in units of its work for one micro-batch: (p - 1) / v.

    The first micro-batch reaches the last stage after p - 1 forwards and the last backward returns after
    p - 1 more; with v chunks each of these is v times shorter. GPipe waits as long as 1F1B.

    Raises:
        TypeError, ValueError: stages or chunks are fewer than 1; so do the others.

    Source: narayanan2021megatron, section 2.2; huang2019gpipe.
    """
    check_arguments("pipeline", AT_LEAST_ONE, stages=stages, chunks=chunks)
    return (stages - 1.0) / chunks


def bubble_fraction(*, stages: Scalar, micro_batches: Scalar, chunks: Scalar = 1.0) -> Scalar:
    """Share of a step in which a stage idles: (p - 1) / (v m + p - 1).

    Source: narayanan2021megatron, section 2.2, over the whole step instead of over its work.
    """
    check_arguments("pipeline", AT_LEAST_ONE, stages=stages, chunks=chunks)
    check_arguments("pipeline", ABOVE_ZERO, micro_batches=micro_batches)
    waiting = stages - 1.0
    return waiting / (chunks * micro_batches + waiting)


def in_flight(*, stages: Scalar, micro_batches: Scalar, chunks: Scalar = 1.0, gpipe: Scalar = 0.0) -> Scalar:
    """Micro-batches whose activations the first stage holds at once, in whole stages.

    GPipe holds all m. 1F1B holds p, or m where there are fewer. Interleaving holds 1 + (p - 1) / (p v) times
    as much as 1F1B.

    Source: korthikanti2023reducing, section 4.2.3; huang2019gpipe.
    """
    check_arguments("pipeline", AT_LEAST_ONE, stages=stages, chunks=chunks)
    check_arguments("pipeline", ABOVE_ZERO, micro_batches=micro_batches)
    one_f_one_b = jnp.minimum(stages * (1 + (stages - 1) / (stages * chunks) * (chunks > 1)), micro_batches)
    return jnp.where(jnp.asarray(gpipe) > 0, micro_batches, one_f_one_b)
