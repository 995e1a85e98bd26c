"""Checks of the experts when served: which a batch reads, and how unevenly."""

from math import comb, log2

from jax.scipy.special import betainc

from anatomy.claims.article.serving import CONTEXT, served
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import SMALL, Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.cost.routing.expert_load import active_experts, load_standard_deviation, max_load, tokens_per_expert
from anatomy.specs import chip
from anatomy.train.specialists import told_by


@check("g4i.moe_adds")
def moe_adds(claim: Claim) -> Finding:
    """Bytes that a step reads, beside a dense model of as many active parameters."""
    experts, k = printed("arch.n_experts"), printed("arch.top_k")
    active = [float(active_experts(tokens=n, experts=experts, top_k=k)) for n in (1, 8, 64)]
    return decide(
        claim,
        active[1] > claim.verdict["least_ratio"] * active[0],
        f"A dense model reads the same weights at any batch. Here one token activates {active[0]:.0f} experts of a "
        f"layer, eight {active[1]:.1f} and 64 {active[2]:.1f} of {experts:.0f}: the first users added bring their own "
        "reads with them, and how many depends on what they ask.",
        value=active[1],
        unit="experts",
        condition="tokens choose evenly and independently",
        evidence=Evidence.COST_MODEL,
    )


@check("g4i.routes")
def routes(claim: Claim) -> Finding:
    """Whether a router's choice depends on the token."""
    experts, k = int(printed("arch.n_experts")), int(printed("arch.top_k"))
    pairs = comb(experts, k)
    first = {what: bits[0] for what, bits in told_by("target").items()}
    return decide(
        claim,
        pairs >= claim.verdict["least_pairs"] and first["token"] > claim.verdict["least_bits"],
        f"That is what a learned router does: each layer picks {k} of {experts} experts for each token, one of {pairs} "
        f"pairs. In the small model, of {experts} experts too, the first choice in the first layer tells "
        f"{first['token']:.1f} of at most {log2(experts):.0f} bits about the token, and {first['domain']:.1f} of 1 "
        "about whether it is of prose or of code.",
        value=pairs,
        unit="pairs",
        assumes=[SMALL],
        sources=["shazeer2017moe", "jiang2024mixtral"],
    )


@check("g4i.16_2")
def sixteen(claim: Claim) -> Finding:
    """The statement is the architecture's again."""
    return uncheckable(
        claim,
        "The same as in the section on architecture, and with no more evidence. Mixtral of 2023 has eight experts and "
        "uses two, so the kind is usual.",
        sources=("jiang2024mixtral",),
    )


@check("g4i.b8_1")
def batch_of_one(claim: Claim) -> Finding:
    """Tokens of an expert at a batch of eight."""
    return compare(
        claim,
        float(tokens_per_expert(tokens=8.0, experts=printed("arch.n_experts"), top_k=printed("arch.top_k"))),
        "Eight tokens with two choices each are sixteen choices among sixteen experts: one each on average. Each "
        "expert's weights are then read for a single token.",
    )


@check("g4i.imbalance")
def imbalance(claim: Claim) -> Finding:
    """The fullest expert of a batch of eight, by chance."""
    experts, k = printed("arch.n_experts"), printed("arch.top_k")
    fullest, idle = (
        float(max_load(tokens=8, experts=experts, top_k=k)),
        experts - float(active_experts(tokens=8.0, experts=experts, top_k=k)),
    )
    layers, everyone = printed("arch.layers"), (k / experts) ** 8 * experts
    four = experts * float(1 - betainc(8 - 3, 3 + 1, 1 - k / experts))  # experts of a layer with four or more
    return decide(
        claim,
        everyone * layers > claim.verdict["least_layers"],
        f"With eight tokens the fullest expert of a layer has {fullest:.1f} on average, {idle:.1f} have none, and in "
        f"{layers:.0f} layers {four * layers:.0f} have four or more: 4, 1 and 0 are what chance gives. All eight on "
        f"one expert happens by chance once in {1 / everyone:,.0f} layers; that would be the work of a skewed router.",
        value=fullest,
        unit="tokens on average",
        in_part=four * layers > claim.verdict["least_layers"],
        assumes=["tokens choose evenly and independently"],
        evidence=Evidence.COST_MODEL,
        sources=["raab1998balls"],
    )


@check("g4i.jitter")
def jitter(claim: Claim) -> Finding:
    """Coefficients of variation of active experts and of the step's time, small batch against large."""
    experts, k, layers = printed("arch.n_experts"), printed("arch.top_k"), printed("arch.layers")
    spread = float(load_standard_deviation(tokens=8.0, experts=experts, top_k=k)) / float(
        tokens_per_expert(tokens=8.0, experts=experts, top_k=k)
    )
    # Active experts of a layer: variance of a sum of idle experts, of which each pair is idle together a little less.
    none = (1 - k / experts) ** 8
    both = ((experts - k) * (experts - k - 1) / (experts * (experts - 1))) ** 8
    idle = (experts * none + experts * (experts - 1) * both - (experts * none) ** 2) ** 0.5
    mean = experts * (1 - none)
    step = idle / mean / layers**0.5
    return decide(
        claim,
        step > claim.verdict["least_time"],
        f"The load of an expert has a coefficient of variation of {spread:.0%} at a batch of eight: that is strong. "
        f"The time per token is a sum over {layers:.0f} layers, in which chance averages out: that of the active "
        f"experts of one layer is {idle / mean:.0%}, over all layers {step:.1%}. Only choices that agree across "
        "layers, as those of easy and hard texts may, could make a token's time vary strongly.",
        value=step,
        unit="share",
        in_part=spread > claim.verdict["least_batch"],
        evidence=Evidence.COST_MODEL,
        assumes=["layers choose independently of each other"],
    )


@check("g4i.reason")
def reason(claim: Claim) -> Finding:
    """What more experts would cost in serving, at equal stored parameters."""
    one, many = (
        float(
            served(
                256.0 * 16,
                context=CONTEXT / 2,
                active_experts=active_experts(tokens=256.0, experts=n, top_k=printed("arch.top_k")) * 16 / n,
            ).seconds
        )
        for n in (16.0, 128.0)
    )
    return uncheckable(
        claim,
        "Nobody outside knows the reason. With the same weights cut into 128 experts in place of 16, a step with 256 "
        f"tokens a micro-batch would change its time by {many / one - 1:+.0%}: nearly all of them are active either "
        "way.",
    )


@check("g4i.more_bw")
def more_bandwidth(claim: Claim) -> Finding:
    """FLOP for each byte read, with the article's batch and more experts."""
    k, batch = printed("arch.top_k"), printed("g4i.4k") / 16
    ridge = float(chip("a100_sxm_40gb").balance())
    rows = {n: float(tokens_per_expert(tokens=batch, experts=n, top_k=k)) for n in (16.0, 64.0, 128.0)}
    return decide(
        claim,
        min(rows[16.0] / rows[128.0], ridge / rows[16.0]) > claim.verdict["least_ratio"],
        f"In 16 bits an expert does as many FLOP for a byte read as it has tokens. With a micro-batch of {batch:.0f} "
        f"that is {rows[16.0]:.0f} with 16 experts, {rows[64.0]:.0f} with 64 and {rows[128.0]:.0f} with 128; an A100 "
        f"is balanced at {ridge:.0f}. So more experts of the same total size push it further below, and it is bound by "
        "bandwidth already with 16.",
        value=rows[128.0],
        unit="FLOP/byte",
        condition="the batch is not raised with the experts",
        evidence=Evidence.COST_MODEL,
        sources=["williams2009roofline"],
    )
