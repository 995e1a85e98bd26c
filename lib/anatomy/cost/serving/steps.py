"""One pass of a model that serves: a prompt is read, or each sequence in flight gets its next token.

Symbols: t tensor ways, of which X split d_model and Y = t / X heads and d_ff; p stages, d replicas, e expert ways, m
micro-batches in flight; n tokens of a micro-batch of one replica; k of E experts for a token.

Source: pope2023efficiently, section 3 and appendix A, for layouts and what they send; each part names its own.
"""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from anatomy.cost import collectives
from anatomy.cost.efficiency import Overheads, derate
from anatomy.cost.gemm import gemm_seconds, layer_gemm_seconds
from anatomy.cost.routing import expert_load
from anatomy.cost.serving.communication import expert_communication, mlp_width, tensor_communication
from anatomy.specs import Architecture, Cluster, Scalar, Serving
from anatomy.specs.base import (
    AT_LEAST_ONE,
    AT_LEAST_ZERO,
    FINITE,
    check_arguments,
    finite,
    is_concrete,
    number,
    refuse_where,
    shown,
    spec,
)

ROUNDING = 1 + 1e-5  # within which an expectation may pass its limit, in single precision

KERNELS = 8.0  # of a layer, one after the other, collectives aside: two norms, four products, attention, activation

SCORE = 16.0  # bytes moved for each score that does not stay on the chip: 32 bits, written and read twice


@spec
class Pass:
    """Seconds of one pass of all sequences in flight, by part; the parts add up to `seconds`."""

    sums: ClassVar = ("seconds",)

    compute: Scalar = number("s", doc="matrix products, as far as reading weights does not hide them")
    weights: Scalar = number("s", doc="reading weights")
    scores: Scalar = number("s", doc="attention scores and sums, as far as reading the cache does not hide them")
    cache: Scalar = number("s", doc="reading keys and values")
    activations: Scalar = number("s", doc="writing and reading what passes between kernels")
    tensor: Scalar = number("s", doc="bytes exchanged among tensor ways")
    expert: Scalar = number("s", doc="all-to-alls of expert ways")
    stages: Scalar = number("s", doc="transfers between stages")
    starts: Scalar = number("s", doc="of kernels, and of messages on their way")
    waiting: Scalar = number("s", doc="for the other micro-batches to pass the slowest stage")
    period: Scalar = number("s", doc="after which the next pass of as many tokens can begin")
    tokens: Scalar = number("tokens", doc="of the pass, over all replicas")
    sequences: Scalar = number("sequences", doc="in flight, over all replicas")
    flop: Scalar = number("FLOP", doc="that the model needs for them")
    peak: Scalar = number("FLOP/s", doc="of all chips, in 16 bits")
    chips: Scalar = number("chips", doc="of the plan")

    @property
    def seconds(self) -> Scalar:
        """All parts: until the last token of the pass is out."""
        work = self.compute + self.weights + self.scores + self.cache + self.activations
        return work + self.tensor + self.expert + self.stages + self.starts + self.waiting

    @property
    def tokens_per_second(self) -> Scalar:
        """Tokens of all chips in a second, one pass after the other."""
        return self.tokens / self.period

    @property
    def tokens_per_chip(self) -> Scalar:
        """Tokens of a chip in a second."""
        return self.tokens_per_second / self.chips

    @property
    def tokens_per_user(self) -> Scalar:
        """Tokens of one sequence in a second: read of its prompt, or added to its answer."""
        return self.tokens / self.sequences / self.seconds

    @property
    def mfu(self) -> Scalar:
        """Model FLOP utilisation, by the 16-bit peak (chowdhery2023palm, appendix B)."""
        return self.flop / (self.period * self.peak)

    def dollars_per_million(self, chip_hour: Scalar) -> Scalar:
        """Dollars for a million tokens, at so many dollars for an hour of a chip.

        Raises:
            TypeError, ValueError: chip_hour is below 0.
        """
        check_arguments("dollars_per_million", AT_LEAST_ZERO, chip_hour=chip_hour)
        return self.chips * chip_hour / 3600 * self.period / self.tokens * 1e6


def prefill(
    model: Architecture, plan: Serving, cluster: Cluster, constants: Overheads, *, batch: Scalar, prompt: Scalar
) -> Pass:
    """Reading prompts: all their tokens at once.

    Micro-batches follow each other through the stages, so the last is out after the stages and m - 1 turns of the
    slowest; the next prompts may follow at once. Prompts fewer than m are a micro-batch each.

    Args:
        model: that serves.
        plan: how it is laid out.
        cluster: on what.
        constants: what of the peaks is reached, and what it takes to start.
        batch: prompts in flight, of one replica.
        prompt: tokens of each.

    Raises:
        TypeError, ValueError: sequences or prompt is not a finite number above 0.
    """
    check_arguments("prefill", FINITE, batch=batch, prompt=prompt)
    turns = micro_batches(plan, batch)
    each = batch / turns
    attended = jnp.where(jnp.asarray(plan.fused_attention) > 0, (prompt + 1) / 2, prompt)
    parts, slowest = through_stages(
        model, plan, cluster, constants, n=each * prompt, attended=attended, cached=0.0, batch=each, predicted=each
    )
    waiting = (turns - 1) * slowest
    parts_of = model.flop_per_token((prompt + 1) / 2)
    # Only the last token of a prompt needs logits.
    flop = parts_of.without_scores - parts_of.unembedding * (1 - 1 / prompt) + parts_of.scores
    return _pass(plan, cluster, parts, waiting=waiting, period=turns * slowest, batch=batch, tokens=prompt, flop=flop)


def decode(
    model: Architecture,
    plan: Serving,
    cluster: Cluster,
    constants: Overheads,
    *,
    batch: Scalar,
    context: Scalar,
    tokens: Scalar = 1.0,
    active_experts: Scalar | None = None,
    imbalance: Scalar = 1.0,
) -> Pass:
    """One step of generation: each sequence in flight gets its next token.

    A sequence can begin its next step when it is through all stages, and when the other micro-batches had their turn
    at the slowest: max(sum of stages, m slowest). Sequences fewer than m are a micro-batch each.

    Args:
        model: that serves.
        plan: how it is laid out.
        cluster: on what.
        constants: what of the peaks is reached, and what it takes to start.
        batch: sequences in flight, of one replica.
        context: tokens that each holds in the cache.
        tokens: of each sequence that pass at once; a block that is verified has several.
        active_experts: active ones of a layer, e times those of the way that has most of
            them; by default those of even and independent choices.
        imbalance: tokens of the fullest expert way over the mean (`loads.slowest_way` gives both).

    Raises:
        TypeError, ValueError: a number is not finite and above 0 (the context at least 0), imbalance is below 1, or
            more experts are active than the model has.
    """
    check_arguments("decode", FINITE, batch=batch, tokens=tokens)
    check_arguments("decode", finite(AT_LEAST_ZERO), context=context)
    check_arguments("decode", finite(AT_LEAST_ONE), imbalance=imbalance)
    if active_experts is not None and is_concrete((active_experts, model.experts)):
        wrong = ~((np.asarray(active_experts) > 0) & (np.asarray(active_experts) <= model.experts * ROUNDING))
        refuse_where(
            wrong,
            "decode.active_experts",
            active_experts,
            f"a number above 0 and at most experts ({shown(model.experts)})",
        )
    turns = micro_batches(plan, batch)
    each = batch / turns
    n, attended = each * tokens, context + (tokens + 1) / 2
    parts, slowest = through_stages(
        model,
        plan,
        cluster,
        constants,
        n=n,
        attended=attended,
        cached=each * context,
        batch=each,
        predicted=n,
        active_experts=active_experts,
        imbalance=imbalance,
    )
    fill = sum(parts.values())
    seconds = jnp.maximum(fill, turns * slowest)
    flop = model.flop_per_token(attended).total
    return _pass(plan, cluster, parts, waiting=seconds - fill, period=seconds, batch=batch, tokens=tokens, flop=flop)


def micro_batches(plan: Serving, batch: Scalar) -> Scalar:
    """Micro-batches that so many sequences of a replica make: m, or as many as they are."""
    return jnp.where(batch < plan.micro_batches, jnp.maximum(batch, 1.0), plan.micro_batches)


def _pass(
    plan: Serving,
    cluster: Cluster,
    parts: dict[str, Scalar],
    *,
    waiting: Scalar,
    period: Scalar,
    batch: Scalar,
    tokens: Scalar,
    flop: Scalar,
) -> Pass:
    """Parts of one replica, and the tokens of all."""
    return Pass(
        **parts,
        waiting=waiting,
        period=period,
        tokens=plan.data * batch * tokens,
        sequences=plan.data * batch,
        flop=plan.data * batch * tokens * flop,
        peak=plan.chips * cluster.node.chip.flops_16bit,
        chips=plan.chips,
    )


def through_stages(
    model: Architecture,
    plan: Serving,
    cluster: Cluster,
    constants: Overheads,
    *,
    n: Scalar,
    attended: Scalar,
    cached: Scalar,
    batch: Scalar,
    predicted: Scalar,
    active_experts: Scalar | None = None,
    imbalance: Scalar = 1.0,
) -> tuple[dict[str, Scalar], Scalar]:
    """Seconds of a micro-batch in all stages, by part, and in the slowest of them.

    Args:
        model: that serves.
        plan: how it is laid out.
        cluster: on what.
        constants: what of the peaks is reached.
        n: tokens of the micro-batch.
        attended: tokens that each attends to, on average.
        cached: tokens that are read from the cache, of all sequences of the micro-batch.
        batch: sequences of the micro-batch.
        predicted: tokens whose logits are needed.
        active_experts: experts of a layer that are read, over all expert ways.
        imbalance: tokens of the fullest expert way over the mean.
    """
    share = constants.efficiency
    net = derate(cluster, share)
    bandwidth = cluster.node.chip.memory_bandwidth * share.memory
    peak = cluster.node.chip.flops(8 * jnp.maximum(plan.weight_bytes, plan.activation_bytes))
    if active_experts is None:
        active_experts = expert_load.active_experts(tokens=n * plan.expert, experts=model.experts, top_k=model.top_k)
    gathered = jnp.asarray(plan.gathered) > 0
    one = jnp.ones_like(jnp.asarray(plan.tensor, float))
    # With gathered weights each chip is alone with its share of the tokens.
    rows = jnp.where(gathered, n / plan.tensor, n)
    split = plan.replace(tensor=jnp.where(gathered, one, plan.tensor), rows=jnp.where(gathered, one, plan.rows))
    by_sequence = jnp.asarray(plan.cache_by_sequence) > 0
    score_ways = jnp.where(by_sequence, plan.sequence_ways(batch), plan.tensor)

    # One layer.
    read = plan.weight_bytes * layer_weights(model, split, active_experts=active_experts) / bandwidth
    products = layer_gemm_seconds(
        model,
        tokens=rows,
        rows=split.rows,
        columns=split.columns,
        router_ways=split.tensor,
        experts=active_experts / plan.expert,
        expert_tokens=rows * plan.expert * model.top_k / active_experts * imbalance,
        peak=peak,
        efficiency=share,
    )
    scores = n * attended * model.attention.score_flop() / score_ways / (peak * share.matmul)
    cache = layer_cache(model, plan, cached=cached, n=n, batch=batch) / bandwidth
    moved = 2 * plan.activation_bytes * activation_values(model, split, n=rows)
    moved = moved + (1 - plan.fused_attention) * SCORE * n * attended * model.attention.heads / score_ways
    whole = plan.weight_bytes * layer_weights(model, plan.replace(tensor=1.0, rows=1.0), active_experts=model.experts)
    sent = tensor_communication(model, plan, tokens=n, net=net, layer_weight_bytes=whole)
    routed = expert_communication(model, plan, tokens=n * imbalance, net=net)
    starts = (KERNELS + sent.collectives + routed.collectives) * constants.kernel
    starts = starts + (sent.hops + routed.hops) * constants.hop
    starts = starts + (sent.network_hops + routed.network_hops) * constants.network_hop
    layer = {
        "compute": products - constants.overlap * jnp.minimum(read, products),
        "weights": read,
        "scores": scores - constants.overlap * jnp.minimum(scores, cache),
        "cache": cache,
        "activations": moved / bandwidth,
        "tensor": sent.seconds,
        "expert": routed.seconds,
        "starts": starts,
    }
    parts = {name: model.layers * seconds for name, seconds in layer.items()}

    # The output table, and the way from stage to stage.
    table = plan.weight_bytes * model.vocabulary * model.d_model / plan.tensor / bandwidth
    logits = gemm_seconds(
        rows=predicted, columns=model.vocabulary / plan.tensor, inner=model.d_model, peak=peak, efficiency=share
    )
    logits = logits - constants.overlap * jnp.minimum(table, logits)
    parts = parts | {"weights": parts["weights"] + table, "compute": parts["compute"] + logits}
    between = stage_transfer(model, plan, tokens=n, net=net, cluster=cluster, constants=constants)
    slowest = slowest_stage(model, plan, layer=sum(layer.values()), logits=table + logits) + between
    return parts | {"stages": plan.pipeline * between}, slowest


def slowest_stage(model: Architecture, plan: Serving, *, layer: Scalar, logits: Scalar) -> Scalar:
    """Seconds of the slowest stage: a full one, or that which makes the logits, the head stage or the last."""
    has_small_first_stage = jnp.asarray(plan.has_small_first_stage) > 0
    layers = jnp.where(has_small_first_stage, plan.first_stage_layers(model), plan.last_layers(model))
    return jnp.maximum(plan.stage_layers(model) * layer, layers * layer + logits)


def layer_weights(model: Architecture, plan: Serving, *, active_experts: Scalar) -> Scalar:
    """Weights that a chip reads in an average layer: attention, what all tokens pass, and the active experts.

    Experts to which no token is routed are not read. Key and value heads that are fewer than tensor ways are copied.
    """
    parts = model.parameters
    shared = (parts.attention + parts.dense_mlp + parts.router + parts.norms) / model.layers
    experts = parts.experts / model.layers * active_experts / model.experts / plan.expert
    return (shared + experts) / plan.tensor + model.attention.copied_weights(model.d_model, plan.columns) / plan.rows


def layer_cache(model: Architecture, plan: Serving, *, cached: Scalar, n: Scalar, batch: Scalar) -> Scalar:
    """Bytes of keys and values that a chip reads in a layer, of so many cached tokens, and writes of n new ones.

    Heads split them as many ways as there are key and value heads; more tensor ways hold copies. Split by sequences
    there are no copies, but a sequence is never on two chips.

    Source: pope2023efficiently, section 3.3.
    """
    by_heads = jnp.minimum(plan.tensor, model.attention.cache_ways)
    ways = jnp.where(jnp.asarray(plan.cache_by_sequence) > 0, plan.sequence_ways(batch), by_heads)
    return plan.cache_bytes * model.attention.cached_values() * (cached + n) / ways


def activation_values(model: Architecture, plan: Serving, *, n: Scalar) -> Scalar:
    """Values that pass between the kernels of an average layer on a chip: each is written once and read once."""
    attention = 2 * model.attention.width + model.attention.cached_values()
    split = (attention + model.mlp_matrices * mlp_width(model)) / plan.columns
    return n * (2 * model.d_model / plan.rows + split)


def stage_transfer(
    model: Architecture, plan: Serving, *, tokens: Scalar, net: Cluster, cluster: Cluster, constants: Overheads
) -> Scalar:
    """Seconds to hand a micro-batch to the next stage, each tensor rank its part; 0 where there is one stage."""
    span = plan.tensor * plan.pipeline
    hop = jnp.where(jnp.asarray(span) <= cluster.node.chips, constants.hop, constants.network_hop)
    size = plan.activation_bytes * tokens * model.d_model / plan.tensor
    send = collectives.point_to_point(size, bandwidth=net.slowest_link(span).bandwidth, latency=hop)
    return jnp.where(plan.pipeline > 1, send + constants.kernel, 0.0)
