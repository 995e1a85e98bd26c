"""Memory against the published formulas and figures."""

import dataclasses

import hypothesis.strategies as st
import pytest
from anatomy import specs
from anatomy.cost.training.memory import activation_bytes, held_parameters, memory, parameters_per_chip
from anatomy.specs import Architecture, Attention, Plan, Recompute
from hypothesis import given

widths = st.integers(1, 16).map(lambda n: 64.0 * 8 * n)


def plain(h: float, layers: float = 8.0, heads: float = 8.0, vocabulary: float = 0.0) -> Architecture:
    """The architecture of the formulas: multi-head, two matrices, 4h wide."""
    attention = Attention(heads=heads, kv_heads=heads, head_dim=h / heads)
    return Architecture(layers=layers, d_model=h, attention=attention, d_ff=4 * h, vocabulary=vocabulary, context=2048)


@given(
    widths, st.sampled_from([1.0, 2.0, 4.0, 8.0]), st.booleans(), st.sampled_from([512.0, 2048.0]), st.integers(1, 4)
)
def test_activations_are_those_of_korthikanti(h, t, sequence_parallel, s, b):
    # korthikanti2023reducing, equations 1, 2 and 4.
    a = 8.0
    layer, scores = activation_bytes(
        plain(h, heads=a), Plan(tensor=t, micro_batch=b, sequence_parallel=sequence_parallel), sequence_length=s
    )
    expected = s * b * h * (34 / t if sequence_parallel else 10 + 24 / t)
    assert float(layer) == pytest.approx(expected)
    assert float(scores) == pytest.approx(5 * a * s * s * b / t)


@given(widths, st.sampled_from([1.0, 2.0, 8.0]))
def test_recompute_keeps_what_it_should(h, t):
    model, s = plain(h, layers=4.0), 2048.0

    def kept(level: Recompute) -> float:
        return float(memory(model, Plan(tensor=t, recompute=level), batch=1.0, sequence_length=s).activations)

    assert kept(Recompute.FULL) == pytest.approx(4 * 2 * s * h)
    assert kept(Recompute.SELECTIVE) == pytest.approx(4 * s * h * (10 + 24 / t))
    assert kept(Recompute.FULL) <= kept(Recompute.SELECTIVE) <= kept(Recompute.NONE)


@pytest.mark.parametrize("stage, gigabytes", [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_states_are_those_of_the_zero_paper(stage, gigabytes):
    # rajbhandari2020zero, figure 1: 7.5 billion parameters on 64 replicas.
    model = plain(4096.0, layers=37.0)
    made = memory(model, Plan(data=64, zero=stage), batch=64.0, sequence_length=2048.0)
    states = float(made.weights + made.gradients + made.optimizer)
    scale = 7.5e9 / float(parameters_per_chip(model, Plan()))
    assert states * scale / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_hybrid_groups_split_over_fewer_replicas():
    model = plain(4096.0)
    whole, groups = (
        memory(model, Plan(data=64, zero=3, zero_ways=w), batch=64.0, sequence_length=2048.0) for w in (0, 8)
    )
    assert float(groups.optimizer) == pytest.approx(8 * float(whole.optimizer))


@given(widths, st.sampled_from([1.0, 2.0, 4.0, 8.0]), st.sampled_from([1.0, 2.0, 4.0, 8.0]))
def test_the_chips_hold_the_model(h, t, p):
    model = plain(h)
    held = t * p * float(parameters_per_chip(model, Plan(tensor=t, pipeline=p)))
    assert held == pytest.approx(model.parameters.total, rel=1e-2)  # norms at the end are counted on each stage


@given(widths, st.integers(0, 3), st.sampled_from(list(Recompute)))
def test_more_tensor_ways_never_need_more(h, zero, level):
    model = plain(h, vocabulary=32_000.0)
    totals = [
        float(
            memory(model, Plan(tensor=t, data=8, zero=zero, recompute=level), batch=8.0, sequence_length=2048.0).total
        )
        for t in (1, 2, 4, 8)
    ]
    assert totals == sorted(totals, reverse=True)


@given(widths, st.integers(1, 8), st.integers(1, 4))
def test_parts_add_up(h, pipeline, micro_batch):
    made = memory(plain(h), Plan(pipeline=pipeline, micro_batch=micro_batch), batch=32.0, sequence_length=1024.0)
    parts = made.weights + made.gradients + made.optimizer + made.activations + made.working
    assert float(made.total) == pytest.approx(float(parts))


def test_experts_are_split_over_expert_ways():
    mixture = plain(1024.0).replace(experts=8.0, top_k=2.0)
    one, eight = (float(parameters_per_chip(mixture, Plan(data=8, expert=e))) for e in (1, 8))
    assert one - eight == pytest.approx(7 / 8 * mixture.parameters.experts)


def test_the_state_of_an_expert_is_split_over_the_replicas_that_hold_it():
    mixture = plain(1024.0).replace(experts=8.0, top_k=2.0)
    kept = [
        float(memory(mixture, Plan(data=64, expert=e, zero=1), batch=64.0, sequence_length=2048.0).optimizer)
        for e in (1, 2, 8)
    ]
    assert kept == pytest.approx([kept[0]] * 3)  # fewer experts a chip, but fewer chips for each
    whole = float(memory(mixture, Plan(data=1, zero=0), batch=1.0, sequence_length=2048.0).optimizer)
    assert 64 * kept[2] == pytest.approx(whole)  # together the chips keep one copy


def test_key_and_value_heads_that_are_fewer_than_tensor_ways_are_copied():
    gpt4 = specs.architecture("gpt4")
    one, eight = (gpt4.replace(attention=dataclasses.replace(gpt4.attention, kv_heads=float(n))) for n in (1, 8))
    split = Plan(tensor=8, pipeline=1, data=1)
    assert float(sum(held_parameters(one, split))) == pytest.approx(
        float(sum(held_parameters(eight, split))), rel=1e-12
    )


def test_dense_layers_keep_activations_of_their_own_width():
    plan = Plan()
    dense = specs.architecture("gpt3_175b")
    mixed = dense.replace(experts=8.0, top_k=1.0, d_ff=128.0, dense_d_ff=dense.d_ff, dense_layers=dense.layers - 1)
    kept, whole = (float(activation_bytes(m, plan, sequence_length=2048.0)[0]) for m in (mixed, dense))
    less = 2048 * 2 * dense.mlp_matrices * (dense.d_ff - 128) / dense.layers  # one layer is narrower
    assert kept == pytest.approx(whole - less, rel=1e-12)
