"""Checks of what experts buy: loss after equal tokens, by published runs, fitted laws and the small model."""

from collections.abc import Callable, Iterable
from math import log, sqrt

from anatomy.claims.checks.moe_tradeoffs.published import MANY, WRITTEN, mixtures
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import SMALL, Evidence, Finding, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.cost.routing.expert_load import tokens_per_expert
from anatomy.cost.training.routed_law import ROUTERS, routed_law
from anatomy.cost.training.scaling import Chinchilla, chinchilla
from anatomy.specs import architecture, catalogue
from anatomy.specs.units import readable
from anatomy.train import recipes, sweeps
from anatomy.train.sweeps import Mean

FITTED = 1.3e9  # parameters of the largest dense model behind the routed laws
SIZES = {"15M": 15e6, "1.3B": FITTED}


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


def plus_minus(found: Mean, form: str) -> str:
    """A mean and its standard error for prose: "1.3% ± 0.2%"."""
    return f"{found.value:{form}} ± {found.error:{form}}".replace("-", "−")


def percents(values: Iterable[float]) -> str:
    """Shares for prose: "2.8% and 3.9%"."""
    return " and ".join(f"{value:.1%}" for value in values)


def worth_in_tokens(law: Chinchilla, fewer: float, more: float, tokens: float) -> float:
    """Times the tokens with which `fewer` parameters reach the loss of `more` parameters."""
    left = law.loss(more, tokens) - law.E - law.A / fewer**law.alpha
    return float((law.B / left) ** (1 / law.beta) / tokens)


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
        min(small, high) > claim.verdict["least_worth"],
        "At equal tokens the larger total has the lower loss. Sixteen experts made a model of 1.3 billion as good as "
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
    gains = [float(1 - law.loss(active, 2 * twice) / law.loss(active, twice)) for law in laws]
    return decide(
        claim,
        max(gains) < claim.verdict["least_gain"],
        "The original speaks of balance, and there it is one reading: counted by all its parameters the model wants "
        f"{balance[0][0]:.1f} times the 13 trillion by one fit, {balance[0][1]:.0f} times by the other; by the active "
        f"ones {balance[1][0]:.1f} and {balance[1][1]:.1f} times. The retelling makes it the best performance, for "
        "which there is no such number: by both fits four times the tokens give a lower loss than twice.",
        value=balance[0][0] * tokens,
        unit="tokens",
        evidence=Evidence.COST_MODEL,
        assumes=["laws of dense models"],
        sources=["besiroglu2024chinchilla", "hoffmann2022chinchilla"],
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
        min(min(pair) for pair in gains.values()) > claim.verdict["least_gain"],
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


@check("moe.generalise")
def generalise(claim: Claim) -> Finding:
    """What the large comparisons found, with and without fine-tuning."""
    found = record("moe_transfer")
    worse, better = bool(found["worse_at"]), found["tasks_won_on_average"] >= claim.verdict["least_tasks"]
    gap, loss = small_slope(sweeps.gap_opened), small_slope(tuned_loss)
    return decide(
        claim,
        worse and not better,
        f"True of {' and '.join(found['worse_at'])}, where mixtures did worse than dense models. Without it the same "
        f"study finds them as good with {found['compute_saved']} times less compute, and GLaM, with 64 experts, beat "
        f"GPT-3 on average over {found['tasks_won_on_average']} tasks. The book knows no study that sets 16 against 64 "
        "experts on many tasks at this size, and OpenAI's reason is not on record. In the small model, tuned to a "
        f"little code, four times the experts widen the gap to unseen code by {plus_minus(gap, '.3f')} nats a token, "
        f"and change the loss on unseen code itself by {plus_minus(loss, '.3f')}.",
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
    few, many = (tokens_per_expert(tokens=batch, experts=e, top_k=k) for e in (printed("arch.n_experts"), MANY[-1]))
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
