"""Checks of the parallelism: what 8 x 15 holds, where its seconds go, and what else the chips could have run."""

import dataclasses
from functools import cache

import jax
import numpy as np
from jaxtyping import Bool, Int

from anatomy.claims.architecture import printed
from anatomy.claims.finding import SMALL, Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger import Claim, check, get
from anatomy.cost import collectives, training
from anatomy.cost.memory import parameters_per_chip
from anatomy.cost.pipeline import bubble_fraction
from anatomy.cost.run import training_flop
from anatomy.cost.search import Found, search
from anatomy.specs import Architecture, Cluster, Plan, Recompute, architecture, catalogue, cluster
from anatomy.specs.units import readable
from anatomy.train import mesh as meshes

SEQUENCE = printed("data.ctx_8k")
SEQUENCES = printed("data.batch_60M") / SEQUENCE
WAYS, STAGES = printed("par.tp8"), printed("par.pp15")
REPLICAS = printed("train.gpus") // (WAYS * STAGES)

# The article's plan; what it leaves open is as in the largest runs published by then (narayanan2021megatron,
# korthikanti2023reducing), with attention that keeps its scores on the chip.
ARTICLE = Plan(
    tensor=WAYS, pipeline=STAGES, data=REPLICAS, micro_batch=1.0, zero=printed("par.zero1"),
    recompute=float(Recompute.FULL), sequence_parallel=1.0, fused_attention=1.0,
)  # fmt: skip
# No stages: each node holds a copy of all layers, sharded over all replicas. And what exchanges least: the three
# sequences that each replica then has pass at once.
SHARDED = ARTICLE.replace(pipeline=1.0, data=printed("train.gpus") // WAYS, zero=3.0)
AT_ONCE = SHARDED.replace(data=SEQUENCES // 3, micro_batch=3.0)
MACHINES = {"a100_sxm_40gb": ("ampere", 3_125.0), "a100_sxm_80gb": ("ampere", 3_125.0), "h100_sxm": ("hopper", 1_024.0)}
MFU_ERROR = 0.03  # by which the model misses PaLM's, the one published utilisation of another maker's chips
MODEL_ASSUMED = ("the book's shape of GPT-4", "60 million tokens a step", "exchange between replicas is not hidden")


def machine(key: str = "a100_sxm_40gb", segment_nodes: float | None = None, between: float = 1.0) -> Cluster:
    """25,000 A100 or 8,192 H100, on one network or in segments."""
    return cluster(key, MACHINES[key][1], segment_nodes, between)


def run(plan: Plan = ARTICLE, on: Cluster | None = None, model: Architecture | None = None) -> training.Step:
    """One step of GPT-4 on A100, in double precision, with the article's batch."""
    with jax.enable_x64(True):
        model = architecture("gpt4") if model is None else model
        on = machine() if on is None else on
        return training.step(model, plan, on, SEQUENCES, SEQUENCE, training.efficiency("ampere"))


def total(plan: Plan) -> float:
    """Bytes on the fullest chip."""
    return float(run(plan).memory.total)


def deep(stages: float, **changes: float) -> Plan:
    """The article's plan with another number of stages, on as many replicas as the chips then give."""
    data = printed("train.gpus") // (ARTICLE.tensor * stages)
    return ARTICLE.replace(pipeline=float(stages), data=data, **changes)


def depths() -> list[int]:
    """Numbers of stages that hold equally many layers."""
    layers = int(printed("arch.layers"))
    return [n for n in range(1, layers + 1) if layers % n == 0]


def fewest_stages(capacity: float, **changes: float) -> int:
    """The fewest stages of equally many layers with which the plan fits."""
    return next(p for p in depths() if total(deep(p, **changes)) <= capacity)


def fastest_depth(overlap: float) -> int:
    """The number of stages that is fastest, memory aside, where so much of the exchange is hidden."""
    return min(depths(), key=lambda p: float(run(deep(p, overlap=overlap)).seconds))


@cache
def found(key: str) -> Found:
    """All legal plans for GPT-4 on a machine."""
    share = training.efficiency(MACHINES[key][0])
    return search(architecture("gpt4"), machine(key), SEQUENCES, SEQUENCE, share, ARTICLE)


def whole_experts(plans: Found) -> Bool[np.ndarray, "plans"]:
    """Plans that split experts as the article says, by tensor ways and stages alone."""
    return plans.plans["expert"] == 1


def quickest(plans: Found, among: Bool[np.ndarray, "plans"]) -> int:
    """The row of the fastest plan among some, of those that fit."""
    return int(np.argmin(np.where(among & plans.fits, plans.seconds, np.inf)))


def timeline(stages: int, micro_batches: int, gpipe: bool = False) -> Int[np.ndarray, "2 stages ticks"]:
    """What each stage of the small model's compiled step does at each tick, and with which micro-batch.

    It is the table that the compiled program looks up itself. 0 waits, 1 is a forward pass, 2 a backward pass; all
    take one tick.

    Args:
        stages: p.
        micro_batches: m.
        gpipe: all forward passes first; else 1F1B.
    """
    way = meshes.ways(Plan(pipeline=stages, gpipe=gpipe))
    stage, tick = np.indices((stages, meshes.ticks(way, micro_batches)))
    return np.stack([np.asarray(a) for a in meshes.timetable(way, micro_batches, stage, tick)])


def idle_ticks(stages: int, micro_batches: int, gpipe: bool = False) -> float:
    """Share of the ticks in which a stage of the small model waits, counted; each waits equally often."""
    return float(np.mean(timeline(stages, micro_batches, gpipe)[0] == 0))


@check("par.critical")
def critical(claim: Claim) -> Finding:
    """How far plans on the same chips lie apart."""
    plans = found("a100_sxm_40gb")
    alike = plans.fits & (plans.chips > 0.9 * printed("train.gpus"))
    low, middle, high = (float(np.quantile(plans.mfu[alike], q)) for q in (0.05, 0.5, 0.95))
    return uncheckable(
        claim,
        f"Plausible: of {alike.sum():,} plans that fit 40 GB and use more than nine tenths of 25,000 A100, the middle "
        f"one reaches {middle:.0%} of the peak, one in twenty less than {low:.0%} and one in twenty more than "
        f"{high:.0%}. The same chips differ by a factor of {high / low:.0f} through the plan alone.",
        value=high / low,
        unit="times",
        assumes=MODEL_ASSUMED,
        sources=("narayanan2021megatron",),
    )


@check("par.tp8")
def tp8(claim: Claim) -> Finding:
    """Not on record; what other ways would cost."""
    plans = found("a100_sxm_40gb")
    times = {}
    for ways in (2, 4, 8):
        among = whole_experts(plans) & plans.fits & (plans.plans["tensor"] == ways)
        times[ways] = float(plans.seconds[among].min()) if among.any() else np.inf
    best = min(times, key=lambda ways: times[ways])
    gpt4 = architecture("gpt4")
    single = dataclasses.replace(gpt4.attention, kv_heads=1.0)
    copied = gpt4.layers / STAGES * single.copied_weights(gpt4.d_model, WAYS)
    copies = float(copied / parameters_per_chip(gpt4, ARTICLE))
    shown = ", ".join(f"{t:.1f} s with {ways}" if np.isfinite(t) else f"none with {ways}" for ways, t in times.items())
    return uncheckable(
        claim,
        f"Not on record, and plausible. The fastest plans that fit 40 GB with unsplit experts take {shown} "
        f"tensor ways; {best} is best. The small model trains on {WAYS:.0f} tensor ways too, with its single key and "
        f"value head copied on each, since one head does not split. In GPT-4, with the multi-query attention that the "
        f"article reports, such copies would be {copies:.1%} of what a chip holds.",
        beside=(times[8], "s"),
        assumes=(*MODEL_ASSUMED, SMALL),
        sources=("shoeybi2019megatron", "narayanan2021megatron"),
    )


@check("par.nvlink8")
def nvlink8(claim: Claim) -> Finding:
    """How many chips a node joins, and what a ninth would cost."""
    node = catalogue.node("a100_sxm_40gb")
    share, on = training.efficiency("ampere"), machine()
    size = training.VALUE * SEQUENCE * architecture("gpt4").d_model
    near = collectives.all_reduce(size, WAYS, node.link.bandwidth * share.link)
    far = collectives.all_reduce(size, 2 * WAYS, on.inside.bandwidth * share.network)
    slower = float(far / near)
    return compare(
        claim,
        node.chips,
        f"The box that A100s are sold in joins {node.chips:.0f} by NVLink. The limit is the box's, not the link's: "
        f"NVLink switches have joined 16 V100 and, since Hopper, up to 256 chips. Leaving the box, an all-reduce over "
        f"{2 * WAYS:.0f} ways would take {slower:.0f} times as long as over {WAYS:.0f} inside it.",
        condition="the chips are A100 in boxes of eight",
        evidence=Evidence.COST_MODEL,
        sources=["nvidia2020a100", "nvidia2022h100"],
    )


@check("par.pp15")
def pp15(claim: Claim) -> Finding:
    """Not on record; what divides what."""
    layers = printed("arch.layers")
    replicas, left = divmod(printed("train.gpus"), WAYS * STAGES)
    each = round(float(ARTICLE.micro_batches(SEQUENCES)))
    return uncheckable(
        claim,
        f"Not on record. The numbers go together: 15 stages hold {layers / STAGES:.0f} of {layers:.0f} layers each, "
        f"8 x 15 chips hold a copy of the model, and 25,000 chips hold {replicas:.0f} copies with {left:.0f} chips "
        f"left over. But {len(depths())} numbers of stages divide the layers. The layout runs: the small model, with "
        f"{layers:.0f} layers, trains on {WAYS * STAGES:.0f} virtual devices laid out like that. With {each} "
        f"micro-batches, as the article's batch gives a replica, its stages wait in "
        f"{idle_ticks(int(STAGES), each):.0%} of the ticks. That it runs does not tell that it was used.",
        beside=(replicas, "replicas"),
        assumes=("120 layers", "25,000 chips", SMALL),
    )


@check("par.too_many")
def too_many(claim: Claim) -> Finding:
    """The seconds of transfers between stages against those of the bubble, and the depth that is fastest."""
    step, half = run(), run(deep(8))
    best, hidden = fastest_depth(overlap=0.0), fastest_depth(overlap=1.0)
    return decide(
        claim,
        best < claim.value,
        f"Not for communication: transfers between stages take {float(step.stages):.2f} s of a step of "
        f"{float(step.seconds):.1f} s. The bubble takes {float(step.bubble):.1f} s, but with 8 stages on the same "
        f"chips it would still take {float(half.bubble):.1f} s, since more replicas then share the batch. With the "
        f"exchange between replicas in the open, {best} stages are the fastest of all depths; hidden as far as the one "
        f"micro-batch of work allows that can hide it, {hidden}.",
        value=float(step.stages / step.seconds),
        unit="share",
        in_part=hidden < claim.value,
        evidence=Evidence.COST_MODEL,
        assumes=["memory aside", "8 tensor ways", "one chunk a stage", *MODEL_ASSUMED[:2]],
        sources=["narayanan2021megatron"],
    )


@check("par.mem_bound")
def mem_bound(claim: Claim) -> Finding:
    """The fewest stages that fit, on either A100."""
    small, large = (fewest_stages(catalogue.chip(key).memory) for key in ("a100_sxm_40gb", "a100_sxm_80gb"))
    near = [max(p for p in depths() if p < least) for least in (large, small)]
    over = [readable(total(deep(p)), "bytes") for p in near]
    return compare(
        claim,
        large,
        f"With 8 tensor ways and ZeRO-1, {large} is the smallest number of stages with equally many layers that fits "
        f"80 GB; 40 GB would take {small}. The next smaller ones, {near[0]} and {near[1]}, miss by little, with "
        f"{over[0]} and {over[1]}, but real chips use some GB more than this count.",
        condition="chips have 80 GB, and ZeRO stops at stage 1",
        evidence=Evidence.COST_MODEL,
        assumes=["every layer is computed again", *MODEL_ASSUMED[:2]],
        sources=["rajbhandari2020zero", "korthikanti2023reducing"],
    )


@check("par.fp16_30GB")
def fp16_30GB(claim: Claim) -> Finding:
    """Two bytes for each parameter, over 120 chips, and on the fullest of them."""
    gpt4 = architecture("gpt4")
    even = 2 * gpt4.parameters.total / (WAYS * STAGES)
    fullest = float(run().memory.weights)
    return compare(
        claim,
        fullest,
        f"2 bytes for each of {readable(gpt4.parameters.total, 'parameters')} over 8 x 15 chips are "
        f"{readable(even, 'bytes')}; the chips that also hold a token table have {readable(fullest, 'bytes')}.",
        evidence=Evidence.COST_MODEL,
        assumes=["the book's shape of GPT-4"],
    )


@check("par.40GB")
def fits_40GB(claim: Claim) -> Finding:
    """All parts of a training step, against 40 GB."""
    parts = run().memory
    both = float(parts.weights + parts.gradients)
    return decide(
        claim,
        bool(parts.total <= claim.value),
        f"The original speaks of key/value cache and overhead; the retelling makes overhead cost. Training keeps no "
        f"such cache, but gradients: with ZeRO-1 these and the weights are {readable(both, 'bytes')}, and all parts "
        f"{readable(float(parts.total), 'bytes')}. That does not fit 40 GB; it fits 80 GB.",
        value=float(parts.total),
        unit="bytes a chip",
        evidence=Evidence.COST_MODEL,
        assumes=["ZeRO-1", "every layer is computed again", "gradients of 16 bits", "experts are not split further"],
        sources=["rajbhandari2020zero", "korthikanti2023reducing"],
    )


@check("par.zero1")
def zero1(claim: Claim) -> Finding:
    """The first stage of ZeRO with which the plan fits 40 GB."""
    sizes = [total(ARTICLE.replace(zero=float(stage))) for stage in range(4)]
    capacity = printed("par.40GB")
    least = next(stage for stage, size in enumerate(sizes) if size <= capacity)
    once, often = (float(run(ARTICLE.replace(zero=float(stage))).replicas) for stage in (1, 2))
    return compare(
        claim,
        least,
        f"Not on record. Some ZeRO is needed: without it a chip would hold {readable(sizes[0], 'bytes')}. Stage 1 "
        f"leaves {readable(sizes[1], 'bytes')}, which fits 80 GB and not the 40 GB that the article supposes; "
        f"stage {least}, with {readable(sizes[least], 'bytes')}, is the first that fits these. Stage 1 suits a "
        f"pipeline: the small model's step adds up whole gradients over its micro-batches and scatters them once. "
        f"Stage 2 would scatter those of each, in {often:.0f} s a step in place of {once:.1f} s.",
        against=get("par.40GB"),
        evidence=Evidence.COST_MODEL,
        assumes=["experts are not split further, as the 30 GB a chip imply", "every layer is computed again", SMALL],
        sources=["rajbhandari2020zero"],
    )


@check("par.block_fsdp")
def block_fsdp(claim: Claim) -> Finding:
    """What hybrid sharding inside the stages would save and cost."""
    plan = ARTICLE.replace(zero=3.0, zero_ways=8.0)
    step, plain = run(plan), run()
    return uncheckable(
        claim,
        f"Not on record. Hybrid sharding in groups of 8 replicas would bring a chip to "
        f"{readable(float(step.memory.total), 'bytes')}, within 40 GB. If the weights are gathered anew for each of "
        f"{float(plan.micro_batches(SEQUENCES)):.0f} micro-batches, that takes {float(step.replicas):.0f} s a step in "
        f"place of {float(plain.replicas):.1f} s; it pays only if gathered weights serve many micro-batches.",
        value=float(step.replicas),
        unit="s",
        assumes=("weights are gathered anew for each micro-batch", *MODEL_ASSUMED),
        sources=("zhao2023fsdp", "rajbhandari2020zero"),
    )


@check("par.no_fsdp")
def no_fsdp(claim: Claim) -> Finding:
    """Bytes and seconds of full sharding, against the whole step of the plan with stages."""
    sharded, least, plain = run(SHARDED), run(AT_ONCE), run()
    much, little = traffic(SHARDED), traffic(ARTICLE)
    return decide(
        claim,
        bool(least.replicas > plain.seconds),
        f"With 8 tensor ways and everything else fully sharded, a chip receives {readable(much, 'bytes')} a step, "
        f"{much / little:.0f} times what the stages' plan exchanges. That takes {float(sharded.replicas):.0f} s, or "
        f"{float(least.replicas):.0f} s if all sequences of a replica pass at once; the whole step of 8 x 15 takes "
        f"{float(plain.seconds):.1f} s. Even hidden behind compute it would be slower.",
        value=float(sharded.replicas),
        unit="s",
        condition="experts are not split among replicas, and the motive is as supposed",
        evidence=Evidence.COST_MODEL,
        assumes=MODEL_ASSUMED[:2],
        sources=["rajbhandari2020zero", "zhao2023fsdp"],
    )


@check("par.net_uneven")
def net_uneven(claim: Claim) -> Finding:
    """What slow links between fast segments cost the plan."""
    between = printed("train.inter_net") / printed("train.intra_net")
    even, stages, small = (run(on=machine(segment_nodes=n, between=between)) for n in (None, REPLICAS, 16))
    loss, more = (float(step.seconds / even.seconds - 1) for step in (stages, small))
    return uncheckable(
        claim,
        f"Not on record. It would hurt this plan little: with a {between:.0%} link between segments of "
        f"{REPLICAS:.0f} nodes, each the home of one stage, a step takes {loss:.1%} longer; with segments of "
        f"16 nodes {more:.1%}.",
        value=more,
        unit="share",
        assumes=("segments of 16 nodes", *MODEL_ASSUMED),
        sources=("patel2023gpt4",),
    )


@check("par.weak_clusters")
def weak_clusters(claim: Claim) -> Finding:
    """What a cluster that is slow inside would cost a stage that lives in it, and so the step."""
    share = min(get("train.inter_net").range) / printed("train.intra_net")
    plain = run()
    slow = run(on=weak(share))
    return uncheckable(
        claim,
        f"Not on record. If a stage lived in a cluster with {share:.1%} of the bandwidth of a node, its exchange "
        f"between replicas would take {float(slow.replicas):.0f} s in place of {float(plain.replicas):.1f} s and a "
        f"step {float(slow.seconds / plain.seconds - 1):.0%} longer: the slowest stage sets the pace of all.",
        value=float(slow.seconds / plain.seconds - 1),
        unit="share",
        assumes=("200 Gbit/s a node in the weak cluster", *MODEL_ASSUMED),
        sources=("patel2023gpt4",),
    )


@check("par.bubble")
def bubble(claim: Claim) -> Finding:
    """The bubble with and without interleaving, and which of the two the article's utilisation fits, counted alike."""
    plain, woven = run(), run(ARTICLE.replace(chunks=printed("arch.layers") / STAGES))
    shares = [float(step.bubble / step.seconds) for step in (plain, woven)]
    alike = [counted(step) for step in (plain, woven)]
    low, _ = get("train.mfu").range
    each = round(float(ARTICLE.micro_batches(SEQUENCES)))
    orders = [idle_ticks(int(STAGES), each, gpipe) for gpipe in (False, True)]
    return decide(
        claim,
        shares[1] > 0.5 * shares[0],
        f"How to avoid it was published in 2021: with {printed('arch.layers') / STAGES:.0f} interleaved chunks a stage "
        f"the bubble falls from {shares[0]:.0%} of the step to {shares[1]:.0%}. Another order alone does not do "
        f"it: in the small model's step on 15 stages with {each} micro-batches a stage waits in {orders[0]:.0%} of the "
        f"ticks under 1F1B and in {orders[1]:.0%} under GPipe. The article's own 32 to 36 % do not "
        f"tell whether that was done. Counted as the article counts, without attention scores, a step reaches "
        f"{alike[0]:.1%} plain and {alike[1]:.1%} interleaved. Without failures either may be meant, for the model "
        f"misses PaLM's utilisation by {MFU_ERROR * 100:.0f} points and others' by more; with failures the "
        f"interleaved one comes nearer.",
        value=shares[0],
        unit="share",
        in_part=alike[0] > low - MFU_ERROR,
        evidence=Evidence.COST_MODEL,
        assumes=[*MODEL_ASSUMED, SMALL],
        sources=["narayanan2021megatron", "lamypoirier2023breadth"],
    )


def counted(step: training.Step) -> float:
    """Utilisation of a step as the article counts it: six FLOP a parameter and token, no attention scores."""
    return float(training_flop(printed("arch.active_params"), step.tokens) / (step.seconds * step.peak))


@check("par.bubble_fig")
def bubble_fig(claim: Claim) -> Finding:
    """The bubble of the chart's schedule, and at the article's size."""
    each = round(float(ARTICLE.micro_batches(SEQUENCES)))
    chart, here, long = idle_ticks(4, 4, gpipe=True), idle_ticks(int(STAGES), each), idle_ticks(int(STAGES), 10 * each)
    said = float(bubble_fraction(STAGES, float(each)))
    return decide(
        claim,
        min(chart, here) > 0.2,
        f"Four devices with four micro-batches wait in {chart:.0%} of the ticks, as in the chart. The small model's "
        f"step on 15 stages, with the {each} micro-batches that the article's batch gives a replica, waits in "
        f"{here:.1%}, counted tick by tick; the formula says {said:.1%}. It is not the depth alone: with ten times the "
        f"micro-batches it would be {long:.0%}.",
        value=here,
        unit="share",
        condition="one chunk a stage and 60 million tokens a step",
        evidence=Evidence.SMALL_MODEL,
        assumes=["forward and backward passes of stages are alike", SMALL, "it shows the order, not the time"],
        sources=["huang2019gpipe", "narayanan2021megatron"],
    )


def traffic(plan: Plan) -> float:
    """Bytes that a chip receives a step in the exchange between replicas.

    Gradients and weights go round in their group as often as `training.exchange_passes` says, and the sums twice
    more over the groups (rajbhandari2020zero, section 7). Experts are not split among replicas here.
    """
    held = float(2 * parameters_per_chip(architecture("gpt4"), plan))
    passes = training.exchange_passes(plan, plan.micro_batches(SEQUENCES))
    ways = plan.zero_group(plan.data)
    return float(passes * held * (1 - 1 / ways) + 2 * held / ways * (1 - ways / plan.data))


def weak(share: float) -> Cluster:
    """25,000 A100 on a network with a share of the published bandwidth."""
    on = machine()
    links = (dataclasses.replace(link, bandwidth=share * link.bandwidth) for link in (on.inside, on.between))
    inside, between = links
    return dataclasses.replace(on, inside=inside, between=between)
