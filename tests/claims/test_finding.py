"""How a verdict is earned: from the numbers that are compared, and from nothing else."""

import dataclasses
import math

import hypothesis.strategies as st
import pytest
from anatomy.claims.ledger.claim import Claim, Terms
from anatomy.claims.ledger.finding import Evidence, Verdict, compare, decide, uncheckable
from hypothesis import given

TWO_DIGITS = Terms("test.claim", {"tolerance": 0.05}, "Two digits are printed.")
CLAIM = Claim("test.claim", "intro", "A thing is so large", "given", value=1.0, unit="B", verdict=TWO_DIGITS)
OTHER = dataclasses.replace(CLAIM, id="test.other")
values = st.floats(1e-12, 1e27)
tolerances = st.floats(0.001, 0.3)
within = st.floats(-0.999, 0.999)  # of the tolerance
thousands = st.integers(-4, 4).filter(bool)
AGAINST = st.sampled_from([None, OTHER])


def held(printed: float, recomputed: float, tolerance: float = 0.05, **given):
    terms = Terms("test.claim", {"tolerance": tolerance}, "It is so.")
    return compare(dataclasses.replace(CLAIM, value=printed, verdict=terms), recomputed, "So it is.", **given)


@given(values, tolerances, within, AGAINST)
def test_within_the_tolerance_it_holds(printed, tolerance, share, against):
    recomputed = printed * (1 + share * tolerance)
    plain = held(printed, recomputed, tolerance=tolerance, against=against)
    granted = held(printed, recomputed, tolerance=tolerance, against=against, condition="it rains", assumes=["a"])
    assert plain.verdict is Verdict.HOLDS and plain.assumes == ()
    assert granted.verdict is Verdict.CONDITIONAL and granted.assumes == ("it rains", "a")
    assert plain.off_by == pytest.approx(1 + share * tolerance)
    assert plain.contradicts is None


@given(values, tolerances, within, thousands, AGAINST)
def test_a_power_of_a_thousand_is_a_slip_of_the_unit(printed, tolerance, share, power, against):
    found = held(printed, printed * 1000.0**power * (1 + share * tolerance), tolerance=tolerance, against=against)
    assert found.verdict is Verdict.UNIT_ERROR
    assert found.contradicts is None


@given(values, tolerances, st.floats(0.2, 0.8), st.integers(-4, 4), st.booleans())
def test_anything_else_is_off_or_contradicts_what_it_was_computed_from(printed, tolerance, between, power, condition):
    recomputed = printed * 1000.0 ** (power + between)
    words = "it rains" if condition else ""
    alone = held(printed, recomputed, tolerance=tolerance, condition=words)
    both = held(printed, recomputed, tolerance=tolerance, condition=words, against=OTHER)
    assert alone.verdict is Verdict.OFF and alone.contradicts is None
    assert both.verdict is Verdict.CONTRADICTION and both.contradicts == "test.other"
    assert alone.off_by == both.off_by == pytest.approx(recomputed / printed)


@given(values, tolerances, st.floats(1.001, 2), st.sampled_from([-1, 1]))
def test_just_outside_the_tolerance_it_is_off(printed, tolerance, share, side):
    assert held(printed, printed * (1 + side * share * tolerance), tolerance=tolerance).verdict is Verdict.OFF


@given(values, tolerances, st.floats(1, 1e6))
def test_a_lower_bound_holds_for_all_that_is_larger(printed, tolerance, factor):
    assert held(printed, printed * factor, tolerance=tolerance, at_least=True).verdict is Verdict.HOLDS
    assert held(printed, printed * (1 - 0.9 * tolerance), tolerance=tolerance, at_least=True).verdict is Verdict.HOLDS
    short = held(printed, printed * (1 - tolerance) / 2, tolerance=tolerance, at_least=True)
    assert short.verdict is Verdict.OFF


@given(values, st.floats(0.01, 100), tolerances, tolerances)
def test_a_wider_tolerance_never_takes_a_verdict_back(printed, factor, left, right):
    narrow, wide = (held(printed, printed * factor, tolerance=t).verdict for t in sorted((left, right)))
    assert wide is Verdict.HOLDS or narrow is not Verdict.HOLDS


def test_the_tolerance_is_relative():
    assert held(100, 104.9).verdict is Verdict.HOLDS and held(100, 105.1).verdict is Verdict.OFF


def test_a_finding_carries_what_it_was_given():
    found = compare(
        CLAIM, 1.0, "So it is.", evidence=Evidence.COST_MODEL, assumes=iter(["a", "b"]), sources=iter(["c"])
    )
    assert (found.value, found.unit, found.says) == (1.0, "B", "So it is.")
    assert (found.evidence, found.assumes, found.sources) == (Evidence.COST_MODEL, ("a", "b"), ("c",))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_what_cannot_be_compared_is_refused(value):
    with pytest.raises(
        ValueError, match=r"claim test\.claim: recomputed value is .*; allowed: a finite number above 0"
    ):
        compare(CLAIM, value, "So it is.")


def test_a_claim_without_a_number_is_refused():
    with pytest.raises(ValueError, match=r"claim test\.claim\.value is None; allowed: a number"):
        compare(dataclasses.replace(CLAIM, value=None), 1.0, "So it is.")


@pytest.mark.parametrize("evidence", Evidence)
@pytest.mark.parametrize("condition", ["", "it rains"])
@pytest.mark.parametrize("translation", [False, True])
def test_a_statement_that_is_true_or_false(evidence, condition, translation):
    claim = dataclasses.replace(CLAIM, translation=translation)
    true, false = (
        decide(claim, truth, "So it is.", condition=condition, evidence=evidence, assumes=["a"])
        for truth in (True, False)
    )
    recorded = evidence is Evidence.PUBLIC_RECORD
    if condition:
        assert true.verdict is Verdict.CONDITIONAL
    else:
        assert true.verdict is (Verdict.CONFIRMED if recorded else Verdict.HOLDS)
    if translation:
        assert false.verdict is Verdict.LOST
    else:
        assert false.verdict is (Verdict.REFUTED if recorded else Verdict.OFF)
    assert true.assumes == false.assumes == (*filter(None, [condition]), "a")


def test_a_decision_keeps_its_number_and_its_unit():
    assert decide(CLAIM, True, "So.", value=3).value == 3.0
    apart = decide(CLAIM, True, "So.", value=3, unit="chips")  # not to be compared with the claim's
    assert (apart.value, apart.unit, apart.beside, apart.off_by) == (None, "B", (3.0, "chips"), None)
    assert decide(CLAIM, True, "So.").value is None and decide(CLAIM, True, "So.").unit == "B"


@pytest.mark.parametrize("kind", ["given", "derivable", "structural", "comparison", "opinion", "prediction"])
def test_what_cannot_be_checked(kind):
    found = uncheckable(dataclasses.replace(CLAIM, kind=kind), "Nobody knows.", value=2.0, unit="steps")
    opinion = kind in ("opinion", "prediction")
    assert found.verdict is (Verdict.OPINION if opinion else Verdict.NO_EVIDENCE)
    assert (found.evidence, found.value, found.unit) == (Evidence.NONE, 2.0, "steps")
