"""Memory of a chip that serves: against plain counting, and at the edge of what fits."""

import hypothesis.strategies as st
import pytest
from anatomy.cost.serving.memory import cache_room, held_weights, largest_batch, memory, sequence_cache
from anatomy.specs import Serving, architecture, chip
from hypothesis import given

GPT4, MQA = architecture("gpt4"), architecture("gpt4_mqa")
A100 = chip("a100_sxm_40gb").memory
ways = st.sampled_from([1.0, 2.0, 4.0, 8.0])


def test_one_chip_holds_everything():
    parts = GPT4.parameters
    assert float(held_weights(GPT4, Serving())) == pytest.approx(parts.total, rel=1e-6)


@given(ways, ways)
def test_equal_stages_and_ways_hold_the_whole_model_once(tensor, expert):
    plan = Serving(tensor=tensor, pipeline=15.0, data=expert, expert=expert)
    parts, table = GPT4.parameters, GPT4.vocabulary * GPT4.d_model
    shared = parts.attention + parts.norms + parts.router
    whole = shared + parts.experts / expert + 15 * table  # every stage is counted as if it had the table
    assert float(held_weights(GPT4, plan)) * tensor * 15 == pytest.approx(whole, rel=1e-4)


def test_a_head_stage_has_both_tables_and_the_others_none():
    table = GPT4.vocabulary * GPT4.d_model
    plan = Serving(pipeline=16.0, first_stage_share=0.0)
    layers = float(held_weights(GPT4, Serving())) - 2 * table
    assert float(held_weights(GPT4, plan)) == pytest.approx(layers / 15, rel=1e-9)
    assert float(held_weights(GPT4, plan.replace(pipeline=15.0, first_stage_share=1.0))) == pytest.approx(
        layers / 15 + table, rel=1e-9
    )
    # Two stages, of which the first has a fifth of the other's layers: 20 and 100.
    assert float(held_weights(GPT4, plan.replace(pipeline=2.0, first_stage_share=0.2))) == pytest.approx(
        layers * 100 / 120, rel=1e-9
    )
    tied = GPT4.replace(tied_embeddings=1.0, vocabulary=1e9)  # so large that the one table is most of it
    assert float(held_weights(tied, plan)) == pytest.approx(1e9 * GPT4.d_model, rel=1e-9)


def test_room_for_the_cache_is_what_weights_leave():
    plan = Serving(tensor=8.0, pipeline=16.0, first_stage_share=0.0)
    room = float(cache_room(GPT4, plan, chip_memory=A100))
    assert room == pytest.approx(A100 - 2 * float(held_weights(GPT4, plan)), rel=1e-12)
    most = float(largest_batch(GPT4, plan, chip_memory=A100, context=4096.0))
    assert most * float(sequence_cache(GPT4, plan, context=4096.0)) <= room
    assert float(cache_room(GPT4, Serving(), chip_memory=A100)) == 0


def test_fewer_sequences_than_ways_fill_whole_chips():
    plan = Serving(tensor=8.0, cache_by_sequence=1.0)
    one, eight = (float(memory(MQA, plan, batch=n, context=1000.0).cache) for n in (1.0, 8.0))
    assert one == eight == pytest.approx(MQA.cache_bytes_per_token() * 1000)
    assert float(memory(MQA, plan, batch=0.0, context=1000.0).cache) == 0


def test_gathered_weights_need_room_for_a_layer():
    dense = architecture("llama2_70b")
    plain, gathered = (
        memory(dense, Serving(tensor=8.0, gathered=g), batch=8.0, context=100.0, tokens=100.0) for g in (0.0, 1.0)
    )
    parts = dense.parameters
    layer = 2 * (parts.attention + parts.dense_mlp + parts.norms) / dense.layers
    assert float(gathered.weights - plain.weights) == pytest.approx(layer, rel=1e-9)


def test_cache_by_heads_is_copied_where_heads_are_fewer_than_ways_and_by_sequence_is_not():
    by_heads, by_sequence = (Serving(tensor=8.0, cache_by_sequence=by) for by in (0.0, 1.0))
    whole = MQA.cache_bytes_per_token() * 1000
    assert float(sequence_cache(MQA, by_heads, context=1000.0)) == pytest.approx(whole)
    assert float(sequence_cache(MQA, by_sequence, context=1000.0)) == pytest.approx(whole / 8)
    assert float(sequence_cache(GPT4, by_heads, context=1000.0)) == pytest.approx(GPT4.cache_bytes_per_token() * 125)


@given(st.sampled_from([GPT4, MQA]), st.floats(100, 40_000), st.sampled_from([1.0, 2.0]), st.booleans())
def test_the_largest_batch_fits_and_one_more_does_not(model, context, width, by):
    plan = Serving(tensor=8.0, pipeline=16.0, first_stage_share=0.0, weight_bytes=width, cache_by_sequence=float(by))
    most = float(largest_batch(model, plan, chip_memory=A100, context=context))
    if most:
        assert float(memory(model, plan, batch=most, context=context).total) <= A100 * (1 + 1e-9)
    assert float(memory(model, plan, batch=most + 1, context=context).total) > A100 * (1 - 1e-9)


def test_a_model_that_does_not_fit_serves_nobody():
    assert float(largest_batch(GPT4, Serving(), chip_memory=A100, context=1000.0)) == 0


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: memory(GPT4, Serving(), batch=-1.0, context=10.0),
            "memory.batch is -1; allowed: a number at least 0",
        ),
        (
            lambda: memory(GPT4, Serving(), batch=1.0, context=10.0, tokens=0.0),
            "memory.tokens is 0; allowed: a finite number above 0",
        ),
        (lambda: largest_batch(GPT4, Serving(), chip_memory=A100, context=0.0), "largest_batch.context is 0"),
    ],
)
def test_nonsense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
