"""Memory of a chip that serves: weights, the cache, and how many sequences that leaves room for.

Symbols: t tensor ways, p stages, e expert ways, s tokens of a sequence in the cache.
"""

from typing import ClassVar

import jax.numpy as jnp

from anatomy.cost.inference.steps import activation_values
from anatomy.specs import Architecture, Scalar, Serving
from anatomy.specs.base import AT_LEAST_ZERO, FINITE, check_arguments, number, spec


@spec
class ServingMemory:
    """Bytes on the fullest chip; the parts add up to `total`."""

    sums: ClassVar = ("total",)

    weights: Scalar = number("bytes", doc="of the fullest stage, the larger table with it")
    cache: Scalar = number("bytes", doc="keys and values of all sequences in flight")
    working: Scalar = number("bytes", doc="activations of a layer, and the logits in 32 bits")

    @property
    def total(self) -> Scalar:
        """All parts."""
        return self.weights + self.cache + self.working


def held_weights(model: Architecture, plan: Serving) -> Scalar:
    """Parameters on a chip of the fullest stage.

    It has the most layers, and on the last one is the output table; one stage alone has both tables. Experts are split
    over expert ways on top of tensor ways; key and value heads that are fewer than tensor ways are copied.
    """
    parts, layers = model.parameters, plan.stage_layers(model)
    dense = (parts.attention + parts.dense_mlp + parts.norms + parts.router) / model.layers
    experts = parts.experts / model.layers / plan.expert
    table = model.vocabulary * model.d_model
    tables = jnp.where(plan.pipeline > 1, table, parts.embedding + parts.unembedding)
    copied = layers * model.attention.copied_weights(model.d_model, plan.columns) / plan.rows
    return (layers * (dense + experts) + tables) / plan.tensor + copied


def sequence_cache(model: Architecture, plan: Serving, context: Scalar) -> Scalar:
    """Bytes of the cache that one sequence of s tokens takes on the fullest chip.

    Split by heads, each of the tensor ways has its share of the heads, or a copy where there are too few. Split by
    sequences it has all heads of one sequence in t, so that a sequence takes a t-th on average.

    Source: pope2023efficiently, section 3.3.
    """
    by_heads = jnp.minimum(plan.tensor, model.attention.cache_ways)
    ways = jnp.where(jnp.asarray(plan.cache_by_sequence) > 0, plan.tensor, by_heads)
    return plan.stage_layers(model) * model.attention.cached_values() * plan.cache_bytes * context / ways


def memory(
    model: Architecture, plan: Serving, sequences: Scalar, context: Scalar, tokens: Scalar = 1.0
) -> ServingMemory:
    """Memory of the fullest chip while it serves.

    Args:
        model: that serves.
        plan: how it is laid out.
        sequences: in flight, of one replica.
        context: s, tokens of each in the cache.
        tokens: of each sequence that pass at once: 1 when decoding, a prompt or a part of it when that is read.

    Raises:
        TypeError, ValueError: sequences or context is below 0, or tokens is not a finite number above 0.
    """
    check_arguments("memory", AT_LEAST_ZERO, sequences=sequences, context=context)
    check_arguments("memory", FINITE, tokens=tokens)
    n = sequences / plan.micro_batches * tokens
    logits = 4 * sequences / plan.micro_batches * model.vocabulary / plan.tensor
    return ServingMemory(
        weights=plan.weight_bytes * held_weights(model, plan),
        cache=sequences * sequence_cache(model, plan, context),
        working=plan.activation_bytes * activation_values(model, plan, n) + logits,
    )


def largest_batch(model: Architecture, plan: Serving, chip_memory: Scalar, context: Scalar) -> Scalar:
    """Sequences in flight, of one replica, for whose cache there is room beside the weights; 0 where there is none.

    The working memory grows with the batch too and is counted at one token a sequence.

    Args:
        model: that serves.
        plan: how it is laid out.
        chip_memory: bytes of a chip.
        context: tokens of each sequence in the cache.

    Raises:
        TypeError, ValueError: chip_memory or context is not a finite number above 0.
    """
    check_arguments("largest_batch", FINITE, chip_memory=chip_memory, context=context)
    one = memory(model, plan, 1.0, context)
    return jnp.maximum(jnp.floor((chip_memory - one.weights) / (one.cache + one.working)), 0.0)
