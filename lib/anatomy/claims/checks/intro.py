"""Checks of the introduction: who leaked, and whether the leaker has a record."""

from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, decide
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import SECTIONS, claims
from anatomy.claims.record.public import record


@check("meta.authors")
def authors(claim: Claim) -> Finding:
    """Every author on the original's byline is named by the retelling."""
    byline = record("article")
    return decide(
        claim,
        {*byline["authors"], byline["publisher"]} <= set(claim.verdict["names"]),
        f"The original carries the byline of {' and '.join(byline['authors'])}, {byline['publisher']}.",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[byline["source"]],
    )


@check("meta.contents")
def contents(claim: Claim) -> Finding:
    """Every topic that is announced has claims in the ledger."""
    found = {name: sum(c.section == name for c in claims().values()) for name in claim.verdict["sections"]}
    with_numbers = sum(c.value is not None for c in claims().values())
    return decide(
        claim,
        all(found.values()),
        f"The ledger holds {len(claims())} claims in {len(SECTIONS)} sections; {with_numbers} of them state a number. "
        f"Each announced topic has at least {min(found.values())}.",
        value=len(claims()),
        unit="claims",
    )


@check("meta.moat_memo")
def moat_memo(claim: Claim) -> Finding:
    """The memo was published by the same author."""
    memo, article = record("moat_memo"), record("article")
    shared = sorted(set(memo["authors"]) & set(article["authors"]))
    return decide(
        claim,
        claim.verdict["author"] in shared,
        f"{' and '.join(shared)} signs both; the memo appeared in {memo['published']} on {memo['publisher']}.",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[memo["source"], article["source"]],
    )


@check("meta.hassabis")
def hassabis(claim: Claim) -> Finding:
    """The interview says that the memo is real, in the outlet that is named."""
    interview = record("hassabis")
    return decide(
        claim,
        interview["memo_is_real"] and interview["outlet"] == claim.verdict["outlet"],
        f"{interview['outlet']}, {interview['published']}: {interview['note']} A genuine memo says that the author has "
        "had good sources before; it does not say that this leak is right.",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[interview["source"]],
    )
