"""Checks of memory: what 8 x 15 chips hold, and the fewest stages that fit."""

from anatomy.claims.article.training import ARTICLE, MODEL_ASSUMED, STAGES, WAYS, run
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import SMALL, Evidence, Finding, compare, decide
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import get, printed
from anatomy.specs import Plan, architecture, catalogue
from anatomy.specs.units import readable


def total(plan: Plan) -> float:
    """Bytes on the fullest chip."""
    return float(run(plan).memory.total)


def deep(stages: float, **changes: float) -> Plan:
    """The article's plan with another number of stages, on as many replicas as the chips then give."""
    data = printed("train.gpus") // (ARTICLE.tensor * stages)
    return ARTICLE.replace(pipeline=float(stages), data=data, **changes)


def depths() -> list[int]:
    """Numbers of stages that hold equally many layers."""
    layers = int(printed("arch.layers"))
    return [n for n in range(1, layers + 1) if layers % n == 0]


def fewest_stages(capacity: float, **changes: float) -> int:
    """The fewest stages of equally many layers with which the plan fits."""
    return next(p for p in depths() if total(deep(p, **changes)) <= capacity)


@check("par.mem_bound")
def mem_bound(claim: Claim) -> Finding:
    """The fewest stages that fit, on either A100."""
    small, large = (fewest_stages(catalogue.chip(key).memory) for key in ("a100_sxm_40gb", "a100_sxm_80gb"))
    near = [max(p for p in depths() if p < least) for least in (large, small)]
    over = [readable(total(deep(p)), "bytes") for p in near]
    return compare(
        claim,
        large,
        f"With 8 tensor ways and ZeRO-1, {large} is the smallest number of stages with equally many layers that fits "
        f"80 GB; 40 GB would take {small}. The next smaller ones, {near[0]} and {near[1]}, miss by little, with "
        f"{over[0]} and {over[1]}, but real chips use some GB more than this count.",
        condition="chips have 80 GB, and ZeRO stops at stage 1",
        evidence=Evidence.COST_MODEL,
        assumes=["activations of every layer are recomputed", *MODEL_ASSUMED[:2]],
        sources=["rajbhandari2020zero", "korthikanti2023reducing"],
    )


@check("par.fp16_30GB")
def fp16_30GB(claim: Claim) -> Finding:
    """Two bytes for each parameter, over 120 chips, and on the fullest of them."""
    gpt4 = architecture("gpt4")
    even = 2 * gpt4.parameters.total / (WAYS * STAGES)
    fullest = float(run().memory.weights)
    return compare(
        claim,
        fullest,
        f"2 bytes for each of {readable(gpt4.parameters.total, 'parameters')} over 8 x 15 chips are "
        f"{readable(even, 'bytes')}; the chips that also hold a token table have {readable(fullest, 'bytes')}.",
        evidence=Evidence.COST_MODEL,
        assumes=["the book's shape of GPT-4"],
    )


@check("par.40GB")
def fits_40GB(claim: Claim) -> Finding:
    """All parts of a training step, against 40 GB."""
    parts = run().memory
    both = float(parts.weights + parts.gradients)
    return decide(
        claim,
        bool(parts.total <= claim.value),
        "The original speaks of key/value cache and overhead; the retelling makes overhead cost. Training keeps no "
        f"such cache, but gradients: with ZeRO-1 these and the weights are {readable(both, 'bytes')}, and all parts "
        f"{readable(float(parts.total), 'bytes')}. That does not fit 40 GB; it fits 80 GB.",
        value=float(parts.total),
        unit="bytes a chip",
        evidence=Evidence.COST_MODEL,
        assumes=[
            "ZeRO-1",
            "activations of every layer are recomputed",
            "gradients of 16 bits",
            "experts are not split further",
        ],
        sources=["rajbhandari2020zero", "korthikanti2023reducing"],
    )


@check("par.zero1")
def zero1(claim: Claim) -> Finding:
    """The first stage of ZeRO with which the plan fits 40 GB."""
    sizes = [total(ARTICLE.replace(zero=float(stage))) for stage in range(4)]
    capacity = printed("par.40GB")
    least = next(stage for stage, size in enumerate(sizes) if size <= capacity)
    once, often = (float(run(ARTICLE.replace(zero=float(stage))).gradient_reduction) for stage in (1, 2))
    return compare(
        claim,
        least,
        f"Not on record. Some ZeRO is needed: without it a chip would hold {readable(sizes[0], 'bytes')}. Stage 1 "
        f"leaves {readable(sizes[1], 'bytes')}, which fits 80 GB and not the 40 GB that the article supposes; stage "
        f"{least}, with {readable(sizes[least], 'bytes')}, is the first that fits these. Stage 1 suits a pipeline: the "
        "small model's step adds up whole gradients over its micro-batches and scatters them once. Stage 2 would "
        f"scatter those of each, in {often:.0f} s a step in place of {once:.1f} s.",
        against=get("par.40GB"),
        evidence=Evidence.COST_MODEL,
        assumes=[
            "experts are not split further, as the 30 GB a chip imply",
            "activations of every layer are recomputed",
            SMALL,
        ],
        sources=["rajbhandari2020zero"],
    )
