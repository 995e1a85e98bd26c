"""Checks of multi-query attention: what one KV head saves, and what a long context then costs on 40 GB chips."""

from anatomy.claims.article.serving import SERVING, model, room
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.memory import memory
from anatomy.cost.serving.steps import Pass, decode
from anatomy.specs import Architecture, Scalar, Serving, architecture, cluster, node
from anatomy.specs.units import readable

SHORT, LONG = 8192.0, 32768.0
A100 = "a100_sxm_40gb"
BY_HEADS = SERVING.replace(cache_by_sequence=0.0)
INT8 = SERVING.replace(weight_bytes=1.0)


def with_key_heads(kv_heads: float) -> Architecture:
    """The article's multi-head shape with so many key and value heads; of its 112 query heads nothing else changes."""
    return architecture("gpt4").replace(kv_heads=kv_heads)


def stages(count: float, like: Serving = SERVING) -> Serving:
    """Eight-way nodes, of which so many have layers; beside them a head node without any."""
    return like.replace(pipeline=count + 1.0, micro_batches=count + 1.0)


def step(
    sequences: Scalar,
    context: Scalar,
    plan: Serving = SERVING,
    key: str = A100,
    shape: Architecture | None = None,
) -> Pass:
    """A decode step with full caches.

    Args:
        sequences: in flight.
        context: tokens of each in the cache.
        plan: the layout; as many chips serve as it has.
        key: of the chip.
        shape: the model, by default the article's with one KV head.
    """
    there = cluster(key, plan.chips / node(key).chips)
    return decode(shape or model(), plan, there, overheads(key), batch=sequences, context=context)


def price(sequences: Scalar, context: Scalar, plan: Serving = SERVING, key: str = A100) -> float:
    """Dollars for a million tokens at a dollar for a chip-hour."""
    return float(step(sequences, context, plan, key).dollars_per_million(1.0))


@check("mqa.used")
def used(claim: Claim) -> Finding:
    """What the article's cluster would hold without it."""
    one, many = room(model(), SERVING), room(architecture("gpt4"), BY_HEADS)
    return uncheckable(
        claim,
        "OpenAI has not published the attention of GPT-4. The idea was public since 2019 and is in PaLM, so it is "
        "plausible. And the article needs it: with as many KV heads as query heads, its own cluster of 128 A100 has "
        f"room for {many:.0f} sequences of 8k in FP16 and with one for {one:,.0f}; it claims a batch of "
        f"{printed('g4i.4k'):,.0f}.",
        beside=(one / many, "times the batch"),
        sources=("shazeer2019mqa", "chowdhery2023palm"),
    )


@check("mqa.one_head")
def one_head(claim: Claim) -> Finding:
    """Parameters of attention with a single head, against the article's own; and the cache with a single KV head."""
    shape, printed_size = model(), printed("arch.shared_attn")
    single = float(shape.layers * shape.replace(heads=1.0).attention.weights(shape.d_model))
    many, one = (float(a.cache_bytes_per_token(2.0)) for a in (architecture("gpt4"), shape))
    return decide(
        claim,
        single > claim.verdict["least_share"] * printed_size,
        "The original says one head of keys and values. Query heads stay as many: the article's "
        f"{printed_size / 1e9:.0f} billion parameters of attention are {shape.attention.heads:.0f} of them, where a "
        f"single head of that width would have {single / 1e9:.1f} billion. What falls is the cache: from "
        f"{readable(many, 'B')} a token in the multi-head shape to {readable(one, 'B')}, {many / one:.0f} times.",
        value=many / one,
        unit="times less cache",
        sources=["shazeer2019mqa"],
    )


@check("mqa.32k_no")
def long_context(claim: Claim) -> Finding:
    """Sequences of 32k that 128 chips of 40 GB hold, and what their tokens cost."""
    each = SERVING.tensor * SERVING.pipeline
    held = float(memory(model(), SERVING, batch=each, context=LONG).total)
    batches = [room(model(), plan, context=LONG) for plan in (SERVING, INT8, BY_HEADS)]
    dear = [price(max(n, 1.0), LONG, plan) for n, plan in zip(batches, (SERVING, INT8, BY_HEADS), strict=True)]
    sold = record("api_prices")["gpt4_32k"]["out"] * 1e3
    return decide(
        claim,
        batches[0] < claim.verdict["least_sequences"],
        f"On the article's own 128 chips it runs: with {each:.0f} sequences of 32k the fullest chip has "
        f"{readable(held, 'B')}, and {batches[0]:.0f} fit beside FP16 weights, {batches[1]:,.0f} beside int8. It is "
        f"dear. At $1 for a chip-hour a million tokens cost ${dear[0]:.0f} and ${dear[1]:.2f}, where 8k in FP16 cost "
        f"${price(room(model(), SERVING), SHORT):.2f}; OpenAI asked ${sold:.0f}. If the KV head is copied to all chips "
        f"of a node, as a split by heads must, {batches[2]:.0f} fit at ${dear[2]:.0f}: that comes near to what the "
        "article says.",
        value=batches[0],
        unit="sequences",
        evidence=Evidence.COST_MODEL,
        assumes=["128 chips as 8 x 16", "tensor ways split the cache by sequences", "prompts are read in chunks"],
        sources=["pope2023efficiently", record("api_prices")["source"]],
    )


@check("mqa.8k_cap")
def capped(claim: Claim) -> Finding:
    """The largest batch of 8k, whether it is below the article's own, and what a larger one would save."""
    most, narrow = room(model(), SERVING), room(model(), INT8)
    paid, free = price(most, SHORT), price(claim.verdict["unbound"], SHORT)
    return decide(
        claim,
        most < claim.verdict["unbound"] and paid > claim.verdict["least_ratio"] * free,
        f"Any memory caps the batch; here the cap is felt. {most:,.0f} sequences of 8k fit beside FP16 weights on 128 "
        f"chips of 40 GB, fewer than the {printed('g4i.4k'):,.0f} that the article claims, and {narrow:,.0f} beside "
        f"int8. At $1 for a chip-hour a million tokens cost ${paid:.2f} and ${price(narrow, SHORT, INT8):.2f}; without "
        f"a cap they would fall to ${free:.2f}.",
        value=most,
        unit="sequences",
        evidence=Evidence.COST_MODEL,
        assumes=["all caches are full", "tensor ways split the cache by sequences"],
        sources=["pope2023efficiently"],
    )
