"""What the claims of the dataset take from the small model: the comparisons, on losses and loads that are given."""

import numpy as np
import pytest
from anatomy.claims import Evidence, Verdict, claims
from anatomy.claims.checks import dataset
from anatomy.claims.ledger.registry import check_of
from anatomy.train import recipes, sweeps

LOSSES = {"experts_16_0": 4.0, "experts_16_1": 4.1, "experts_16_2": 4.2, "ramp": 4.25, "batch_4": 3.9}
LOSSES |= {"epochs_2": 4.15, "epochs_4": 4.35, "epochs_16": 6.1, "target": 3.5, "context": 3.75}


@pytest.fixture
def measured(monkeypatch):
    """Losses and loads that no training is needed for; both may be changed."""
    losses, load = dict(LOSSES), np.full((5, 4, 16), 1 / 16)
    monkeypatch.setattr(sweeps, "held_out", losses.__getitem__)
    monkeypatch.setattr(sweeps, "final_load", lambda name: load)
    return losses, load


def says(key: str) -> str:
    return check_of(key)(claims()[key]).says


def test_losses_are_told_from_the_mean_of_the_seeds(measured):
    found = dataset.beyond_plain("ramp")
    assert found.value == pytest.approx(0.15) and found.error == pytest.approx(0.1)
    assert found.errors == pytest.approx(1.5)


def test_the_fullest_expert_is_that_of_all_last_steps_together(measured):
    _, load = measured
    assert dataset.fullest_load("target") == pytest.approx(1)
    load[:, 0, :2] += np.array([0.5, -0.5]) / 16  # one layer of four is uneven
    assert dataset.fullest_load("target") == pytest.approx((1.5 + 3) / 4)
    load[:] = 1 / 16
    load[0, 1, 0], load[0, 1, 1] = 2 / 16, 0  # by chance, in one step of five
    assert dataset.fullest_load("target") == pytest.approx((1.2 + 3) / 4)


def test_sizes_are_those_of_the_recipes():
    assert dataset.steps_of("ramp") == len(recipes.RECIPES["ramp"].training.batches())
    unique = len(recipes.DATA["epochs_4"]().numbers) * recipes.SMALL.context
    each = float(recipes.SMALL.architecture.parameters.total) / unique
    assert dataset.parameters_per_unique_token(4) == pytest.approx(each)
    assert dataset.parameters_per_unique_token(16) == pytest.approx(4 * each)


def test_findings_say_what_was_measured(measured):
    losses, load = measured
    assert "2, 4 and 16 epochs of fewer tokens end +0.05, +0.25 and +2.00 nats" in says("data.multi_epoch")
    assert "the ramp ended +0.15 nats a token and the 4 rows −0.20" in says("data.batch_ramp")
    assert "loses 3.75 nats a token on rows so long, where it lost 3.50" in says("data.ctx_32k")
    losses |= {"epochs_2": 4.0, "ramp": 4.0, "context": 3.25}
    assert "end −0.10, +0.25" in says("data.multi_epoch")
    assert "the ramp ended −0.10 nats" in says("data.batch_ramp")
    assert "loses 3.25 nats" in says("data.ctx_32k")
    load[:, :, :2] += np.array([0.5, -0.5]) / 16
    assert "gets 1.5 times the mean" in says("data.batch_per_expert")
    assert "sees 19% of a batch" in says("data.expert_subset")


def test_an_expert_that_saw_every_token_would_refute_the_claim(measured):
    _, load = measured
    check, claim = check_of("data.expert_subset"), claims()["data.expert_subset"]
    found = check(claim)
    assert (found.verdict, found.evidence) == (Verdict.HOLDS, Evidence.SMALL_MODEL)
    load[:] = 0
    load[:, :, :2] = 0.5  # both choices of every token fall on the same two
    assert check(claim).verdict is Verdict.OFF


def test_a_list_reads_as_a_sentence_does():
    assert [dataset.listed(words) for words in ([2], [2, 4], "abc")] == ["2", "2 and 4", "a, b and c"]
    assert [dataset.signed(number) for number in (0.125, -0.5)] == ["+0.12", "−0.50"]
