"""Speculation on the article's cluster and on a node with a dense model, as inputs of the cost model."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from anatomy.claims.article.serving import SERVING, as_billions, machine, model
from anatomy.cost.efficiency import overheads
from anatomy.cost.speculation.step import SpeculationStep, speculate
from anatomy.specs import Architecture, Cluster, Scalar, Serving, architecture, cluster

A100 = "a100_sxm_40gb"
DENSE = "gpt3_175b"  # a dense target, for what a mixture would blur
DRAFT = "llama_7b"  # of a size that a draft for hundreds of billions may have; with one KV head, as the target
NODE = Serving(tensor=8.0)  # where the draft runs
SERIAL = SERVING.replace(micro_batches=1.0)  # the article's cluster for the least latency: all sequences at once
ACCEPTANCE_RATE = 0.75  # as leviathan2023fast measured, on translation
EASY, HARD = 0.9, 0.5  # acceptance rate on what is easy to guess and what is not
CONTEXT = 4096.0


def small() -> Architecture:
    """The draft."""
    draft = architecture(DRAFT)
    return draft.replace(attention=dataclasses.replace(draft.attention, kv_heads=1.0))


def draft_size() -> str:
    """Its parameters."""
    return as_billions(float(small().parameters.total))


def box() -> Cluster:
    """Eight A100 of 80 GB, which hold a dense 175B."""
    return cluster("a100_sxm_80gb", 1)


def dense(
    sequences: Scalar,
    length: Scalar,
    acceptance_rate: Scalar = ACCEPTANCE_RATE,
    context: Scalar = 2048.0,
    plan: Serving = NODE,
) -> SpeculationStep:
    """A speculation step of a dense 175B on one node."""
    constants = overheads("a100_sxm_40gb")
    return speculate(
        architecture(DENSE),
        small(),
        plan,
        plan,
        box(),
        constants,
        batch=sequences,
        context=context,
        draft_length=length,
        acceptance_rate=acceptance_rate,
    )


def routed(
    sequences: Scalar,
    length: Scalar,
    acceptance_rate: Scalar = ACCEPTANCE_RATE,
    plan: Serving = SERIAL,
    draft_plan: Serving = NODE,
    **how: Scalar,
) -> SpeculationStep:
    """A speculation step of the article's model on its cluster; the draft runs on the head node.

    Args:
        sequences: in flight.
        length: of the draft.
        acceptance_rate: of the drafted tokens.
        plan: `SERIAL`, or `SERVING` with sixteen micro-batches in flight.
        draft_plan: of the draft.
        how: further arguments of `speculate`.
    """
    constants = overheads("a100_sxm_40gb")
    return speculate(
        model(),
        small(),
        plan,
        draft_plan,
        machine(),
        constants,
        batch=sequences,
        context=CONTEXT,
        draft_length=length,
        acceptance_rate=acceptance_rate,
        **how,
    )


def lengths(at: Callable[[Scalar], SpeculationStep], most: int = 12) -> np.ndarray:
    """Speed-ups of draft lengths from 0 to `most`, of a function of the length."""
    return np.asarray(jax.vmap(lambda g: at(g).speed_up)(np.arange(most + 1.0)))


def by_batch(
    at: Callable[[Scalar, Scalar], SpeculationStep], batches: Sequence[float] | np.ndarray, most: int = 12
) -> np.ndarray:
    """Speed-ups of a function of batch and draft length: a row for each batch, of lengths from 0 to `most`."""
    row = jax.vmap(lambda n, g: at(n, g).speed_up, in_axes=(None, 0))
    return np.asarray(jax.vmap(row, in_axes=(0, None))(np.asarray(batches), np.arange(most + 1.0)))
