"""The timeline of the small model's step: what stages do, and how often they wait."""

import hypothesis.strategies as st
import numpy as np
import pytest
from anatomy.claims import Evidence, finding
from anatomy.claims.article.training import ARTICLE, SEQUENCES, STAGES
from anatomy.claims.checks.parallelism.schedule import idle_ticks, timeline
from anatomy.cost.training.pipeline import bubble_fraction
from hypothesis import given, settings


@settings(max_examples=10)
@given(st.integers(1, 16), st.integers(1, 40), st.booleans())
def test_stages_wait_as_often_as_the_formula_says(stages, micro_batches, gpipe):
    assert idle_ticks(stages, micro_batches, gpipe) == pytest.approx(
        float(bubble_fraction(stages=stages, micro_batches=micro_batches))
    )


@settings(max_examples=10)
@given(st.integers(1, 8), st.integers(1, 12), st.booleans())
def test_every_stage_passes_each_micro_batch_forward_and_then_back(stages, micro_batches, gpipe):
    kinds, batches = timeline(stages, micro_batches, gpipe)
    for doing, of in zip(kinds, batches, strict=True):
        for kind in (1, 2):
            assert of[doing == kind].tolist() == list(range(micro_batches))
        first, second = (np.flatnonzero(doing == kind) for kind in (1, 2))
        assert np.all(first < second)


def test_the_chart_rests_on_the_schedule_of_the_small_model():
    found = finding("par.bubble_fig")
    assert found.evidence is Evidence.SMALL_MODEL
    assert found.value == idle_ticks(int(STAGES), round(float(ARTICLE.micro_batches(SEQUENCES))))
