"""The engine: nothing is lost, nothing leaks, every answer is that of a run alone, and it is as fast as foretold."""

import dataclasses
import functools
import json

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.queueing.simulation import Policy, simulate
from anatomy.cost.queueing.step_costs import Affine
from anatomy.cost.queueing.traffic import Requests, poisson, uniform_lengths
from anatomy.decode import (
    Clock,
    DraftModel,
    Engine,
    Journal,
    Limits,
    PlainDecoder,
    Refused,
    Request,
    ServedModel,
    SpeculativeDecoder,
    VirtualClock,
    chain,
    generate,
    make_sampling,
    measure,
    random_requests,
    recorded,
    replay,
)
from anatomy.decode.engine import crash_test
from anatomy.decode.engine import journal as journals
from anatomy.model import init
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

CONFIG = crash_test.CONFIG
ROOM, SLOTS, QUEUE = 40, 3, 4
LIMITS = Limits(room=ROOM, queue=QUEUE, page=8, pages=9)
POLICY = Policy(slots=SLOTS, chunk=4)
STATIC = Policy(slots=SLOTS, chunk=4, continuous=0, padded=1, held=1)
COST = Affine(step=0.02, sequence=0.002, prompt=0.003, reading=0.005, cached=1e-4, attended=1e-5)


@functools.cache
def decoder():
    weights = jax.tree.map(lambda a: 2 * a, init(CONFIG, jax.random.key(0)))
    return PlainDecoder(ServedModel(weights, CONFIG, "all_experts"))


def speculating():
    """With itself as its draft."""
    model = decoder().model
    return SpeculativeDecoder(model, DraftModel(model, chain(2)))


def an_engine(policy=POLICY, limits=LIMITS, **more):
    return Engine(decoder(), policy, limits, **more)


def a_request(name="one", prompt=(1, 2, 3), limit=5, **more):
    return Request(name=name, prompt=prompt, limit=limit, **more)


@functools.cache
def alone(request, limits=LIMITS, policy=POLICY):
    """The answer of an engine of the same shapes that has nothing else to do."""
    engine = an_engine(policy, limits)
    answer = engine.submit(request)
    engine.run()
    return answer.made


def many(count, seed=0, longest=ROOM // 2, **more):
    random = np.random.default_rng(seed)
    prompt, limit = random.integers(1, longest + 1, (2, count)).tolist()
    return [
        a_request(f"{i}", random.integers(16, size=prompt[i]), limit[i], temperature=i % 3 / 2, seed=i, **more)
        for i in range(count)
    ]


# Answers


def test_an_answer_is_that_of_generation():
    for request in (dataclasses.replace(r, limit=20) for r in many(4)):
        sampling = make_sampling(1, temperature=request.temperature, seed=request.seed)
        wanted = generate(
            CONFIG, decoder().model.weights, [request.prompt], request.limit, sampling, dispatch="all_experts", chunk=20
        )
        assert alone(request) == wanted.of(0)


@pytest.mark.parametrize("policy", [POLICY, STATIC, Policy(slots=SLOTS)], ids=["continuous", "static", "whole prompts"])
@pytest.mark.parametrize("limits", [LIMITS, Limits(room=ROOM, readers=2)], ids=["pages", "rows"])
def test_every_answer_is_that_of_a_run_alone(policy, limits):
    limits = dataclasses.replace(limits, queue=50)
    engine, requests = an_engine(policy, limits), many(20, end=(7,))
    answers = [engine.submit(request) for request in requests]
    engine.run()
    assert [a.tokens for a in answers] == [alone(r, limits, policy) for r in requests]
    assert {a.state for a in answers} == {"finished"}
    assert any(a.made[-1] == 7 and len(a.made) < a.request.limit for a in answers)
    assert all(7 not in a.made[:-1] for a in answers)


def test_a_sequence_ends_and_the_next_takes_its_slot_at_the_next_step():
    engine = an_engine(Policy(slots=1, chunk=4), dataclasses.replace(LIMITS, pages=5))
    one, two = engine.submit(a_request(limit=3)), engine.submit(a_request("two", limit=2))
    states = []
    while not engine.idle:
        engine.step()
        states.append((one.state, two.state, len(one.made), len(two.made)))
    assert states == [
        ("making", "waiting", 1, 0),
        ("making", "waiting", 2, 0),
        ("finished", "waiting", 3, 0),
        ("finished", "making", 3, 1),
        ("finished", "finished", 3, 2),
    ]


def test_long_prompts_are_read_in_chunks_while_others_make_tokens():
    engine = an_engine()
    short = engine.submit(a_request(limit=12))
    engine.step()
    long = engine.submit(a_request("long", [3] * 18, limit=2))
    reads = []
    while long.state != "finished":
        before = len(short.made)
        engine.step()
        reads.append((long.read, len(short.made) - before))
    assert reads == [(4, 1), (8, 1), (12, 1), (16, 1), (18, 1), (18, 1)]


def test_tokens_are_streamed_as_they_are_made_and_all_others_go_on():
    engine = an_engine()
    one, two = engine.submit(a_request(limit=6)), engine.submit(a_request("two", limit=4))
    stream = engine.stream(one)
    assert [next(stream), next(stream)] == alone(one.request)[:2]
    assert len(one.made) < 6
    assert list(stream) == alone(one.request)[2:]
    assert two.state == "finished"


def test_a_static_batch_hands_out_together_and_a_lonely_stream_does_not_wait_for_company():
    engine = an_engine(Policy(slots=SLOTS, chunk=4, continuous=0, held=1, fill=2))
    one, two = engine.submit(a_request(limit=2)), engine.submit(a_request("two", limit=9))
    late = engine.submit(a_request("late", limit=2))
    while not one.over:
        assert one.tokens == []
        engine.step()
    extra = engine.submit(a_request("extra"))
    while not two.over:
        assert (extra.state, one.tokens) == ("waiting", [])
        engine.step()
    assert one.finish == two.finish == late.released
    assert engine.step() == []  # one alone waits for a second
    assert list(engine.stream(extra)) == alone(extra.request)


@pytest.mark.parametrize("make", [decoder, speculating])
def test_nothing_is_compiled_under_load(make):
    engine, compiled = Engine(make(), POLICY, dataclasses.replace(LIMITS, queue=50)), []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        for request in many(12, seed=1, end=(3,)):
            engine.submit(request)
            engine.step()
        engine.cancel(next(iter(engine.queue)).request.name)
        engine.run()
        assert [name for name in compiled if "compile" in name or "trace" in name] == []
        jax.jit(lambda x: x + len(compiled))(1)
        assert [name for name in compiled if "compile" in name]  # that would have been seen
    finally:
        jax.monitoring.clear_event_listeners()


# What is refused, and what is taken back


@pytest.mark.parametrize(
    "request_of, says",
    [
        ({"prompt": ()}, r"Request.prompt is \(\); allowed: tokens from 0 to 15, at least one in a prompt"),
        ({"prompt": (16,)}, r"Request.prompt is \(16,\); allowed: tokens from 0 to 15"),
        ({"prompt": (1.5,)}, r"Request.prompt is \(1.5,\)"),
        ({"end": (99,)}, r"Request.end is \(99,\)"),
        ({"limit": 38}, r"Request.prompt and limit is 41; allowed: at most 40 tokens, Limits.room"),
        ({"limit": 30}, r"Request.prompt and limit is 33; allowed: at most 32 tokens, for which Limits.pages"),
        ({"name": "there"}, r"Request.name is 'there'; allowed: a name that no unfinished request has"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(request_of, says):
    engine = an_engine(limits=dataclasses.replace(LIMITS, pages=4))
    there = engine.submit(a_request("there"))
    with pytest.raises(Refused, match=says):
        engine.submit(a_request(**request_of))
    engine.run()
    assert there.state == "finished"
    engine.submit(a_request("there"))  # the name is free again


def test_a_full_queue_refuses_until_there_is_room():
    engine = an_engine()
    for number in range(QUEUE):
        engine.submit(a_request(str(number)))
    with pytest.raises(
        Refused, match=r"Engine.queue is 4; allowed: fewer than 4 waiting requests, Limits.queue; "
    ) as refused:
        engine.submit(a_request("more"))
    assert (refused.value.name, refused.value.value) == ("Engine.queue", 4)
    engine.step()
    engine.submit(a_request("more"))


@pytest.mark.parametrize(
    "make, error, says",
    [
        (lambda: a_request(name=("a", 1)), TypeError, r"Request.name is \('a', 1\); allowed: a string"),
        (lambda: a_request(prompt=None), TypeError, "Request.prompt is None; allowed: tokens in one row"),
        (lambda: a_request(prompt=5), TypeError, "Request.prompt is 5; allowed: tokens in one row"),
        (lambda: a_request(prompt=[[1, 2]]), TypeError, r"Request.prompt is \[\[1, 2\]\]"),
        (lambda: a_request(end=7), TypeError, "Request.end is 7; allowed: tokens in one row"),
        (lambda: a_request(limit=0), ValueError, "Request.limit is 0; allowed: a whole number at least 1"),
        (lambda: a_request(temperature=-1), ValueError, "Request.temperature is -1"),
        (lambda: a_request(top_p=2), ValueError, "Request.top_p is 2"),
        (lambda: a_request(seed="x"), TypeError, "Request.seed is 'x'"),
        (lambda: Limits(room=0), ValueError, "Limits.room is 0"),
        (lambda: Limits(room=8, pages=2), ValueError, "Limits.pages is 2; allowed: None, where page is None"),
        (
            lambda: an_engine(limits=Limits(room=65)),
            ValueError,
            r"Engine.limits.room is 65; allowed: .* \(64\)",
        ),
        (
            lambda: an_engine(limits=Limits(room=8, readers=4)),
            ValueError,
            "Engine.limits.readers is 4; .* slots",
        ),
        (lambda: an_engine(Policy(slots=2, chunk=1.5)), ValueError, "Engine.policy.chunk is 1.5; allowed: whole"),
        (lambda: ServedModel(decoder().model.weights, CONFIG, "by_capacity"), ValueError, "dispatch is 'by_capacity'"),
        (lambda: an_engine().cancel("nobody"), KeyError, "cancel.name is 'nobody'; allowed: the name of an unfinished"),
        (lambda: replay(an_engine(), np.zeros(2), []), ValueError, "replay.arrival has 2 times; allowed: 0"),
        (lambda: recorded([]), ValueError, "recorded.answers is empty; allowed: at least one"),
        (
            lambda: recorded([an_engine().submit(a_request())]),
            ValueError,
            r"recorded.answers has \['one'\], which are not finished",
        ),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("limits", [LIMITS, Limits(room=ROOM)], ids=["pages", "rows"])
@pytest.mark.parametrize("kind", [float, np.int64, np.float32, np.asarray])
def test_numbers_of_any_type_are_served_as_pythons_own(tmp_path, limits, kind):
    plain = a_request(limit=5, temperature=1, top_k=3, top_p=1, seed=2, end=(7,))
    settings = {name: kind(getattr(plain, name)) for name in ("limit", "temperature", "top_k", "top_p", "seed")}
    request = a_request(prompt=np.array([1, 2, 3]), end=[np.int64(7)], **settings)
    with Journal(tmp_path / "journal") as journal:
        engine = an_engine(limits=limits, journal=journal)
        answer = engine.submit(request)
        engine.run()
    assert request == plain and json.dumps(dataclasses.asdict(request)) == json.dumps(dataclasses.asdict(plain))
    assert list(journals.requests(tmp_path / "journal")) == [plain]
    assert answer.made == alone(plain, limits)


def test_who_is_cancelled_keeps_its_tokens_and_gives_its_place_to_another():
    engine = an_engine(Policy(slots=1, chunk=4))
    one, two, three = (engine.submit(a_request(name, limit=9)) for name in ("one", "two", "three"))
    for _ in range(3):
        engine.step()
    assert engine.cancel("two").state == "cancelled"
    assert engine.cancel("one").state == "cancelled"
    assert one.made == alone(a_request("one", limit=9))[:3]
    assert engine.pages_free == 9
    engine.run()
    assert (three.made, two.made) == (alone(a_request("three", limit=9)), [])
    with pytest.raises(KeyError, match="'one'"):
        engine.cancel("one")


class Traffic(RuleBasedStateMachine):
    """Requests of all sizes come and are cancelled at any moment; the model of it is three lists of names."""

    policy, limits = POLICY, LIMITS

    def __init__(self):
        super().__init__()
        self.engine = an_engine(self.policy, self.limits)
        self.answers, self.cancelled, self.number = {}, set(), 0

    @rule(
        prompt=st.lists(st.integers(0, 15), min_size=1, max_size=20),
        limit=st.integers(1, 30) | st.integers(1, 30).map(float),
        heat=st.sampled_from([0.0, 1.0]),
        end=st.sampled_from([(), (3,)]),
    )
    def submit(self, prompt, limit, heat, end):
        self.number += 1
        request = a_request(f"{self.number}", prompt, limit, temperature=heat, seed=self.number, end=end)
        full, large = len(self.engine.queue) == QUEUE, len(prompt) + limit > ROOM
        try:
            self.answers[request.name] = self.engine.submit(request)
            assert not full and not large
        except Refused:
            assert full or large

    @precondition(lambda self: any(not a.over for a in self.answers.values()))
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from([n for n, a in self.answers.items() if not a.over]))
        before = list(self.answers[name].made)
        self.engine.cancel(name)
        self.cancelled.add(name)
        assert self.answers[name].made == before

    @rule(count=st.integers(1, 12))
    def step(self, count):
        for _ in range(count):
            self.engine.step()

    @invariant()
    def nothing_is_lost_and_nothing_leaks(self):
        engine, slots = self.engine, [a for a in self.engine.slots if a]
        unfinished = [a for a in self.answers.values() if not a.over]
        inside = [*engine.queue, *(a for a in slots if not a.over)]
        assert sorted(map(id, inside)) == sorted(map(id, unfinished))
        assert len(engine.queue) <= QUEUE
        assert all(engine.slots[a.slot] is a for a in slots)
        if engine.limits.page:
            needed = sum(-(-a.request.tokens // engine.limits.page) for a in slots)
            assert engine.pages_free == engine.limits.pages - needed
        if engine.policy.continuous:
            assert not any(a.over for a in slots)

    def teardown(self):
        self.engine.run()
        assert not any(self.engine.slots)
        for name, answer in self.answers.items():
            whole = alone(answer.request, self.limits, self.policy)
            if name in self.cancelled:
                assert answer.state == "cancelled"
                assert answer.made == whole[: len(answer.made)]
            else:
                assert (answer.state, answer.tokens) == ("finished", whole)


class StaticTraffic(Traffic):
    policy, limits = STATIC, Limits(room=ROOM, queue=QUEUE, readers=2)


for _machine in (Traffic, StaticTraffic):
    _machine.TestCase.settings = settings(max_examples=20, stateful_step_count=25)
TestTraffic, TestStaticTraffic = Traffic.TestCase, StaticTraffic.TestCase


# Seeds, and what cannot be drawn


def test_requests_have_seeds_of_their_own_and_the_same_when_they_come_again():
    one, two, again = a_request("one"), a_request("two"), a_request("one")
    assert one.seed != two.seed and one.seed == again.seed
    assert a_request(seed=0).seed == 0
    engine = an_engine()
    answers = [engine.submit(dataclasses.replace(r, temperature=1.0, limit=12)) for r in (one, two)]
    engine.run()
    assert answers[0].made != answers[1].made


def test_a_request_whose_logits_are_not_finite_is_cancelled_and_told_and_the_others_go_on(tmp_path):
    model = decoder().model
    weights = dataclasses.replace(model.weights, embedding=model.weights.embedding.at[9].set(jnp.nan))
    with Journal(tmp_path / "journal") as journal:
        engine = Engine(PlainDecoder(dataclasses.replace(model, weights=weights)), POLICY, LIMITS, journal=journal)
        good, bad = (engine.submit(a_request(name, prompt)) for name, prompt in (("good", [1, 2]), ("bad", [9, 2])))
        with pytest.raises(FloatingPointError, match=r"requests \['bad'\] are not finite, and these are cancelled"):
            engine.run()
        engine.run()
        assert (good.state, bad.state, bad.made) == ("finished", "cancelled", [])
        assert engine.idle and engine.pages_free == LIMITS.pages
        assert journal.finished["bad"] is None and not journal.unfinished


# Time


@pytest.mark.parametrize(
    "policy",
    [
        Policy(slots=4, chunk=4),
        Policy(slots=4, chunk=4, continuous=0, held=1, fill=3),
        Policy(slots=2, chunk=4, fill=2),
    ],
    ids=["continuous", "static", "waits for two"],
)
def test_on_a_virtual_clock_the_engine_does_what_the_simulation_foretells(policy):
    keys = jax.random.split(jax.random.key(3), 3)
    traffic = Requests(
        arrival=poisson(keys[0], count=30, rate=5.0),
        prompt=4 * uniform_lengths(keys[1], count=30, low=1, high=3),
        output=uniform_lengths(keys[2], count=30, low=1, high=20),
    )
    engine = an_engine(policy, Limits(room=ROOM, readers=1), clock=VirtualClock(COST), kept=10_000)
    answers, refused = replay(engine, traffic.arrival, random_requests(traffic, 16))
    assert not refused
    made, foretold = recorded(answers, engine), simulate(traffic, policy, COST, width=4, trace=512)
    for name in ("arrival", "prompt", "output", *made.ROW):
        np.testing.assert_allclose(getattr(made, name), getattr(foretold, name), rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(made.slot_use(4), foretold.slot_use(4))
    assert made.steps.making.sum() == (foretold.steps.steps * foretold.steps.making).sum()
    useful = sum(span.end - span.begin for span in measure.spans(made, 4))  # a prompt that waits to be read is no use
    assert 0 < made.slot_use(4) < 1
    assert float(made.slot_use(4)) == pytest.approx(useful / (4 * float(made.span)))


def test_replay_in_real_time_keeps_arrivals_and_counts_refusals():
    engine, arrival = an_engine(), np.r_[np.zeros(QUEUE + 3), 0.2]
    requests = many(len(arrival), seed=2)
    answers, refused = replay(engine, arrival, requests)
    assert [a.request.name for a in answers] == [r.name for r in requests[:QUEUE]] + [requests[-1].name]
    assert {r.allowed for r in refused} == {
        "fewer than 4 waiting requests, Limits.queue; submit it again after some steps"
    }
    made = recorded(answers)
    assert made.arrival[-1] - made.arrival[0] == pytest.approx(0.2)
    for early, late in (("arrival", "start"), ("start", "first"), ("first", "finish"), ("finish", "released")):
        assert (getattr(made, early) <= getattr(made, late)).all()
    assert (made.gap <= made.finish - made.first + 1e-12).all()


def test_a_clock_goes_on_and_waits():
    clock = Clock()
    clock.wait(clock.now() + 0.01)
    assert clock.now() >= 0.01
    before = clock.now()
    clock.wait(0.0)
    assert before <= clock.now() < 1
    clock = VirtualClock(lambda work: 2.0)
    clock.worked(None)
    clock.wait(1.0)
    assert clock.now() == 2.0
    clock.wait(3.0)
    assert clock.now() == 3.0


# The journal


def test_what_a_journal_has_promised_is_kept_by_the_next_engine(tmp_path):
    requests, path = many(6, end=(7,)), tmp_path / "journal"
    with Journal(path) as journal:
        engine = an_engine(limits=dataclasses.replace(LIMITS, queue=9), journal=journal)
        answers = [engine.submit(request) for request in requests]
        engine.cancel("5")
        while not any(a.state == "finished" for a in answers):
            engine.step()
    with path.open("ab") as file:
        file.write(b'{"over": "0", "tok')  # cut off by a kill
    with Journal(path) as journal:
        left = [r.name for r in journal.unfinished.values()]
        assert left == [a.request.name for a in answers if not a.over]
        assert list(journal.unfinished.values()) == [a.request for a in answers if not a.over]
        engine = an_engine(journal=journal)  # a queue of 4 takes back what was promised, however much
        with pytest.raises(Refused, match=f"Request.name is '{left[0]}'"):
            engine.submit(requests[int(left[0])])
        engine.run()
    with Journal(path) as journal:
        assert not journal.unfinished
        assert journal.finished == {r.name: alone(r) for r in requests[:5]} | {"5": None}
    assert list(journals.requests(path)) == requests


def test_a_journal_that_is_open_serves_the_next_engine_as_one_that_is_opened_again(tmp_path):
    requests = many(3)
    with Journal(tmp_path / "journal") as journal:
        first = an_engine(journal=journal)
        first.submit(requests[0])
        first.run()
        for request in requests[1:]:
            first.submit(request)
        assert list(journal.unfinished.values()) == requests[1:]
        second = an_engine(journal=journal)
        second.run()
        assert not journal.unfinished
        finished = journal.finished
    with Journal(tmp_path / "journal") as journal:
        assert not journal.unfinished
        assert journal.finished == finished == {r.name: alone(r) for r in requests}


def test_an_engine_without_the_room_for_what_was_promised_says_so(tmp_path):
    with Journal(tmp_path / "journal") as journal:
        an_engine(journal=journal).submit(a_request(limit=30))
    with Journal(tmp_path / "journal") as journal:
        with pytest.raises(Refused, match=r"Request.prompt and limit is 33; allowed: at most 16"):
            an_engine(limits=Limits(room=16), journal=journal)
        assert list(journal.unfinished) == ["one"]


@pytest.mark.parametrize("line", ["{}", "[]", "none", '{"over": "x", "tokens": []}', '{"request": {"name": "x"}}'])
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path, line):
    path = tmp_path / "journal"
    path.write_text(json.dumps({"request": dataclasses.asdict(a_request())}) + "\n" + line + "\n")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"journal, line 2, is .*; allowed: a request, or the end of one before it"):
        Journal(path)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_killed_engine_loses_nothing_and_answers_the_same(tmp_path):
    crash_test.run(tmp_path / "never")
    left = crash_test.run(tmp_path / "killed", kills=[7, 30])
    assert max(left) > 0
    with Journal(tmp_path / "never") as one, Journal(tmp_path / "killed") as two:
        assert one.finished == two.finished
        assert not one.unfinished and not two.unfinished
        assert set(one.finished) == {r.name for r in crash_test.requests()}
