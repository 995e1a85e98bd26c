"""Speculation inside the engine: every answer is that of a run alone, and drafts are as good as alone."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from anatomy.cost.queueing.simulation import Policy
from anatomy.decode import (
    AdaptiveLength,
    DraftModel,
    Engine,
    Limits,
    PromptLookup,
    Request,
    ServedModel,
    SpeculativeDecoder,
    StagedDraft,
    chain,
    generate,
    wide,
)
from anatomy.decode.engine import speculation
from anatomy.model import Config, init, unstack
from support import quick

CONFIG = Config(vocabulary=16, layers=1, d_model=16, heads=2, head_dim=8, d_ff=16, experts=2, top_k=1, context=64)
SEND, ROOM, SLOTS = "all_experts", 32, 3
PAGES = Limits(room=ROOM, queue=50, page=8, pages=14)
ROWS = Limits(room=ROOM, queue=50, readers=2)
POLICY = Policy(slots=SLOTS, chunk=4)


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with (
        quick.compiled(speculation, "_make", static_argnums=0, donate_argnums=2),
        quick.compiled(speculation, "_read", donate_argnums=1),
    ):
        yield


@functools.cache
def weights_of(seed=0):
    return unstack(jax.tree.map(lambda a: 3 * a, init(CONFIG, jax.random.key(seed))))


def a_model(tree, seed=1):
    return DraftModel(ServedModel(weights_of(seed), CONFIG, SEND), tree)


DECODERS = {
    "model": {"drafter": a_model(chain(3))},
    "itself": {"drafter": a_model(chain(3), 0)},
    "tree": {"drafter": a_model(wide((2, 2)))},
    "text": {"drafter": PromptLookup(16, chain(3))},
    "staged": {"drafter": StagedDraft(ServedModel(weights_of(2), CONFIG, SEND), a_model(chain(2)), chain(3))},
    "adaptive": {"drafter": a_model(chain(4)), "adaptive": AdaptiveLength(0.1, more=0.02, memory=0.5)},
}


@functools.cache
def decoder(name):
    return SpeculativeDecoder(ServedModel(weights_of(), CONFIG, SEND), **DECODERS[name])


def many(count=9, seed=0, heat=1.0, **more):
    random = np.random.default_rng(seed)
    prompt, limit = random.integers(1, ROOM // 2 + 1, (2, count)).tolist()
    return [
        Request(
            name=f"{i}",
            prompt=random.integers(16, size=prompt[i]).tolist(),
            limit=limit[i],
            temperature=heat * (i % 3) / 2,
            seed=i,
            **more,
        )
        for i in range(count)
    ]


def served(name, requests, limits=PAGES, policy=POLICY):
    engine = Engine(decoder(name), policy, limits, kept=1000)
    answers = [engine.submit(request) for request in requests]
    engine.run()
    return answers, engine


@pytest.mark.parametrize(
    "name, limits",
    [*((name, PAGES) for name in DECODERS), ("itself", ROWS), ("tree", ROWS)],
    ids=[*DECODERS, "itself, rows", "tree, rows"],
)
def test_every_answer_is_that_of_a_run_alone(name, limits):
    requests = many(end=(7,))
    answers, engine = served(name, requests, limits)
    assert [a.made for a in answers] == [served(name, [r], limits)[0][0].made for r in requests]
    assert {a.state for a in answers} == {"finished"}
    assert all(len(a.made) == a.request.limit or a.made[-1] == 7 for a in answers)
    assert all(7 not in a.made[:-1] for a in answers)
    assert limits.page is None or engine.pages_free == PAGES.pages


@functools.cache
def plain():
    """Greedy answers of generation, which begin alike whatever the limit is."""
    made = generate(CONFIG, weights_of(), [r.prompt for r in many()], ROOM // 2, dispatch=SEND, chunk=16)
    return [made.of(row)[: request.limit] for row, request in enumerate(many())]


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_answers_are_those_of_generation(name):
    assert [answer.made for answer in served(name, many(heat=0.0))[0]] == plain()


def test_a_full_room_is_filled_by_trees_too():
    """The nodes of a tree lie behind the last place of a row, and are read there."""
    request = Request(name="full", prompt=[1, 2, 3], limit=ROOM - 3)
    plain = generate(CONFIG, weights_of(), [request.prompt], request.limit, dispatch=SEND, chunk=16, room=ROOM)
    for limits in (PAGES, ROWS):
        assert served("tree", [request], limits)[0][0].made == plain.of(0)


@pytest.mark.parametrize("limits", [PAGES, ROWS], ids=["pages", "rows"])
def test_a_draft_is_no_worse_while_others_read_their_prompts(limits):
    """A draft that is the target is accepted whole, whatever else is going on."""
    requests = [dataclasses.replace(r, limit=13) for r in many(12)]
    _, engine = served("itself", requests, limits)
    made = sum(step.making for step in engine.steps)
    assert sum(bool(step.prompt) for step in engine.steps if step.making) > 10
    assert made == 12 * 3  # rounds of four, after the token that reading gives


def test_a_cancelled_answer_leaves_no_trace():
    requests = many(6)
    engine = Engine(decoder("tree"), POLICY, PAGES)
    answers = [engine.submit(request) for request in requests]
    for _ in range(4):
        engine.step()
    engine.cancel(requests[1].name)
    engine.run()
    rest = [a for a in answers if a.state == "finished"]
    assert len(rest) >= 5
    assert all(a.made == served("tree", [a.request])[0][0].made for a in rest)
    assert engine.pages_free == PAGES.pages


@pytest.mark.parametrize(
    "more, says",
    [
        ({"drafter": PromptLookup(15)}, "SpeculativeDecoder.drafter has a vocabulary of 15; allowed: 16"),
        (
            {"drafter": a_model(wide((2,))), "adaptive": AdaptiveLength(0.1)},
            "adaptive is for chains",
        ),
    ],
)
def test_bad_input_is_refused(more, says):
    with pytest.raises(ValueError, match=says):
        SpeculativeDecoder(ServedModel(weights_of(), CONFIG), **more)
