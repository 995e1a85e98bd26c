"""What a check returns, and how a verdict is earned: by comparing numbers, never by typing it in."""

import dataclasses
import math
from collections.abc import Iterable
from enum import StrEnum

from anatomy.claims.ledger.claim import Claim


class Verdict(StrEnum):
    """What a check found."""

    HOLDS = "holds"
    CONDITIONAL = "holds under a condition"
    PARTLY = "holds in part"
    OFF = "off"
    CONTRADICTION = "contradicts another claim"
    UNIT_ERROR = "unit error"
    LOST = "lost in translation"
    CONFIRMED = "public record confirms"
    REFUTED = "public record refutes"
    OPINION = "opinion, not checkable"
    NO_EVIDENCE = "no public evidence"
    NOT_YET = "not checked yet"


SMALL = "the small model is not a large one"  # whatever finding names it assumes this


class Evidence(StrEnum):
    """What a finding rests on."""

    ARITHMETIC = "arithmetic"
    COST_MODEL = "cost model"
    SMALL_MODEL = "small model"
    PUBLIC_RECORD = "public record"
    NONE = "none possible"
    NOT_YET = "none yet"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Attributes:
        verdict: what was found.
        says: one or two sentences with the numbers, for the reader.
        value: the recomputed number, in the claim's unit where it prints a number; None where there is none.
        unit: SI unit or thing counted; "share" for what is shown in per cent.
        beside: another number that the check computed, in another unit, and that unit.
        evidence: what the finding rests on.
        assumes: what must be true for it to stand.
        sources: bibliography keys.
        off_by: recomputed over claimed, where both are numbers.
        contradicts: id of the claim that this one contradicts.
    """

    verdict: Verdict
    says: str
    value: float | None = None
    unit: str = ""
    evidence: Evidence = Evidence.ARITHMETIC
    assumes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    beside: tuple[float, str] | None = None
    off_by: float | None = None
    contradicts: str | None = None


def compare(
    claim: Claim,
    value: float,
    says: str,
    *,
    condition: str = "",
    at_least: bool = False,
    against: Claim | None = None,
    evidence: Evidence = Evidence.ARITHMETIC,
    assumes: Iterable[str] = (),
    sources: Iterable[str] = (),
) -> Finding:
    """Hold a recomputed number against the one that is printed.

    Within the tolerance that the claim declares it holds, or holds under the condition where one is named. A
    ratio that is a power of a thousand, within the tolerance, is a unit error. Anything else is off, or
    contradicts the claim that `against` names, where the number was computed from that claim.

    Args:
        claim: with its printed value, and a relative `tolerance` among what its verdict turns on.
        value: the recomputed number, in the claim's unit.
        says: the reasoning, for the reader.
        condition: what must be granted for the claim to hold.
        at_least: the claim is a lower bound.
        against: the claim that the number was computed from, if a mismatch is a contradiction.
        evidence: what it rests on.
        assumes: further assumptions.
        sources: bibliography keys.

    Raises:
        ValueError: the claim has no value, or the recomputed one is not finite and positive.
        KeyError: the claim declares no tolerance.
    """
    if claim.value is None:
        raise ValueError(f"claim {claim.id}.value is None; allowed: a number to compare with")
    value, tolerance = float(value), claim.verdict["tolerance"]
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"claim {claim.id}: recomputed value is {value}; allowed: a finite number above 0")
    ratio = value / claim.value
    thousands = round(math.log(ratio, 1000))
    granted = tuple(filter(None, [condition, *assumes]))
    if abs(ratio - 1) <= tolerance or (at_least and ratio >= 1):
        verdict = Verdict.CONDITIONAL if condition else Verdict.HOLDS
    elif thousands and abs(ratio / 1000.0**thousands - 1) <= tolerance:
        verdict = Verdict.UNIT_ERROR
    elif against is not None:
        verdict = Verdict.CONTRADICTION
    else:
        verdict = Verdict.OFF
    return Finding(
        verdict=verdict,
        says=says,
        value=value,
        unit=claim.unit,
        evidence=evidence,
        assumes=granted,
        sources=tuple(sources),
        off_by=ratio,
        contradicts=against.id if verdict is Verdict.CONTRADICTION and against else None,
    )


def decide(
    claim: Claim,
    true: bool,
    says: str,
    *,
    value: float | None = None,
    unit: str = "",
    condition: str = "",
    in_part: bool = False,
    evidence: Evidence = Evidence.ARITHMETIC,
    assumes: Iterable[str] = (),
    sources: Iterable[str] = (),
) -> Finding:
    """Settle a claim about how something works from a statement that was computed.

    True holds (under the condition, where one is named), false is off, or holds in part where most of it
    does; if the evidence is the public record, it confirms or refutes. A value in another unit than the
    claim's is kept beside it. Where the retelling says what the original does not, and the
    statement is false of the retelling, the claim was lost in translation.
    """
    recorded = evidence is Evidence.PUBLIC_RECORD
    if true and condition:
        verdict = Verdict.CONDITIONAL
    elif true:
        verdict = Verdict.CONFIRMED if recorded else Verdict.HOLDS
    elif in_part:
        verdict = Verdict.PARTLY
    else:
        verdict = Verdict.REFUTED if recorded else Verdict.OFF
    if claim.translation and not true:
        verdict = Verdict.LOST
    number = None if value is None else float(value)
    unit = unit or claim.unit
    comparable = claim.value is None or unit == claim.unit
    return Finding(
        verdict=verdict,
        says=says,
        value=number if comparable else None,
        unit=unit if comparable else claim.unit,
        evidence=evidence,
        assumes=tuple(filter(None, [condition, *assumes])),
        sources=tuple(sources),
        beside=None if comparable or number is None else (number, unit),
        off_by=number / claim.value if comparable and number is not None and claim.value else None,
    )


def uncheckable(claim: Claim, says: str, **computed: object) -> Finding:
    """An opinion, or a fact that nobody outside can know; what surrounds it may still be computed.

    The verdict follows from the kind of claim: opinions and predictions are opinions, the rest lacks
    public evidence.
    """
    opinion = claim.kind in ("opinion", "prediction")
    return Finding(
        verdict=Verdict.OPINION if opinion else Verdict.NO_EVIDENCE,
        says=says,
        evidence=Evidence.NONE,
        **computed,  # type: ignore[arg-type]
    )
