"""One training step: where its seconds go, and what of the peak is left.

Symbols: t tensor ways, p stages, d replicas, v chunks of a stage, m micro-batches of a replica; b sequences
of s tokens in a micro-batch.
"""

from typing import ClassVar

import jax.numpy as jnp

from anatomy.cost import collectives
from anatomy.cost.efficiency import Efficiency, derate
from anatomy.cost.gemm import gemm_seconds, layer_gemm_seconds
from anatomy.cost.training.legality import legal
from anatomy.cost.training.memory import GRADIENT, Memory, activation_bytes, held_parameters, memory, state_parameters
from anatomy.cost.training.pipeline import bubble
from anatomy.specs import Architecture, Cluster, Plan, Recompute, Scalar
from anatomy.specs.base import AT_LEAST_ONE, FINITE, check_arguments, number, spec, switch

VALUE = 2.0  # bytes of an activation


@spec
class Step:
    """Seconds of one step by part, on the stage that sets the pace; the parts add up to `seconds`."""

    sums: ClassVar = ("seconds",)

    matmul: Scalar = number("s", doc="matrix products of projections, MLPs and logits, forward and backward")
    scores: Scalar = number("s", doc="attention scores and the sum of values")
    memory_bound: Scalar = number("s", doc="norms, activations, dropouts, softmax")
    recompute: Scalar = number("s", doc="whatever is computed a second time")
    tensor: Scalar = number("s", doc="all-reduces of tensor parallelism, not hidden")
    expert: Scalar = number("s", doc="all-to-alls of expert parallelism, not hidden")
    stages: Scalar = number("s", doc="transfers between stages, not hidden")
    bubble: Scalar = number("s", doc="waiting for other stages")
    gradient_reduction: Scalar = number(
        "s", doc="data-parallel all-reduce of gradients, and gathers of weights, not hidden"
    )
    optimizer: Scalar = number("s", doc="update of the weights")
    model_flop: Scalar = number("FLOP", doc="that the model needs, of the whole step")
    hardware_flop: Scalar = number("FLOP", doc="with activation recomputation")
    peak: Scalar = number("FLOP/s", doc="of all chips")
    chips: Scalar = number("chips", doc="of the plan")
    tokens: Scalar = number("tokens", doc="of the step")
    memory: Memory
    memory_limit: Scalar = number("bytes", doc="capacity of a chip")
    legal: Scalar = switch(default=True, doc="whether the plan can be run, memory aside (`legality.problems` says why)")

    @property
    def seconds(self) -> Scalar:
        """All parts."""
        work = self.matmul + self.scores + self.memory_bound + self.recompute
        communication = self.tensor + self.expert + self.stages + self.gradient_reduction
        return work + communication + self.bubble + self.optimizer

    @property
    def mfu(self) -> Scalar:
        """Model FLOP utilisation: the model's own FLOP over the peak (chowdhery2023palm, appendix B)."""
        return self.model_flop / (self.seconds * self.peak)

    @property
    def hfu(self) -> Scalar:
        """Hardware FLOP utilisation: activation recomputation counts too (korthikanti2023reducing, section 6).

        Like MFU it counts attention scores over the whole square, masked half included.
        """
        return self.hardware_flop / (self.seconds * self.peak)

    @property
    def tokens_per_second(self) -> Scalar:
        """Tokens of the whole cluster in a second."""
        return self.tokens / self.seconds

    @property
    def fits(self) -> Scalar:
        """Whether the memory suffices."""
        return self.memory.total <= self.memory_limit


def training_step(
    model: Architecture,
    plan: Plan,
    cluster: Cluster,
    *,
    batch: Scalar,
    sequence_length: Scalar,
    efficiency: Efficiency,
    imbalance: Scalar = 1.0,
) -> Step:
    """One training step of any architecture under any plan on any cluster.

    A stage computes its layers for each micro-batch, forward and backward, and what it recomputes; waits
    (p - 1) / v micro-batches for its neighbours; then gradients are reduced over replicas and the optimizer
    updates the weights. The fullest stage, with the output table on top, sets the pace. Micro-batches
    need not be a whole number: a batch is rounded to what the replicas take. A plan that cannot be run has a
    time all the same, so that sweeps go on, and is marked: `legal` is false.

    Args:
        model: what is trained.
        plan: how it is laid out; its overlaps say what share of the traffic is hidden, as far as compute lasts.
        cluster: on what; its chips beyond the plan's idle.
        batch: sequences of a step, over all replicas.
        sequence_length: s, tokens of a sequence.
        efficiency: what share of the peaks programs reach.
        imbalance: tokens of the fullest expert over the mean.

    Returns:
        Seconds by part, FLOP, and memory.

    Raises:
        TypeError, ValueError: sequences or sequence is not a finite number above 0, or imbalance is below 1.

    Source: narayanan2021megatron, korthikanti2023reducing; each part names its own.
    """
    check_arguments("training_step", FINITE, batch=batch, sequence_length=sequence_length)
    check_arguments("training_step", AT_LEAST_ONE, imbalance=imbalance)
    net = derate(cluster, efficiency)
    chip = cluster.node.chip
    peak, bandwidth = chip.flops_16bit, chip.memory_bandwidth * efficiency.memory
    t, p = plan.tensor, plan.pipeline
    tokens = plan.micro_batch * sequence_length
    micro_batches = plan.micro_batches(batch)
    layers = plan.stage_layers(model)
    full, selective = plan.recompute >= Recompute.FULL, plan.recompute >= Recompute.SELECTIVE

    # One layer and one micro-batch, forward.
    gemms = layer_gemm_seconds(
        model,
        tokens=tokens,
        rows=1.0,
        columns=t,
        router_ways=1.0,  # every tensor way routes all tokens
        experts=model.experts / plan.expert * imbalance,
        expert_tokens=tokens * model.top_k * plan.expert / model.experts,  # from all its replicas
        peak=peak,
        efficiency=efficiency,
    )
    scores = score_seconds(
        model, plan, tokens=tokens, sequence_length=sequence_length, peak=peak, efficiency=efficiency
    )
    saved, saved_scores = activation_bytes(model, plan, sequence_length=sequence_length)
    traffic, score_traffic = (2 * size / bandwidth for size in (saved, saved_scores))  # written once, read once
    ring = net.slowest_link(t)  # beyond a node, tensor ways go at the network's pace
    reduce = collectives.all_reduce(
        VALUE * tokens * model.d_model, chips=t, bandwidth=ring.bandwidth, latency=ring.latency
    )
    send = expert_all_to_all(model, plan, tokens=tokens, net=net)

    # The whole stage: forward once, backward twice; recomputed parts a third time.
    logits = gemm_seconds(
        rows=tokens, columns=model.vocabulary / t, inner=model.d_model, peak=peak, efficiency=efficiency
    )
    logits = logits + 8 * tokens * model.vocabulary / t / bandwidth  # 32-bit softmax, written and read
    again = jnp.where(full, gemms + traffic, 0.0) + jnp.where(selective, scores + score_traffic, 0.0)
    work = {
        "matmul": 3 * (layers * gemms + logits),
        "scores": 3 * layers * scores,
        "memory_bound": 3 * layers * (traffic + score_traffic),
        "recompute": layers * again,
    }
    communication = {
        "tensor": (4 + 2 * full) * layers * reduce,
        "expert": (4 + 2 * full) * layers * send,
        "stages": 2 * plan.chunks * stage_transfer(model, plan, tokens=tokens, net=net),
    }
    compute = sum(work.values())  # seconds of a stage for one micro-batch
    shown = exposed(traffic=sum(communication.values()), overlap=plan.overlap_layers, compute=compute)
    one = work | {name: shown * seconds for name, seconds in communication.items()}
    reduction = gradient_reduction(model, plan, net=net, micro_batches=micro_batches)
    return Step(
        **{name: micro_batches * seconds for name, seconds in one.items()},
        bubble=bubble(stages=p, chunks=plan.chunks) * sum(one.values()),
        gradient_reduction=reduction
        * exposed(
            traffic=reduction,
            overlap=plan.overlap,
            compute=compute * reduction_window(plan, micro_batches=micro_batches),
        ),
        optimizer=optimizer_seconds(model, plan, bandwidth=bandwidth),
        model_flop=batch * sequence_length * model.flop_per_token(sequence_length, backward=True).total,
        hardware_flop=hardware_flop(model, plan, batch=batch, sequence_length=sequence_length),
        peak=plan.chips * peak,
        chips=plan.chips,
        tokens=batch * sequence_length,
        memory=memory(model, plan, batch=batch, sequence_length=sequence_length),
        memory_limit=chip.memory,
        legal=legal(model, plan, cluster, batch=batch),
    )


def exposed(*, traffic: Scalar, overlap: Scalar, compute: Scalar) -> Scalar:
    """Share of the seconds of traffic that compute does not hide: it hides what is wanted, and no more than it has."""
    return 1 - jnp.minimum(overlap, compute / jnp.maximum(traffic, 1e-30))


def score_seconds(
    model: Architecture, plan: Plan, *, tokens: Scalar, sequence_length: Scalar, peak: Scalar, efficiency: Efficiency
) -> Scalar:
    """Seconds of attention scores and values of a layer, forward: one s x s product a head each.

    Kernels that keep scores on the chip skip the half that causality masks (dao2022flashattention).
    """
    half = 1 - 0.5 * plan.fused_attention
    waste = 1 + efficiency.half_size * (2 / sequence_length + 1 / model.attention.head_dim)
    flop = tokens * sequence_length * model.attention.score_flop() / plan.tensor
    return half * flop * waste / (peak * efficiency.matmul)


def expert_all_to_all(model: Architecture, plan: Plan, *, tokens: Scalar, net: Cluster) -> Scalar:
    """Seconds of one all-to-all that sends each token to its k experts (lepikhin2021gshard)."""
    size = VALUE * tokens * model.top_k * model.d_model / plan.tensor
    link = net.slowest_link(plan.expert * plan.tensor)
    there = collectives.all_to_all(size, chips=plan.expert, bandwidth=link.bandwidth, latency=link.latency)
    return model.is_routed * model.expert_layers / model.layers * there


def stage_transfer(model: Architecture, plan: Plan, *, tokens: Scalar, net: Cluster) -> Scalar:
    """Seconds to send a micro-batch's activations to the next stage, each tensor rank its part.

    Source: narayanan2021megatron, section 4.1 (scatter/gather).
    """
    link = net.slowest_link(plan.chips)  # some stage ends where a node or a segment ends
    send = collectives.point_to_point(
        VALUE * tokens * model.d_model / plan.tensor, bandwidth=link.bandwidth, latency=link.latency
    )
    return jnp.where(plan.pipeline > 1, send, 0.0)


def reduction_passes(plan: Plan, *, micro_batches: Scalar) -> Scalar:
    """How often a step gathers weights or scatters gradients among data-parallel replicas.

    Plain data parallelism and ZeRO 1 scatter the gradients and gather the weights once: 2. ZeRO 2 keeps no
    whole gradients, so it scatters those of every micro-batch: m + 1. ZeRO 3 also gathers the weights for
    the forward and for the backward pass of each: 3 m.

    Source: rajbhandari2020zero, section 7.
    """
    m = micro_batches
    return jnp.where(plan.zero >= 3, 3 * m, jnp.where(plan.zero >= 2, m + 1, 2.0))


def reduction_window(plan: Plan, *, micro_batches: Scalar) -> Scalar:
    """Micro-batches of compute behind which the gradient reduction can be hidden.

    Gradients are complete in the last backward pass, and weights are wanted in the first forward pass: together
    one micro-batch. With v chunks, those of all chunks but one wait for the passes of the p micro-batches that
    go through the others: 1 + (p - 1) (v - 1) / v. From ZeRO 2 on there is a reduction in every micro-batch.

    Source: jiang2024megascale, section 3.2, for chunks; rajbhandari2020zero, section 7.
    """
    once = 1 + (plan.pipeline - 1) * (plan.chunks - 1) / plan.chunks
    return jnp.where(plan.zero >= 2, micro_batches, jnp.minimum(once, micro_batches))


def gradient_reduction(model: Architecture, plan: Plan, *, net: Cluster, micro_batches: Scalar) -> Scalar:
    """Seconds of the data-parallel reduction of gradients, and of the gathers of weights.

    In hybrid sharding that happens inside groups, and the groups sum what they hold once. Experts have
    data / expert replicas only.

    Source: rajbhandari2020zero, section 7; zhao2023fsdp for hybrid sharding.
    """
    passes = reduction_passes(plan, micro_batches=micro_batches)

    def reduce(held: Scalar, replicas: Scalar, neighbours: Scalar) -> Scalar:
        ways = plan.zero_group(replicas)
        group = collectives.hierarchical_reduction(
            GRADIENT * held, replicas=ways, neighbours=neighbours, cluster=net, passes=passes
        )
        return group + collectives.hierarchical_reduction(
            GRADIENT * held / ways, replicas=replicas / ways, neighbours=neighbours * ways, cluster=net
        )

    shared, experts = held_parameters(model, plan)
    return reduce(shared, plan.data, plan.tensor) + reduce(experts, plan.expert_replicas, plan.tensor * plan.expert)


def optimizer_seconds(model: Architecture, plan: Plan, *, bandwidth: Scalar) -> Scalar:
    """Seconds to read gradients and state and to write state and weights: 2 + 12 + 12 + 2 bytes a parameter."""
    return state_parameters(model, plan, stage=1) * 28.0 / bandwidth


def hardware_flop(model: Architecture, plan: Plan, *, batch: Scalar, sequence_length: Scalar) -> Scalar:
    """FLOP of a step with activation recomputation; logits are never recomputed."""
    forward = model.flop_per_token(sequence_length)
    layers = forward.total - forward.unembedding
    again = jnp.where(
        plan.recompute >= Recompute.FULL, layers, jnp.where(plan.recompute >= Recompute.SELECTIVE, forward.scores, 0.0)
    )
    return batch * sequence_length * (3 * forward.total + again)
