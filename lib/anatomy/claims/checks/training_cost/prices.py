"""Checks of what the training run costs: prices, on A100 and H100, and the article's two charts."""

from anatomy.claims.article.training import article_dollars, peak
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, compare, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import ends, get, printed
from anatomy.claims.record.public import record
from anatomy.cost.training.run import rented_dollars, training_days, training_flop, utilisation
from anatomy.cost.training.scaling import chinchilla
from anatomy.specs import architecture, catalogue
from anatomy.specs.units import readable

DENSE_RATIO = 20.0  # tokens a parameter, as the article's charts have it


def fp8_rate() -> float:
    """FLOP/s of a chip in DeepSeek-V3's training, on average: the largest run in FP8 whose hours are public."""
    run = record("deepseek_v3_run")
    return training_flop(parameters=run["active_parameters"], tokens=run["tokens"]) / (run["gpu_hours"] * 3600)


def table_dollars(parameters: float, share: float) -> float:
    """Rent of A100 for a dense model with 20 tokens a parameter, at a share of peak: the article's cost chart."""
    flop = training_flop(parameters=parameters, tokens=DENSE_RATIO * parameters)
    return flop / (peak() * share) / 3600 * record("brick_wall_table")["dollars_per_hour"]


@check("train.price_a100")
def price_a100(claim: Claim) -> Finding:
    """Public prices, and what an owner's hour costs."""
    rents = [r for r in catalogue.table("prices")["rental"] if r["chip"] == "a100_sxm_40gb"]
    low, high = (pick(rents, key=lambda r: r["dollars_per_hour"]) for pick in (min, max))
    epoch = record("epoch_gpt4")
    owned = epoch["dollars_owned"] / (epoch["chips"] * epoch["hours"])
    return uncheckable(
        claim,
        f"OpenAI's price is not public. Public ones run from ${low['dollars_per_hour']:.2f} ({low['who']}) to "
        f"${high['dollars_per_hour']:.2f} ({high['who']}); Epoch's amortised cost comes to ${owned:.2f} an hour. A "
        "dollar lies between an owner's cost and the cheapest offer: low, but what a partner might pay.",
        beside=(low["dollars_per_hour"], "dollars/h"),
        sources=("cottier2024rising", "epoch2025models"),
    )


@check("train.cost_63M")
def cost_63M(claim: Claim) -> Finding:
    """Chips, hours and price; and what would give the printed sum."""
    chips, price = printed("train.gpus"), printed("train.price_a100")
    low, high = (rented_dollars(chips=chips, days=d, dollars_per_hour=price) for d in ends("train.days"))
    value = article_dollars()
    days_needed = claim.value / rented_dollars(chips=chips, days=1.0, dollars_per_hour=price)
    price_needed = claim.value / (value / price)
    share = utilisation(flop=printed("train.flops"), chips=chips, peak=peak(), days=days_needed)
    return compare(
        claim,
        value,
        f"25,000 chips for 95 days at $1 are {readable(value, 'dollars')}, for 90 to 100 days "
        f"{readable(low, 'dollars')} to {readable(high, 'dollars')}. $63 million need {days_needed:.0f} days, which is "
        f"{share:.1%} of peak and outside both printed ranges, or ${price_needed:.3f} an hour. The gap is small, a "
        "tenth.",
        against=get("train.days"),
    )


@check("train.excludes")
def excludes(claim: Claim) -> Finding:
    """Whether the sum has room for anything but the rent."""
    rent = article_dollars()
    rest = printed("train.cost_63M") - rent
    return decide(
        claim,
        abs(rest) < claim.verdict["most_rest"] * rent,
        f"The rent alone is {rent / printed('train.cost_63M'):.0%} of the sum. What is left, "
        f"{readable(rest, 'dollars')}, would not pay for research, failed runs, data and staff.",
        value=rent / printed("train.cost_63M"),
        unit="share",
    )


@check("train.true_higher")
def true_higher(claim: Claim) -> Finding:
    """What OpenAI's head said, and the share of staff in an outside estimate."""
    said, staff = record("altman_cost"), record("staff_share")
    ratio = said["dollars_above"] / printed("train.cost_63M")
    low, high = (1 / (1 - staff[end]) for end in ("low", "high"))
    return decide(
        claim,
        ratio > claim.verdict["least_ratio"],
        f"OpenAI's head said that the training cost more than {readable(said['dollars_above'], 'dollars')}, "
        f"{ratio:.1f} times the sum. Staff alone is {staff['low']:.0%} to {staff['high']:.0%} of the cost of such "
        f"models by an outside estimate, which makes {low:.1f} to {high:.1f} times the hardware.",
        value=ratio,
        unit="times",
        evidence=Evidence.PUBLIC_RECORD,
        assumes=["his sum covers what the article leaves out"],
        sources=[said["source"], staff["source"]],
    )


@check("train.capex_other")
def capex_other(claim: Claim) -> Finding:
    """What buying the chips would have cost, against the rent."""
    prices = [p["dollars"] for p in catalogue.table("prices")["purchase"] if p["chip"] == "a100_sxm_40gb"]
    low, high = (printed("train.gpus") * pick(prices) for pick in (min, max))
    rent = article_dollars()
    return decide(
        claim,
        low > claim.verdict["least_ratio"] * rent,
        f"Buying 25,000 A100 at the prices of 2020 to 2022 takes {readable(low, 'dollars')} to "
        f"{readable(high, 'dollars')} before networks and buildings, {low / rent:.0f} to {high / rent:.0f} times the "
        "rent. The sum holds only for someone who gives the chips back.",
        value=low,
        unit="dollars",
        sources=["cottier2024rising"],
    )


@check("train.h100_price")
def h100_price(claim: Claim) -> Finding:
    """Public prices of 2023."""
    rents = [r for r in catalogue.table("prices")["rental"] if r["chip"] == "h100_sxm" and r["when"].startswith("2023")]
    reserved = next(r for r in rents if "reserved" in r["who"])
    low, high = (pick(rents, key=lambda r: r["dollars_per_hour"]) for pick in (min, max))
    return compare(
        claim,
        low["dollars_per_hour"],
        f"The cheapest public offer of 2023 was ${low['dollars_per_hour']:.2f} ({low['who']}), the dearest "
        f"${high['dollars_per_hour']:.2f} ({high['who']}). The one reserved cluster in the list was "
        f"${reserved['dollars_per_hour']:.2f}.",
        condition="8,192 chips cost no more than the cheapest single one",
        evidence=Evidence.PUBLIC_RECORD,
        sources=["cottier2024rising", "morgan2023p5"],
    )


@check("train.h100_n")
def h100_n(claim: Claim) -> Finding:
    """Chips that the printed dollars pay for."""
    hours = printed("train.h100_days") * 24
    value = printed("train.h100_cost") / (hours * printed("train.h100_price"))
    return compare(
        claim,
        value,
        f"$21.5 million at $2 pay for {value:,.0f} chips over 55 days; 8,192 is 1,024 boxes of eight.",
        condition="the days, the price and the dollars are right",
    )


@check("train.h100_days")
def h100_days(claim: Claim) -> Finding:
    """Days at the fastest published rate, and the rate that 55 days need."""
    flop, chips, top = printed("train.flops"), printed("train.h100_n"), peak("h100_sxm")
    fast, slow = record("megatron_core_h100"), record("llama3_run")
    value = training_days(flop=flop, chips=chips, peak=fast["tflops"] * 1e12, utilisation=1.0)
    needed = utilisation(flop=flop, chips=chips, peak=top, days=claim.value)
    gtc = record("gtc_moe")
    keynote = utilisation(flop=gtc["flop"], chips=gtc["chips"], peak=top, days=gtc["days"])
    return compare(
        claim,
        value,
        f"55 days need {needed * top / 1e12:.0f} TFLOP/s a chip: {needed:.0%} of the 16-bit peak, {needed / 2:.0%} of "
        f"that of FP8. The fastest public large run on H100 reached {fast['tflops']:.0f} ({value:.0f} days), Llama 3.1 "
        f"{slow['tflops']:.0f}, DeepSeek-V3 in FP8 {fp8_rate() / 1e12:.0f}; NVIDIA's keynote has 3e25 FLOP on 8,000 "
        f"chips in 90 days, which is {keynote:.0%}. FP8 may close the gap; none of these runs shows it.",
        assumes=["16-bit arithmetic at the fastest published rate", "no failures"],
        sources=[fast["source"], slow["source"], "deepseek2024v3", gtc["source"], gtc["sources"]["flop"]],
    )


@check("train.h100_cost")
def h100_cost(claim: Claim) -> Finding:
    """Chips, hours and price."""
    value = rented_dollars(
        chips=printed("train.h100_n"), days=printed("train.h100_days"), dollars_per_hour=printed("train.h100_price")
    )
    slower = training_days(
        flop=printed("train.flops"),
        chips=printed("train.h100_n"),
        peak=record("megatron_core_h100")["tflops"] * 1e12,
        utilisation=1.0,
    )
    more = rented_dollars(chips=printed("train.h100_n"), days=slower, dollars_per_hour=printed("train.h100_price"))
    return compare(
        claim,
        value,
        f"8,192 chips for 55 days at $2 are {readable(value, 'dollars')}. At the fastest published rate the run takes "
        f"{slower:.0f} days and {readable(more, 'dollars')}.",
        condition="55 days and $2 an hour",
        sources=["nvidia2024megatroncore"],
    )


@check("train.h100_speed")
def h100_speed(claim: Claim) -> Finding:
    """The ratio that the numbers imply, and the one that published rates give."""
    own = utilisation(
        flop=printed("train.flops"), chips=printed("train.gpus"), peak=1.0, days=printed("train.days")
    )  # FLOP/s of a chip
    implied = (printed("train.gpus") * printed("train.days")) / (printed("train.h100_n") * printed("train.h100_days"))
    fast = record("megatron_core_h100")
    value = fast["tflops"] * 1e12 / own
    ratio = peak("h100_sxm") / peak()
    return compare(
        claim,
        value,
        f"25,000 x 95 over 8,192 x 55 chip-days is {implied:.2f}. The peaks differ by {ratio:.2f}; the rest asks for "
        f"{implied / ratio:.2f} times the utilisation. The fastest public large run on H100 is {value:.1f} times as "
        "fast as the article's A100.",
        assumes=["16-bit arithmetic on both"],
        sources=[fast["source"], "nvidia2020a100", "nvidia2022h100"],
    )


@check("chart.scatter")
def scatter(claim: Claim) -> Finding:
    """Does 6 N D give the FLOP that makers publish?"""
    rows = {"gpt3_175b": record("gpt3_run"), "llama31_405b": record("llama3_run")}
    errors = [
        training_flop(
            parameters=float(architecture(key).parameters.active),
            tokens=catalogue.entry("architectures", key)["published_tokens"],
        )
        / made["flop"]
        - 1
        for key, made in rows.items()
    ]
    worst = max(map(abs, errors))
    line = training_flop(parameters=70e9, tokens=DENSE_RATIO * 70e9)
    first, second = (float(chinchilla(key).optimum(printed("train.flops"))[0]) for key in ("chinchilla", "besiroglu"))
    return decide(
        claim,
        worst < claim.verdict["tolerance"],
        f"6 N D is within {worst:.1%} of the FLOP that the makers of GPT-3 and Llama 3.1 state. On the line, at "
        f"{DENSE_RATIO:.0f} tokens a parameter, 70 billion parameters cost {line / 1e23:.2f}e23 FLOP. That the line is "
        f"smoothed matters: at GPT-4's FLOP two fits to the same runs put the best size {second / first:.1f} times "
        "apart.",
        value=worst,
        unit="share",
        condition="the line is 20 tokens a parameter",
        sources=["hoffmann2022chinchilla", "besiroglu2024chinchilla", "brown2020gpt3", "dubey2024llama3"],
    )


@check("chart.cost_table")
def cost_table(claim: Claim) -> Finding:
    """The utilisation behind the printed costs."""
    table = record("brick_wall_table")
    low, high = table["utilisation"]
    shares = {name: table_dollars(table["parameters"][name], 1.0) / cost for name, cost in table["dollars"].items()}
    least, most = min(shares.values()), max(shares.values())
    trillion = table_dollars(1e12, most)
    return decide(
        claim,
        low <= least and most <= high,
        f"6 N D over 312 TFLOP/s at $1.50 an hour gives the chart's figures at {least:.0%} to {most:.0%} of peak: "
        f"{readable(trillion, 'dollars')} for a trillion parameters. That is not the best in theory, which would be "
        f"{readable(table_dollars(1e12, 1.0), 'dollars')}, but about the best that is seen in practice.",
        value=least,
        unit="share",
        condition="40 to 60 % of peak, 20 tokens a parameter, $1.50 an hour",
        sources=[table["source"], "hoffmann2022chinchilla"],
    )
