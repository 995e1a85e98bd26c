"""Checks of who else has the chips for such a run."""

from anatomy.claims.article.fleets import able_fleets
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.specs import catalogue


def firms_with(chips: float, kind: str, sold_as: tuple[str, ...]) -> list[str]:
    """Firms that had at least so many chips of these models, as shipments of the year or in one cluster."""
    fleets = catalogue.table("fleets").values()
    return sorted(
        {f["firm"] for f in fleets if f["kind"] == kind and f["chip"] in sold_as and f["chips"] >= chips
         and not f.get("planned")}
    )  # fmt: skip


@check("train.nine_firms")
def nine_firms(claim: Claim) -> Finding:
    """Who bought that many in 2023, by an analyst's estimate, and who showed one cluster of them."""
    least = printed("train.h100_n")
    proper = ("h100_sxm",)
    bought, strict = (firms_with(least, "shipments of the year", sold) for sold in (claim.verdict["sold_as"], proper))
    single = firms_with(least, "one cluster", proper)
    return decide(
        claim,
        len(bought) >= claim.value,
        f"Omdia counts {len(bought)} firms that bought more than 8,192 in 2023, {len(strict)} of them the H100 proper "
        f"and the others its Chinese version. In one cluster, {len(single)} have shown as many by mid-2024: "
        f"{', '.join(single)}.",
        value=len(bought),
        unit="firms",
        condition="the H800 counts as an H100, and a year's purchases as a cluster",
        evidence=Evidence.PUBLIC_RECORD,
        sources=["shilov2023omdia", "meta2024genai"],
    )


@check("train.bigger_model")
def bigger_model(claim: Claim) -> Finding:
    """The first public run on more chips than that, against GPT-4."""
    run = record("llama3_run")
    compute = run["flop"] / printed("train.flops")
    active, stored = (run["parameters"] / printed(key) for key in ("arch.active_params", "arch.total_params"))
    larger = [ratio > claim.verdict["least_ratio"] for ratio in (compute, active, stored)]
    return decide(
        claim,
        all(larger),
        f"Llama 3.1 405B, on {run['chips']:,} H100, had {compute:.1f} times the article's FLOP and {active:.1f} times "
        f"its active parameters, but {stored:.0%} of all its parameters. Larger in compute, smaller in size.",
        value=compute,
        unit="times",
        in_part=any(larger),
        evidence=Evidence.PUBLIC_RECORD,
        assumes=["one public run stands for all"],
        sources=[run["source"]],
    )


@check("train.meta_100k")
def meta_100k(claim: Claim) -> Finding:
    """Omdia's estimate."""
    fleet = catalogue.entry("fleets", "omdia_meta")
    return decide(
        claim,
        fleet["chips"] > claim.value,
        f"Omdia estimates {fleet['chips']:,} H100 bought by Meta in 2023. It is an analyst's figure; bought is not yet "
        "installed.",
        value=fleet["chips"],
        unit="chips",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[fleet["source"]],
    )


@check("train.meta_infer")
def meta_infer(claim: Claim) -> Finding:
    """What is not in the two announced training clusters."""
    bought = catalogue.entry("fleets", "omdia_meta")
    clusters = [catalogue.entry("fleets", key) for key in ("meta_genai_1", "meta_genai_2")]
    inside = sum(f["chips"] for f in clusters)
    rest = 1 - inside / bought["chips"]
    return uncheckable(
        claim,
        f"What Meta runs where is not on record. The two clusters that it announced for training hold {inside:,} of an "
        f"estimated {bought['chips']:,}; {rest:.0%} were elsewhere, for whatever use.",
        value=rest,
        unit="share",
        sources=(bought["source"], clusters[0]["source"]),
    )


@check("train.meta_25k")
def meta_25k(claim: Claim) -> Finding:
    """The announced clusters."""
    clusters = [catalogue.entry("fleets", key) for key in ("meta_genai_1", "meta_genai_2")]
    largest = max(f["chips"] for f in clusters)
    return decide(
        claim,
        largest > claim.value,
        f"Meta announced {len(clusters)} clusters of {largest:,} H100 each in March 2024: "
        f"{1 - largest / claim.value:.1%} fewer than the figure, and a quarter of a year later than the article has "
        "it. Right but for the rounding.",
        value=largest,
        unit="chips",
        in_part=largest >= claim.verdict["rounding"] * claim.value,
        evidence=Evidence.PUBLIC_RECORD,
        sources=[clusters[0]["source"]],
    )


@check("train.many_can")
def many_can(claim: Claim) -> Finding:
    """Public fleets of 2023 that could have done the run."""
    fleets = catalogue.table("fleets")
    terms = claim.verdict
    able = [key for key in able_fleets(terms["days"], terms["utilisation"]) if fleets[key]["date"] <= terms["until"]]
    firms = {fleets[key]["firm"] for key in able}
    single = {fleets[key]["firm"] for key in able if fleets[key]["kind"] == "one cluster"}
    return decide(
        claim,
        len(firms) >= claim.verdict["least_firms"],
        f"{len(firms)} firms had fleets public by the end of 2023 that could do 2.15e25 FLOP within 100 days at 34 % "
        f"of peak, if wholly put to it; {len(single)} of them in one cluster.",
        value=len(firms),
        unit="firms",
        condition="a fleet is put to one run as a whole",
        evidence=Evidence.PUBLIC_RECORD,
        sources=["shilov2023omdia", "aws2023p5", "shah2023a3"],
    )
