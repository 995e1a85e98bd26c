"""Checks of speculative decoding: how it works, what it saves, and what it does to what is written."""

import dataclasses

import jax
import numpy as np

from anatomy.claims.architecture import printed
from anatomy.claims.finding import Evidence, Finding, decide, uncheckable
from anatomy.claims.inference_infrastructure import SERVING, as_billions, machine, model, served
from anatomy.claims.ledger import Claim, check
from anatomy.claims.record import record
from anatomy.cost.inference.speculation import even_survival, expected_tokens, tokens_law, tokens_moments
from anatomy.cost.inference.steps import overheads, prefill
from anatomy.cost.inference.verification import Round, speculate
from anatomy.decode.sampling import acceptance
from anatomy.specs import Architecture, Cluster, Serving, architecture, chip, cluster

A100 = "a100_sxm_40gb"
DENSE = "gpt3_175b"  # a dense target, for what a mixture would blur
DRAFT = "llama_7b"  # of a size that a draft for hundreds of billions may have; with one key head, as the target
NODE = Serving(tensor=8.0)  # where the draft runs
SERIAL = SERVING.replace(micro_batches=1.0)  # the article's cluster for the least latency: all sequences at once
ALIGNMENT = 0.75  # as leviathan2023fast measured, on translation
EASY, HARD = 0.9, 0.5  # alignment on what is easy to guess and what is not
CONTEXT = 4096.0


def small() -> Architecture:
    """The draft."""
    draft = architecture(DRAFT)
    return draft.replace(attention=dataclasses.replace(draft.attention, kv_heads=1.0))


def draft_size() -> str:
    """Its parameters."""
    return as_billions(float(small().parameters.total))


def box() -> Cluster:
    """Eight A100 of 80 GB, which hold a dense 175B."""
    return cluster("a100_sxm_80gb", 1)


def dense(
    sequences: float, length: float, alignment: float = ALIGNMENT, context: float = 2048.0, plan: Serving = NODE
) -> Round:
    """A round of speculation of a dense 175B on one node."""
    constants = overheads("ampere")
    return speculate(architecture(DENSE), small(), plan, plan, box(), constants, sequences, context, length, alignment)


def routed(
    sequences: float,
    length: float,
    alignment: float = ALIGNMENT,
    plan: Serving = SERIAL,
    draft_plan: Serving = NODE,
    **how: float,
) -> Round:
    """A round of speculation of the article's model on its cluster; the draft runs on the head node.

    Args:
        sequences: in flight.
        length: of the draft.
        alignment: of the draft.
        plan: `SERIAL`, or `SERVING` with sixteen micro-batches in flight.
        draft_plan: of the draft.
        how: further arguments of `speculate`.
    """
    constants = overheads("ampere")
    return speculate(
        model(), small(), plan, draft_plan, machine(), constants, sequences, CONTEXT, length, alignment, **how
    )


def lengths(at: object, most: int = 12) -> np.ndarray:
    """Speed-ups of draft lengths from 0 to `most`, of a function of the length."""
    return np.asarray(jax.vmap(lambda g: at(g).speed_up)(np.arange(most + 1.0)))  # type: ignore[operator]


@check("sd.used")
def used(claim: Claim) -> Finding:
    """What the retelling made of a hint."""
    rumour = record("speculation_rumour")
    return decide(
        claim,
        rumour["credit"] in claim.claim,
        f"{rumour['note']} The retelling leaves the source out and makes the doubt a hundred per cent. Whether OpenAI "
        "uses speculative decoding is not on public record.",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[rumour["source"]],
    )


@check("sd.evidence")
def evidence(claim: Claim) -> Finding:
    """How much faster easy text comes, with a draft and without, and how unevenly its tokens."""
    length = printed("sd.4")
    easy, hard = (dense(8.0, length, alignment) for alignment in (EASY, HARD))
    ratio = float(easy.tokens_per_second / hard.tokens_per_second)
    mean, deviation = map(float, tokens_moments(even_survival(ALIGNMENT, int(length))))
    return decide(
        claim,
        ratio > 1.5 and deviation > 0.2 * mean,
        f"Without a draft a token takes as long in easy text as in hard. With one of {length:.0f} tokens, text that it "
        f"guesses at {EASY:.0%} comes {ratio:.1f} times as fast as text at {HARD:.0%}, and a round yields {mean:.1f} "
        f"tokens, give or take {deviation:.1f}. So it would look as described. But load, batches that come and go, and "
        "experts that fill unevenly make latency vary too, and no such measurement at equal load is public.",
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
        paper["affiliation"] in claim.claim,
        f'"{paper["title"]}" is by Spector and Re of {paper["affiliation"]}. DeepMind\'s study of the same year is '
        '"Accelerating Large Language Model Decoding with Speculative Sampling". The explanation follows the first '
        "one.",
        in_part="Staged Speculative Decoding" in claim.claim and "Staged Speculative Decoding" in paper["title"],
        evidence=Evidence.PUBLIC_RECORD,
        sources=[paper["source"], "chen2023speculative"],
    )


@check("sd.prefill")
def parallel(claim: Claim) -> Finding:
    """Milliseconds of a token of the prompt and of the answer."""
    read = prefill(model(), SERIAL, machine(), overheads("ampere"), 1.0, 2048.0)
    write = served(1.0, plan=SERIAL, context=2048.0)
    ratio = float(write.seconds) * 2048 / float(read.seconds)
    return decide(
        claim,
        ratio > 10,
        f"On the article's cluster 2,048 tokens of one prompt take {float(read.seconds):.2f} s at once; written one by "
        f"one they would take {2048 * float(write.seconds):.0f} s, {ratio:.0f} times as long.",
        value=ratio,
        unit="times",
        evidence=Evidence.COST_MODEL,
    )


@check("sd.decode_seq")
def sequential(claim: Claim) -> Finding:
    """Tokens of a pass without a draft."""
    value = float(expected_tokens(ALIGNMENT, 0.0))
    return decide(
        claim,
        value == 1,
        "A token is drawn from what the pass before it computed, so each takes a pass of its own: "
        f"{value:.0f} token a pass. Speculation breaks just this: what was guessed can be read at once.",
        value=value,
        unit="tokens a pass",
        sources=["stern2018blockwise"],
    )


@check("sd.intensity")
def intensity(claim: Claim) -> Finding:
    """FLOP for each byte of weights, for one user, against what the chip can do."""
    made = served(1.0, plan=SERIAL, context=1.0)
    read = float(made.weights) * float(made.chips) / SERIAL.pipeline
    share = overheads("ampere").efficiency.memory
    value = float(made.flop) / (read * float(chip(A100).memory_bandwidth) * float(share))
    balance = float(chip(A100).balance(16))
    return decide(
        claim,
        value < balance / 20,
        f"For one user GPT-4 does {value:.1f} FLOP for each byte of weights it reads, in FP16. An A100 of 40 GB can do "
        f"{balance:.0f} in the time it reads a byte.",
        value=value,
        unit="FLOP/B",
        evidence=Evidence.COST_MODEL,
        sources=["williams2009roofline"],
    )


def output_over_input(sequences: float) -> float:
    """Cost of a token of the answer over one of the prompt, on the article's cluster."""
    read = prefill(model(), SERVING, machine(), overheads("ampere"), 16.0, 2048.0)
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
        full > 0.5,
        f"With 4,000 sequences in flight on the article's cluster, an answer of {answer:.0f} tokens takes {full:.0%} "
        "of "
        f"the cost of a request whose prompt is three times as long; with 256, {few:.0%}.",
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
        full >= listed,
        f"OpenAI's list of 2023 takes {listed:.0f} times as much for output of GPT-4 as for input. By the cost model "
        "the "
        f"output costs {full:.1f} times as much with 4,000 sequences in flight and {few:.0f} times with 256: more than "
        "enough to explain the gap. davinci, in the same list, costs the same both ways.",
        value=full,
        unit="times",
        condition="prices follow costs",
        evidence=Evidence.COST_MODEL,
        sources=[prices["source"]],
    )


@check("sd.draft")
def drafted(claim: Claim) -> Finding:
    """Seconds of the draft's step and of the block, over those of a step of the target."""
    made = dense(1.0, printed("sd.4"))
    share, block = float(made.draft / printed("sd.4") / made.plain), float(made.block_cost)
    return decide(
        claim,
        share < 1 and block < 1 + printed("sd.4"),
        f"So it is in the papers. On one node a step of a draft of {draft_size()} takes {share:.0%} of a step of a "
        "dense 175B, and the "
        f"large model reads five tokens in {block:.2f} times what it takes for one.",
        value=block,
        unit="steps",
        evidence=Evidence.COST_MODEL,
        sources=["leviathan2023fast", "chen2023speculative"],
    )


@check("sd.saves")
def saves(claim: Claim) -> Finding:
    """Bytes of weights for each token, dense and routed."""
    length = printed("sd.4")
    tokens = float(expected_tokens(ALIGNMENT, length))
    one, crowd = routed(1.0, length), routed(32.0, length)
    return decide(
        claim,
        float(dense(1.0, length).speed_up) > 1.5 and float(crowd.speed_up) > 1.5,
        f"Four drafted tokens of which each is right with {ALIGNMENT:.0%} yield {tokens:.2f} tokens a pass. A dense "
        "model "
        f"reads its weights once for them. A mixture reads more experts: for one user the block costs GPT-4 "
        f"{float(one.block_cost):.1f} steps, and it is {float(one.speed_up):.2f} times as fast as without; with 32 "
        "users "
        f"who read all experts anyway {float(crowd.block_cost):.2f} steps, {float(crowd.speed_up):.2f} times as fast.",
        value=float(dense(1.0, length).speed_up),
        unit="times as fast",
        condition="a dense model, or a batch that reads all experts anyway",
        evidence=Evidence.COST_MODEL,
        sources=["leviathan2023fast"],
    )


@check("sd.reject")
def rejected(claim: Claim) -> Finding:
    """What becomes of a round whose draft is wrong at once, and on average."""
    length = int(printed("sd.4"))
    wrong = np.asarray(tokens_law(even_survival(0.0, length)))
    kept = (float(expected_tokens(ALIGNMENT, length)) - 1) / length
    return decide(
        claim,
        wrong[0] == 1,
        f"What follows a rejected token was guessed from it and is dropped: at {ALIGNMENT:.0%} alignment "
        f"{1 - kept:.0%} "
        "of what is drafted. But the pass is not lost: it has computed what should stand there, so even a round whose "
        "first token is wrong yields one. There is no falling back, only the next round.",
        value=1 - kept,
        unit="share",
        sources=["leviathan2023fast"],
    )


def pairs(count: int = 200, vocabulary: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Target and draft distributions, drawn at random."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(vocabulary, 0.3), (2, count))
    return p, q


@check("sd.rejection_sampling")
def kept_law(claim: Claim) -> Finding:
    """Distance of the exact rule's law from the target's, over many pairs of distributions."""
    p, q = pairs()
    far = float(np.max(acceptance.total_variation(acceptance.exact(p, q).output(q), p)))
    apart = float(np.mean(acceptance.total_variation(p, q)))
    return decide(
        claim,
        far < 1e-12,
        "A drafted token is kept with the chance min(1, p/q), and what replaces it is drawn from what p has more than "
        f"q. Over {len(p)} pairs of distributions that differ by {apart:.2f} on average, the law of what comes out "
        f"differs from the target's by {max(far, 1e-17):.0e} at most: rounding.",
        value=1 - apart,
        unit="share of drafted tokens accepted",
        sources=["leviathan2023fast", "chen2023speculative"],
    )


@check("sd.trade")
def trade(claim: Claim) -> Finding:
    """FLOP and bytes of a token, over those without a draft."""
    length = printed("sd.4")
    made = dense(1.0, length)
    flop = (length + 1) / float(made.tokens)
    flop += (
        length * float(small().parameters.active) / float(architecture(DENSE).parameters.active) / float(made.tokens)
    )
    read = (float(made.verify) + float(made.draft)) / float(made.plain) / float(made.tokens)
    return decide(
        claim,
        flop > 1 > read,
        f"With four drafted tokens at {ALIGNMENT:.0%} a token of a dense 175B takes {flop:.2f} times the FLOP, "
        "rejected "
        f"ones and the draft's counted, and {read:.2f} times the time, which is spent on reading weights.",
        value=flop,
        unit="times the FLOP",
        evidence=Evidence.COST_MODEL,
        sources=["leviathan2023fast"],
    )


@check("sd.lossless")
def lossless(claim: Claim) -> Finding:
    """Exact and relaxed acceptance on the same pairs."""
    p, q = pairs()
    exact, half = (acceptance.lenient(p, q, lenience) for lenience in (1.0, 0.5))
    far, moved = (float(np.mean(acceptance.total_variation(rule.output(q), p))) for rule in (exact, half))
    return decide(
        claim,
        far < 1e-12 < moved,
        "Under the exact rule what comes out has the target's law, whatever the draft is; a poor draft costs time "
        "and no "
        f"quality. Let acceptance be twice as lenient and {moved:.0%} of the probability moves on the same pairs. "
        "And a "
        "mixture whose experts drop tokens when they are full answers differently in another batch, and so in a block.",
        value=moved,
        unit="total variation at lenience 1/2",
        condition="exact acceptance, and experts that drop nothing",
        sources=["leviathan2023fast", "chen2023speculative"],
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
        f"and what acceptance gains, here {gained:.2f}, the law loses in total variation, {moved:.2f}. It moves "
        "towards the draft's law, so text gets more like what a draft writes. The exact rule has no such effect.",
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
