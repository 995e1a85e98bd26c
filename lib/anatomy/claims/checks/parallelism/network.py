"""Checks of the network: what sharding over replicas and uneven links cost."""

import dataclasses

from anatomy.claims.article.training import ARTICLE, MODEL_ASSUMED, REPLICAS, SEQUENCES, WAYS, machine, run
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import get, printed
from anatomy.cost.training.memory import parameters_per_chip
from anatomy.cost.training.step import reduction_passes
from anatomy.specs import Cluster, Plan, architecture
from anatomy.specs.units import readable

# No stages: each node holds a copy of all layers, sharded over all replicas. And what exchanges least: the three
# sequences that each replica then has pass at once.
SHARDED = ARTICLE.replace(pipeline=1.0, data=printed("train.gpus") // WAYS, zero=3.0)
AT_ONCE = SHARDED.replace(data=SEQUENCES // 3, micro_batch=3.0)


@check("par.block_fsdp")
def block_fsdp(claim: Claim) -> Finding:
    """What hybrid sharding inside the stages would save and cost."""
    plan = ARTICLE.replace(zero=3.0, zero_ways=8.0)
    step, plain = run(plan), run()
    return uncheckable(
        claim,
        "Not on record. Hybrid sharding in groups of 8 replicas would bring a chip to "
        f"{readable(float(step.memory.total), 'bytes')}, within 40 GB. If the weights are gathered anew for each of "
        f"{float(plan.micro_batches(SEQUENCES)):.0f} micro-batches, that takes {float(step.gradient_reduction):.0f} s "
        f"a step in place of {float(plain.gradient_reduction):.1f} s; it pays only if gathered weights serve many "
        "micro-batches.",
        value=float(step.gradient_reduction),
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
        bool(least.gradient_reduction > claim.verdict["least_steps"] * plain.seconds),
        f"With 8 tensor ways and everything else fully sharded, a chip receives {readable(much, 'bytes')} a step, "
        f"{much / little:.0f} times what the stages' plan exchanges. That takes "
        f"{float(sharded.gradient_reduction):.0f} s, or {float(least.gradient_reduction):.0f} s if all sequences of a "
        f"replica pass at once; the whole step of 8 x 15 takes {float(plain.seconds):.1f} s. Even hidden behind "
        "compute it would be slower.",
        value=float(sharded.gradient_reduction),
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
        f"Not on record. It would hurt this plan little: with a {between:.0%} link between segments of {REPLICAS:.0f} "
        f"nodes, each the home of one stage, a step takes {loss:.1%} longer; with segments of 16 nodes {more:.1%}.",
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
        f"Not on record. If a stage lived in a cluster with {share:.1%} of the bandwidth of a node, its gradients "
        f"would take {float(slow.gradient_reduction):.0f} s to reduce in place of "
        f"{float(plain.gradient_reduction):.1f} s, and a step {float(slow.seconds / plain.seconds - 1):.0%} longer: "
        "the slowest stage sets the pace of all.",
        value=float(slow.seconds / plain.seconds - 1),
        unit="share",
        assumes=("200 Gbit/s a node in the weak cluster", *MODEL_ASSUMED),
        sources=("patel2023gpt4",),
    )


def traffic(plan: Plan) -> float:
    """Bytes that a chip receives a step in the exchange between replicas.

    Gradients and weights go round in their group as often as `reduction_passes` says, and the sums twice
    more over the groups (rajbhandari2020zero, section 7). Experts are not split among replicas here.
    """
    held = float(2 * parameters_per_chip(architecture("gpt4"), plan))
    passes = reduction_passes(plan, micro_batches=plan.micro_batches(SEQUENCES))
    ways = plan.zero_group(plan.data)
    return float(passes * held * (1 - 1 / ways) + 2 * held / ways * (1 - ways / plan.data))


def weak(share: float) -> Cluster:
    """25,000 A100 on a network with a share of the published bandwidth."""
    on = machine()
    links = (dataclasses.replace(link, bandwidth=share * link.bandwidth) for link in (on.inside, on.between))
    inside, between = links
    return dataclasses.replace(on, inside=inside, between=between)
