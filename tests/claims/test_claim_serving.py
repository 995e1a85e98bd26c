"""Findings on the trade-offs and the cost of serving follow from what they compute."""

import jax
import pytest
from anatomy.claims.checks import inference_cost, inference_tradeoffs
from anatomy.claims.ledger.finding import Verdict
from anatomy.claims.record import record
from anatomy.claims.record.article import get, printed
from anatomy.cost.serving.memory import memory
from anatomy.specs import Serving, architecture, chip


def test_davinci_has_all_the_sequences_that_fit():
    shape, plan, room = architecture("gpt3_175b"), Serving(tensor=8.0), float(chip("a100_sxm_80gb").memory)
    with jax.enable_x64(True):
        most = float(inference_cost.davinci().sequences)
        assert (
            float(memory(shape, plan, batch=most, context=2048.0).total)
            <= room
            < float(memory(shape, plan, batch=most + 1, context=2048.0).total)
        )


def test_a_token_costs_its_chip_seconds():
    with jax.enable_x64(True):
        made = inference_cost.davinci()
        dollars = inference_cost.chip_seconds(made) / 3600
        assert float(made.dollars_per_million(1.0)) == pytest.approx(1e6 * dollars)


def test_the_reason_holds_in_part_because_a_cluster_may_be_far_from_full(monkeypatch):
    claim = get("cost.reason")
    with jax.enable_x64(True):
        assert inference_cost.why_dearer(claim).verdict == Verdict.PARTLY
        monkeypatch.setattr(inference_cost, "FEW", inference_cost.BATCH)
        assert inference_cost.why_dearer(claim).verdict == Verdict.OFF


def test_the_price_on_a100_is_that_of_the_rent(monkeypatch):
    claim = get("cost.a100")
    with jax.enable_x64(True):
        found = inference_cost.on_a100(claim)
        assert f"${inference_cost.a100_hour():.2f} for an A100-hour" in found.assumes[0]
        monkeypatch.setattr(inference_cost, "a100_hour", lambda: 4.10)  # on demand
        dear = inference_cost.on_a100(claim)
    assert found.verdict == Verdict.CONDITIONAL and dear.verdict == Verdict.OFF
    assert dear.value / found.value == pytest.approx(4.10 / 1.36)


def test_a_batch_for_which_an_h100_has_the_memory_meets_its_price_without_fp8():
    hour, asked = printed("train.h100_price"), printed("cost.h100")
    with jax.enable_x64(True):
        batch = inference_cost.batch_for(asked, inference_cost.H100, hour, 2.0)
        assert inference_cost.per_thousand(inference_cost.H100, hour, 2.0, batch) == pytest.approx(asked)
        assert inference_cost.BATCH < batch < inference_cost.most(inference_cost.H100, 2.0)
        found = inference_cost.on_h100(get("cost.h100"))
    assert f"FP16 with {batch:,.0f}" in found.assumes[0]


def test_reads_must_dominate_for_one_user_where_arithmetic_is_next_to_nothing(monkeypatch):
    claim, box = get("inf.bs1"), inference_tradeoffs.box
    with jax.enable_x64(True):
        assert inference_tradeoffs.alone(claim).verdict == Verdict.HOLDS
        monkeypatch.setattr(inference_tradeoffs, "box", lambda _: box(4096.0))
        assert inference_tradeoffs.alone(claim).verdict == Verdict.OFF


def test_latency_of_users_is_on_record(references):
    users = record("chat_latency")
    assert users["source"] in references and all(0.01 < seconds < 1 for seconds in users["seconds"])
