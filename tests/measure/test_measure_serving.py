"""What the engine is measured on: the traffic, its recording, and that all of it is served and predicted."""

import dataclasses
import json
from importlib.resources import files

import jax
import numpy as np
import pytest
from anatomy.cost.queueing.answers import Steps
from anatomy.cost.queueing.step_costs import Table
from anatomy.decode import PlainDecoder, ServedModel
from anatomy.measure import serving
from anatomy.model import Config, init
from anatomy.train.data.sources import LENGTH, VOCABULARY

FEW = 10


def small_decoder(config):
    return PlainDecoder(ServedModel(init(config, jax.random.key(0)), config, "all_experts"))


def test_a_recording_names_its_source_and_its_licence():
    head = (files("anatomy.measure") / "conversations.csv").read_text("utf-8").split("second,")[0]
    assert "CC BY" in head
    assert "AzurePublicDataset" in head
    assert all(line.startswith("#") for line in head.strip().splitlines())


def test_the_recording_comes_at_the_rate_that_is_asked_for_and_keeps_its_rhythm():
    slow, fast = serving.recorded_requests(1.0), serving.recorded_requests(4.0)
    assert len(slow.arrival) == serving.COUNT
    assert serving.COUNT / slow.arrival[-1] == pytest.approx(1.0)
    np.testing.assert_allclose(slow.arrival, 4 * fast.arrival)
    assert (np.diff(slow.arrival) >= 0).all()
    # As the trace has them: its first conversation had 374 tokens of prompt and 44 of answer, 4.3 s before the second.
    assert (slow.prompt[0], slow.output[0]) == (10, 11)
    assert slow.arrival[1] / slow.arrival[-1] == pytest.approx(4.3145 / 42.692, rel=1e-3)


def test_every_traffic_fits_the_engine():
    for name, requests in serving.traffics(3.0).items():
        asked = serving.with_prompts(requests)
        assert len(asked) == serving.COUNT, name
        assert [len(r.prompt) for r in asked] == np.asarray(requests.prompt).tolist()
        assert max(r.tokens for r in asked) <= serving.LIMITS.room <= LENGTH
        assert min(r.limit for r in asked) >= 1
    assert not serving.traffics(3.0)["all at once"].arrival.any()


def test_steps_that_take_twice_as_long_as_the_table_says_are_found_to():
    table = Table(
        *(np.array(axis, float) for axis in ((0, 16), (32, 192), (0, 64))), np.linspace(0.01, 0.05, 8).reshape(2, 2, 2)
    )
    some = serving.random_requests(np.zeros(serving.COUNT))
    with jax.enable_x64(True):
        made = serving.predict(some, Table(*table.axes, 2 * table.seconds), "static")
        # The simulation takes equal steps together, and an engine does not.
        count = np.asarray(made.steps.steps).astype(int)
        each = Steps(
            *(
                np.repeat(np.asarray(a) / (np.maximum(count, 1) if n == "seconds" else 1), count)
                for n, a in zip(Steps._fields, made.steps, strict=True)
            )
        )
        assert serving.slowdown(dataclasses.replace(made, steps=each), table) == pytest.approx(2.0, rel=0.1)


@pytest.fixture
def small(monkeypatch):
    """A model of one narrow layer and a few requests in place of what the book measures."""
    config = Config(
        vocabulary=VOCABULARY, layers=1, d_model=8, heads=2, kv_heads=1, head_dim=4, d_ff=8, experts=2, context=LENGTH
    )
    asked = []

    def cached(models, measure):
        asked.append((models, measure))
        return json.loads(json.dumps(measure()))

    monkeypatch.setattr(serving, "cached", cached)
    monkeypatch.setattr(serving, "COUNT", FEW)
    monkeypatch.setattr(
        serving, "GRID", {"sequences": (0, 1, serving.SLOTS), "contexts": (32, 192), "prompts": (0, 64)}
    )
    monkeypatch.setattr(serving, "decoder", lambda: small_decoder(config))
    serving.results.cache_clear()
    yield asked
    serving.results.cache_clear()


@pytest.mark.slow
def test_what_is_measured_is_what_is_predicted(small):
    found = serving.results()
    assert set(found) == {"all at once", "by chance", "as recorded"}
    for name, each in found.items():
        for way in serving.POLICIES:
            clock, predicted, again = each.measured[way], each.predicted[way], each.corrected[way]
            assert each.slowdown[way] > 0
            if name == "all at once":  # nobody comes while time passes, so all of it is longer
                speed = float(predicted.requests_per_second / again.requests_per_second)
                assert speed == pytest.approx(each.slowdown[way], rel=1e-6)
            np.testing.assert_array_equal(clock.output, predicted.output)
            np.testing.assert_allclose(clock.arrival, predicted.arrival, atol=1e-6)
            assert np.isfinite(predicted.finish).all()
            assert (clock.finish > clock.arrival).all(), name
            assert float(clock.steps.prompt.sum()) == np.asarray(each.requests.prompt).sum()
    # A static batch takes as many steps as its longest answer, and no clock is needed to see it.
    steps = {way: len(made.steps.start) for way, made in found["all at once"].measured.items()}
    assert steps["continuous"] <= steps["static"]
    (models, measure), *_ = small
    assert list(models) == ["target"] and measure is serving.measure_serving
