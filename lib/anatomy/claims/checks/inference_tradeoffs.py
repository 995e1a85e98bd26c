"""Checks of the trade-offs of serving: latency, throughput and utilisation along the batch and the number of chips."""

from anatomy.claims.article.serving import CONTEXT, SERVING, machine, model, room, served
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.cost.efficiency import overheads
from anatomy.cost.routing.expert_load import active_experts
from anatomy.cost.serving.memory import held_weights, largest_batch
from anatomy.cost.serving.steps import Pass, decode, prefill
from anatomy.specs import Serving, architecture, chip, cluster

H100, A100 = "h100_sxm", "a100_sxm_40gb"
DENSE = "gpt3_175b"  # a dense model, for what a mixture would blur
FAST, SLOW = 1000.0, 250.0  # words a minute that the original counts with
WORD = 2.0  # tokens, as its figures imply
BOX = Serving(tensor=8.0, weight_bytes=1.0, activation_bytes=1.0)  # eight chips, 8 bits
SHORT = 100.0  # tokens in the cache


def box(sequences: float) -> Pass:
    """A decode step of a dense 175B on eight H100 with weights and arithmetic in 8 bits, and a short context."""
    return decode(architecture(DENSE), BOX, cluster(H100, 1), overheads("h100_sxm"), batch=sequences, context=SHORT)


@check("inf.ft_bad")
def libraries(claim: Claim) -> Finding:
    """An opinion on libraries of 2023."""
    return uncheckable(
        claim,
        "An opinion on two libraries as they were in 2023. Pope et al. beat FasterTransformer's published figures on "
        "models of that size, with other chips and a layout of their own.",
        sources=("pope2023efficiently",),
    )


@check("inf.custom")
def own_libraries(claim: Claim) -> Finding:
    """A prediction, and what came."""
    return uncheckable(
        claim,
        "A prediction. Others did write their own, vLLM among them, in the same year.",
        sources=("kwon2023vllm",),
    )


@check("inf.three")
def three(claim: Claim) -> Finding:
    """What a larger batch and more chips do to each of the three."""
    few, many = served(512.0), served(2048.0)
    wide = served(
        1024.0, plan=SERVING.replace(data=2.0, expert=2.0, pipeline=8.0, first_stage_share=1.0, micro_batches=8.0)
    )
    moves = [
        float(many.seconds / few.seconds),
        float(many.tokens_per_second / few.tokens_per_second),
        float(many.mfu / few.mfu),
    ]
    return decide(
        claim,
        min(*moves, float(many.seconds / wide.seconds)) > claim.verdict["least_ratio"],
        f"On the article's cluster, four times the batch makes a token {moves[0]:.2f} times as slow, throughput "
        f"{moves[1]:.1f} and utilisation {moves[2]:.1f} times as high; another layout of as many chips changes latency "
        f"by {float(wide.seconds / many.seconds) - 1:+.0%} at the same batch. Latency, throughput and utilisation are "
        "three faces of one choice.",
        value=moves[1],
        unit="times the throughput",
        evidence=Evidence.COST_MODEL,
        sources=["pope2023efficiently"],
    )


@check("inf.latency")
def phases(claim: Claim) -> Finding:
    """Seconds a token of prefill against decode."""
    plan = SERVING.replace(micro_batches=1.0, cache_by_sequence=0.0)  # one user's cache is not split by sequences
    read = prefill(model(), plan, machine(), overheads("a100_sxm_40gb"), batch=1.0, prompt=2048.0)
    write = served(1.0, plan=plan)
    ratio = float(write.seconds) / (float(read.seconds) / 2048)
    return decide(
        claim,
        ratio > claim.verdict["least_ratio"],
        f"For one user on the article's cluster a prompt of 2,048 tokens takes {float(read.seconds):.2f} s, "
        f"{float(read.seconds) / 2048 * 1e3:.2f} ms a token; each token of the answer takes "
        f"{float(write.seconds) * 1e3:.0f} ms, {ratio:.0f} times as long.",
        value=ratio,
        unit="times",
        evidence=Evidence.COST_MODEL,
    )


@check("inf.30tps")
def reading(claim: Claim) -> Finding:
    """Tokens a second of a reader, slow and fast, by the original's own figures."""
    slow, fast = SLOW * WORD / 60, FAST * WORD / 60
    users = record("chat_latency")
    low, high = sorted(1 / seconds for seconds in users["seconds"])
    return compare(
        claim,
        slow,
        "250 words a minute, an ordinary reader, at the two tokens a word that the original counts with, are "
        f"{slow:.1f} tokens a second. Thirty is {FAST:,.0f} words a minute ({fast:.1f}), which nobody reads; at fewer "
        f"tokens a word it is less still. It is an upper bound; users of GPT-4 had {low:.0f} to {high:.0f} in 2023.",
        sources=[users["source"]],
    )


@check("inf.util")
def utilisation(claim: Claim) -> Finding:
    """Dollars for a token at both ends of the batch."""
    few, many = box(1.0), box(256.0)
    gain = float(many.tokens_per_second / few.tokens_per_second)
    return decide(
        claim,
        gain > claim.verdict["least_ratio"],
        f"A dense 175B in 8 bits on eight H100 makes {float(few.tokens_per_second):.0f} tokens a second for one user "
        f"and {float(many.tokens_per_second):,.0f} for 256, for the same rent: {gain:.0f} times as many, while a token "
        f"takes {float(many.seconds / few.seconds):.1f} times as long.",
        value=gain,
        unit="times",
        evidence=Evidence.COST_MODEL,
    )


@check("inf.balance")
def balance(claim: Claim) -> Finding:
    """Share of a decode step that goes into reading and into arithmetic."""
    most = float(largest_batch(architecture(DENSE), BOX, chip_memory=chip(H100).memory, context=SHORT))
    apart = [box(n) for n in (1.0, most)]
    reads = [float((made.weights + made.cache) / made.seconds) for made in apart]
    return decide(
        claim,
        reads[0] > claim.verdict["half"] > reads[1],
        f"Reading weights and cache is {reads[0]:.0%} of a step for one user and {reads[1]:.0%} with the {most:,.0f} "
        "that fit: between lies the balance. Two things more weigh in: messages between chips, and the cache, whose "
        "reads a larger batch does not share.",
        value=reads[0],
        unit="share",
        evidence=Evidence.COST_MODEL,
        sources=["williams2009roofline"],
    )


@check("phone.limit")
def phone(claim: Claim) -> Finding:
    """Parameters that half of the phone's bandwidth can read at reading speed."""
    rate = SLOW * WORD / 60
    budget = float(chip("iphone_14").memory_bandwidth) / 2 / rate
    pro = float(chip("iphone_14_pro").memory_bandwidth) / 2 / rate / 2
    return compare(
        claim,
        budget / 2,
        f"Half of 34.1 GB/s at {rate:.2f} tokens a second are {budget / 1e9:.2f} GB a token: {budget / 2e9:.2f} "
        f"billion parameters of two bytes or {budget / 0.5e9:.1f} billion of half a byte. The iPhone 14 Pro would read "
        f"{pro / 1e9:.1f} billion in FP16.",
        condition="half of the bandwidth, 8.33 tokens a second, and the bandwidth that a secondary source gives",
        sources=["kuo2022iphone14"],
    )


@check("phone.adopt")
def adopted(claim: Claim) -> Finding:
    """A prediction that two mechanisms of this book bear on."""
    return uncheckable(
        claim,
        "A prediction for dense models and one token at a time. A mixture of experts reads a part of its weights for a "
        "token, and speculation reads them once for several; both raise the limit, and later phones are faster.",
        sources=("leviathan2023fast",),
    )


@check("inf.2flop")
def two_flop(claim: Claim) -> Finding:
    """FLOP of a token over parameters that are multiplied."""
    dense = architecture(DENSE)
    parts = dense.parameters
    value = float(dense.flop_per_token().total) / float(parts.attention + parts.dense_mlp + parts.embedding)
    return compare(
        claim,
        value,
        f"A multiplication and an addition for each weight: {value:.3f} FLOP a parameter for GPT-3 (biases and "
        "positions are counted and do little). Attention over the context comes on top. A mixture reads and computes "
        "its chosen experts only.",
        sources=["kaplan2020scaling"],
    )


@check("inf.h100_ratio")
def h100(claim: Claim) -> Finding:
    """Peak over bandwidth, by the data sheet."""
    value = float(chip(H100).balance(8))
    return compare(
        claim,
        value,
        f"By its data sheet an H100 does 1,979 TFLOP/s in FP8 and reads 3.35 TB/s: {value:.0f} FLOP for each byte. One "
        "user asks for two. The article rounds the bandwidth down, which makes it 667; the point stands.",
        condition="the article's 3 TB/s is 3.35 rounded",
        sources=["nvidia2022h100"],
    )


@check("inf.bs1")
def alone(claim: Claim) -> Finding:
    """Arithmetic at the peak over reading, for one user."""
    share = 2 / float(chip(H100).balance(8))
    made = box(1.0)
    reading = float(made.weights / made.seconds)
    return decide(
        claim,
        share < claim.verdict["most_arithmetic"] and reading > claim.verdict["least_reading"],
        f"In 8 bits on an H100 the arithmetic of one token would take {share:.1%} of the time that its weights take to "
        f"read. Reading is {reading:.0%} of the step of a 175B on eight of them; the rest is starting kernels and "
        "sending messages, not arithmetic.",
        value=share,
        unit="share",
        evidence=Evidence.COST_MODEL,
        sources=["williams2009roofline"],
    )


@check("inf.amortise")
def shared(claim: Claim) -> Finding:
    """Bytes of weights that a user pays for, dense and with experts."""
    parts, experts, k = model().parameters, printed("arch.n_experts"), printed("arch.top_k")
    rest = float(parts.always - parts.embedding)

    def each(n: float) -> float:
        return (rest + float(parts.experts) * float(active_experts(tokens=n, experts=experts, top_k=k)) / experts) / n

    return decide(
        claim,
        each(64.0) < claim.verdict["most_share"] * each(1.0),
        "Dense weights are read once for all: with 8 users each pays an eighth. GPT-4's users bring experts of their "
        f"own: 8 of them still pay {each(8.0) / each(1.0):.0%} of what one pays, 64 pay {each(64.0) / each(1.0):.0%}. "
        "The cache is never shared.",
        value=each(8.0) / each(1.0),
        unit="share",
        evidence=Evidence.COST_MODEL,
        assumes=["tokens choose evenly and independently"],
    )


@check("inf.256_512")
def intensity(claim: Claim) -> Finding:
    """FLOP for a byte of weights at a batch of 256, by precision."""
    value = 2 * 256.0
    return compare(
        claim,
        value,
        f"Two FLOP a weight and user: 256 users do {value:.0f} FLOP for each weight read, 512 users {2 * value:,.0f}. "
        f"Per byte that is so where a weight has one byte; in FP16 it is {value / 2:.0f} and {value:.0f}. And it is "
        "FLOP per byte: the article writes FLOP/s, which would have to be per byte a second. An expert of 16, of which "
        f"a token uses two, needs {printed('arch.n_experts') / printed('arch.top_k'):.0f} times the batch.",
        condition="weights of one byte, and FLOP where FLOP/s is written",
    )


@check("inf.closer")
def closer(claim: Claim) -> Finding:
    """Utilisation and latency at 1, 256 and 512."""
    one, some, more = (box(n) for n in (1.0, 256.0, 512.0))
    return decide(
        claim,
        min(map(float, (more.mfu / some.mfu, some.mfu / one.mfu, more.seconds / one.seconds)))
        > claim.verdict["least_ratio"],
        f"A dense 175B in 8 bits on eight H100 with a short context reaches {float(one.mfu):.1%} of the 16-bit peak "
        f"for one user, {float(some.mfu):.0%} for 256 and {float(more.mfu):.0%} for 512; the time per output token is "
        f"{float(one.seconds) * 1e3:.0f}, {float(some.seconds) * 1e3:.0f} and {float(more.seconds) * 1e3:.0f} ms.",
        value=float(some.mfu),
        unit="share",
        evidence=Evidence.COST_MODEL,
    )


@check("inf.capacity")
def capacity(claim: Claim) -> Finding:
    """Chips that capacity asks for and chips that bandwidth asks for."""
    size = 2 * float(model().parameters.total)
    held = size / float(chip(A100).memory)
    read = size * printed("inf.30tps") / float(chip(A100).memory_bandwidth)
    return uncheckable(
        claim,
        f"To hold GPT-4 in FP16 takes {held:.0f} A100 of 40 GB. To read it thirty times a second, as a full batch must "
        f"at the article's pace, takes the bandwidth of {read:.0f}: nearly as many, before a byte of cache is read. "
        "The original says that the belief is wrong; the retelling reports the belief and leaves that out.",
        beside=(held / read, "times"),
    )


@check("inf.more_chips")
def more_chips(claim: Claim) -> Finding:
    """Two layouts that hold the same model: 128 chips and 256."""
    constants, wide = overheads("a100_sxm_40gb"), cluster(A100, 32)
    small = SERVING
    large = SERVING.replace(pipeline=2.0, first_stage_share=1.0, data=16.0, expert=16.0, micro_batches=2.0)
    few = served(2048.0)
    many = decode(model(), large, wide, constants, batch=4096.0 / 16, context=CONTEXT)
    rooms = room(model(), small), 16 * room(model(), large)
    held = 2 * float(held_weights(model(), large)) / 1e9
    return decide(
        claim,
        min(map(float, (few.seconds / many.seconds, many.tokens_per_chip / few.tokens_per_chip)))
        > claim.verdict["least_ratio"],
        f"With 2,048 sequences of 8k on 128 A100 the time per output token is {float(few.seconds) * 1e3:.0f} ms. On "
        f"256, with experts split over sixteen nodes, {held:.0f} GB of weights a chip and 4,096 sequences, it takes "
        f"{float(many.seconds) * 1e3:.0f} ms, and each chip makes "
        f"{float(many.tokens_per_chip / few.tokens_per_chip):.1f} times the tokens; there would be room for "
        f"{rooms[1]:,.0f} sequences in place of {rooms[0]:,.0f}. But it is the layout as much as the number.",
        value=float(few.seconds / many.seconds),
        unit="times",
        condition="the added chips split experts, not stages",
        evidence=Evidence.COST_MODEL,
        sources=["pope2023efficiently"],
    )
