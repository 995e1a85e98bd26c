"""Which plans can serve at all, and if not, why not; as `cost.training.legality` has it for training.

`legal` is a value, so that a sweep can mask it; `problems` says in words what is wrong with one plan, lack of memory
included.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from anatomy.cost.rules import Case, Rules, broken, divides, hold, nests
from anatomy.cost.serving.memory import memory
from anatomy.specs import Architecture, Cluster, Scalar, Serving
from anatomy.specs.units import readable

RULES: Rules = (
    (lambda c: c.plan.chips <= c.cluster.chips, "needs {plan.chips:g} chips; the cluster has {cluster.chips:g}"),
    (
        lambda c: nests(c.plan.tensor, c.cluster.node.chips),
        "{plan.tensor:g} tensor ways neither divide a node of {cluster.node.chips:g} chips nor fill several",
    ),
    (
        lambda c: (c.plan.gathered > 0) | divides(c.plan.columns, c.model.attention.heads),
        "{model.attention.heads:g} heads do not split {plan.columns:g} ways",
    ),
    (
        lambda c: (c.plan.gathered > 0) | divides(c.plan.columns, c.model.d_ff),
        "d_ff of {model.d_ff:g} does not split {plan.columns:g} ways",
    ),
    (
        lambda c: (c.plan.gathered > 0) | divides(c.plan.columns, c.model.dense_d_ff),
        "dense_d_ff of {model.dense_d_ff:g} does not split {plan.columns:g} ways",
    ),
    (
        lambda c: divides(c.plan.rows, c.model.d_model),
        "d_model of {model.d_model:g} does not split {plan.rows:g} ways",
    ),
    (
        lambda c: (c.plan.gathered == 0) | (c.plan.rows == 1),
        "gathered weights are not split over {plan.rows:g} rows as well",
    ),
    (
        # A head stage may be meant to have none.
        lambda c: (
            (c.plan.last_layers(c.model) >= 1)
            & ((c.plan.first_stage_layers(c.model) >= 1) | (c.plan.first_stage_share == 0) | (c.plan.pipeline == 1))
        ),
        "{plan.pipeline:g} stages leave some without any of {model.layers:g} layers",
    ),
    (
        lambda c: divides(c.plan.expert, c.model.experts),
        "{model.experts:g} experts do not split {plan.expert:g} ways",
    ),
    (
        lambda c: c.batch >= c.plan.micro_batches,
        "{batch:g} sequences are fewer than {plan.micro_batches:g} micro-batches",
    ),
    (
        lambda c: (c.plan.cache_by_sequence == 0) | (c.batch >= c.plan.micro_batches * c.plan.tensor),
        "{batch:g} sequences in {plan.micro_batches:g} micro-batches leave some of {plan.tensor:g} tensor ways "
        "without one, where they split the cache by sequences",
    ),
)


def legal(model: Architecture, plan: Serving, cluster: Cluster, *, batch: Scalar) -> Bool[Array, ""]:
    """Whether the plan can serve so many sequences of a replica, memory aside (`fits` says that)."""
    return hold(RULES, Case(model, plan, cluster, batch))


def fits(model: Architecture, plan: Serving, cluster: Cluster, *, batch: Scalar, context: Scalar) -> Bool[Array, ""]:
    """Whether the memory of a chip suffices while so many sequences decode, each with its context in the cache."""
    return jnp.asarray(memory(model, plan, batch=batch, context=context).total <= cluster.node.chip.memory)


def problems(
    model: Architecture, plan: Serving, cluster: Cluster, *, batch: Scalar, context: Scalar = 0.0
) -> list[str]:
    """What keeps a plan from serving; empty for one that can.

    Args:
        model: that serves.
        plan: how it is laid out.
        cluster: on what.
        batch: sequences in flight, of one replica.
        context: tokens of each in the cache.
    """
    found = broken(RULES, Case(model, plan, cluster, batch))
    if not fits(model, plan, cluster, batch=batch, context=context):
        needed, there = memory(model, plan, batch=batch, context=context).total, cluster.node.chip.memory
        found.append(f"needs {readable(float(needed), 'bytes')} a chip; it has {readable(float(there), 'bytes')}")
    return found
