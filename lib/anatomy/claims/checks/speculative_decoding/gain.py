"""Checks of what speculation gains, and where the gain ends: batch, acceptance, draft length, other methods."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from anatomy.claims.article.serving import SERVING
from anatomy.claims.checks.speculative_decoding.draft import (
    A100,
    ACCEPTANCE_RATE,
    NODE,
    by_batch,
    dense,
    draft_size,
    lengths,
    routed,
)
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, compare, decide
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.cost.serving.roofline import balanced_batch
from anatomy.cost.speculation.acceptance import correlated_acceptance, expected_tokens, independent_acceptance
from anatomy.cost.speculation.trees import best_tree, paths_tokens
from anatomy.specs import chip

BATCHES = 2.0 ** np.arange(13)  # 1 to 4,096 sequences
USUAL = 1024.0  # sequences in flight, some hours' average of a cluster built for 4,000
RANKS = (0.45, 0.15, 0.08, 0.05)  # a poor draft: chance that its first, second, ... guess is accepted


def best_gains(batches: Sequence[float] | np.ndarray) -> np.ndarray:
    """Speed-ups of the article's model with the best draft length, all sequences of each batch passing at once."""
    return by_batch(routed, batches).max(1)


@check("sd.small_batch")
def small_batch(claim: Claim) -> Finding:
    """Batches at which the article's model gains, and its own batch."""
    gains = best_gains(BATCHES)
    least = claim.verdict["least_gain"]
    useful = BATCHES[gains > least]
    where = f"from {useful[0]:.0f} to {useful[-1]:.0f} sequences that pass at once" if len(useful) else "at no batch"
    one = float(lengths(lambda g: dense(1.0, g)).max())
    own = float(lengths(lambda g: routed(printed("g4i.4k"), g, plan=SERVING)).max())
    a100, experts, k = chip(A100), printed("arch.n_experts"), printed("arch.top_k")
    balances = [float(balanced_batch(experts=n, top_k=k, chip=a100)) for n in (k, experts)]
    return decide(
        claim,
        bool(gains[0] > least and own < least),
        f"A dense 175B gains {one:.2f} times for one user; the article's model {gains[0]:.2f} times, for a block of "
        f"five brings five tokens' experts with it. It gains {where}, most at {BATCHES[gains.argmax()]:.0f}, "
        f"{gains.max():.2f} times. Even its own 4,000, of which 250 pass at once, would gain {own:.2f} times. "
        f"Bandwidth is the bottleneck, as the article says, but a mixture leaves it at {balances[1]:,.0f} tokens where "
        f"a dense model does at {balances[0]:,.0f}: the gain ends with a large batch and does not begin with the "
        "smallest.",
        value=float(BATCHES[gains.argmax()]),
        unit="sequences",
        in_part=bool(gains[-1] < least),
        evidence=Evidence.COST_MODEL,
        assumes=[
            f"an acceptance rate of {ACCEPTANCE_RATE:g}, a draft of {draft_size()}, the best draft length",
            "experts are chosen evenly and independently",
        ],
        sources=["huang2025moesd"],
    )


@check("sd.orthogonal")
def orthogonal(claim: Claim) -> Finding:
    """Speed-up by a draft, alone and on top of 8-bit weights and of a larger batch."""
    length = printed("sd.4")
    narrow = NODE.replace(weight_bytes=1.0, activation_bytes=1.0)
    apart, with_bits, with_batch = (
        float(made.speed_up) for made in (dense(1.0, length), dense(1.0, length, plan=narrow), routed(2048.0, length))
    )
    crowd = float(routed(32.0, length).speed_up)
    return decide(
        claim,
        min(with_bits / apart, with_batch / crowd) > claim.verdict["least_left"],
        f"A dense 175B gains {apart:.2f} times from a draft in FP16 and {with_bits:.2f} times in 8 bits: narrow "
        "weights and speculation multiply, nearly. A larger batch spends the same spare arithmetic: GPT-4 gains "
        f"{crowd:.2f} times with 32 sequences and {with_batch:.2f} times with 2,048.",
        value=with_bits / apart,
        unit="of the gain left with 8-bit weights",
        in_part=with_bits > claim.verdict["least_left_in_part"] * apart,
        evidence=Evidence.COST_MODEL,
    )


@check("sd.single_seq")
def single_sequence(claim: Claim) -> Finding:
    """A chain in a large batch, with a poor draft, and a tree in its place."""
    length = int(printed("sd.4"))
    crowd = float(routed(2048.0, float(length)).speed_up)
    tokens = float(expected_tokens(acceptance_rate=RANKS[0], draft_length=length))
    tree = float(paths_tokens(np.array(RANKS), tree=best_tree(RANKS, 16)))
    return decide(
        claim,
        crowd < claim.verdict["most_speed_up"] and tokens < claim.verdict["most_tokens"],
        f"Four tokens in one sequence make GPT-4 {crowd:.2f} times as fast with 2,048 sequences in flight: slower. At "
        f"an acceptance rate of {RANKS[0]:g} they yield {tokens:.2f} tokens a pass, and no longer draft more than "
        f"{1 / (1 - RANKS[0]):.2f}. A tree of 16 guesses with the same draft yields {tree:.2f}: it helps against a "
        "poor draft, not against a large batch.",
        value=tokens,
        unit="tokens a pass",
        evidence=Evidence.COST_MODEL,
        assumes=[f"second, third and fourth guesses are right with {', '.join(f'{r:g}' for r in RANKS[1:])}"],
        sources=["spector2023staged", "miao2024specinfer"],
    )


@check("sd.exp")
def exponential(claim: Claim) -> Finding:
    """The chance of eight tokens in a row, with independent and with correlated acceptance."""
    independent, correlated = (
        independent_acceptance(acceptance_rate=ACCEPTANCE_RATE, longest=8),
        correlated_acceptance(acceptance_rate=ACCEPTANCE_RATE, correlation=0.2, longest=8),
    )
    last = float(independent[8] / independent.sum())
    return decide(
        claim,
        float(independent[8]) < claim.verdict["most_chance"],
        f"If every token is accepted with {ACCEPTANCE_RATE:.0%}, eight in a row are with {float(independent[8]):.0%}; "
        f"the eighth adds {last:.0%} to the tokens of a speculation step, and no draft however long yields more than "
        f"{1 / (1 - ACCEPTANCE_RATE):.0f}. The fall is exponential only if acceptances are independent. If some "
        "passages are easier than others, so that two tokens of a step are correlated by 0.2, eight are accepted with "
        f"{float(correlated[8]):.0%}, and the chance falls like a power.",
        value=float(independent[8]),
        unit="share",
        condition="acceptances are independent and equally likely",
        sources=["leviathan2023fast"],
    )


@check("sd.4")
def four(claim: Claim) -> Finding:
    """The best draft length of the article's model, batch by batch."""
    sizes = (128.0, 256.0, 512.0, USUAL, 2048.0, 4096.0)
    best = dict(zip(sizes, by_batch(partial(routed, plan=SERVING), sizes).argmax(1).tolist(), strict=True))
    alone = int(lengths(lambda g: dense(1.0, g)).argmax())
    listed = ", ".join(f"{length} with {n:,.0f}" for n, length in best.items())
    gain = float(routed(USUAL, best[USUAL], plan=SERVING).speed_up)
    return compare(
        claim,
        best[USUAL],
        f"At an acceptance rate of {ACCEPTANCE_RATE:g} and with a draft of {draft_size()} on the head node, the best "
        f"length on the article's cluster is {listed} sequences in flight; for a dense 175B and one user {alone}. At "
        f"{USUAL:,.0f} it makes the model {gain:.2f} times as fast. A better or cheaper draft asks for more, a larger "
        "batch for fewer; four lies in the middle of what is plausible.",
        condition=f"some {USUAL:,.0f} sequences in flight, an acceptance rate of {ACCEPTANCE_RATE:g}, "
        f"a draft of {draft_size()}",
        evidence=Evidence.COST_MODEL,
        sources=["leviathan2023fast"],
    )
