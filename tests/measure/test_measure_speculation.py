"""Measuring of speculation: what is counted, and what becomes of what was timed; the clock itself is not tested."""

import jax
import numpy as np
import pytest
from anatomy import memo
from anatomy.decode import DraftModel, Lenient, ServedModel, chain, exact, generate, make_sampling
from anatomy.measure import answer_quality, draft_quality, serving, speculation
from anatomy.measure.speculation import Program, Target
from anatomy.model import Config, init, unstack
from anatomy.train import recipes
from hypothesis import given
from hypothesis import strategies as st

SIZES = {"layers": 2, "d_model": 8, "heads": 2, "kv_heads": 1, "head_dim": 4, "d_ff": 12}
SMALL = Config(vocabulary=32, context=16, experts=4, top_k=2, **SIZES)


def model():
    return Target(SMALL, unstack(init(SMALL, jax.random.key(0))), None)


def test_a_pass_that_touches_all_experts_reads_all_weights_but_the_embedding():
    made = model()
    assert made.bytes == sum(a.nbytes for a in jax.tree.leaves(made.weights))
    assert made.read(4) == made.bytes - made.weights.embedding.nbytes
    assert made.read(4) - made.read(3) == 2 * 3 * 8 * 12 * 4
    assert made.flop() == 2 * (made.read(2) / 4)


def test_reading_and_arithmetic_of_a_pass_add_up(monkeypatch):
    made = model()
    monkeypatch.setattr(speculation, "target", lambda name: made)
    slow, weak = speculation.Machine(1.0, 1e30), speculation.Machine(1e30, 1.0)
    assert slow.pass_of("any", 1, 1) == pytest.approx(made.read(2))  # one token reads its two experts
    assert slow.pass_of("any", 1000, 5) == pytest.approx(made.read(4))
    assert weak.pass_of("any", 3, 5) == pytest.approx(15 * made.flop())
    both = speculation.Machine(2.0, 3.0)
    parts = (speculation.Machine(2.0, 1e30), speculation.Machine(1e30, 3.0))
    assert both.pass_of("any", 7, 2) == pytest.approx(sum(part.pass_of("any", 7, 2) for part in parts))
    tokens = both.balance("any")
    assert tokens * made.flop() / 3.0 == pytest.approx(made.read(4) / 2.0)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_experts_are_counted_as_by_sets(batch, block, seed):
    chosen = np.random.default_rng(seed).integers(0, 6, (2, 6, 9, 2))
    sizes = [
        len(set(chosen[layer, row : row + batch, at : at + block].ravel().tolist()))
        for layer in range(2)
        for row in range(0, 6 // batch * batch, batch)
        for at in range(0, 9 // block * block, block)
    ]
    assert draft_quality.read_at_once(chosen, 6, batch, block) == pytest.approx(np.mean(sizes))


def test_draws_of_the_law_itself_pass_and_others_do_not():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.full(50, 0.5))
    far, by_chance, likely = draft_quality.compare_draws(rng.multinomial(100_000, p), p)
    assert far == pytest.approx(by_chance, rel=0.3) and likely > 1e-3
    far, by_chance, likely = draft_quality.compare_draws(rng.multinomial(100_000, 0.95 * p + 0.05 / 50), p)
    assert far > 2 * by_chance and likely < 1e-9


def test_draws_that_the_law_excludes_are_far_away():
    far, _, likely = draft_quality.compare_draws(np.array([500, 500, 0]), [0.5, 0.0, 0.5])
    assert far == pytest.approx(0.5) and likely < 1e-9


def test_every_measurement_names_the_models_that_it_asks_for(monkeypatch):
    """What is kept goes by the digests of these models, so none may be missing."""
    asked = {}
    for module in (draft_quality, answer_quality, speculation, serving):
        monkeypatch.setattr(module, "cached", lambda models, measure, *_: asked.setdefault(measure, set(models)) and {})
    quality = draft_quality
    for ask in (quality.recording, quality.by_draft, quality.exactness, answer_quality.scores, serving.decode_steps):
        ask.__wrapped__()
    assert asked[quality.measure_recording] == {"target", "draft"}
    assert asked[answer_quality.measure_scores] == {"target", "instructions"}
    assert len(asked) == 5 and all(models <= set(recipes.RECIPES) for models in asked.values())


def test_what_was_measured_is_kept_until_its_code_or_data_change():
    """The requests that are served decide what the clock says, and so does the recording that they follow."""
    found = memo.closure(serving.measure_serving, cut=[("anatomy.train.recipes.registry", "trained")])
    assert "measure/conversations.csv" in found.data
    assert ("anatomy.measure.serving", "random_requests") in found.code
    assert any(module.startswith("anatomy.decode.engine") for module in found.modules)
    assert "anatomy.train.loop.driver" not in found.modules


def other():
    """A model with another law than `model`; both have something to say."""
    return speculation.Target(SMALL, larger(init(SMALL, jax.random.key(1))), "all_experts")


def larger(weights):
    return unstack(jax.tree.map(lambda a: 4 * a, weights))


def test_answers_are_the_drafts_where_all_is_accepted_and_the_targets_where_the_rule_is_exact():
    """From the first token on, by chi-square of its draws."""
    prompts = [[1, 2]] * 2**13
    with jax.enable_x64(False):
        one, two = Target(SMALL, larger(model().weights), "all_experts"), other()
        draft, sampling = DraftModel(two.served, chain(2)), make_sampling(2**13, seed=range(2**13))
        laws = [draft_quality.distribution(of, np.array([[1, 2]]))[0, -1].astype(float) for of in (one, two)]
        for rule, mine, others in ((exact, *laws), (Lenient(1e-30), *laws[::-1])):
            at = answer_quality.prefilled(one, draft, prompts, most=1)
            made = answer_quality.answer(one, draft, at, rule, sampling, end=31, most=1)
            count = np.bincount([said[0] for said in made.tokens], minlength=SMALL.vocabulary)
            chances = [draft_quality.compare_draws(count, law / law.sum())[2] for law in (mine, others)]
            assert chances[0] > 1e-3 and chances[1] < 1e-9
            assert (made.accepted == made.judged) == (rule is not exact)


def test_greedy_answers_are_those_of_generation_up_to_their_ends():
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 32, n).tolist() for n in (2, 3, 5, 4, 3, 2)]
    with jax.enable_x64(False):
        one, two = Target(SMALL, larger(model().weights), "all_experts"), other()
        draft, sampling = DraftModel(two.served, chain(2)), make_sampling(len(prompts), temperature=0.0)
        free = generate(SMALL, one.weights, prompts, 6, sampling, dispatch="all_experts", chunk=8)
        end = free.of(0)[2]
        plain = generate(SMALL, one.weights, prompts, 6, sampling, [end], dispatch="all_experts", chunk=8)
        at = answer_quality.prefilled(one, draft, prompts, most=6)
        made = answer_quality.answer(one, draft, at, exact, sampling, end, most=6)
    assert made.tokens == [plain.of(row) for row in range(len(prompts))]
    assert plain.ended.any() and made.accepted < made.judged


def test_gaps_are_the_waits_and_nothing_within_a_step():
    waits = speculation.inter_token_times({"seconds": [2.0, 3.0], "count": [[3], [1]]})
    assert waits.tolist() == [2.0, 0.0, 0.0, 3.0]


def test_sequences_begin_again_where_room_ends():
    begun, seen = [], []

    def call(at, sampling):
        seen.append((at, sampling.seed.tolist()))
        return {"count": np.array([30, 50])}, at + 50

    program = Program(call, lambda: begun.append(0) or 0, batch=2, most=9)
    found = speculation.time_passes(program, passes=4)
    assert len(begun) == 2  # 128 tokens are three rounds of 50, and then no room for two of 9
    assert [at for at, _ in seen] == [0, 50, 100, 0, 50, 100]
    assert seen[0][1] == [2, 3] and seen[-1][1] == [4, 5]  # other numbers the second time
    assert len(found["seconds"]) == 4 and found["count"] == [[30, 50]] * 4


def test_gains_are_made_of_what_was_timed(monkeypatch):
    def passes(seconds, **more):
        return {"seconds": [seconds] * 3} | more

    told = {
        f"{length} tokens at {batch}": passes(
            (1 + 0.25 * length) * batch, idle=[1.25 * batch], count=[[2, 4]], accepted=[[1, 3]], judged=[[2, 4]]
        )
        for batch in speculation.BATCHES
        for length in speculation.lengths_at(batch)
    } | {f"plain {batch}": passes(0.5 * batch) for batch in speculation.BATCHES}
    monkeypatch.setattr(speculation, "all_passes", lambda: {"dense": told})
    assert speculation.acceptance_rate("dense") == pytest.approx(4 / 6)
    for length, batch in [(1, 1), (8, 16), (4, 64)]:
        made = speculation.gain("dense", length, batch)
        assert made.tokens == 3 and made.draft_cost == pytest.approx(0.5) and made.verify_cost == pytest.approx(2)
        assert made.speed_up == pytest.approx(3 * 0.5 / (1 + 0.25 * length))
        # The account closes: the formula with what was measured is what was measured.
        assert made.tokens / (length * made.draft_cost + made.verify_cost) == pytest.approx(made.speed_up)


def test_programs_step_and_draft_as_they_are_told(monkeypatch):
    made = model()
    monkeypatch.setattr(speculation, "ROOM", 16)
    monkeypatch.setattr(speculation, "first_tokens", lambda batch: np.arange(batch, dtype=np.int32))
    with jax.enable_x64(False):
        draft = DraftModel(ServedModel(made.weights, made.config, "all_experts"), chain(2))
        step, around = speculation.plain_step(made, 2), speculation.speculation_step(made, draft, 2)
        assert speculation.time_passes(step, 3)["count"] == [[1, 1]] * 3
        full, none = speculation.time_passes(around, 3), speculation.time_passes(around, 3, wanted=0)
    assert full["count"] == [[3, 3]] * 3 and full["accepted"] == [[2, 2]] * 3  # it drafts for itself
    assert none["count"] == [[1, 1]] * 3 and none["judged"] == [[0, 0]] * 3
