"""Checks of what experts cost to serve: weights to read, chips to hold them, and experts that wait."""

from anatomy.claims.checks.moe_tradeoffs.losses import percents
from anatomy.claims.checks.moe_tradeoffs.published import MANY
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import SMALL, Evidence, Finding, decide
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.cost.routing.expert_load import active_experts, load_standard_deviation, max_load, tokens_per_expert
from anatomy.cost.serving.roofline import balanced_batch, bytes_read, chips_to_hold, decode_roofline, dollars_per_token
from anatomy.specs import Architecture, architecture, chip
from anatomy.specs.units import readable
from anatomy.train import recipes, sweeps

CHIP = "a100_sxm_40gb"  # what the article's inference clusters are made of
FEW, MIDDLE = 8, 64  # batches; the large one is the article's
EVEN = "tokens choose experts independently and evenly"
ROOFLINE = "A100 of 40 GB, weights of 16 bits, a roofline without caches and links"


def with_experts(experts: float) -> Architecture:
    """GPT-4 as the article has it, with another number of experts of the same size."""
    return architecture("gpt4").replace(experts=float(experts))


def dense() -> Architecture:
    """The dense model that costs as much: as many experts as a token uses."""
    return with_experts(printed("arch.top_k"))


def usage(model: Architecture, batch: float) -> float:
    """Share of the peak that a decode step of this batch can use, by the roofline."""
    return float(decode_roofline(model, batch=batch, chip=chip(CHIP)).utilisation)


def dollars_per_million(experts: float, batch: float) -> float:
    """Dollars for a million tokens of this batch, by the roofline, at the article's price of a chip."""
    step = decode_roofline(with_experts(experts), batch=batch, chip=chip(CHIP))
    return 1e6 * float(dollars_per_token(step, batch=batch, chips=1.0, dollars_per_hour=printed("train.price_a100")))


def small_batch() -> int:
    """Tokens of a batch that the small model is trained on."""
    return sweeps.batch_tokens("experts_16_0")


def small_kept(experts: int) -> tuple[float, float]:
    """What the average expert does of what the fullest does: in the small model's batches, and by chance."""
    trained = sweeps.by_seed(f"experts_{experts}", sweeps.kept).mean()
    return float(trained), kept_by_chance(small_batch(), experts, recipes.with_experts(experts).top_k)


def kept_by_chance(tokens: int, experts: float, top_k: float) -> float:
    """What the average expert does of what the fullest does, for even and independent choices."""
    return float(
        tokens_per_expert(tokens=tokens, experts=experts, top_k=top_k)
        / max_load(tokens=tokens, experts=experts, top_k=top_k)
    )


@check("moe.fewer_infer_params")
def fewer_infer_params(claim: Claim) -> Finding:
    """The share that a token uses, and the share that a batch makes the chips read."""
    gpt4 = architecture("gpt4")
    share = gpt4.parameters.active / gpt4.parameters.total
    read = [float(bytes_read(gpt4, tokens=b, bytes_per_parameter=1.0)) / gpt4.parameters.total for b in (FEW, MIDDLE)]
    return decide(
        claim,
        share < claim.verdict["whole"],
        f"Of its parameters a token uses {readable(gpt4.parameters.active)} of {readable(gpt4.parameters.total)}, "
        f"{share:.0%}. A batch of {FEW} reads {read[0]:.0%} of them and a batch of {MIDDLE} {read[1]:.0%}: the "
        "arithmetic is cut, the reading soon is not.",
        value=share,
        unit="share",
        condition="a token is counted, not a batch",
        evidence=Evidence.COST_MODEL,
        assumes=[EVEN],
    )


@check("moe.infer_hard")
def infer_hard(claim: Claim) -> Finding:
    """The batch that makes reading the weights worth while, against a dense model's."""
    k, experts = printed("arch.top_k"), printed("arch.n_experts")
    alone, mixed = (float(balanced_batch(experts=e, top_k=k, chip=chip(CHIP))) for e in (k, experts))
    return decide(
        claim,
        mixed > claim.verdict["least_ratio"] * alone,
        f"An expert sees {k:.0f} in {experts:.0f} of a batch's tokens, but its weights are read whole. A dense model "
        f"is balanced at a batch of {alone:,.0f}, this mixture at {mixed:,.0f}: {mixed / alone:.0f} times as many "
        "sequences must come together.",
        value=mixed / alone,
        unit="times",
        evidence=Evidence.COST_MODEL,
        assumes=[ROOFLINE],
        sources=["chen2022arithmetic", "pope2023efficiently"],
    )


@check("moe.idle")
def idle(claim: Claim) -> Finding:
    """Experts that no token of a batch activates, and what they wait for when all are active."""
    k, experts, large = printed("arch.top_k"), printed("arch.n_experts"), int(printed("g4i.4k"))
    share = [1 - float(active_experts(tokens=b, experts=experts, top_k=k)) / experts for b in (FEW, MIDDLE)]
    wait = 1 - kept_by_chance(large, experts, k)
    trained = [1 - value for value in small_kept(int(experts))]
    return decide(
        claim,
        share[0] > claim.verdict["least_share"],
        f"With {FEW} tokens in a step {share[0]:.0%} of the experts have nothing to do, with {MIDDLE} {share[1]:.2%}. "
        f"At the article's batch of {large:,} none is idle for want of tokens, but on chips of its own the average "
        f"expert would wait {wait:.0%} of the time for the fullest. A trained router is less even: in the small model, "
        f"of {experts:.0f} experts too, it waits {trained[0]:.0%} in batches of {small_batch():,} tokens, where chance "
        f"makes it {trained[1]:.0%}.",
        value=share[0],
        unit="share",
        evidence=Evidence.COST_MODEL,
        assumes=[EVEN, SMALL],
        sources=["raab1998balls"],
    )


@check("moe.util_drop")
def util_drop(claim: Claim) -> Finding:
    """Utilisation of the mixture against a dense model of equal FLOP, at small and large batches."""
    k, experts, large = printed("arch.top_k"), printed("arch.n_experts"), int(printed("g4i.4k"))
    mixed, plain = (usage(model, MIDDLE) for model in (architecture("gpt4"), dense()))
    alone, balanced = (float(balanced_batch(experts=e, top_k=k, chip=chip(CHIP))) for e in (k, experts))
    kept, many = kept_by_chance(large, experts, k), recipes.EXPERTS[-1]
    trained = [small_kept(n)[0] for n in (int(experts), many)]
    return decide(
        claim,
        mixed < claim.verdict["most_left"] * plain,
        f"At a batch of {MIDDLE} the mixture can use {mixed:.0%} of the peak, a dense model of the same FLOP "
        f"{plain:.0%}. The gap closes above {balanced:,.0f} sequences: at the article's own {large:,} reading no "
        f"longer limits, and experts on chips of their own still keep {kept:.0%} if choices are even. In the small "
        f"model they are not: {percents(trained)} are kept with {experts:.0f} and {many} experts, in batches of "
        f"{small_batch():,} tokens. It is less that experts idle than that each is read for few tokens.",
        value=plain / mixed,
        unit="times",
        condition=f"the batch is well below {balanced:,.0f}; a dense model needs {alone:,.0f}",
        evidence=Evidence.COST_MODEL,
        assumes=[ROOFLINE, EVEN, SMALL],
        sources=["chen2022arithmetic"],
    )


@check("moe.infra_helps")
def infra_helps(claim: Claim) -> Finding:
    """Memory, price and jitter for 16, 64 and 128 experts of the same size."""
    counts, k, large = (int(printed("arch.n_experts")), *MANY), printed("arch.top_k"), int(printed("g4i.4k"))
    chips = [float(chips_to_hold(with_experts(e), chip(CHIP))) for e in counts]
    small = [dollars_per_million(e, MIDDLE) for e in counts]
    big = [dollars_per_million(e, large) for e in counts]
    jitter = [
        float(load_standard_deviation(tokens=large, experts=e, top_k=k))
        / tokens_per_expert(tokens=large, experts=e, top_k=k)
        for e in counts
    ]
    return decide(
        claim,
        min(each[-1] / each[0] for each in (chips, small, big, jitter)) > claim.verdict["least_ratio"],
        f"Weights of 16, 64 and 128 experts fill {chips[0]:.0f}, {chips[1]:.0f} and {chips[2]:.0f} A100 of 40 GB; the "
        f"article's cluster has {printed('g4i.128'):.0f}. A million tokens at batch {large:,} cost at least "
        f"${big[0]:.2f}, ${big[1]:.2f} and ${big[2]:.2f}; at batch {MIDDLE} 128 experts cost {small[2] / small[0]:.1f} "
        f"times as much as 16. The loads' coefficients of variation are {jitter[0]:.0%}, {jitter[1]:.0%} and "
        f"{jitter[2]:.0%}.",
        value=big[2] / big[0],
        unit="times",
        condition="all experts have the same size, so that more of them are more parameters",
        evidence=Evidence.COST_MODEL,
        assumes=[ROOFLINE, EVEN],
        sources=["chen2022arithmetic"],
    )
