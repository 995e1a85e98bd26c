"""Measurements by the clock: what they count, that they can be kept, and what slots did."""

import itertools
import json
import time

import jax
import numpy as np
import pytest
from anatomy.cost.queueing.simulation import Policy, simulate
from anatomy.cost.queueing.step_costs import Affine, Work
from anatomy.cost.queueing.traffic import Requests, poisson, uniform_lengths
from anatomy.decode import (
    Engine,
    Limits,
    PlainDecoder,
    ServedModel,
    VirtualClock,
    measure,
    random_requests,
    recorded,
    replay,
)
from anatomy.decode.engine.crash_test import CONFIG
from anatomy.model import init

SLOTS, CHUNK, COUNT = 4, 8, 24
LIMITS = Limits(room=48, queue=COUNT)
POLICIES = {
    "continuous": Policy(slots=SLOTS, chunk=CHUNK),
    "static": Policy(slots=SLOTS, chunk=CHUNK, continuous=0, held=1),
}
COST = Affine(step=0.02, sequence=0.002, prompt=0.003)
TOKENS = np.random.default_rng(0).integers(CONFIG.vocabulary, size=(SLOTS, 2 * CHUNK))
GRID = {"sequences": (0, 1, SLOTS), "contexts": (8, 32), "prompts": (0, CHUNK)}


@pytest.fixture(scope="module")
def decoder():
    return PlainDecoder(ServedModel(init(CONFIG, jax.random.key(0)), CONFIG, "all_experts"))


def traffic(rate=2.0):
    return Requests(
        arrival=np.asarray(poisson(jax.random.key(0), count=COUNT, rate=rate)),
        prompt=uniform_lengths(jax.random.key(1), count=COUNT, low=1, high=20),
        output=uniform_lengths(jax.random.key(2), count=COUNT, low=1, high=25),
    )


def test_works_take_turns_and_the_first_time_does_not_count():
    done = []

    def work(name):
        done.append(name)
        time.sleep(0.05 if len(done) <= 2 else 0.002)

    taken = measure.in_turns({name: lambda name=name: work(name) for name in "ab"}, repeats=3)
    assert "".join(done) == "ab" * 4
    assert all(0.002 <= seconds < 0.05 for seconds in taken.values())


def test_the_fastest_share_counts_where_it_is_asked_for():
    waits = iter([0.0, 0.1, 0.001, 0.1, 0.1])
    assert measure.in_turns({"a": lambda: time.sleep(next(waits))}, 4, fastest=0.25)["a"] < 0.1


@pytest.mark.parametrize("given", [{"repeats": 0}, {"repeats": 1.5}, {"repeats": 1, "fastest": 1.1}])
def test_turns_are_whole_and_shares_are_shares(given):
    with pytest.raises(ValueError, match="in_turns"):
        measure.in_turns({}, **given)


def test_decode_steps_are_measured_for_each_model_and_context():
    models = {heads: CONFIG.replace(kv_heads=heads) for heads in (1, 2)}
    models = {heads: (config, init(config, jax.random.key(0))) for heads, config in models.items()}
    made = measure.decode_seconds(models, 2, (4, 200), passes=2, repeats=2)
    assert set(made) == {1, 2}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in made.values())
    with pytest.raises(ValueError, match="contexts"):
        measure.decode_seconds(models, 2, (4, 0))


def test_step_costs_are_those_of_a_table_and_have_a_mean(decoder):
    kept = json.loads(
        json.dumps(measure.step_seconds(decoder, POLICIES["continuous"], LIMITS, TOKENS, **GRID, repeats=1))
    )
    seconds = np.array(kept["seconds"])
    assert seconds.shape == (3, 2, 2)
    assert (seconds > 0).all()
    assert seconds[0, 0, 0] == seconds[1:].min(initial=seconds[0, 0, 1])  # nothing to do costs what the least costs
    with jax.enable_x64(True):
        twice = dict(kept, seconds=(3 * seconds).tolist())
        found = float(measure.step_table(kept, twice)(Work(float(SLOTS), 0.0, 8.0 * SLOTS, 9.0 * SLOTS)))
    assert found == pytest.approx(2 * seconds[2, 0, 0], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("limits.page", {"limits": Limits(room=48, page=8)}),
        ("limits.readers", {"limits": Limits(room=48, readers=2)}),
        ("tokens", {"tokens": TOKENS[:2]}),
        ("sequences", {"sequences": (1, 2)}),
        ("contexts", {"contexts": (8, 48)}),
        ("prompts", {"prompts": (0, CHUNK + 1)}),
    ],
)
def test_bad_grids_are_refused(decoder, name, changes):
    given = {"policy": POLICIES["continuous"], "limits": LIMITS, "tokens": TOKENS} | GRID | changes
    with pytest.raises(ValueError, match=f"step_seconds.{name} is"):
        measure.step_seconds(decoder, **given)


@pytest.mark.parametrize("way", POLICIES)
def test_what_was_served_is_kept_whole(decoder, way):
    some = traffic(rate=200.0)
    made = measure.served(decoder, POLICIES[way], LIMITS, some.arrival, random_requests(some, CONFIG.vocabulary))
    answers = measure.answers_of(json.loads(json.dumps(made)))
    np.testing.assert_array_equal(answers.output, some.output)
    np.testing.assert_array_equal(answers.prompt, some.prompt)
    np.testing.assert_allclose(answers.arrival, some.arrival, atol=1e-6)
    assert (answers.arrival <= answers.start).all()
    assert (answers.start < answers.first).all()
    assert (answers.first <= answers.finish).all()
    assert answers.steps.prompt.sum() == some.prompt.sum()


def test_what_would_be_refused_is_not_served(decoder):
    some = traffic()
    with pytest.raises(ValueError, match="were refused"):
        measure.served(
            decoder,
            POLICIES["continuous"],
            Limits(room=12, queue=COUNT),
            0 * some.arrival,
            random_requests(some, CONFIG.vocabulary),
        )


@pytest.mark.parametrize("way", POLICIES)
@pytest.mark.parametrize("rate", [1.0, 50.0])
def test_spans_are_all_that_slots_did(decoder, way, rate):
    engine = Engine(decoder, POLICIES[way], LIMITS, clock=VirtualClock(COST), kept=10_000)
    some = traffic(rate)
    answers, _ = replay(engine, some.arrival, random_requests(some, CONFIG.vocabulary))
    made = recorded(answers, engine)
    found = measure.spans(made, CHUNK)
    assert sum(span.prompt for span in found) == sum(-(-int(p) // CHUNK) for p in some.prompt)
    for number in range(COUNT):
        mine = [span for span in found if span.request == number]
        assert {span.slot for span in mine} == {int(made.slot[number])}
        assert mine[0].begin >= made.start[number] - 1e-9
        assert [s for s in mine if s.prompt][-1].end == pytest.approx(made.first[number])
        end = made.released[number] if way == "continuous" else mine[-1].end
        assert mine[-1].end == pytest.approx(end)
        assert mine[-1].end <= made.released[number] + 1e-9
    for slot in range(SLOTS):
        mine = sorted((s.begin, s.end) for s in found if s.slot == slot)
        assert all(before[1] <= after[0] + 1e-9 for before, after in itertools.pairwise(mine))
    with pytest.raises(ValueError, match="steps that read"):
        measure.spans(made, CHUNK // 2)


def test_the_simulation_foretells_an_engine_whose_clock_is_its_cost(decoder):
    some = traffic(1.0)
    engine = Engine(decoder, POLICIES["continuous"], LIMITS, clock=VirtualClock(COST), kept=10_000)
    made = recorded(replay(engine, some.arrival, random_requests(some, CONFIG.vocabulary))[0], engine)
    with jax.enable_x64(True):
        told = simulate(some, POLICIES["continuous"], COST)
    assert float(made.latency.mean()) == pytest.approx(float(told.latency.mean()), rel=0.05)
