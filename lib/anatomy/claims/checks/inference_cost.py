"""Checks of what a token costs: the two prices, the hardware they imply, and what stands beside them."""

from typing import Any

import numpy as np
from scipy.optimize import brentq

from anatomy.claims.article.serving import SERVING, model, room, served
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.day import Day, daily_load, day
from anatomy.cost.serving.memory import largest_batch
from anatomy.cost.serving.steps import Pass, decode
from anatomy.specs import Serving, architecture, catalogue, cluster

BATCH = 4096.0  # sequences in flight on the cluster, as the article says of it
FEW = 256.0  # sequences on a cluster that is far from full
HALF_FULL = 4096.0  # tokens in the cache, on average over an answer that ends at 8k
A100, H100 = "a100_sxm_40gb", "h100_sxm"
RENTED_FROM = "Azure ND96asr, 3 years"  # OpenAI's machines are Azure's; what it pays is not public


def rental(key: str, who: str) -> dict[str, Any]:
    """The catalogue's row of a chip and of who lets it."""
    return next(row for row in catalogue.table("prices")["rental"] if (row["chip"], row["who"]) == (key, who))


def a100_hour() -> float:
    """Dollars for an hour of an A100 of 40 GB: the public price of the cloud that OpenAI uses, for three years."""
    return rental(A100, RENTED_FROM)["dollars_per_hour"]


def davinci(context: float = 2048.0) -> Pass:
    """A decode step of GPT-3, with its 96 KV heads, on eight A100 of 80 GB with all the sequences that fit.

    Args:
        context: tokens of each sequence in the cache.
    """
    shape, plan, box = architecture("gpt3_175b"), Serving(tensor=8.0), cluster("a100_sxm_80gb", 1)
    most = largest_batch(shape, plan, chip_memory=box.node.chip.memory, context=context)
    return decode(shape, plan, box, overheads("a100_sxm_40gb"), batch=most, context=context)


def chip_seconds(made: Pass) -> float:
    """Seconds of a chip for each token of a pass."""
    return 1 / float(made.tokens_per_chip)


def per_thousand(key: str, chip_hour: float, weight_bytes: float, sequences: float = BATCH) -> float:
    """Dollars for 1,000 tokens of output on the article's cluster."""
    made = served(sequences, key, HALF_FULL, of_width(weight_bytes))
    return float(made.dollars_per_million(chip_hour)) / 1e3


def of_width(weight_bytes: float) -> Serving:
    """The article's layout with weights and arithmetic of so many bytes."""
    return SERVING.replace(weight_bytes=weight_bytes, activation_bytes=weight_bytes)


def most(key: str, weight_bytes: float) -> float:
    """Sequences that fit on the article's cluster."""
    return room(model(), of_width(weight_bytes), key, HALF_FULL)


def batch_for(dollars: float, key: str, chip_hour: float, weight_bytes: float) -> float | None:
    """Sequences in flight at which 1,000 tokens of output cost so many dollars; None if no batch that fits does."""

    def above(sequences: float) -> float:
        return per_thousand(key, chip_hour, weight_bytes, sequences) - dollars

    low, high = float(SERVING.micro_batches), most(key, weight_bytes)
    return brentq(above, low, high) if above(low) >= 0 >= above(high) else None


def tokens_implied(key: str, dollars: float, chip_hour: float) -> float:
    """Tokens a second of a cluster of 128 chips that sells 1,000 of them at that price."""
    return printed("g4i.128") * chip_hour / 3600 / dollars * 1e3


@check("cost.3x")
def three_times(claim: Claim) -> Finding:
    """Ratios of the list prices."""
    prices = record("api_prices")
    into, out = (prices["gpt4_8k"][way] / prices["davinci"][way] for way in ("in", "out"))
    return compare(
        claim,
        out,
        f"By OpenAI's price list of 2023, output of GPT-4 with 8k costs {out:.0f} times as much as davinci's, input "
        f"{into:.1f} times. Those are prices; what it costs OpenAI is not on record.",
        condition="prices of output tokens are meant",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[prices["source"]],
    )


@check("cost.1.6x")
def feed_forward(claim: Claim) -> Finding:
    """Active parameters, and feed-forward parameters, over those of GPT-3."""
    gpt3 = architecture("gpt3_175b").parameters
    value = printed("arch.active_params") / float(gpt3.total)
    inner = printed("arch.top_k") * printed("arch.expert_params") / float(gpt3.dense_mlp)
    return compare(
        claim,
        value,
        f"280 billion active parameters are {value:.2f} times GPT-3's 175. That counts attention too: two experts "
        f"alone are {inner:.2f} times GPT-3's feed-forward parameters.",
        condition="all active parameters are meant, not the feed-forward ones",
        sources=["brown2020gpt3"],
    )


@check("cost.reason")
def why_dearer(claim: Claim) -> Finding:
    """What sets GPT-4 apart from a dense 175B on the same chips: bytes, FLOP, and how full they run."""
    gpt4, few, small = served(BATCH, context=HALF_FULL), served(FEW, context=HALF_FULL), davinci()
    ratio, dear = (chip_seconds(made) / chip_seconds(small) for made in (gpt4, few))
    flop = float(gpt4.flop / gpt4.tokens) / float(small.flop / small.tokens)
    held = printed("arch.total_params") / float(architecture("gpt3_175b").parameters.total)
    return decide(
        claim,
        min(ratio, float(small.mfu / gpt4.mfu)) > claim.verdict["least_ratio"],
        f"By the cost model a token of GPT-4 takes {ratio:.2f} times the chip-seconds of GPT-3's on eight A100 of 80 "
        f"GB with the {float(small.sequences):.0f} sequences of 2k that fit: {flop:.1f} times the FLOP and {held:.0f} "
        f"times the weights to read, shared by a batch of {BATCH:,.0f}. GPT-4's cluster would run at "
        f"{float(gpt4.mfu):.1%} of peak, that box at {float(small.mfu):.1%}: multi-query attention lets the larger "
        "model run the fuller batch. So at the article's own batch utilisation is no reason for a higher cost. On a "
        f"cluster that is not full it is: with {FEW:.0f} sequences GPT-4 would run at {float(few.mfu):.1%} and cost "
        f"{dear:.1f} times as much as GPT-3.",
        value=ratio,
        unit="times",
        in_part=min(dear, float(small.mfu / few.mfu)) > claim.verdict["least_ratio"],
        evidence=Evidence.COST_MODEL,
        assumes=["davinci has multi-head attention, as GPT-3"],
    )


@check("cost.a100")
def on_a100(claim: Claim) -> Finding:
    """The price by the cost model in FP16, at the article's own dollar an hour and at what it would take."""
    one, rent = per_thousand(A100, 1.0, 2.0), a100_hour()
    return compare(
        claim,
        rent * one,
        f"With {BATCH:,.0f} sequences, half of 8k in the cache and FP16 weights, 128 A100 make "
        f"{tokens_implied(A100, one, 1.0):,.0f} tokens a second. At the article's $1 an hour, 1,000 tokens cost "
        f"${one:.4f}; the printed price asks for ${printed('cost.a100') / one:.2f} an hour. Azure, whose machines "
        f"OpenAI uses, took ${rent:.2f} for three years; what OpenAI pays is not public, and nothing in the article "
        "says which price it used.",
        condition=f"FP16, {BATCH:,.0f} sequences, one KV head, and ${rent:.2f} for an A100-hour",
        evidence=Evidence.COST_MODEL,
        sources=["cottier2024rising"],
    )


@check("cost.h100")
def on_h100(claim: Claim) -> Finding:
    """The same on H100, in FP16 and FP8, and the batch at which FP16 would do."""
    hour = printed("train.h100_price")
    wide, narrow = (per_thousand(H100, hour, width) for width in (2.0, 1.0))
    larger = batch_for(printed("cost.h100"), H100, hour, 2.0)
    enough = f"{larger:,.0f}" if larger else "none"
    return compare(
        claim,
        narrow,
        f"At the article's ${hour:.0f} for an H100-hour and {BATCH:,.0f} sequences, 1,000 tokens cost ${wide:.4f} in "
        f"FP16 and ${narrow:.4f} in FP8. So at an equal batch the printed price is that of FP8, while the price for "
        "A100 is that of FP16: the A100 has no FP8, but int8 would bring it to "
        f"${per_thousand(A100, a100_hour(), 1.0):.4f} too. But an H100 has twice the memory. In FP16 "
        f"{most(H100, 2.0):,.0f} sequences fit, and {enough} of them meet the printed price in FP16 alone.",
        condition=f"one KV head, ${hour:.0f} for an H100-hour, and FP8 with {BATCH:,.0f} sequences"
        + (f", or FP16 with {enough}" if larger else ""),
        evidence=Evidence.COST_MODEL,
    )


@check("cost.ratio")
def ratio(claim: Claim) -> Finding:
    """Throughput of an H100 over that of an A100, by both precisions."""
    rates = {(key, width): 1 / per_thousand(key, 1.0, width) for key in (A100, H100) for width in (1.0, 2.0)}
    mixed = rates[H100, 1.0] / rates[A100, 2.0]
    hour = printed("train.h100_price") * printed("cost.a100") / printed("cost.h100") / mixed
    same = [rates[H100, width] / rates[A100, width] for width in (2.0, 1.0)]
    return compare(
        claim,
        mixed,
        "4.67 follows from the two prices if an H100-hour costs twice an A100-hour. By the cost model an H100 in FP8 "
        f"has, at an equal batch of {BATCH:,.0f}, {mixed:.1f} times the tokens of an A100 in FP16; in the same "
        f"precision {same[0]:.1f} and {same[1]:.1f} times, as its memory is 2.2 times as fast. It agrees with the "
        f"printed prices if an A100-hour costs ${hour:.2f}, still at $2 for the H100. A larger batch, for which an "
        "H100 has the memory, would do as well as the narrower format.",
        condition=f"FP8 on H100, FP16 on A100, and {BATCH:,.0f} sequences on both",
        evidence=Evidence.COST_MODEL,
    )


@check("cost.assume")
def assume(claim: Claim) -> Finding:
    """The price at smaller batches."""
    full, few = (per_thousand(A100, a100_hour(), 2.0, n) for n in (BATCH, FEW))
    return decide(
        claim,
        few > claim.verdict["least_ratio"] * full,
        f"It says so itself, and it matters: with {FEW:.0f} sequences in place of {BATCH:,.0f}, 1,000 tokens cost "
        f"${few:.3f} in place of ${full:.4f}, {few / full:.0f} times as much.",
        value=few / full,
        unit="times",
        condition="FP16 on 128 A100",
        evidence=Evidence.COST_MODEL,
    )


HOUR = np.arange(0, 24, 0.25)
HALF, DEEP = 0.5, 1.0  # swings of the load over the day, in means
TURNING, EARNS = 1.0, 0.5  # hours to turn a deployment over; what training earns of a chip's rent


def at_swing(swing: float, usable: float = 1.0, turning: float = 0.0) -> Day:
    """A day of a fleet that is just large enough for the peak of a load with this swing."""
    load = daily_load(HOUR, swing=swing)
    return day(load, capacity=load.max() / usable, usable=usable, turning=turning)


@check("cost.low_util")
def low(claim: Claim) -> Finding:
    """OpenAI's utilisation is not on record; what a day does to any fleet is arithmetic."""
    made = at_swing(HALF)
    return uncheckable(
        claim,
        "OpenAI's utilisation is not on record. That demand has hours is plain: a fleet that is built for the peak of "
        f"a load which swings by {HALF:.0%} of its mean is {float(made.busy):.0%} full on average and "
        f"{(1 - HALF) / (1 + HALF):.0%} at night. How deep the valleys of users around the world are is not public.",
        beside=(float(made.busy), "share of the fleet"),
    )


@check("cost.repurpose")
def repurpose(claim: Claim) -> Finding:
    """A guess of the article about OpenAI; what training in the valleys could bring."""
    made = at_swing(HALF, turning=TURNING)
    return uncheckable(
        claim,
        "The article presents it as an assumption, and nobody outside has said that OpenAI did so. It would pay: with "
        f"a load that swings by {HALF:.0%} and {TURNING:.0f} hour to turn a deployment over, {float(made.free):.0%} of "
        f"all chip-hours are free, and if they earn {EARNS:.0%} of their rent, a token costs "
        f"{float(made.price(EARNS)):.2f} times what it does on a full fleet in place of {float(made.price()):.2f}.",
        beside=(float(made.free), "share of chip-hours"),
    )


@check("cost.double")
def double(claim: Claim) -> Finding:
    """Price of a token where load follows the day, if idle chips are paid for."""
    deepest, usual, kept = (float(d.price()) for d in (at_swing(DEEP), at_swing(HALF), at_swing(HALF, usable=0.75)))
    return compare(
        claim,
        deepest,
        "Chips that idle are paid for. On a fleet that is built for the peak of its day a token costs the peak over "
        f"the mean of what it would at full load. A load that swings by half its mean makes that {usual:.1f} times, "
        f"and one that falls to nothing each night {deepest:.0f} times. Where latency leaves a quarter of the fleet "
        f"empty even at the peak, a swing of a half is enough for {kept:.1f} times. OpenAI's load is not on record.",
        condition="the load falls to nothing every night, or less where latency keeps part of the fleet empty",
        assumes=["the fleet is sized for the peak of the day", "idle chips earn nothing"],
        evidence=Evidence.COST_MODEL,
    )
