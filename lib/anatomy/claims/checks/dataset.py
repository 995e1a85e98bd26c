"""Checks of the dataset: tokens, epochs, context and batch."""

from collections.abc import Iterable
from math import log

from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import SMALL, Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.cost.routing.expert_load import load_standard_deviation, tokens_per_expert
from anatomy.cost.training.scaling import effective_tokens
from anatomy.specs import architecture, catalogue
from anatomy.specs.units import readable
from anatomy.train import recipes, sweeps
from anatomy.train.data.sources import EPOCHS

TEXT_EPOCHS, CODE_EPOCHS = 2.0, 4.0  # the English original
ONE_EPOCH = "experts_16"  # recipes, one a seed, of batches of 16 rows, each row seen once


@check("data.tokens")
def tokens(claim: Claim) -> Finding:
    """The tokens that the article's FLOP pay for, at its active parameters."""
    paid = printed("train.flops") / (6 * printed("arch.active_params"))
    return compare(
        claim,
        paid,
        f"2.15e25 FLOP at 6 FLOP for each active parameter and token pay for {readable(paid, 'tokens')}. The three "
        "numbers are one statement, so this is consistency, not proof.",
        condition="2.15e25 FLOP and 280 billion active parameters are right",
        sources=["kaplan2020scaling"],
    )


@check("data.multi_epoch")
def multi_epoch(claim: Claim) -> Finding:
    """How many of the tokens are unique, and what repeating costs."""
    seen = printed("data.tokens")
    low, high = seen / CODE_EPOCHS, seen / TEXT_EPOCHS
    star = catalogue.entry("scaling", "repeated_data")["R_D_star"]
    worth = [float(effective_tokens(unique=seen / e, epochs=e, decay=star)) / seen for e in (TEXT_EPOCHS, CODE_EPOCHS)]
    costs = [signed(beyond_plain(f"epochs_{e}").value) for e in EPOCHS]
    return decide(
        claim,
        low < seen and worth[1] > claim.verdict["least_worth"],
        f"At 2 epochs of text and 4 of code, {readable(low, 'tokens')} (all code) to {readable(high, 'tokens')} (all "
        "text) are unique. Repeating them loses little: the law of repeated data counts the 13 trillion as "
        f"{worth[1]:.0%} to {worth[0]:.0%} of as many fresh ones. In the small model, {listed(EPOCHS)} epochs of fewer "
        f"tokens end {listed(costs)} nats a token from one epoch of as many in all, on unseen text. At {EPOCHS[-1]} it "
        f"has {parameters_per_unique_token(EPOCHS[-1]):.0f} parameters for each unique token; GPT-4 has at most "
        f"{printed('arch.total_params') / low:.1f}.",
        value=high,
        unit="tokens",
        condition="2 epochs of text and 4 of code, as the English original says and the retelling does not",
        evidence=Evidence.COST_MODEL,
        assumes=[SMALL],
        sources=["muennighoff2023data"],
    )


@check("data.instr_rows")
def instr_rows(claim: Claim) -> Finding:
    """The retelling says that the rows lie inside Scale AI and the dataset."""
    sources = record("instruction_rows")["sources"]
    return decide(
        claim,
        set(sources) <= set(claim.verdict["sources"]),
        "The original names two sources of the rows, Scale AI and OpenAI itself; the retelling makes the second one "
        "'the dataset'. How many rows there are is not on public record.",
        evidence=Evidence.PUBLIC_RECORD,
        sources=["patel2023gpt4"],
    )


@check("data.rlhf_unknown")
def rlhf_unknown(claim: Claim) -> Finding:
    """What OpenAI published about it."""
    report = record("technical_report")
    withheld = [part for part in ("dataset construction", "training method") if part in report["withholds"]]
    return uncheckable(
        claim,
        "What the authors looked for and found only they know. It is plausible: the technical report withholds "
        f"{' and '.join(withheld)}.",
        sources=(report["source"],),
    )


@check("data.ctx_8k")
def ctx_8k(claim: Claim) -> Finding:
    """The context of the API at launch."""
    report = record("technical_report")
    share = scores_share(8192)
    return decide(
        claim,
        claim.value in report["context"],
        "GPT-4 was served with a context of 8,192 at launch; that it was trained with the same is likely, not on "
        f"record. At 8k, attention scores are {share:.1%} of the FLOP of training.",
        value=8192,
        unit="tokens",
        condition="it was trained with the context that it was served with",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[report["source"]],
    )


@check("data.ctx_32k")
def ctx_32k(claim: Claim) -> Finding:
    """What training wholly at 32k would have cost, and whether fine-tuning is enough."""
    recipe, report = record("position_interpolation"), record("technical_report")
    gpt4 = architecture("gpt4")
    long, short = (gpt4.flop_per_token((c + 1) / 2, backward=True).total for c in (32_768, 8_192))
    extra = long / short - 1
    share = recipe["steps"] * printed("data.batch_60M") / printed("data.tokens")
    tuned, plain = recipes.RECIPES["context"], recipes.RECIPES["target"]
    return decide(
        claim,
        claim.value in report["context"] and claim.value == recipe["window"],
        f"A 32k version was served. Training wholly at 32k would have cost {extra:.0%} more FLOP and four times the "
        f"activations of a sequence. Public models were extended to 32k in {recipe['steps']:,} steps; at GPT-4's batch "
        f"that is {share:.1%} of its tokens. The small model, tuned for {tuned.training.steps} steps to "
        f"{tuned.config.context / plain.config.context:.0f} times its context, loses {sweeps.held_out('context'):.2f} "
        f"nats a token on rows so long, where it lost {sweeps.held_out('target'):.2f} on its own short ones.",
        value=extra,
        unit="share",
        condition="extension by fine-tuning worked for GPT-4 as it did for public models",
        evidence=Evidence.COST_MODEL,
        assumes=[SMALL],
        sources=[report["source"], recipe["source"]],
    )


@check("data.batch_ramp")
def batch_ramp(claim: Claim) -> Finding:
    """How the ramp changes the number of steps; that there was one is not on record."""
    days, final, ramps = printed("train.days"), printed("data.batch_60M"), record("batch_ramps")
    late, early = ramps["gpt3_final"], ramps["gpt3_start"]
    plain, ramped, slowly = (
        steps_with_ramp(d, days, start, final) for d, start in ((0.0, late), (5.0, late), (5.0, early))
    )
    return uncheckable(
        claim,
        f"Not on record for GPT-4; GPT-3 and PaLM ramped too. A linear ramp over 5 of {days:.0f} days to "
        f"{readable(final, 'tokens')} makes {ramped:,.0f} steps of {plain:,.0f} if it starts at GPT-3's final batch, "
        f"{readable(late, 'tokens')}, and {slowly:,.0f} if it starts at GPT-3's first, {readable(early, 'tokens')}. "
        f"The small model, on the same tokens, took {steps_of('ramp')} steps with a ramp from 4 rows to 16, "
        f"{steps_of(ONE_EPOCH + '_0')} with 16 throughout and {steps_of('batch_4')} with 4. Beside the 16, the ramp "
        f"ended {signed(beyond_plain('ramp').value)} nats a token and the 4 rows "
        f"{signed(beyond_plain('batch_4').value)}.",
        value=ramped,
        unit="steps",
        assumes=("tokens a day stay the same during the ramp", "5 days", SMALL),
        sources=("brown2020gpt3", "chowdhery2023palm"),
    )


@check("data.batch_60M")
def batch_60M(claim: Claim) -> Finding:
    """Which unit makes sense of 60 million."""
    batch, seen, context = printed("data.batch_60M"), printed("data.tokens"), printed("data.ctx_8k")
    steps, absurd = seen / batch, seen / (batch * context)
    return decide(
        claim,
        steps > claim.verdict["least_steps"] and absurd < claim.verdict["absurd_steps"],
        f"As tokens, 60 million are {batch / context:,.0f} sequences of 8k and the run takes {steps:,.0f} steps, as "
        f"large runs do. As sequences, the whole run would be {absurd:.0f} steps. The retelling gives no unit; the "
        "original says tokens.",
        value=steps,
        unit="steps",
        condition="the unit is tokens",
    )


@check("data.batch_per_expert")
def batch_per_expert(claim: Claim) -> Finding:
    """Two of sixteen."""
    batch, experts, k = printed("data.batch_60M"), printed("arch.n_experts"), printed("arch.top_k")
    mean = tokens_per_expert(tokens=batch, experts=experts, top_k=k)
    spread = float(load_standard_deviation(tokens=batch, experts=experts, top_k=k))
    small = fullest_load("target")
    return compare(
        claim,
        mean,
        f"60 million x 2 / 16 = {readable(mean, 'tokens')}, with a standard deviation of {spread:,.0f} if tokens are "
        "routed independently and evenly. A learned router is less even: in the small model, which is trained to be "
        f"balanced, the fullest expert of a layer gets {small:.1f} times the mean at the end.",
        assumes=("the router is balanced on the whole", SMALL),
    )


@check("data.expert_subset")
def expert_subset(claim: Claim) -> Finding:
    """The share that an expert sees, and the data behind each of its parameters."""
    share = printed("arch.top_k") / printed("arch.n_experts")
    each = share * printed("data.tokens")
    ratio = each / printed("arch.expert_params")
    model = recipes.RECIPES["target"].config
    most = fullest_load("target") * model.top_k / model.experts
    return decide(
        claim,
        max(share, most) < claim.verdict["every_token"],
        f"Top-2 of 16 shows an expert {share:.1%} of the tokens: {readable(each, 'tokens')} in all, {ratio:.0f} for "
        "each of its parameters. In the small model, which chooses 2 of 16 too, the fullest expert of a layer sees "
        f"{most:.0%} of a batch.",
        value=share,
        unit="share",
        evidence=Evidence.SMALL_MODEL,
        assumes=[SMALL],
    )


def beyond_plain(name: str) -> sweeps.Mean:
    """Held-out loss of a recipe less that of one epoch in batches of 16 rows, in nats a token.

    Mean over the seeds of the latter; the error is their standard deviation, that of one more run.

    Raises:
        ValueError: there is no such recipe.
    """
    plain = sweeps.by_seed(ONE_EPOCH, sweeps.held_out)
    return sweeps.Mean(sweeps.held_out(name) - float(plain.mean()), float(plain.std(ddof=1)))


def listed(words: Iterable[object]) -> str:
    """Words as a sentence lists them: "2, 4 and 16"."""
    *most, last = map(str, words)
    return f"{', '.join(most)} and {last}" if most else last


def signed(number: float) -> str:
    """A difference for prose, with its sign and two digits."""
    return f"{number:+.2f}".replace("-", "−")


def steps_of(name: str) -> int:
    """Steps of a recipe's training."""
    return recipes.RECIPES[name].training.steps


def parameters_per_unique_token(epochs: int) -> float:
    """Parameters of the small model of the sweeps for each token that it sees anew, where all are seen so often."""
    recipe = recipes.RECIPES[f"epochs_{epochs}"]
    unique = recipe.training.batches().sum() * recipe.config.context / epochs
    return float(recipe.config.architecture.parameters.total / unique)


def fullest_load(name: str) -> float:
    """Tokens of the fullest expert of a layer over the mean, at the end of a recipe's training; mean of the layers.

    Over all the last steps together, so that the chance of a single batch does not count.
    """
    load = sweeps.final_load(name).mean(0)
    return float((load.max(-1) * load.shape[-1]).mean())


def scores_share(context: float) -> float:
    """Share of training FLOP that attention scores take at a context, averaged over causal positions."""
    flop = architecture("gpt4").flop_per_token((context + 1) / 2, backward=True)
    return flop.scores / flop.total


def steps_with_ramp(ramp_days: float, days: float, start: float, final: float) -> float:
    """Optimizer steps of a run whose batch grows linearly in time for some days, at constant tokens a day.

    During the ramp the steps a day are T / b(t); their integral over a linear b from b0 to b1 is
    T d ln(b1 / b0) / (b1 - b0).
    """

    per_day = printed("data.tokens") / days
    ramp = per_day * ramp_days * log(final / start) / (final - start)
    return ramp + per_day * (days - ramp_days) / final
