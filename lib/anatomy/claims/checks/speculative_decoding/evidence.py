"""Checks of whether OpenAI uses speculation: rumours, prices and latencies."""

import numpy as np

from anatomy.claims.article.serving import SERVING, machine, model, served
from anatomy.claims.checks.speculative_decoding.draft import ACCEPTANCE_RATE, CONTEXT, EASY, HARD, dense
from anatomy.claims.checks.speculative_decoding.mechanism import pairs
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.steps import prefill
from anatomy.cost.speculation.acceptance import independent_acceptance, tokens_moments
from anatomy.decode.sampling import acceptance


@check("sd.used")
def used(claim: Claim) -> Finding:
    """What the retelling made of a hint."""
    rumour = record("speculation_rumour")
    return decide(
        claim,
        rumour["credit"] == claim.verdict["credit"],
        f"{rumour['note']} The retelling leaves the source out and makes the doubt a hundred per cent. Whether OpenAI "
        "uses speculative decoding is not on public record.",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[rumour["source"]],
    )


@check("sd.evidence")
def evidence(claim: Claim) -> Finding:
    """How much faster easy text comes, with a draft and without, and how unevenly its tokens."""
    length = printed("sd.4")
    easy, hard = (dense(8.0, length, rate) for rate in (EASY, HARD))
    ratio = float(easy.tokens_per_second / hard.tokens_per_second)
    mean, deviation = map(
        float, tokens_moments(independent_acceptance(acceptance_rate=ACCEPTANCE_RATE, longest=int(length)))
    )
    return decide(
        claim,
        ratio > claim.verdict["least_ratio"] and deviation > claim.verdict["least_spread"] * mean,
        f"Without a draft the time per output token is the same in easy text as in hard. With one of {length:.0f} "
        f"tokens, text that it guesses at {EASY:.0%} comes {ratio:.1f} times as fast as text at {HARD:.0%}, and a "
        f"speculation step yields {mean:.1f} tokens with a standard deviation of {deviation:.1f}. So it would look as "
        "described. But load, batches that come and go, and experts that fill unevenly make latency vary too, and no "
        "such measurement at equal load is public.",
        value=ratio,
        unit="times",
        condition="latency was compared at equal load",
        evidence=Evidence.COST_MODEL,
        sources=["leviathan2023fast"],
    )


@check("sd.source")
def source(claim: Claim) -> Finding:
    """Title and institution of the study."""
    paper = record("spector_staged")
    return decide(
        claim,
        paper["affiliation"] == claim.verdict["affiliation"],
        f'"{paper["title"]}" is by Spector and Re of {paper["affiliation"]}. DeepMind\'s study of the same year is '
        '"Accelerating Large Language Model Decoding with Speculative Sampling". The explanation follows the first '
        "one.",
        in_part=claim.verdict["title"] in paper["title"],
        evidence=Evidence.PUBLIC_RECORD,
        sources=[paper["source"], "chen2023speculative"],
    )


def output_over_input(sequences: float) -> float:
    """Cost of a token of the answer over one of the prompt, on the article's cluster."""
    read = prefill(model(), SERVING, machine(), overheads("a100_sxm_40gb"), batch=16.0, prompt=2048.0)
    write = served(sequences, context=CONTEXT)
    return float(write.dollars_per_million(1.0) / read.dollars_per_million(1.0))


@check("sd.decode_cost")
def dearest(claim: Claim) -> Finding:
    """Share of a request's cost that its answer takes."""
    prompt, answer = 1500.0, 500.0
    full, few = (
        answer * ratio / (answer * ratio + prompt) for ratio in map(output_over_input, (printed("g4i.4k"), 256.0))
    )
    return decide(
        claim,
        full > claim.verdict["least_share"],
        f"With 4,000 sequences in flight on the article's cluster, an answer of {answer:.0f} tokens takes {full:.0%} "
        f"of the cost of a request whose prompt is three times as long; with 256, {few:.0%}.",
        value=full,
        unit="share",
        evidence=Evidence.COST_MODEL,
        assumes=["prompts are no more than some three times as long as answers"],
    )


@check("sd.price_gap")
def price_gap(claim: Claim) -> Finding:
    """The ratio of list prices against that of costs."""
    prices = record("api_prices")
    listed = prices["gpt4_8k"]["out"] / prices["gpt4_8k"]["in"]
    full, few = map(output_over_input, (printed("g4i.4k"), 256.0))
    return decide(
        claim,
        full >= claim.verdict["least_ratio"] * listed,
        f"OpenAI's list of 2023 takes {listed:.0f} times as much for output of GPT-4 as for input. By the cost model "
        f"the output costs {full:.1f} times as much with 4,000 sequences in flight and {few:.0f} times with 256: more "
        "than enough to explain the gap. davinci, in the same list, costs the same both ways.",
        value=full,
        unit="times",
        condition="prices follow costs",
        evidence=Evidence.COST_MODEL,
        sources=[prices["source"]],
    )


@check("sd.conspiracy")
def conspiracy(claim: Claim) -> Finding:
    """What relaxed acceptance gains in acceptance it loses in law, exactly."""
    p, q = pairs()
    before, after = (acceptance.lenient(p, q, lenience) for lenience in (1.0, 0.5))
    gained = float(np.mean(after.rate(q) - before.rate(q)))
    moved = float(np.mean(acceptance.total_variation(after.output(q), p)))
    return uncheckable(
        claim,
        "Nobody outside knows what OpenAI accepts. The mechanism is real: accept what p finds less likely than q does, "
        f"and what acceptance gains, here {gained:.2f}, the distribution loses in total variation, {moved:.2f}. It "
        "moves towards the draft's, so text gets more like what a draft writes. The exact rule has no such effect.",
        beside=(moved, "total variation"),
        sources=("leviathan2023fast",),
    )


@check("sd.bard")
def bard(claim: Claim) -> Finding:
    """A guess about another firm's product."""
    return uncheckable(
        claim,
        "Whether Bard of 2023 used speculation is not on record. That it showed whole answers at once says nothing: "
        "speculation yields its tokens in order, a few at a time, and streams as well as plain decoding. Google's own "
        "paper on it is older than the article.",
        sources=("leviathan2023fast",),
    )
