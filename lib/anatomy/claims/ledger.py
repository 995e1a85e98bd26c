"""The ledger: every claim of the article, in its order, and the finding of its check.

`claims.toml` holds the claims as facts. A check is a function marked with `@check("section.name")` in
a module named after the claim's section, or beginning with that name; it gets the claim and returns a `Finding`.
"""

import dataclasses
import importlib
import tomllib
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from anatomy.claims.finding import Finding

SECTIONS = {
    "intro": "Introduction",
    "replicability": "Replicability",
    "architecture": "Architecture",
    "dataset": "Dataset",
    "parallelism": "Parallelism",
    "training-cost": "Training cost",
    "moe-tradeoffs": "Mixture-of-experts trade-offs",
    "inference-tradeoffs": "Inference trade-offs",
    "inference-infrastructure": "Inference infrastructure",
    "inference-cost": "Inference cost",
    "multi-query-attention": "Multi-query attention",
    "continuous-batching": "Continuous batching",
    "speculative-decoding": "Speculative decoding",
    "vision": "Vision",
}
CHECKED = (  # sections that have modules of checks
    "intro",
    "replicability",
    "architecture",
    "dataset",
    "parallelism",
    "training-cost",
    "moe-tradeoffs",
    "inference-tradeoffs",
    "inference-infrastructure",
    "inference-cost",
    "multi-query-attention",
    "continuous-batching",
    "speculative-decoding",
    "vision",
)

Check = Callable[["Claim"], "Finding"]
_CHECKS: dict[str, Check] = {}


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim, in our words.

    Attributes:
        id: permanent, part of its address.
        section: section of the article, a key of `SECTIONS`.
        claim: what is claimed.
        kind: given, derivable, structural, comparison, opinion or prediction.
        value: the number that is printed, if any, in `unit`.
        unit: SI unit or thing counted.
        range: both ends, where a range is printed; `value` is then its middle or larger end.
        implied: the article does not say it, its numbers do.
        original: what the English original says, where the retelling matters.
        translation: the retelling says something else than the original.
        note: what a reader should know.
    """

    id: str
    section: str
    claim: str
    kind: str
    value: float | None = None
    unit: str = ""
    range: tuple[float, ...] = ()
    implied: bool = False
    original: str = ""
    translation: bool = False
    note: str = ""


@cache
def claims() -> dict[str, Claim]:
    """All claims by id, in the article's order."""
    rows = tomllib.loads((files("anatomy.claims") / "claims.toml").read_text("utf-8"))["claim"]
    return {row["id"]: Claim(**row | {"range": tuple(row.get("range", ()))}) for row in rows}


def get(key: str) -> Claim:
    """One claim.

    Raises:
        KeyError: there is no such claim; the message names the nearest ones.
    """
    if key not in claims():
        near = get_close_matches(key, claims(), n=3, cutoff=0.3) or ["see the ledger"]
        raise KeyError(f"claim {key!r}; nearest: {', '.join(near)}")
    return claims()[key]


def check(key: str) -> Callable[[Check], Check]:
    """Mark a function as the check of that claim.

    Raises:
        KeyError: there is no such claim.
        ValueError: the claim has a check already.
    """
    get(key)

    def mark(function: Check) -> Check:
        if key in _CHECKS:
            raise ValueError(f"claim {key!r} is checked by {_CHECKS[key].__name__} and {function.__name__}")
        _CHECKS[key] = function
        return function

    return mark


@cache
def checks() -> dict[str, Check]:
    """The check of each claim that has one."""
    sections = tuple(section.replace("-", "_") for section in CHECKED)
    for file in files("anatomy.claims").iterdir():
        if file.name.startswith(sections) and file.name.endswith(".py"):
            importlib.import_module(f"anatomy.claims.{file.name.removesuffix('.py')}")
    return _CHECKS


@cache
def finding(key: str) -> "Finding":
    """The finding of a claim; computed in double precision, once."""
    from anatomy.claims.finding import Evidence, Finding, Verdict

    claim = get(key)
    if key not in checks():
        says = "This section has not been worked through yet."
        return Finding(verdict=Verdict.NOT_YET, says=says, evidence=Evidence.NOT_YET)
    with jax.enable_x64(True):
        return checks()[key](claim)


def as_records(ids: Iterable[str] | None = None, version: str = "") -> list[dict[str, Any]]:
    """The ledger as plain data, for `claims.json`: what is claimed, what was found, on what it rests."""
    records = []
    for claim in map(get, claims() if ids is None else ids):
        found = finding(claim.id)
        records.append(
            {
                "id": claim.id,
                "section": claim.section,
                "claim": claim.claim,
                "kind": claim.kind,
                "verdict": str(found.verdict),
                "value": found.value,
                "unit": found.unit or claim.unit,
                "article_value": claim.value,
                "article_unit": claim.unit,
                "beside": found.beside and dict(zip(("value", "unit"), found.beside, strict=True)),
                "article_range": list(claim.range) or None,
                "off_by": found.off_by,
                "contradicts": found.contradicts,
                "says": found.says,
                "assumes": list(found.assumes),
                "evidence": str(found.evidence),
                "sources": list(found.sources),
                "chapter": "index" if claim.section == "intro" else claim.section,
                "address": f"claims.html#{claim.id}",
                "version": version,
            }
        )
    return records
