"""What the claims on experts take from the small model: gains, slopes and loads of losses that are given."""

from math import log

import numpy as np
import pytest
from anatomy.claims import Verdict, claims
from anatomy.claims.checks.moe_tradeoffs import losses, serving
from anatomy.claims.ledger.finding import SMALL
from anatomy.claims.ledger.registry import check_of
from anatomy.train import recipes, sweeps
from anatomy.train.sweeps import Mean

JITTER = (-0.01, 0.0, 0.01)  # of the seeds


def says(key: str) -> str:
    return check_of(key)(claims()[key]).says


@pytest.fixture
def measured(monkeypatch):
    """Losses and loads that no training is needed for; slopes for four times the experts may be changed."""
    slopes = {"experts": -0.04, "tuned": 0.02, "rows": -0.1}

    def loss(kind, name):
        _, experts, seed = name.split("_")
        return 4.0 + slopes[kind] * log(int(experts), 4) + JITTER[int(seed)]

    def held_out(name):
        value = loss(name.split("_")[0], name)
        return {"prose": value + 0.2, "code": value - 0.2}

    def load(name):
        experts = int(name.split("_")[1])
        uneven = np.full(experts, 1 / experts)
        uneven[0] *= 1.25
        uneven[1:] *= (1 - uneven[0]) / uneven[1:].sum()
        return np.broadcast_to(uneven, (3, 2, experts))

    monkeypatch.setattr(recipes, "held_out", held_out)
    monkeypatch.setattr(sweeps, "on_tuning_rows", lambda name: loss("rows" if "tuned" in name else "experts", name))
    monkeypatch.setattr(sweeps, "final_load", load)
    monkeypatch.setattr(sweeps, "final_dropped", lambda name: int(name.split("_")[1]) / 1000)
    return slopes


def test_gains_are_shares_of_the_loss_of_fewer(measured):
    found = losses.small_gain(16, 1)
    assert found.value == pytest.approx(0.08 / 4)
    assert found.error == pytest.approx(np.hypot(0.01, 0.01) / 3**0.5 / 4)
    assert losses.small_gain(1, 16).value == pytest.approx(-0.08 / 3.92)


@pytest.mark.parametrize("slope", [-0.04, 0.0, 0.3])
def test_slopes_are_those_of_four_times_the_experts(measured, slope):
    measured["experts"] = slope
    found = losses.small_slope(losses.last_loss)
    assert found.value == pytest.approx(slope) and 0 < found.error < 0.01


def test_the_gap_is_what_tuning_opened(measured):
    # Held-out code after tuning less the tuning rows, less the same before; the seeds' jitter cancels.
    assert sweeps.gap_opened(64, 2) == pytest.approx(3 * (0.02 + 0.1))
    assert losses.small_slope(sweeps.gap_opened).value == pytest.approx(0.12)
    assert "widen the gap to unseen code by 0.120 ± 0.000 nats" in says("moe.generalise")
    assert "the loss on unseen code itself by 0.020 ± 0.002" in says("moe.generalise")


def test_claims_follow_what_was_measured(measured):
    assert "16 experts save 2.0% ± 0.2% of a dense model's loss" in says("moe.64_128")
    assert "save 2.0% ± 0.2% of its loss after the same tokens" in says("moe.info_per_token")
    measured["experts"] = 0.04
    assert "16 experts save −2.0% ± 0.2% of a dense model's loss" in says("moe.64_128")
    assert "change the loss by 0.040 ± 0.002 nats" in says("moe.converge")
    assert "1.6% and 6.4% of choices are dropped with 16 and 64 experts" in says("moe.converge")
    # The fullest has 1.25 times its share, so the average waits a fifth of the time.
    assert "it waits 20% in batches of 2,048 tokens" in says("moe.idle")
    assert "80.0% and 80.0% are kept with 16 and 64 experts" in says("moe.util_drop")


def test_what_a_small_model_says_does_not_turn_the_public_record(measured):
    verdicts = {key: check_of(key)(claims()[key]).verdict for key in ("moe.64_128", "moe.generalise")}
    measured["experts"], measured["tuned"] = 0.04, -0.2
    assert verdicts == {key: check_of(key)(claims()[key]).verdict for key in verdicts}
    assert verdicts["moe.64_128"] is Verdict.CONFIRMED
    for key in verdicts:
        assert SMALL in check_of(key)(claims()[key]).assumes


@pytest.mark.parametrize("experts", [4, 16, 64])
def test_what_is_kept_by_chance_is_what_is_counted(experts):
    rng = np.random.default_rng(experts)
    chosen = np.argpartition(rng.random((60, 512, experts)), -2)[..., -2:]
    fullest = np.mean([np.bincount(batch.ravel(), minlength=experts).max() for batch in chosen])
    assert serving.kept_by_chance(512, experts, 2) == pytest.approx(512 * 2 / experts / fullest, rel=0.03)


def test_errors_are_printed_with_a_minus():
    assert losses.plus_minus(Mean(-0.0123, 0.004), ".3f") == "−0.012 ± 0.004"
    assert losses.plus_minus(Mean(0.013, 0.002), ".1%") == "1.3% ± 0.2%"


@pytest.mark.slow
def test_the_small_model_supports_what_the_chapter_says():
    """Statements of the page that no noise may turn."""
    assert losses.small_gain(16, 1).errors > 2
    assert losses.small_slope(sweeps.gap_opened).errors > 3
    assert all(trained < chance for trained, chance in map(serving.small_kept, (16, 64)))
    assert sweeps.final_dropped("unbalanced") > 5 * sweeps.final_dropped("experts_16_0")
    few, many = (sweeps.effective_experts(sweeps.final_load(name)).mean() for name in ("unbalanced", "experts_16_0"))
    assert few < 0.75 * many
    assert sweeps.held_out("router_hash") < min(sweeps.by_seed("experts_16", sweeps.held_out))
