"""Public fleets of chips, and which of them could have done the article's run."""

from typing import Any

from anatomy.claims.record.article import get
from anatomy.cost.training.run import training_days
from anatomy.specs import catalogue


def distinct_fleets() -> dict[str, dict[str, Any]]:
    """Public fleets that are not a part of another one, and that stood: plans are left out."""
    fleets = catalogue.table("fleets")
    return {key: f for key, f in fleets.items() if not (f.get("part_of") or f.get("planned"))}


def able_fleets(days: float = 100.0, utilisation: float = 0.34) -> list[str]:
    """Keys of the public fleets that could do the article's run in so many days, if wholly used for it."""
    flop = get("train.flops").value
    assert flop is not None
    able = []
    for key, fleet in distinct_fleets().items():
        peak = catalogue.chip(fleet["chip"]).flops_16bit
        if training_days(flop=flop, chips=fleet["chips"], peak=peak, utilisation=utilisation) <= days:
            able.append(key)
    return able
