"""Checks of the layout: tensor ways and stages, and what else the chips could have run."""

import dataclasses
from functools import cache

import numpy as np
from jaxtyping import Bool

from anatomy.claims.article.training import (
    ARTICLE,
    MODEL_ASSUMED,
    SEQUENCE,
    SEQUENCES,
    STAGES,
    WAYS,
    machine,
    run,
)
from anatomy.claims.checks.parallelism.memory import deep, depths
from anatomy.claims.checks.parallelism.schedule import idle_ticks
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import SMALL, Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.cost import collectives
from anatomy.cost.efficiency import efficiency
from anatomy.cost.training.memory import parameters_per_chip
from anatomy.cost.training.search import SearchResult, search
from anatomy.cost.training.step import VALUE
from anatomy.specs import architecture, catalogue


def fastest_depth(overlap: float) -> int:
    """The number of stages that is fastest, memory aside, where so much of the exchange is hidden."""
    return min(depths(), key=lambda p: float(run(deep(p, overlap=overlap)).seconds))


@cache
def found(key: str) -> SearchResult:
    """All legal plans for GPT-4 on a machine."""
    share = efficiency(key)
    return search(
        architecture("gpt4"), machine(key), batch=SEQUENCES, sequence_length=SEQUENCE, efficiency=share, like=ARTICLE
    )


def whole_experts(plans: SearchResult) -> Bool[np.ndarray, "plans"]:
    """Plans that split experts as the article says, by tensor ways and stages alone."""
    return plans.plans["expert"] == 1


def quickest(plans: SearchResult, among: Bool[np.ndarray, "plans"]) -> int:
    """The row of the fastest plan among some, of those that fit."""
    return int(np.argmin(np.where(among & plans.fits, plans.seconds, np.inf)))


@check("par.critical")
def critical(claim: Claim) -> Finding:
    """How far plans on the same chips lie apart."""
    plans = found("a100_sxm_40gb")
    usual = plans.fits & (plans.chips > 0.9 * printed("train.gpus"))
    low, middle, high = (float(np.quantile(plans.mfu[usual], q)) for q in (0.05, 0.5, 0.95))
    return uncheckable(
        claim,
        f"Plausible: of {usual.sum():,} plans that fit 40 GB and use more than nine tenths of 25,000 A100, the middle "
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
        f"Not on record, and plausible. The fastest plans that fit 40 GB with unsplit experts take {shown} tensor "
        f"ways; {best} is best. The small model trains on {WAYS:.0f} tensor ways too, with its single key and value "
        "head copied on each, since one head does not split. In GPT-4, with the multi-query attention that the article "
        f"reports, such copies would be {copies:.1%} of what a chip holds.",
        beside=(times[8], "s"),
        assumes=(*MODEL_ASSUMED, SMALL),
        sources=("shoeybi2019megatron", "narayanan2021megatron"),
    )


@check("par.nvlink8")
def nvlink8(claim: Claim) -> Finding:
    """How many chips a node joins, and what a ninth would cost."""
    node = catalogue.node("a100_sxm_40gb")
    share, on = efficiency("a100_sxm_40gb"), machine()
    size = VALUE * SEQUENCE * architecture("gpt4").d_model
    near = collectives.all_reduce(size, chips=WAYS, bandwidth=node.link.bandwidth * share.link)
    far = collectives.all_reduce(size, chips=2 * WAYS, bandwidth=on.inside.bandwidth * share.network)
    slower = float(far / near)
    return compare(
        claim,
        node.chips,
        f"The box that A100s are sold in joins {node.chips:.0f} by NVLink. The limit is the box's, not the link's: "
        "NVLink switches have joined 16 V100 and, since Hopper, up to 256 chips. Leaving the box, an all-reduce over "
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
        f"Not on record. The numbers go together: 15 stages hold {layers / STAGES:.0f} of {layers:.0f} layers each, 8 "
        f"x 15 chips hold a copy of the model, and 25,000 chips hold {replicas:.0f} copies with {left:.0f} chips left "
        f"over. But {len(depths())} numbers of stages divide the layers. The layout runs: the small model, with "
        f"{layers:.0f} layers, trains on {WAYS * STAGES:.0f} virtual devices laid out like that. With {each} "
        "micro-batches, as the article's batch gives a replica, its stages wait in "
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
