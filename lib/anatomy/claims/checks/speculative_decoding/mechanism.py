"""Checks of how speculative decoding works, what it saves, and what it does to what is written."""

import numpy as np

from anatomy.claims.article.serving import machine, model, served
from anatomy.claims.checks.speculative_decoding.draft import (
    A100,
    ACCEPTANCE_RATE,
    DENSE,
    SERIAL,
    dense,
    draft_size,
    routed,
    small,
)
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, decide
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.steps import prefill
from anatomy.cost.speculation.acceptance import expected_tokens, independent_acceptance, tokens_distribution
from anatomy.decode.sampling import acceptance
from anatomy.specs import architecture, chip


@check("sd.prefill")
def parallel(claim: Claim) -> Finding:
    """Milliseconds of a token of the prompt and of the answer."""
    read = prefill(model(), SERIAL, machine(), overheads("a100_sxm_40gb"), batch=1.0, prompt=2048.0)
    write = served(1.0, plan=SERIAL, context=2048.0)
    ratio = float(write.seconds) * 2048 / float(read.seconds)
    return decide(
        claim,
        ratio > claim.verdict["least_ratio"],
        f"On the article's cluster 2,048 tokens of one prompt take {float(read.seconds):.2f} s at once; written one by "
        f"one they would take {2048 * float(write.seconds):.0f} s, {ratio:.0f} times as long.",
        value=ratio,
        unit="times",
        evidence=Evidence.COST_MODEL,
    )


@check("sd.decode_seq")
def sequential(claim: Claim) -> Finding:
    """Tokens of a pass without a draft."""
    value = float(expected_tokens(acceptance_rate=ACCEPTANCE_RATE, draft_length=0.0))
    return decide(
        claim,
        value == claim.verdict["tokens"],
        f"A token is drawn from what the pass before it computed, so each takes a pass of its own: {value:.0f} token a "
        "pass. Speculation breaks just this: what was guessed can be read at once.",
        value=value,
        unit="tokens a pass",
        sources=["stern2018blockwise"],
    )


@check("sd.intensity")
def intensity(claim: Claim) -> Finding:
    """FLOP for each byte of weights, for one user, against what the chip can do."""
    made = served(1.0, plan=SERIAL, context=1.0)
    read = float(made.weights) * float(made.chips) / SERIAL.pipeline
    share = overheads("a100_sxm_40gb").efficiency.memory
    value = float(made.flop) / (read * float(chip(A100).memory_bandwidth) * float(share))
    balance = float(chip(A100).balance(16))
    return decide(
        claim,
        value < claim.verdict["most_share"] * balance,
        f"For one user GPT-4 does {value:.1f} FLOP for each byte of weights it reads, in FP16. An A100 of 40 GB can do "
        f"{balance:.0f} in the time it reads a byte.",
        value=value,
        unit="FLOP/B",
        evidence=Evidence.COST_MODEL,
        sources=["williams2009roofline"],
    )


@check("sd.draft")
def drafted(claim: Claim) -> Finding:
    """Seconds of the draft's step and of the block, over those of a step of the target."""
    made = dense(1.0, printed("sd.4"))
    share, block = float(made.draft / printed("sd.4") / made.plain), float(made.verify_cost)
    steps = 1 + printed("sd.4")  # of the target, that a block stands for
    return decide(
        claim,
        max(share, block / steps) < claim.verdict["most_cost"],
        f"So it is in the papers. On one node a step of a draft of {draft_size()} takes {share:.0%} of a step of a "
        f"dense 175B, and the large model reads five tokens in {block:.2f} times what it takes for one.",
        value=block,
        unit="steps",
        evidence=Evidence.COST_MODEL,
        sources=["leviathan2023fast", "chen2023speculative"],
    )


@check("sd.saves")
def saves(claim: Claim) -> Finding:
    """Bytes of weights for each token, dense and routed."""
    length = printed("sd.4")
    tokens = float(expected_tokens(acceptance_rate=ACCEPTANCE_RATE, draft_length=length))
    one, crowd = routed(1.0, length), routed(32.0, length)
    return decide(
        claim,
        min(float(dense(1.0, length).speed_up), float(crowd.speed_up)) > claim.verdict["least_speed_up"],
        f"Four drafted tokens, each accepted with {ACCEPTANCE_RATE:.0%}, yield {tokens:.2f} tokens a pass. A dense "
        "model reads its weights once for them. A mixture activates more experts: for one user, verifying costs GPT-4 "
        f"as much as {float(one.verify_cost):.1f} steps, and it is {float(one.speed_up):.2f} times as fast as without; "
        f"with 32 users, for whom all experts are active anyway, {float(crowd.verify_cost):.2f} steps, "
        f"{float(crowd.speed_up):.2f} times as fast.",
        value=float(dense(1.0, length).speed_up),
        unit="times as fast",
        condition="a dense model, or a batch in which all experts are active anyway",
        evidence=Evidence.COST_MODEL,
        sources=["leviathan2023fast"],
    )


@check("sd.reject")
def rejected(claim: Claim) -> Finding:
    """What becomes of a speculation step whose first token is rejected, and of drafted tokens on average."""
    length = int(printed("sd.4"))
    wrong = np.asarray(tokens_distribution(independent_acceptance(acceptance_rate=0.0, longest=length)))
    accepted = (float(expected_tokens(acceptance_rate=ACCEPTANCE_RATE, draft_length=length)) - 1) / length
    return decide(
        claim,
        wrong[0] >= claim.verdict["least_chance"],
        "What follows a rejected token was guessed from it and is dropped: at an acceptance rate of "
        f"{ACCEPTANCE_RATE:.0%}, {1 - accepted:.0%} of what is drafted. But the pass is not lost: it has computed what "
        "should stand there, so even a step whose first token is rejected yields one. There is no falling back, only "
        "the next speculation step.",
        value=1 - accepted,
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
        far < claim.verdict["rounding"],
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
        flop > claim.verdict["without_draft"] > read,
        f"With four drafted tokens, accepted with {ACCEPTANCE_RATE:.0%}, a token of a dense 175B takes {flop:.2f} "
        f"times the FLOP, rejected ones and the draft's counted, and {read:.2f} times the time, which is spent on "
        "reading weights.",
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
        far < claim.verdict["rounding"] < moved,
        "Under the exact rule what comes out has the target's law, whatever the draft is; a poor draft costs time and "
        f"no quality. Let acceptance be twice as lenient and {moved:.0%} of the probability moves on the same pairs. "
        "And a mixture whose experts drop tokens when they are full answers differently in another batch, and so in a "
        "block.",
        value=moved,
        unit="total variation at lenience 1/2",
        condition="exact acceptance, and experts that drop nothing",
        sources=["leviathan2023fast", "chen2023speculative"],
    )
