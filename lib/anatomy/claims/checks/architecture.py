"""Checks of the architecture: do the counts fit one another, and some shape of whole numbers."""

from functools import cache

from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import get, printed
from anatomy.claims.record.public import record
from anatomy.specs import architecture, catalogue
from anatomy.specs.shapes import Counts, Shape, search
from anatomy.specs.units import readable

TOLERANCE = get("arch.layers").verdict["tolerance"]


def counts(tolerance: float = TOLERANCE) -> Counts:
    """The four counts that the article prints, as a target for a search over shapes."""
    return Counts(
        attention=printed("arch.shared_attn"),
        expert=printed("arch.expert_params"),
        total=printed("arch.total_params"),
        active=printed("arch.active_params"),
        tolerance=tolerance,
    )


@cache
def shapes(
    tolerance: float = TOLERANCE, ways: int = 1, layers: float = 120.0, square: bool = True
) -> tuple[Shape, ...]:
    """Shapes that give the article's counts; `ways` and `square` as in `specs.shapes.search`."""
    like = architecture("gpt4").replace(layers=layers)
    return tuple(search(like, counts(tolerance), ways=ways, square=square))


@check("arch.total_params")
def total_params(claim: Claim) -> Finding:
    """The parts add up to the total, with the tables and norms that the article leaves out."""
    gpt4 = architecture("gpt4")
    total = gpt4.parameters.total
    return compare(
        claim,
        total,
        "Sixteen experts, the attention, and the token tables, norms and routers of one shape that fits add up to "
        f"{readable(total, 'parameters')}.",
        condition="the article's expert and attention counts are right",
        sources=["bambhaniya2024genz"],
    )


@check("arch.layers")
def layers(claim: Claim) -> Finding:
    """Are the counts compatible with 120 layers, and do they say so?"""
    tried = range(60, 181, 4)
    fitting = [n for n in tried if shapes(claim.verdict["tolerance"], layers=float(n))]
    return decide(
        claim,
        claim.value in fitting,
        f"With 120 layers {len(shapes())} shapes fit the counts. But so do {len(fitting)} of the {len(tried)} depths "
        "tried from 60 to 180: the counts allow 120 layers, they do not imply them.",
        value=len(shapes()),
        unit="shapes",
        condition="widths are multiples of 128, as tensor cores like them",
        assumes=["counts within 2 %"],
    )


@check("arch.gpt3_params")
def gpt3_params(claim: Claim) -> Finding:
    """Count GPT-3 from its published shape."""
    total = architecture("gpt3_175b").parameters.total
    error = abs(total / printed("arch.gpt3_params") - 1)
    return decide(
        claim,
        error < claim.verdict["tolerance"],
        f"Counted from its published shape, GPT-3 has {readable(total, 'parameters', 4)}.",
        value=total,
        evidence=Evidence.PUBLIC_RECORD,
        sources=["brown2020gpt3"],
    )


@check("arch.ratio_gpt3")
def ratio_gpt3(claim: Claim) -> Finding:
    """Total against total, and active against active."""
    gpt3 = architecture("gpt3_175b").parameters.total
    ratio = printed("arch.total_params") / gpt3
    active = printed("arch.active_params") / gpt3
    return compare(
        claim,
        ratio,
        f"{ratio:.1f} times in parameters stored. In parameters that a token uses, which is what it costs, "
        f"{active:.1f} times.",
        at_least=True,
        condition="parameters stored are counted",
    )


@check("arch.rumour_100T")
def rumour_100T(claim: Claim) -> Finding:
    """It was denied in public, and it would not have been possible to serve."""
    denial = record("rumour_100T")
    chips = 2 * printed("arch.rumour_100T") / catalogue.chip("a100_sxm_80gb").memory
    return decide(
        claim,
        denial["denied"],
        f"{denial['said_by']} denied it in {denial['published']}. Its weights alone would fill {chips:,.0f} A100 of 80 "
        "GB at 16 bits.",
        value=chips,
        unit="chips",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[denial["source"]],
    )


@check("arch.moe_for_cost")
def moe_for_cost(claim: Claim) -> Finding:
    """What the experts save, in FLOP of a token, against a dense model of the same size."""
    gpt4 = architecture("gpt4")
    saved = gpt4.parameters.total / gpt4.parameters.active
    return decide(
        claim,
        saved > claim.verdict["least_saving"],
        f"A token uses {readable(gpt4.parameters.active, 'parameters')} of "
        f"{readable(gpt4.parameters.total, 'parameters')}: a dense model of that size would cost {saved:.1f} times the "
        "FLOP, in training and in serving. That they were chosen for this reason is not on record.",
        value=saved,
        unit="times",
        condition="cost means FLOP, since memory is not saved, and the motive is as stated",
        evidence=Evidence.COST_MODEL,
    )


@check("arch.n_experts")
def n_experts(claim: Claim) -> Finding:
    """How many experts the total leaves room for; the rival rumour has the same total."""
    rival = record("rival_rumour")
    fits = (printed("arch.total_params") - printed("arch.shared_attn")) / printed("arch.expert_params")
    rival_total = rival["experts"] * rival["expert_parameters"]
    return compare(
        claim,
        fits,
        f"The total leaves room for {fits:.1f} experts of that size. {rival['said_by']}'s rumour of {rival['experts']} "
        f"experts of {readable(rival['expert_parameters'], 'parameters')} has the same total, "
        f"{readable(rival_total, 'parameters')}, so the total does not decide between them.",
        condition="1.8 trillion in total, 55 billion shared, 111 billion an expert",
        sources=[rival["source"]],
    )


@check("arch.expert_params")
def expert_params(claim: Claim) -> Finding:
    """What is left for an expert when the attention is taken off the total."""
    left = (printed("arch.total_params") - printed("arch.shared_attn")) / printed("arch.n_experts")
    return compare(
        claim,
        left,
        f"(1.8 trillion - 55 billion) / 16 is {readable(left, 'parameters')}; the shape that the book carries gives "
        f"{readable(architecture('gpt4').expert_parameters, 'parameters')}.",
        condition="16 experts, 55 billion shared, 1.8 trillion in total",
    )


@check("arch.top_k")
def top_k(claim: Claim) -> Finding:
    """How many experts the active parameters leave room for."""
    fits = (printed("arch.active_params") - printed("arch.shared_attn")) / printed("arch.expert_params")
    return compare(
        claim,
        fits,
        f"(280 - 55) / 111 leaves room for {fits:.2f} experts a token.",
        condition="280 billion active, 55 billion shared, 111 billion an expert",
    )


@check("arch.routing_simple")
def routing_simple(claim: Claim) -> Finding:
    """Nobody outside knows the router."""
    return uncheckable(
        claim,
        "The router is not published. It is plausible: routing by a hash of the token comes close to learned routing "
        "in the largest public comparison, so a simple router costs little.",
        sources=("clark2022unified", "roller2021hash"),
    )


@check("arch.shared_attn")
def shared_attn(claim: Claim) -> Finding:
    """Which attention has 55 billion parameters in 120 layers."""
    narrow = architecture("gpt4")
    nvidia = architecture("gpt4_nvidia").parameters.attention / printed("arch.shared_attn") - 1
    split = [s for s in shapes(ways=8) if s.kind == "multi-query"]
    return compare(
        claim,
        narrow.parameters.attention,
        f"Multi-head attention at d_model {narrow.d_model:,.0f} gives "
        f"{readable(narrow.parameters.attention, 'parameters')}. With the multi-query attention that the article names "
        f"elsewhere, and heads that divide by its 8-way tensor parallelism, {len(split)} square shapes come within 2 "
        f"%; at the width that NVIDIA lists, 15,360, the attention is {nvidia:.1%} larger.",
        condition="attention is multi-head or grouped-query, or heads x head_dim differs from d_model",
        sources=["bambhaniya2024genz", "nvidia2025aiconfigurator"],
    )


@check("arch.sum_total")
def sum_total(claim: Claim) -> Finding:
    """16 experts and the attention."""
    total = printed("arch.n_experts") * printed("arch.expert_params") + printed("arch.shared_attn")
    return compare(
        claim,
        total,
        f"16 x 111 billion + 55 billion = {readable(total, 'parameters', 4)}, which rounds to 1.8 trillion.",
    )


@check("arch.active_params")
def active_params(claim: Claim) -> Finding:
    """Two experts and the attention."""
    active = printed("arch.top_k") * printed("arch.expert_params") + printed("arch.shared_attn")
    return compare(
        claim,
        active,
        f"2 x 111 billion + 55 billion = {readable(active, 'parameters')}; the token tables of a vocabulary of 100,277 "
        f"bring it to {readable(architecture('gpt4').parameters.active, 'parameters')}.",
    )


@check("arch.active_flops")
def active_flops(claim: Claim) -> Finding:
    """Two FLOP for each active parameter."""
    flop = 2 * printed("arch.active_params")
    scores = architecture("gpt4").flop_per_token(8192).scores
    return compare(
        claim,
        flop,
        f"2 FLOP for each of 280 billion parameters is {readable(flop, 'FLOP')} a token, not 560 TFLOP: the number is "
        f"right, the unit is a thousand times too large. Attending to 8,192 tokens adds {readable(scores, 'FLOP')}.",
        sources=["kaplan2020scaling"],
    )


@check("arch.dense_flops")
def dense_flops(claim: Claim) -> Finding:
    """Two FLOP for each parameter of a dense model."""
    flop = 2 * printed("arch.total_params")
    return compare(
        claim,
        flop,
        f"2 FLOP for each of 1.8 trillion parameters is {readable(flop, 'FLOP')} a token, not 3,700 TFLOP: the same "
        "unit slip. The ratio of the two, which is the point, is right.",
        sources=["kaplan2020scaling"],
    )


@check("arch.many_dense")
def many_dense(claim: Claim) -> Finding:
    """How many published dense models are that large."""
    totals = {
        row["name"]: architecture(key).parameters.total
        for key, row in catalogue.table("architectures").items()
        if row.get("experts", 1) == 1
    }
    largest = max(totals, key=lambda name: totals[name])
    large = sum(total >= printed("arch.many_dense") for total in totals.values())
    return decide(
        claim,
        large >= claim.verdict["least_models"],
        f"The original speaks of one hypothetical dense model. Of the {len(totals)} published dense models in the "
        f"catalogue {large} have 1.8 trillion parameters; the largest, {largest}, has "
        f"{readable(totals[largest], 'parameters')}.",
        value=large,
        unit="models",
        evidence=Evidence.ARITHMETIC,
    )
