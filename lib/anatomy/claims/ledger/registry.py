"""Which check settles which claim, and the finding of each.

A check is a function marked with `@check("section.name")` in the module, or a module of the package, of
`anatomy.claims.checks` that is named after the claim's section; it gets the claim and returns a `Finding`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import jax

from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, Verdict
from anatomy.claims.record.article import claims, get
from anatomy.memo import code_digest, remembered

Check = Callable[[Claim], Finding]
_CHECKS: dict[str, Check] = {}


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


def check_of(key: str) -> Check | None:
    """The check of a claim; None if it has none. Imports the checks of its section, and no others.

    Raises:
        KeyError: there is no such claim.
    """
    importlib.import_module(f"anatomy.claims.checks.{get(key).section.replace('-', '_')}")
    return _CHECKS.get(key)


@cache
def finding(key: str) -> Finding:
    """The finding of a claim, computed in double precision; kept until its check, or what that reaches, changes.

    Raises:
        KeyError: there is no such claim.
    """
    if (settle := check_of(key)) is None:
        says = "This section has not been worked through yet."
        return Finding(verdict=Verdict.NOT_YET, says=says, evidence=Evidence.NOT_YET)
    # The check is found by a computed name, so its own code is what the finding goes by.
    return _from_json(remembered(settled, key, also=code_digest(settle), cut=[check_of]))


def settled(key: str) -> dict[str, Any]:
    """The finding of a claim that has a check, as plain data."""
    settle = check_of(key)
    assert settle is not None, f"claim {key!r} has no check"
    with jax.enable_x64(True):
        return dataclasses.asdict(settle(get(key)))


def _from_json(row: dict[str, Any]) -> Finding:
    """A finding as it was before it was written; JSON knows no tuples."""
    row = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Finding(**row | {"verdict": Verdict(row["verdict"]), "evidence": Evidence(row["evidence"])})


def as_records(ids: Iterable[str] | None = None, version: str = "") -> list[dict[str, Any]]:
    """The ledger as plain data, for `claims.json`: what is claimed, what was found, on what it rests."""
    records = []
    for claim in map(get, claims() if ids is None else ids):
        found, turns_on = finding(claim.id), claim.verdict.terms.items()
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
                "turns_on": {name: list(term) if isinstance(term, tuple) else term for name, term in turns_on},
                "assumes": list(found.assumes),
                "evidence": str(found.evidence),
                "sources": list(found.sources),
                "chapter": "index" if claim.section == "intro" else claim.section,
                "address": f"claims.html#{claim.id}",
                "version": version,
            }
        )
    return records
