"""Claims on speculative decoding: verdicts follow from the numbers, and change with what the article says."""

import dataclasses

import jax
import numpy as np
import pytest
from anatomy.claims import Verdict, finding, get
from anatomy.claims.checks.speculative_decoding.draft import dense, lengths, routed
from anatomy.claims.checks.speculative_decoding.gain import BATCHES, USUAL, best_gains
from anatomy.claims.checks.speculative_decoding.mechanism import pairs
from anatomy.claims.ledger.registry import check_of


def recheck(key, **changes):
    with jax.enable_x64(True):
        return check_of(key)(dataclasses.replace(get(key), **changes))


def declared(key, **terms):
    """The finding if the verdict turned on something else."""
    verdict = get(key).verdict
    return recheck(key, verdict=dataclasses.replace(verdict, terms={**verdict.terms, **terms}))


def test_what_the_retelling_lost_would_be_found():
    assert finding("sd.used").verdict is Verdict.LOST
    assert declared("sd.used", credit="people called reliable").verdict is Verdict.CONFIRMED


def test_the_study_is_ascribed_to_whom_it_is_by():
    assert finding("sd.source").verdict is Verdict.PARTLY
    right = declared("sd.source", affiliation="Stanford")
    other = declared("sd.source", title="Speculative Sampling")
    assert (right.verdict, other.verdict) == (Verdict.CONFIRMED, Verdict.REFUTED)


def test_four_tokens_are_the_best_at_a_batch_that_is_named():
    assert finding("sd.4").verdict is Verdict.CONDITIONAL and f"{USUAL:,.0f}" in finding("sd.4").assumes[0]
    assert recheck("sd.4", value=8.0).verdict is Verdict.OFF


def test_one_user_gains_with_a_dense_model_and_many_with_a_mixture():
    with jax.enable_x64(True):
        gains = best_gains((BATCHES[0], 32.0, BATCHES[-1]))
        alone = lengths(lambda g: dense(1.0, g))
    assert finding("sd.small_batch").verdict is Verdict.PARTLY
    assert gains[0] < get("sd.small_batch").verdict["least_gain"] < gains[1] and gains[2] == pytest.approx(1)
    assert alone.max() > 2 and alone[0] == pytest.approx(1)


def test_one_speculation_step_of_the_article_cluster_is_what_the_boxes_say():
    with jax.enable_x64(True):
        one, crowd = routed(1.0, 4.0), routed(32.0, 4.0)
    assert f"costs GPT-4 as much as {float(one.verify_cost):.1f} steps" in finding("sd.saves").says
    assert f"{float(crowd.speed_up):.2f} times as fast" in finding("sd.saves").says


def test_the_pairs_are_distributions():
    p, q = pairs()
    np.testing.assert_allclose([p.sum(-1), q.sum(-1)], 1)
    assert np.abs(p - q).sum(-1).min() > 0.1  # or the exact rule would be easy


@pytest.mark.parametrize("key", ["sd.conspiracy", "sd.bard"])
def test_guesses_stay_opinions(key):
    assert finding(key).verdict is Verdict.OPINION
