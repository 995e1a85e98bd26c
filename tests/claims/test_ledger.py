"""The ledger: all claims, their findings, and that the verdicts follow from the numbers."""

import ast
import dataclasses
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from anatomy.claims import SECTIONS, Evidence, Finding, Verdict, as_records, claims, finding, get, ledger
from anatomy.claims.checks import architecture
from anatomy.claims.ledger.finding import SMALL
from anatomy.claims.record import article, record

# In `anatomy.claims`, `ledger` is the function that shows the page; the package of that name is found by its full name.
REGISTRY = importlib.import_module("anatomy.claims.ledger.registry")
CHECKS = Path(importlib.import_module("anatomy.claims.checks").__file__).parent
CLAIMS = claims()
CHECKED = {key: REGISTRY.check_of(key) for key in CLAIMS}
KINDS = {"given", "derivable", "structural", "comparison", "opinion", "prediction"}
every_checked = pytest.mark.parametrize("key", sorted(CHECKED))


def test_the_claims_of_the_article():
    assert len(CLAIMS) == 187  # a dict: two of one id would leave fewer
    order = [list(SECTIONS).index(claim.section) for claim in CLAIMS.values()]
    assert order == sorted(order) and set(order) == set(range(len(SECTIONS)))
    assert all(key == claim.id and claim.kind in KINDS for key, claim in CLAIMS.items())
    assert len({claim.claim for claim in CLAIMS.values()}) == 187
    assert not any(claim.claim.endswith(".") for claim in CLAIMS.values())  # the pages add it


def test_numbers_of_claims_have_units_and_ranges_hold_them():
    with_numbers = [claim for claim in CLAIMS.values() if claim.value is not None]
    assert len(with_numbers) >= 75
    for claim in with_numbers:
        assert math.isfinite(claim.value) and claim.value > 0 and claim.unit, claim.id
    ranges = [claim for claim in CLAIMS.values() if claim.range]
    assert ranges
    for claim in ranges:
        low, high = claim.range
        assert low <= claim.value <= high and low < high, claim.id
    # Only the original can show that something was lost on the way.
    assert all(claim.original for claim in CLAIMS.values() if claim.translation)


def test_every_claim_is_checked():
    assert None not in CHECKED.values()
    for claim in CLAIMS.values():
        assert finding(claim.id).verdict is not Verdict.NOT_YET
        # One function for each claim, in the module or package of its section.
        module = f"anatomy.claims.checks.{claim.section.replace('-', '_')}"
        assert f"{CHECKED[claim.id].__module__}.".startswith(f"{module}.")
    assert len(set(CHECKED.values())) == len(CHECKED)


@every_checked
def test_findings_are_complete(key, references):
    claim, found = CLAIMS[key], finding(key)
    assert isinstance(found, Finding)
    assert found.says.strip() == found.says and found.says.endswith(".") and len(found.says) > 20
    assert "nan" not in found.says and "inf " not in found.says
    assert set(found.sources) <= references
    for number in (found.value, found.off_by):
        assert number is None or (type(number) is float and math.isfinite(number))
    if found.verdict is Verdict.CONDITIONAL:
        assert found.assumes
    assert all(text.strip() for text in found.assumes)
    if found.value is not None:
        assert found.unit
    if found.evidence is Evidence.SMALL_MODEL or "the small model" in found.says.lower():
        assert SMALL in found.assumes
    if found.verdict in (Verdict.CONFIRMED, Verdict.REFUTED):
        assert found.evidence is Evidence.PUBLIC_RECORD and found.sources
    if found.verdict in (Verdict.OPINION, Verdict.NO_EVIDENCE):
        assert found.evidence is Evidence.NONE
    if found.off_by is not None:
        assert found.off_by == pytest.approx(found.value / claim.value)
    assert (found.verdict is Verdict.CONTRADICTION) == (found.contradicts is not None)
    assert found.contradicts is None or found.contradicts in CLAIMS


@every_checked
def test_two_numbers_of_one_unit_are_compared(key):
    claim, found = CLAIMS[key], finding(key)
    comparable = claim.value is not None and found.value is not None and claim.unit == found.unit
    assert (found.off_by is not None) == comparable


# What the book says today. A change here is a change of a verdict, to be explained in the chapter.
EXPECTED = {
    "meta.authors": Verdict.CONFIRMED,
    "thesis.many_match": Verdict.PARTLY,
    "thesis.moat": Verdict.OPINION,
    "thesis.replicable": Verdict.OPINION,
    "thesis.tradeoffs": Verdict.OPINION,
    "arch.active_flops": Verdict.UNIT_ERROR,
    "arch.active_params": Verdict.HOLDS,
    "arch.dense_flops": Verdict.UNIT_ERROR,
    "arch.gpt3_params": Verdict.CONFIRMED,
    "arch.many_dense": Verdict.LOST,
    "arch.routing_simple": Verdict.NO_EVIDENCE,
    "arch.rumour_100T": Verdict.CONFIRMED,
    "arch.shared_attn": Verdict.CONDITIONAL,
    "arch.sum_total": Verdict.HOLDS,
    "data.batch_per_expert": Verdict.HOLDS,
    "data.instr_rows": Verdict.LOST,
    "data.tokens": Verdict.CONDITIONAL,
    "par.40GB": Verdict.LOST,
    "par.bubble": Verdict.PARTLY,
    "par.fp16_30GB": Verdict.HOLDS,
    "par.no_fsdp": Verdict.CONDITIONAL,
    "par.too_many": Verdict.OFF,
    "par.zero1": Verdict.CONTRADICTION,
    "train.allreduce": Verdict.PARTLY,
    "train.cost_63M": Verdict.CONTRADICTION,
    "train.flops": Verdict.CONDITIONAL,
    "train.h100_days": Verdict.OFF,
    "train.mfu": Verdict.CONDITIONAL,
    "train.true_higher": Verdict.CONFIRMED,
    "moe.2x_tokens": Verdict.LOST,
    "moe.64_128": Verdict.CONFIRMED,
    "moe.generalise": Verdict.PARTLY,
    "moe.idle": Verdict.HOLDS,
    "mqa.32k_no": Verdict.OFF,
    "mqa.8k_cap": Verdict.HOLDS,
    "mqa.one_head": Verdict.LOST,
    "mqa.used": Verdict.NO_EVIDENCE,
    "cb.latency": Verdict.HOLDS,
    "cb.used": Verdict.NO_EVIDENCE,
    "sd.4": Verdict.CONDITIONAL,
    "sd.lossless": Verdict.CONDITIONAL,
    "sd.small_batch": Verdict.PARTLY,
    "sd.used": Verdict.LOST,
    "meta.source": Verdict.CONFIRMED,
    "vis.150x": Verdict.CONDITIONAL,
    "vis.600_4": Verdict.CONDITIONAL,
    "vis.adds": Verdict.NO_EVIDENCE,
    "vis.compress": Verdict.CONDITIONAL,
    "vis.gpt5_gen": Verdict.REFUTED,
    "vis.io_low": Verdict.CONDITIONAL,
    "vis.least": Verdict.OPINION,
}


def test_verdicts_of_the_key_claims():
    assert {key: finding(key).verdict for key in EXPECTED} == EXPECTED
    assert finding("arch.active_flops").off_by == pytest.approx(1e-3)
    assert finding("arch.sum_total").value == 16 * 111e9 + 55e9
    assert finding("data.batch_per_expert").value == 60e6 * 2 / 16
    assert number(finding("arch.rumour_100T")) == pytest.approx(2 * 100e12 / 80e9)


@every_checked
def test_opinions_stay_opinions_unless_the_record_decides(key):
    kind, verdict = CLAIMS[key].kind, finding(key).verdict
    assert verdict is not Verdict.OPINION or kind in ("opinion", "prediction")
    assert kind != "opinion" or verdict in (Verdict.OPINION, Verdict.REFUTED, Verdict.CONFIRMED)


# Verdicts are computed: change what the article says, and they change.


def recheck(monkeypatch, key: str, **changes) -> Finding:
    """The finding if the article said something else, there and wherever else the claim is read."""
    changed = dataclasses.replace(CLAIMS[key], **changes)
    monkeypatch.setattr(article, "claims", lambda: CLAIMS | {key: changed})
    return CHECKED[key](changed)


def test_another_number_gets_another_verdict(monkeypatch):
    compared = [key for key in CHECKED if finding(key).off_by is not None]
    assert {"arch.sum_total", "data.batch_per_expert", "data.tokens"} <= set(compared)
    for key in compared:
        before = finding(key)
        same = recheck(monkeypatch, key, note="the same number")
        assert (same.verdict, same.value) == (before.verdict, before.value), key
        other = recheck(monkeypatch, key, value=2.3 * CLAIMS[key].value)
        recorded = before.evidence is Evidence.PUBLIC_RECORD or before.verdict is Verdict.CONDITIONAL
        assert other.verdict in (Verdict.OFF, Verdict.CONTRADICTION, *[Verdict.REFUTED] * recorded), key
        if before.evidence is not Evidence.PUBLIC_RECORD:
            assert recheck(monkeypatch, key, value=1000 * before.value).verdict is Verdict.UNIT_ERROR, key


def number(found):
    """What was computed, in the claim's unit or beside it."""
    return found.value if found.value is not None else found.beside[0]


@pytest.mark.parametrize(
    "key, computed_from, power",
    [
        ("arch.active_flops", "arch.active_params", 1),
        ("arch.active_params", "arch.expert_params", 0.80),  # 2 x 111 of 277, the rest is attention
        ("arch.dense_flops", "arch.total_params", 1),
        ("arch.sum_total", "arch.n_experts", 0.97),
        ("data.batch_60M", "data.tokens", 1),
        ("data.batch_per_expert", "data.batch_60M", 1),
        ("data.batch_per_expert", "arch.top_k", 1),
        ("data.tokens", "train.flops", 1),
        ("data.tokens", "arch.active_params", -1),
        ("data.multi_epoch", "data.tokens", 1),
        ("vis.io_low", "data.tokens", 1),
        ("vis.io_low", "train.flops", -1),
    ],
)
def test_findings_move_with_the_claims_they_are_computed_from(key, computed_from, power, monkeypatch):
    other = CLAIMS[computed_from]
    changed = dataclasses.replace(other, value=1.01 * other.value)
    monkeypatch.setattr(article, "claims", lambda: CLAIMS | {computed_from: changed})
    moved = number(CHECKED[key](CLAIMS[key])) / number(finding(key))
    assert moved == pytest.approx(1.01**power, abs=5e-4)


@pytest.mark.parametrize(
    "key, changes, verdict",
    [
        ("arch.gpt3_params", {"value": 2e11}, Verdict.REFUTED),
        ("arch.layers", {"value": 121}, Verdict.OFF),
        ("arch.many_dense", {"value": 1e11}, Verdict.HOLDS),  # there are dense models that large
        ("data.ctx_8k", {"value": 4096}, Verdict.REFUTED),
        ("data.ctx_32k", {"value": 131_072}, Verdict.OFF),
        ("data.batch_60M", {"value": 1000}, Verdict.OFF),  # as tokens or as sequences, it makes no sense
    ],
)
def test_other_numbers_get_another_verdict(key, changes, verdict, monkeypatch):
    assert finding(key).verdict is not verdict
    assert recheck(monkeypatch, key, **changes).verdict is verdict


def test_records_are_computed_with_too(monkeypatch):
    # The verdict on the rumour rests on the denial, not on a constant.
    monkeypatch.setattr(architecture, "record", lambda key: record(key) | {"denied": False})
    assert CHECKED["arch.rumour_100T"](CLAIMS["arch.rumour_100T"]).verdict is Verdict.REFUTED


# The registry.


def test_an_unknown_claim_names_the_nearest():
    with pytest.raises(KeyError, match=r"claim 'arch\.total_param'; nearest: arch\.total_params"):
        get("arch.total_param")
    with pytest.raises(KeyError, match="claim 'ZZZ'; nearest: see the ledger"):
        finding("ZZZ")


def test_checks_register_once_and_for_known_claims_only(monkeypatch):
    before = dict(CHECKED)
    monkeypatch.setattr(REGISTRY, "_CHECKS", dict(CHECKED))  # whatever happens here is forgotten

    def mine(claim):
        raise AssertionError("never called")

    with pytest.raises(KeyError, match=r"nearest: .*arch\.sum_total"):
        REGISTRY.check("arch.sum_totals")
    with pytest.raises(ValueError, match=r"claim 'arch\.sum_total' is checked by sum_total and mine"):
        REGISTRY.check("arch.sum_total")(mine)
    assert dict(REGISTRY._CHECKS) == before
    del REGISTRY._CHECKS["arch.sum_total"]
    assert REGISTRY.check("arch.sum_total")(mine) is mine
    assert dict(REGISTRY._CHECKS) == {**before, "arch.sum_total": mine}


def test_a_claim_without_a_check_is_not_checked_yet(monkeypatch):
    monkeypatch.setattr(REGISTRY, "check_of", lambda key: None)
    found = REGISTRY.finding.__wrapped__("arch.sum_total")  # what is kept was found with the check
    assert (found.verdict, found.evidence, found.value) == (Verdict.NOT_YET, Evidence.NOT_YET, None)


def test_the_public_record_has_sources_and_says_what_it_holds(references):
    for key in ("article", "moat_memo", "hassabis", "rumour_100T", "technical_report", "rival_rumour"):
        entry = record(key)
        assert {entry["source"], *entry.get("sources", {}).values()} <= references
    with pytest.raises(KeyError, match="record 'nothing'; allowed: article, moat_memo,"):
        record("nothing")


def test_one_claim_is_settled_by_the_checks_of_its_section_alone():
    code = (
        "import sys; from anatomy.claims import finding; finding('arch.sum_total'); "
        "print(*(name for name in sys.modules if name.startswith('anatomy.claims.checks.') or '.train' in name))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["anatomy.claims.checks.architecture"], done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(CHECKS.rglob("*.py")), ids=lambda path: str(path.relative_to(CHECKS)))
def test_no_section_imports_another(path):
    section = path.relative_to(CHECKS).parts[0].removesuffix(".py")
    own = f"anatomy.claims.checks.{section}"
    names = {
        node.module
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("anatomy.claims.checks")
    }
    assert all(f"{name}.".startswith(f"{own}.") for name in names), names


# Plain data.

FIELDS = {"id", "section", "claim", "verdict", "value", "unit", "article_value", "assumes", "evidence", "chapter"}


def test_records_are_plain_data():
    records = as_records(version="1.2.3")
    assert [row["id"] for row in records] == list(CLAIMS)
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    for row in records:
        claim, found = CLAIMS[row["id"]], finding(row["id"])
        assert set(row) >= FIELDS
        assert (row["claim"], row["section"]) == (claim.claim, claim.section)
        assert (row["article_value"], row["value"]) == (claim.value, found.value)
        assert (row["verdict"], row["evidence"]) == (found.verdict.value, found.evidence.value)
        assert row["assumes"] == list(found.assumes)
        assert row["address"] == f"claims.html#{claim.id}"
        assert row["chapter"] == ("index" if claim.section == "intro" else claim.section)
        assert row["version"] == "1.2.3"


def test_records_of_some_claims():
    assert [row["id"] for row in as_records(["data.tokens", "arch.layers"])] == ["data.tokens", "arch.layers"]
    assert as_records([]) == []
    with pytest.raises(KeyError, match="nearest"):
        as_records(["data.token"])


def test_the_package_shows_the_page_and_keeps_the_module():
    assert callable(ledger) and importlib.import_module("anatomy.claims.ledger.show").ledger is ledger
