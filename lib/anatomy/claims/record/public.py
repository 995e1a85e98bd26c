"""The public record: facts from outside the article that checks compare claims with."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def entries() -> dict[str, dict[str, Any]]:
    """All entries of `record.toml` by name."""
    return tomllib.loads((files("anatomy.claims.record") / "record.toml").read_text("utf-8"))


def record(key: str) -> dict[str, Any]:
    """One entry of `record.toml`.

    Raises:
        KeyError: there is no such entry; the message lists all.
    """
    if key not in entries():
        raise KeyError(f"record {key!r}; allowed: {', '.join(entries())}")
    return entries()[key]
