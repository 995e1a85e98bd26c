"""Blocks that the target verifies: experts that are really active, and speculation steps beside plain steps."""

import dataclasses

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from anatomy.cost.efficiency import overheads
from anatomy.cost.routing.expert_load import active_experts
from anatomy.cost.serving.steps import decode
from anatomy.cost.speculation.step import active_experts_of_blocks, speculate
from anatomy.specs import Serving, architecture, catalogue
from hypothesis import given, settings

GPT4, GPT3, DRAFT = architecture("gpt4_mqa"), architecture("gpt3_175b"), architecture("gpt2_xl")
CLUSTER = catalogue.cluster("a100_sxm_40gb", 16.0)
AMPERE = overheads("a100_sxm_80gb")
ONE = Serving(tensor=8.0)
SERIAL = Serving(tensor=8.0, pipeline=16.0, first_stage_share=0.0, cache_by_sequence=1.0)
PIPED = SERIAL.replace(micro_batches=16.0)


def step_of(model=GPT4, plan=SERIAL, batch=16.0, length=4.0, acceptance_rate=0.7, **more):
    return speculate(
        model,
        DRAFT,
        plan,
        ONE,
        CLUSTER,
        AMPERE,
        batch=batch,
        context=2048.0,
        draft_length=length,
        acceptance_rate=acceptance_rate,
        **more,
    )


# Experts.


@pytest.mark.parametrize("blocks, block, experts, top_k", [(1, 5, 16, 2), (8, 5, 16, 2), (4, 3, 64, 2), (2, 8, 8, 1)])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_experts_that_blocks_activate(blocks, block, experts, top_k, correlation):
    rng, trials = np.random.default_rng(0), 4000

    def chosen(*shape):
        return rng.random((*shape, experts)).argsort(-1).argsort(-1) < top_k

    follow = rng.random((trials, blocks, block, 1)) < correlation**0.5
    went = np.where(follow, chosen(trials, blocks, 1), chosen(trials, blocks, block))
    pair = np.corrcoef(went[:, 0, 0].ravel(), went[:, 0, 1].ravel())[0, 1]
    assert pair == pytest.approx(correlation, abs=0.03)
    active = went.any((1, 2)).sum(1)
    expected = float(
        active_experts_of_blocks(
            blocks=blocks, block_tokens=block, experts=experts, top_k=top_k, correlation=correlation
        )
    )
    assert active.mean() == pytest.approx(expected, abs=5 * active.std() / trials**0.5 + 1e-9)


@given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 128), st.floats(0, 1), st.data())
def test_limits_of_active_experts(blocks, block, experts, correlation, data):
    top_k = data.draw(st.integers(1, experts))
    active = float(
        active_experts_of_blocks(
            blocks=blocks, block_tokens=block, experts=experts, top_k=top_k, correlation=correlation
        )
    )
    apart, together = (float(active_experts(tokens=n, experts=experts, top_k=top_k)) for n in (blocks * block, blocks))
    assert float(
        active_experts_of_blocks(blocks=blocks, block_tokens=block, experts=experts, top_k=top_k)
    ) == pytest.approx(apart)
    assert float(
        active_experts_of_blocks(blocks=blocks, block_tokens=block, experts=experts, top_k=top_k, correlation=1.0)
    ) == pytest.approx(together)
    assert together * (1 - 1e-9) <= active <= apart * (1 + 1e-9)


SMALL = {"blocks": 8, "block_tokens": 4, "experts": 16, "top_k": 2}


@pytest.mark.parametrize(
    "numbers, message",
    [
        (SMALL | {"experts": 2, "top_k": 16}, r"active_experts_of_blocks.top_k is 16; allowed: at most experts \(2\)"),
        (SMALL | {"blocks": -1}, "active_experts_of_blocks.blocks is -1"),
        (SMALL | {"block_tokens": -4.0}, "active_experts_of_blocks.block_tokens is -4"),
        (SMALL | {"correlation": 1.5}, "active_experts_of_blocks.correlation is 1.5"),
    ],
)
def test_blocks_that_cannot_be(numbers, message):
    with pytest.raises(ValueError, match=message):
        active_experts_of_blocks(**numbers)


# Speculation steps.


def test_without_a_draft_a_speculation_step_is_a_step():
    for plan in (SERIAL, PIPED):
        made = step_of(plan=plan, length=0.0)
        assert float(made.seconds) == pytest.approx(float(made.plain)) and float(made.speed_up) == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(st.floats(16, 4096), st.floats(0, 12), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_parts_add_up_and_bounds_hold(sequences, length, rate, correlation, piped):
    made = step_of(
        plan=PIPED if piped else SERIAL, batch=sequences, length=length, acceptance_rate=rate, correlation=correlation
    )
    parts = [float(x) for x in (made.draft, made.verify, made.waiting)]
    assert min(parts) >= 0 and sum(parts) == pytest.approx(float(made.seconds))
    assert float(made.speed_up) <= length + 1 + 1e-9
    assert float(made.verify_cost) >= 1 - 1e-9 or piped  # what drafts elsewhere hides in the pipeline


def test_one_user_of_a_mixture_gains_little_and_of_a_dense_model_much():
    dense = step_of(GPT3, ONE, 1.0)
    routed, crowd = step_of(batch=1.0), step_of(batch=32.0)
    assert float(dense.verify_cost) < 1.1 and float(dense.speed_up) > 1.8
    assert float(routed.verify_cost) > 2 and float(routed.speed_up) < 1.05
    assert float(crowd.verify_cost) < 1.2 and float(crowd.speed_up) > 2
    assert float(step_of(batch=1.0, correlation=0.5).speed_up) > float(routed.speed_up)


def test_a_batch_that_is_bound_by_arithmetic_loses():
    assert float(step_of(batch=4096.0).speed_up) < 1
    wide = step_of(batch=4096.0, acceptance_rate=1.0)
    assert float(wide.verify_cost) > 4


def test_a_round_is_made_of_decode_steps():
    made = step_of(batch=8.0, length=3.0, correlation=0.2)
    active = active_experts_of_blocks(blocks=8.0, block_tokens=4.0, experts=16.0, top_k=2.0, correlation=0.2)
    read = decode(GPT4, SERIAL, CLUSTER, AMPERE, batch=8.0, context=2048.0, tokens=4.0, active_experts=active)
    step = decode(DRAFT, ONE, CLUSTER, AMPERE, batch=8.0, context=2048.0)
    assert float(made.verify) == pytest.approx(float(read.seconds), rel=1e-12)
    assert float(made.draft) == pytest.approx(3 * float(step.seconds), rel=1e-12)


def test_in_a_pipeline_the_draft_is_one_stage_more():
    made = step_of(plan=PIPED, batch=256.0)
    # Sixteen micro-batches keep fifteen stages busy; the draft has its turn while they wait for the slowest.
    stage = float(made.seconds) / 16
    assert float(made.draft) < stage and float(made.waiting) >= 0
    slow = speculate(
        GPT4, GPT3, PIPED, ONE, CLUSTER, AMPERE, batch=256.0, context=2048.0, draft_length=4.0, acceptance_rate=0.7
    )
    assert float(slow.seconds) == pytest.approx(16 * float(slow.draft))  # a slow draft sets the pace


def test_sequences_fewer_than_micro_batches_are_one_each():
    for few in (1.0, 5.0):
        found, expected = (step_of(plan=PIPED.replace(micro_batches=m), batch=few) for m in (16.0, few))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert float(one) == pytest.approx(float(other), rel=1e-12)


def test_tokens_may_be_given():
    assert float(step_of(tokens=2.0).tokens) == 2.0


def test_plain_jit_vmap_and_gradients():
    lengths = np.arange(1.0, 6.0)
    many = jax.jit(jax.vmap(lambda g: step_of(length=g).speed_up))(lengths)
    np.testing.assert_allclose(many, [float(step_of(length=g).speed_up) for g in lengths], rtol=1e-9)
    slope = jax.grad(lambda a: step_of(acceptance_rate=a).speed_up)(0.7)
    assert float(slope) > 0
    chip = CLUSTER.node.chip
    faster = dataclasses.replace(chip, memory_bandwidth=2 * chip.memory_bandwidth)
    there = dataclasses.replace(CLUSTER, node=dataclasses.replace(CLUSTER.node, chip=faster))
    gain = speculate(
        GPT4, DRAFT, SERIAL, ONE, there, AMPERE, batch=64.0, context=2048.0, draft_length=4.0, acceptance_rate=0.7
    ).speed_up
    assert float(gain) != pytest.approx(float(step_of(batch=64.0).speed_up), rel=1e-3)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"length": -1.0}, r"speculate.draft_length is -1"),
        ({"acceptance_rate": 1.5}, r"speculate.acceptance_rate is 1.5"),
        ({"correlation": -0.5}, r"speculate.correlation is -0.5"),
        ({"batch": 0.0}, r"speculate.batch is 0; allowed: a number at least 1"),
    ],
)
def test_bad_input(wrong, message):
    with pytest.raises(ValueError, match=message):
        step_of(**wrong)
