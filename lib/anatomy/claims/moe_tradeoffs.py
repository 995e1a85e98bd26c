"""Checks of the trade-offs of a mixture of experts: what experts buy in loss, and what they cost to serve."""

from collections.abc import Callable, Iterable
from math import log, sqrt

from anatomy.claims.architecture import printed
from anatomy.claims.finding import SMALL, Evidence, Finding, decide, uncheckable
from anatomy.claims.ledger import Claim, check
from anatomy.claims.record import record
from anatomy.cost.routed import (
    ROUTERS,
    balanced_batch,
    bytes_read,
    chips_to_hold,
    decode_step,
    dollars_per_token,
    routed_law,
)
from anatomy.cost.routing import experts_touched, fullest_expert, spread_per_expert, tokens_per_expert
from anatomy.cost.scaling import Chinchilla, chinchilla
from anatomy.specs import Architecture, architecture, catalogue, chip
from anatomy.specs.units import readable
from anatomy.train import recipes, sweeps
from anatomy.train.sweeps import Mean

CHIP = "a100_sxm_40gb"  # what the article's inference clusters are made of
FITTED = 1.3e9  # parameters of the largest dense model behind the routed laws
SIZES = {"15M": 15e6, "1.3B": FITTED}
WRITTEN = "2023-07"  # the article
MANY = (64, 128)  # experts that the article sets against its own
FEW, MIDDLE = 8, 64  # batches; the large one is the article's

EVEN = "tokens choose experts independently and evenly"
ROOFLINE = "A100 of 40 GB, weights of 16 bits, a roofline without caches and links"


def with_experts(experts: float) -> Architecture:
    """GPT-4 as told, with another number of experts of the same size."""
    return architecture("gpt4").replace(experts=float(experts))


def dense() -> Architecture:
    """The dense model that costs as much: as many experts as a token uses."""
    return with_experts(printed("arch.top_k"))


def usage(model: Architecture, batch: float) -> float:
    """Share of the peak that a decode step of this batch can use, by the roofline."""
    return float(decode_step(model, batch, chip(CHIP)).utilisation)


def dollars_per_million(experts: float, batch: float) -> float:
    """Dollars for a million tokens of this batch, by the roofline, at the article's price of a chip."""
    step = decode_step(with_experts(experts), batch, chip(CHIP))
    return 1e6 * float(dollars_per_token(step, batch, 1.0, printed("train.price_a100")))


def measured_gain(size: str, experts: int) -> float:
    """Share of the loss that was saved against 16 experts, as published for a base of this size."""
    table = catalogue.entry("scaling", "routed")["losses"]
    losses = dict(zip(table["experts"], table[size], strict=True))
    return 1 - losses[experts] / losses[int(printed("arch.n_experts"))]


def law_gain(router: str, parameters: float, experts: float) -> float:
    """Share of the loss saved against the article's experts, by a router's law."""
    return float(routed_law(router).gain(parameters, experts, than=printed("arch.n_experts")))


def small_base() -> float:
    """N of the small model of the sweeps: parameters of the one with one expert."""
    return float(recipes.with_experts(1).architecture.parameters.total)


def small_gain(experts: int, than: int) -> Mean:
    """Share of the held-out loss that the small model saves with these experts against `than`, over seeds."""
    losses = [sweeps.by_seed(f"experts_{n}", sweeps.held_out) for n in (than, experts)]
    saved, whole = sweeps.difference(*losses), losses[0].mean()
    return Mean(float(saved.value / whole), float(saved.error / whole))


def small_slope(quantity: Callable[[int, int], float]) -> Mean:
    """What four times the experts add to a quantity of (experts, seed) of the small model: a line through all."""
    points = [(log(n, 4), quantity(n, seed)) for n in recipes.EXPERTS for seed in recipes.SEEDS]
    return sweeps.slope(*zip(*points, strict=True))


def last_loss(experts: int, seed: int) -> float:
    """Loss of the small model in nats a token on held-out text when its training ended."""
    return sweeps.held_out(f"experts_{experts}_{seed}")


def tuned_loss(experts: int, seed: int) -> float:
    """Loss of the small model in nats a token on held-out code, after it was tuned to a little code."""
    return recipes.held_out(f"tuned_{experts}_{seed}")[sweeps.TUNED_DOMAIN]


def small_batch() -> int:
    """Tokens of a batch that the small model is trained on."""
    return sweeps.batch_tokens("experts_16_0")


def small_kept(experts: int) -> tuple[float, float]:
    """What the average expert does of what the fullest does: in the small model's batches, and by chance."""
    trained = sweeps.by_seed(f"experts_{experts}", sweeps.kept).mean()
    return float(trained), kept_by_chance(small_batch(), experts, recipes.with_experts(experts).top_k)


def kept_by_chance(tokens: int, experts: float, top_k: float) -> float:
    """What the average expert does of what the fullest does, for even and independent choices."""
    return float(tokens_per_expert(tokens, experts, top_k) / fullest_expert(tokens, experts, top_k))


def plus_minus(found: Mean, form: str) -> str:
    """A mean and its standard error for prose: "1.3% ± 0.2%"."""
    return f"{found.value:{form}} ± {found.error:{form}}".replace("-", "−")


def mixtures() -> list[dict]:
    """Published mixtures of experts, by date; those of the catalogue with its counts."""
    rows = []
    for key, row in record("mixtures")["models"].items():
        if key in catalogue.table("architectures"):
            model = architecture(key)
            counted = {
                "name": model.name,
                "experts": int(model.experts),
                "top_k": int(model.top_k),
                "total": model.parameters.total,
                "active": model.parameters.active,
            }
            row = counted | row
        rows.append(row | {"key": key})
    return sorted(rows, key=lambda row: row["published"])


def percents(values: Iterable[float]) -> str:
    """Shares for prose: "2.8% and 3.9%"."""
    return " and ".join(f"{value:.1%}" for value in values)


def worth_in_tokens(law: Chinchilla, fewer: float, more: float, tokens: float) -> float:
    """Times the tokens with which `fewer` parameters reach the loss of `more` parameters."""
    left = law.loss(more, tokens) - law.E - law.A / fewer**law.alpha
    return float((law.B / left) ** (1 / law.beta) / tokens)


@check("moe.fewer_infer_params")
def fewer_infer_params(claim: Claim) -> Finding:
    """The share that a token uses, and the share that a batch makes the chips read."""
    gpt4 = architecture("gpt4")
    share = gpt4.parameters.active / gpt4.parameters.total
    read = [float(bytes_read(gpt4, b, 1.0)) / gpt4.parameters.total for b in (FEW, MIDDLE)]
    return decide(
        claim,
        share < 1,
        f"Of its parameters a token uses {readable(gpt4.parameters.active)} of "
        f"{readable(gpt4.parameters.total)}, {share:.0%}. A batch of {FEW} reads {read[0]:.0%} of them "
        f"and a batch of {MIDDLE} {read[1]:.0%}: the arithmetic is cut, the reading soon is not.",
        value=share,
        unit="share",
        condition="a token is counted, not a batch",
        evidence=Evidence.COST_MODEL,
        assumes=[EVEN],
    )


@check("moe.info_per_token")
def info_per_token(claim: Claim) -> Finding:
    """What more parameters save in tokens, if experts count, in full or as the routed law has it."""
    law, routed = chinchilla("besiroglu"), routed_law("s_base")
    active, experts = printed("arch.active_params"), printed("arch.n_experts")
    small = float(routed.effective_parameters(FITTED, experts)) / FITTED
    large = float(routed.effective_parameters(active, experts))
    tokens = printed("data.tokens")
    low, high = (worth_in_tokens(law, active, n, tokens) for n in (large, printed("arch.total_params")))
    here = recipes.with_experts(int(experts)).architecture.parameters.total / small_base()
    return decide(
        claim,
        small > 1 and high > 1,
        f"At equal tokens the larger total has the lower loss. Sixteen experts made a model of 1.3 billion as good as "
        f"one {small:.1f} times as large. For GPT-4 that is worth {low:.1f} times the tokens if the routed law is "
        f"carried on to 280 billion, and {high:.0f} times if all its parameters count in full. It is one way round "
        f"scarce data; repeating it is another. In the small model, {experts:.0f} experts store {here:.1f} times the "
        f"parameters of the dense model and save {plus_minus(small_gain(int(experts), 1), '.1%')} of its loss after "
        "the same tokens and, but for the router, the same arithmetic.",
        value=small,
        unit="times",
        condition="the stored parameters count, as they do in the range of the fit",
        evidence=Evidence.COST_MODEL,
        assumes=[SMALL],
        sources=["clark2022unified", "besiroglu2024chinchilla", "muennighoff2023data"],
    )


@check("moe.2x_tokens")
def twice_the_tokens(claim: Claim) -> Finding:
    """Is twice as many the best, as the retelling says, or the balance, as the original does?"""
    active, total, tokens = map(printed, ("arch.active_params", "arch.total_params", "data.tokens"))
    laws = [chinchilla(key) for key in ("besiroglu", "chinchilla")]
    balance = [[float(law.optimal_tokens(n)) / tokens for law in laws] for n in (total, active)]
    twice = claim.value * tokens
    best = all(law.loss(active, 2 * twice) >= law.loss(active, twice) for law in laws)
    return decide(
        claim,
        best,
        f"The original speaks of balance, and there it is one reading: counted by all its parameters the model wants "
        f"{balance[0][0]:.1f} times the 13 trillion by one fit, {balance[0][1]:.0f} times by the other; by the active "
        f"ones {balance[1][0]:.1f} and {balance[1][1]:.1f} times. The retelling makes it the best performance, for "
        "which there is no such number: by both fits four times the tokens give a lower loss than twice.",
        value=balance[0][0] * tokens,
        unit="tokens",
        evidence=Evidence.COST_MODEL,
        assumes=["laws of dense models"],
        sources=["besiroglu2024chinchilla", "hoffmann2022chinchilla"],
    )


@check("moe.infer_hard")
def infer_hard(claim: Claim) -> Finding:
    """The batch that makes reading the weights worth while, against a dense model's."""
    k, experts = printed("arch.top_k"), printed("arch.n_experts")
    alone, mixed = (float(balanced_batch(e, k, chip(CHIP))) for e in (k, experts))
    return decide(
        claim,
        mixed > 2 * alone,
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
    """Experts that no token of a batch visits, and what they wait for when all are visited."""
    k, experts, large = printed("arch.top_k"), printed("arch.n_experts"), int(printed("g4i.4k"))
    share = [1 - float(experts_touched(b, experts, k)) / experts for b in (FEW, MIDDLE)]
    wait = 1 - kept_by_chance(large, experts, k)
    trained = [1 - value for value in small_kept(int(experts))]
    return decide(
        claim,
        share[0] > 0,
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
    alone, balanced = (float(balanced_batch(e, k, chip(CHIP))) for e in (k, experts))
    kept, many = kept_by_chance(large, experts, k), recipes.EXPERTS[-1]
    trained = [small_kept(n)[0] for n in (int(experts), many)]
    return decide(
        claim,
        mixed < 0.5 * plain,
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


@check("moe.64_128")
def more_experts(claim: Claim) -> Finding:
    """The published losses, and what the fitted law leaves of the gain at GPT-4's size."""
    gains = {size: [measured_gain(size, e) for e in MANY] for size in SIZES}
    active = printed("arch.active_params")
    far = {router: [law_gain(router, active, e) for e in MANY] for router in ROUTERS}
    worse = [-far[router][1] for router in ("rl_r", "hash")]
    few, many = int(printed("arch.n_experts")), recipes.EXPERTS[-1]
    return decide(
        claim,
        min(min(pair) for pair in gains.values()) > 0,
        f"At equal FLOP, 64 and 128 experts lower the loss of 16 by {percents(gains['1.3B'])} for a base of 1.3 "
        f"billion parameters and by {percents(gains['15M'])} for 15 million. The gain shrinks with size: the law of "
        f"the best router leaves {percents(far['s_base'])} at 280 billion, the other two make 128 experts "
        f"{percents(worse)} worse than 16. That is {active / FITTED:.0f} times beyond the fit. In the small model, "
        f"{few} experts save {plus_minus(small_gain(few, 1), '.1%')} of a dense model's loss, and {many} another "
        f"{plus_minus(small_gain(many, few), '.1%')}: in its short training an expert of {many} sees "
        f"{sweeps.tokens_per_parameter(f'experts_{many}_0'):.1f} tokens for each parameter that it has.",
        value=gains["1.3B"][0],
        unit="share",
        evidence=Evidence.PUBLIC_RECORD,
        assumes=["models up to 1.3 billion parameters before routing, 130 billion tokens", SMALL],
        sources=["clark2022unified", "krajewski2024finegrained"],
    )


@check("moe.research_only")
def research_only(claim: Claim) -> Finding:
    """Models with that many experts which users got, before and after the article."""
    many = [row for row in mixtures() if row["experts"] >= claim_experts()]
    papers = [row for row in many if row["published"] <= WRITTEN]
    early = [row for row in papers if row["offered"]]
    later = [row for row in many if row["published"] > WRITTEN and row["offered"]]
    own = [row["name"] for row in later if row["source"].startswith("openai")]
    small = architecture("deepseek_v3").expert_parameters
    return uncheckable(
        claim,
        f"A fair word in July 2023: of the {len(papers)} mixtures of 64 or more experts that the book lists from "
        f"before, {len(early) or 'none'} had been offered to users. Since then {len(later)} have been"
        f"{', ' + own[0] + ' by OpenAI among them' if own else ''}. Many "
        f"experts came with small ones: DeepSeek-V3's have {readable(small, 'parameters')}, the article's "
        f"{readable(printed('arch.expert_params'))}.",
        beside=(float(len(later)), "models"),
        sources=tuple(dict.fromkeys(row["source"] for row in (*papers, *later))),
    )


def claim_experts() -> float:
    """The lower end of the range that the article prints."""
    return printed("moe.64_128")


@check("moe.generalise")
def generalise(claim: Claim) -> Finding:
    """What the large comparisons found, with and without fine-tuning."""
    found = record("moe_transfer")
    worse, better = bool(found["worse_at"]), found["tasks_won_on_average"] > 0
    gap, loss = small_slope(sweeps.gap_opened), small_slope(tuned_loss)
    return decide(
        claim,
        worse and not better,
        f"True of {' and '.join(found['worse_at'])}, where mixtures did worse than dense models. Without it the same "
        f"study finds them as good with {found['compute_saved']} times less compute, and GLaM, with 64 experts, beat "
        f"GPT-3 on average over {found['tasks_won_on_average']} tasks. The book knows no study that sets 16 "
        "against 64 experts on many tasks at this size, and OpenAI's reason is not on record. In the small model, "
        f"tuned to a little code, four times the experts widen the gap to unseen code by {plus_minus(gap, '.3f')} nats "
        f"a token, and change the loss on unseen code itself by {plus_minus(loss, '.3f')}.",
        in_part=worse,
        evidence=Evidence.PUBLIC_RECORD,
        assumes=[SMALL],
        sources=[found["source"], "du2022glam", "zoph2022stmoe"],
    )


@check("moe.converge")
def converge(claim: Claim) -> Finding:
    """Tokens and noise of an expert in a step, and which large runs were steady."""
    found = record("moe_stability")
    batch, k = printed("data.batch_60M"), printed("arch.top_k")
    few, many = (tokens_per_expert(batch, e, k) for e in (printed("arch.n_experts"), MANY[-1]))
    steady = [row for row in mixtures() if row["key"] in found["steady"]]
    names = " and ".join(f"{row['name']} with {row['experts']:,}" for row in steady)
    small = small_slope(last_loss)
    dropped = [sweeps.by_seed(f"experts_{n}", sweeps.final_dropped).mean() for n in recipes.EXPERTS[-2:]]
    return decide(
        claim,
        max(row["experts"] for row in steady) < found["unsteady_experts"],
        f"With {MANY[-1]} experts each sees {readable(many, 'tokens')} of a batch in place of {readable(few)}, so that "
        f"its gradient is {sqrt(few / many):.1f} times as noisy. But runs did not fail by number of experts: {names} "
        f"were steady, Switch-XXL with {found['unsteady_experts']} and nearly {found['unsteady_flop_ratio']} times the "
        "FLOP was not. A loss on the router's logits, published in 2022, is the usual cure. In the small model, after "
        f"equal tokens, four times the experts change the loss by {plus_minus(small, '.3f')} nats; for want of places "
        f"{percents(dropped)} of choices are dropped with {recipes.EXPERTS[-2]} and {recipes.EXPERTS[-1]} experts.",
        value=sqrt(few / many),
        unit="times",
        in_part=many < few,
        evidence=Evidence.PUBLIC_RECORD,
        assumes=["a batch of 60 million tokens", "noise falls with the root of the tokens", SMALL],
        sources=["fedus2022switch", "zoph2022stmoe", "deepseek2024v3"],
    )


@check("moe.conservative")
def conservative(claim: Claim) -> Finding:
    """Experts of the mixtures known at the time, and what caution gave away by the law."""
    known = [row for row in mixtures() if row["published"] <= WRITTEN]
    least = min(row["experts"] for row in known)
    gain = law_gain("s_base", printed("arch.active_params"), MANY[-1])
    gpt4, later = architecture("gpt4").parameters, architecture("deepseek_v3").parameters
    return uncheckable(
        claim,
        f"What moved OpenAI only it knows. Sixteen is few beside the {least} or more of the {len(known)} large "
        f"mixtures that the book lists from before. By the law of the best router, caution gave away {gain:.1%} of the "
        f"loss. GPT-4 stored {gpt4.total / gpt4.active:.1f} parameters for each that it used; DeepSeek-V3 stores "
        f"{later.total / later.active:.0f}.",
        beside=(gain, "share"),
        assumes=("the routed law holds at 280 billion parameters, far beyond its fit",),
        sources=("clark2022unified", *(row["source"] for row in known), "deepseek2024v3"),
    )


@check("moe.infra_helps")
def infra_helps(claim: Claim) -> Finding:
    """Memory, price and jitter for 16, 64 and 128 experts of the same size."""
    counts, k, large = (int(printed("arch.n_experts")), *MANY), printed("arch.top_k"), int(printed("g4i.4k"))
    chips = [float(chips_to_hold(with_experts(e), chip(CHIP))) for e in counts]
    small = [dollars_per_million(e, MIDDLE) for e in counts]
    big = [dollars_per_million(e, large) for e in counts]
    jitter = [float(spread_per_expert(large, e, k)) / tokens_per_expert(large, e, k) for e in counts]
    return decide(
        claim,
        chips == sorted(chips) and small[0] < small[-1] and big[0] < big[-1] and jitter[0] < jitter[-1],
        f"Weights of 16, 64 and 128 experts fill {chips[0]:.0f}, {chips[1]:.0f} and {chips[2]:.0f} A100 of 40 GB; the "
        f"article's cluster has {printed('g4i.128'):.0f}. A million tokens at batch {large:,} cost at least "
        f"${big[0]:.2f}, ${big[1]:.2f} and ${big[2]:.2f}; at batch {MIDDLE} 128 experts cost "
        f"{small[2] / small[0]:.1f} times as much as 16. Loads stray {jitter[0]:.0%}, {jitter[1]:.0%} and "
        f"{jitter[2]:.0%} from their mean.",
        value=big[2] / big[0],
        unit="times",
        condition="all experts have the same size, so that more of them are more parameters",
        evidence=Evidence.COST_MODEL,
        assumes=[ROOFLINE, EVEN],
        sources=["chen2022arithmetic"],
    )
