"""The claims of the article as facts, in its order, from `claims.toml`."""

import tomllib
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

from anatomy.claims.ledger.claim import Claim, Terms

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


@cache
def claims() -> dict[str, Claim]:
    """All claims by id, in the article's order.

    Raises:
        ValueError: what a verdict turns on is declared without a reason, or is neither a number nor names.
    """
    rows = tomllib.loads((files("anatomy.claims.record") / "claims.toml").read_text("utf-8"))["claim"]
    return {
        row["id"]: Claim(
            **row | {"range": tuple(row.get("range", ())), "verdict": Terms.of(row["id"], row.get("verdict", {}))}
        )
        for row in rows
    }


def get(key: str) -> Claim:
    """One claim.

    Raises:
        KeyError: there is no such claim; the message names the nearest ones.
    """
    if key not in claims():
        near = get_close_matches(key, claims(), n=3, cutoff=0.3) or ["see the ledger"]
        raise KeyError(f"claim {key!r}; nearest: {', '.join(near)}")
    return claims()[key]


def printed(key: str) -> float:
    """The number that the article prints in a claim.

    Raises:
        KeyError: there is no such claim.
        ValueError: it prints no number.
    """
    value = get(key).value
    if value is None:
        raise ValueError(f"claim {key}.value is None; allowed: a claim that prints a number")
    return value


def ends(key: str) -> tuple[float, float]:
    """Both ends of a range that the article prints.

    Raises:
        KeyError: there is no such claim.
        ValueError: it prints no range.
    """
    if len(get(key).range) != 2:
        raise ValueError(f"claim {key}.range is {get(key).range}; allowed: a claim that prints a range")
    low, high = get(key).range
    return low, high
