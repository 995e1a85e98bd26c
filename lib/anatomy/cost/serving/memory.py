"""Memory of a chip that serves: weights, the cache, and how many sequences that leaves room for.

Symbols: t tensor ways, p stages, e expert ways, s tokens of a sequence in the cache.
"""

from typing import ClassVar

import jax.numpy as jnp

from anatomy.cost.serving.steps import activation_values, layer_weights
from anatomy.specs import Architecture, Scalar, Serving
from anatomy.specs.base import AT_LEAST_ZERO, FINITE, check_arguments, number, spec


@spec
class ServingMemory:
    """Bytes on the fullest chip; the parts add up to `total`."""

    sums: ClassVar = ("total",)

    weights: Scalar = number("bytes", doc="of the chip that holds most, tables and gathered layers with them")
    cache: Scalar = number("bytes", doc="keys and values of all sequences in flight")
    working: Scalar = number("bytes", doc="activations of a layer, and the logits in 32 bits")

    @property
    def total(self) -> Scalar:
        """All parts."""
        return self.weights + self.cache + self.working


def held_weights(model: Architecture, plan: Serving) -> Scalar:
    """Parameters on the chip that holds most.

    A full stage has the most layers; the last has the output table, and the first the other. A head stage has fewer
    layers and both tables, the others none; one stage alone has all. Experts are split over expert ways on top of
    tensor ways; key and value heads that are fewer than tensor ways are copied.
    """
    parts = model.parameters
    dense = (parts.attention + parts.dense_mlp + parts.norms + parts.router) / model.layers
    experts = parts.experts / model.layers / plan.expert
    copied = model.attention.copied_weights(model.d_model, plan.columns) / plan.rows
    layer = (dense + experts) / plan.tensor + copied
    table, tables = model.vocabulary * model.d_model / plan.tensor, (parts.embedding + parts.unembedding) / plan.tensor
    full, head, last = (
        n * layer for n in (plan.stage_layers(model), plan.first_stage_layers(model), plan.last_layers(model))
    )
    one = jnp.asarray(plan.pipeline) <= 1
    other = jnp.where(plan.has_small_first_stage > 0, head + tables, last + table)
    return jnp.where(one, full + tables, jnp.maximum(full, other))


def sequence_cache(model: Architecture, plan: Serving, *, context: Scalar) -> Scalar:
    """Bytes of the cache that one sequence of s tokens takes on the fullest chip.

    Split by heads, each of the tensor ways has its share of the heads, or a copy where there are too few. Split by
    sequences it has all heads of one sequence in t, so that a sequence takes a t-th where there are t or more.

    Source: pope2023efficiently, section 3.3.
    """
    by_heads = jnp.minimum(plan.tensor, model.attention.cache_ways)
    ways = jnp.where(jnp.asarray(plan.cache_by_sequence) > 0, plan.tensor, by_heads)
    return plan.stage_layers(model) * model.attention.cached_values() * plan.cache_bytes * context / ways


def memory(
    model: Architecture, plan: Serving, *, batch: Scalar, context: Scalar, tokens: Scalar = 1.0
) -> ServingMemory:
    """Memory of the fullest chip while it serves.

    Args:
        model: that serves.
        plan: how it is laid out.
        batch: sequences in flight, of one replica.
        context: s, tokens of each in the cache.
        tokens: of each sequence that pass at once: 1 when decoding, a prompt or a part of it when that is read.

    Raises:
        TypeError, ValueError: sequences or context is below 0, or tokens is not a finite number above 0.
    """
    check_arguments("memory", AT_LEAST_ZERO, batch=batch, context=context)
    check_arguments("memory", FINITE, tokens=tokens)
    each = batch / plan.micro_batches
    logits = 4 * each * model.vocabulary / plan.tensor
    # Where sequences split the cache and are fewer than tensor ways, some chip still has a whole one.
    by_sequence = (jnp.asarray(plan.cache_by_sequence) > 0) & (batch > 0)
    held = jnp.where(by_sequence, jnp.maximum(batch, plan.tensor), batch)
    # Gathered weights: a chip has its share of the tokens, and all weights of the layer that it is at.
    gathered = jnp.asarray(plan.gathered) > 0
    alone = plan.replace(tensor=1.0, rows=1.0)
    whole = plan.weight_bytes * layer_weights(model, alone, active_experts=model.experts)
    passing = jnp.where(
        gathered,
        activation_values(model, alone, n=each * tokens / plan.tensor),
        activation_values(model, plan, n=each * tokens),
    )
    return ServingMemory(
        weights=plan.weight_bytes * held_weights(model, plan) + jnp.where(gathered, whole, 0.0),
        cache=held * sequence_cache(model, plan, context=context),
        working=plan.activation_bytes * passing + logits,
    )


def cache_room(model: Architecture, plan: Serving, *, chip_memory: Scalar) -> Scalar:
    """Bytes of a chip that its weights leave for the cache and for working memory; 0 where they leave none.

    Raises:
        TypeError, ValueError: chip_memory is not a finite number above 0.
    """
    check_arguments("cache_room", FINITE, chip_memory=chip_memory)
    return jnp.maximum(chip_memory - memory(model, plan, batch=0.0, context=0.0).weights, 0.0)


def largest_batch(model: Architecture, plan: Serving, *, chip_memory: Scalar, context: Scalar) -> Scalar:
    """Sequences in flight, of one replica, for whose cache there is room beside the weights; 0 where there is none.

    The working memory grows with the batch too and is counted at one token a sequence. A cache that is split by
    sequences has room for as many as there are tensor ways, or for none.

    Args:
        model: that serves.
        plan: how it is laid out.
        chip_memory: bytes of a chip.
        context: tokens of each sequence in the cache.

    Raises:
        TypeError, ValueError: chip_memory or context is not a finite number above 0.
    """
    check_arguments("largest_batch", FINITE, chip_memory=chip_memory, context=context)
    each = sequence_cache(model, plan, context=context) + memory(model, plan, batch=1.0, context=0.0).working
    most = jnp.floor(cache_room(model, plan, chip_memory=chip_memory) / each)
    return jnp.where((jnp.asarray(plan.cache_by_sequence) > 0) & (most < plan.tensor), 0.0, most)
