"""Memory of a chip in training, part by part.

Symbols: t tensor ways, p stages, d replicas, s tokens of a sequence, b sequences of a micro-batch.
Mixed precision with Adam: 2 bytes a weight, 2 a gradient, 12 of optimizer state (a 32-bit copy and two
moments), as in rajbhandari2020zero.
"""

from typing import ClassVar

import jax.numpy as jnp

from anatomy.cost.training.pipeline import in_flight
from anatomy.specs import Architecture, Plan, Recompute, Scalar
from anatomy.specs.base import number, spec

WEIGHT, GRADIENT, OPTIMIZER = 2.0, 2.0, 12.0  # bytes a parameter (rajbhandari2020zero, section 3.1)


@spec
class Memory:
    """Bytes on the fullest chip; the parts add up to `total`."""

    sums: ClassVar = ("total",)

    weights: Scalar = number("bytes", doc="16-bit parameters")
    gradients: Scalar = number("bytes", doc="16-bit gradients")
    optimizer: Scalar = number("bytes", doc="32-bit copy and the two moments of Adam")
    activations: Scalar = number("bytes", doc="saved for the backward pass, of all micro-batches in flight")
    working: Scalar = number("bytes", doc="what a recomputed layer needs meanwhile, and the logits")

    @property
    def total(self) -> Scalar:
        """All parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.working


def held_parameters(model: Architecture, plan: Plan) -> tuple[Scalar, Scalar]:
    """Parameters that the fullest chip holds: those that all replicas share, and those of its experts.

    Layers divide evenly over stages, rounded up; the first stage has the input table, the last the output
    table, and the larger counts. Experts are split over expert ways on top of tensor ways. Key and value heads
    that are fewer than tensor ways are copied.
    """
    parts = model.parameters
    layers = plan.stage_layers(model) / model.layers
    copied = plan.stage_layers(model) * model.attention.copied_weights(model.d_model, plan.tensor)
    dense = parts.attention + parts.dense_mlp + parts.norms + parts.router
    table = jnp.maximum(parts.embedding, model.vocabulary * model.d_model)
    tables = jnp.where(plan.pipeline > 1, table, parts.embedding + parts.unembedding)
    return (layers * dense + tables) / plan.tensor + copied, layers * parts.experts / plan.expert / plan.tensor


def parameters_per_chip(model: Architecture, plan: Plan) -> Scalar:
    """Parameters that the fullest chip holds."""
    shared, experts = held_parameters(model, plan)
    return shared + experts


def state_parameters(model: Architecture, plan: Plan, *, stage: int) -> Scalar:
    """Parameters whose state a chip keeps, where ZeRO of this stage splits that state among replicas.

    An expert has data / expert replicas only: the others hold other experts.

    Source: rajbhandari2020zero, section 5.
    """
    shared, experts = held_parameters(model, plan)
    ways, of_experts = (
        jnp.where(plan.zero >= stage, plan.zero_group(replicas), 1.0) for replicas in (plan.data, plan.expert_replicas)
    )
    return shared / ways + experts / of_experts


def activation_bytes(model: Architecture, plan: Plan, *, sequence_length: Scalar) -> tuple[Scalar, Scalar]:
    """Bytes that the layers of one micro-batch leave for the backward pass: what t splits, and what it does not.

    For a layer of the 2019 kind, 4h wide and with plain attention, these are s b h (24 + 5 a s / h) / t and
    10 s b h; here each term is written with the model's own widths, so that grouped heads, gated MLPs and
    experts count as they are. Sequence parallelism splits the second part too.

    Returns:
        Bytes of one layer without attention scores, and of its attention scores.

    Source: korthikanti2023reducing, section 4, equations 1 and 2.
    """
    tokens = plan.micro_batch * sequence_length
    d, attention = model.d_model, model.attention
    whole = 4 * d + 2 * d + 2 * d + d + d  # inputs of two norms, of attention and MLP; two dropout masks
    queries = attention.heads * attention.head_dim
    chosen = model.top_k * model.is_routed + (1 - model.is_routed) + model.shared_experts
    width = (model.expert_layers * model.d_ff * chosen + model.dense_layers * model.dense_d_ff) / model.layers
    split = 4 * queries + 2 * attention.cached_values() + 2 * model.mlp_matrices * width
    scores = 5 * attention.heads * sequence_length * (1 - plan.fused_attention)
    return tokens * (whole / plan.token_ways + split / plan.tensor), tokens * scores / plan.tensor


def memory(model: Architecture, plan: Plan, *, batch: Scalar, sequence_length: Scalar) -> Memory:
    """Memory of the fullest chip in a training step.

    Args:
        model: what is trained.
        plan: how it is laid out.
        batch: sequences of a step, over all replicas.
        sequence_length: s, tokens of a sequence.

    Source: rajbhandari2020zero for the states and their stages, korthikanti2023reducing for activations.
    """
    held = parameters_per_chip(model, plan)
    weights, gradients, optimizer = (
        state_parameters(model, plan, stage=stage) * size
        for stage, size in ((3, WEIGHT), (2, GRADIENT), (1, OPTIMIZER))
    )
    layer, scores = activation_bytes(model, plan, sequence_length=sequence_length)
    tokens = plan.micro_batch * sequence_length
    inputs = 2 * model.d_model * tokens / plan.token_ways
    full, selective = plan.recompute >= Recompute.FULL, plan.recompute >= Recompute.SELECTIVE
    saved = jnp.where(full, inputs, layer + jnp.where(selective, 0.0, scores))
    waiting = in_flight(
        stages=plan.pipeline, micro_batches=plan.micro_batches(batch), chunks=plan.chunks, gpipe=plan.gpipe
    )
    again = jnp.where(full, layer + scores, jnp.where(selective, scores, 0.0))
    logits = 4 * tokens * model.vocabulary / plan.tensor  # 32-bit, on the last stage
    gathered = jnp.where(plan.zero >= 3, WEIGHT * held / plan.stage_layers(model), 0.0)
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=saved * plan.stage_layers(model) * waiting,
        working=jnp.maximum(again, logits) + gathered,
    )
