"""Checks of the thesis: that others can build what OpenAI built."""

from collections.abc import Iterable

from anatomy.claims.article.fleets import able_fleets, distinct_fleets
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import get
from anatomy.specs import catalogue


def named() -> tuple[str, ...]:
    """The firms that the English original names."""
    return get("thesis.many_match").verdict["firms"]


def best_scores(firms: Iterable[str] | None = None) -> dict[str, float]:
    """The best MMLU score in per cent that each firm has reported for a model of its own; 0 for none.

    Args:
        firms: by default those that the English original names.
    """
    runs = catalogue.table("runs").values()
    return {
        firm: max(
            (max(run.get("mmlu", 0.0), run.get("other_mmlu", 0.0)) for run in runs if run["firm"] == firm), default=0.0
        )
        for firm in (named() if firms is None else firms)
    }


def evidence_of(firms: Iterable[str]) -> tuple[str, ...]:
    """Bibliography keys of the scores of these firms."""
    runs = catalogue.table("runs").values()
    return tuple(dict.fromkeys(run["source"] for run in runs if run["firm"] in firms and "mmlu" in run))


@check("thesis.replicable")
def replicable(claim: Claim) -> Finding:
    """A motive cannot be computed; the means can."""
    fleets, able = distinct_fleets(), able_fleets()
    firms = sorted({fleets[key]["firm"] for key in able})
    return uncheckable(
        claim,
        f"Why a firm is closed is not a number. That it can be replicated is: of {len(fleets)} distinct fleets made "
        f"public up to mid-2024, {len(able)} ({len(firms)} owners) could have done the article's run within 100 days "
        "at its own utilisation.",
        value=float(len(able)),
        unit="fleets",
        assumes=("2.15e25 FLOP", "34 % of the 16-bit peak", "the whole fleet on one run"),
        sources=("shilov2023omdia", "meta2024genai"),
    )


@check("thesis.many_match")
def many_match(claim: Claim) -> Finding:
    """Which of the named firms have reported a score at or above GPT-4's."""
    gpt4 = catalogue.entry("runs", "gpt4")
    scores = best_scores(claim.verdict["firms"])
    matched = [firm for firm, score in scores.items() if score >= gpt4["mmlu"]]
    missed = [firm for firm in scores if firm not in matched]
    return decide(
        claim,
        len(matched) >= claim.verdict["least_share"] * len(scores),
        f"{len(matched)} of the {len(scores)} firms that the original names have reported an MMLU score of "
        f"{gpt4['mmlu']:g} % or more: {', '.join(matched)}. {' and '.join(missed)} have not; that they could not is "
        "more than anyone can say.",
        value=len(matched),
        unit="firms",
        in_part=len(matched) > claim.verdict["least_share_in_part"] * len(scores),
        evidence=Evidence.PUBLIC_RECORD,
        assumes=(
            "MMLU stands for quality, in the best setting that was reported, for models up to mid-2025",
            "what was not reported was not reached",
        ),
        sources=[gpt4["source"], *evidence_of(matched)],
    )


@check("thesis.tradeoffs")
def tradeoffs(claim: Claim) -> Finding:
    """Praise."""
    return uncheckable(claim, "Praise is not computed. The trade-offs are, one by one, in the chapters that follow.")


@check("thesis.moat")
def moat(claim: Claim) -> Finding:
    """A forecast about an advantage; the record so far is how long the lead lasted."""
    runs = catalogue.table("runs")
    gpt4 = runs["gpt4"]
    rivals = [run for run in runs.values() if run["firm"] != gpt4["firm"] and run.get("mmlu", 0) >= gpt4["mmlu"]]
    first = min(rivals, key=lambda run: run["date"])
    months = months_between(gpt4["date"], first["date"])
    return uncheckable(
        claim,
        f"What lasts is for the future to say. On one benchmark the lead lasted {months} months: {first['name']} "
        f"({first['firm']}, {first['date']}) was the first rival to report {first['mmlu']:g} % on MMLU against "
        f"{gpt4['mmlu']:g} % in the same setting.",
        value=float(months),
        unit="months",
        assumes=("MMLU, 5-shot", "announcement dates"),
        sources=(gpt4["source"], first["source"]),
    )


def months_between(start: str, end: str) -> int:
    """Months from one "YYYY-MM" to another."""
    (year, month), (later_year, later_month) = (map(int, date.split("-")) for date in (start, end))
    return 12 * (later_year - year) + later_month - month
