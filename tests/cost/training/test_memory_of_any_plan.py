"""Memory of any architecture under any plan: nothing is lost, and what each ZeRO stage splits."""

import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.training.memory import activation_bytes, memory, parameters_per_chip
from anatomy.specs import Architecture, Attention, Plan, Recompute, architecture
from hypothesis import given, settings
from specs.random_architectures import architectures, attentions, latent_attentions


@jax.jit
def compiled(model, plan, batch, length):
    return memory(model, plan, batch=batch, sequence_length=length)


PARTS = ("weights", "gradients", "optimizer", "activations", "working")
STATES = PARTS[:3]


def standard(layers: int, heads: int, head_dim: int, vocabulary: int = 0) -> Architecture:
    """The transformer of 2019: plain attention, an MLP four times as wide."""
    d = float(heads * head_dim)
    attention = Attention(heads=float(heads), kv_heads=float(heads), head_dim=float(head_dim))
    return Architecture(
        layers=float(layers), d_model=d, attention=attention, d_ff=4 * d, vocabulary=float(vocabulary), context=2048.0
    )


def floats(**ways: float) -> Plan:
    return Plan(**{name: float(value) for name, value in ways.items()})


def of(made, name: str) -> float:
    return float(getattr(made, name))


tensor_ways = st.sampled_from([1, 2, 4, 8])


# Activations.


@given(
    st.tuples(st.integers(1, 64), st.integers(1, 16), st.integers(1, 128)),
    st.integers(1, 8192),
    st.integers(1, 16),
    tensor_ways,
    st.sampled_from([1, 2, 4]),
)
def test_activations_are_those_of_korthikanti(shape, s, b, t, stages):
    """Table 2 of korthikanti2023reducing, row by row: bytes of a layer, times layers of a stage, times p in flight."""
    layers, heads, head_dim = shape
    heads = heads * t
    model, h, a = standard(layers * stages, heads, head_dim), heads * head_dim, heads
    sbh, scores = s * b * h, 5 * a * s / h
    expected = {
        "tensor": (sbh * (10 + 24 / t + scores / t), {}),
        "tensor and sequence": (sbh / t * (34 + scores), {"sequence_parallel": 1}),
        "tensor, selective": (sbh * (10 + 24 / t), {"recompute": Recompute.SELECTIVE}),
        "both, selective": (sbh * 34 / t, {"sequence_parallel": 1, "recompute": Recompute.SELECTIVE}),
        "full": (sbh * 2, {"recompute": Recompute.FULL}),
    }
    if t == 1:
        expected["none"] = (sbh * (34 + scores), {})
    for name, (formula, more) in expected.items():
        plan = floats(tensor=t, pipeline=stages, micro_batch=b, **more)
        kept = of(compiled(model, plan, 8.0 * stages * b, float(s)), "activations") / layers / stages
        assert kept == pytest.approx(formula, rel=1e-12), name


def test_grouped_heads_gates_and_experts_count_as_they_are():
    gpt3 = architecture("gpt3_175b")
    layer, scores = activation_bytes(gpt3, floats(), sequence_length=2048.0)
    assert (float(layer) / 2048 / 12288, float(scores) / 2048 / 12288) == (34, 80)  # 5 a s / h is 80 there
    assert float(activation_bytes(gpt3, floats(fused_attention=1), sequence_length=2048.0)[1]) == 0

    def bytes_of(model: Architecture) -> float:
        return float(activation_bytes(model, floats(), sequence_length=1.0)[0])

    plain, d = standard(1, 16, 64), 1024
    # Multi-query: keys and values of one head in place of 16, two bytes each.
    assert bytes_of(plain) - bytes_of(plain.replace(kv_heads=1.0)) == 2 * 2 * 15 * 64
    # A third matrix: one more input of the inner width.
    assert bytes_of(plain.replace(mlp_matrices=3.0)) - bytes_of(plain) == 2 * 4 * d
    # A token passes two of 16 experts, and each leaves what an MLP leaves; their number does not matter.
    mixed = plain.replace(experts=16.0, top_k=2.0)
    assert bytes_of(mixed) - bytes_of(plain) == 16 * d
    assert bytes_of(mixed.replace(experts=64.0)) == bytes_of(mixed)
    assert bytes_of(mixed.replace(shared_experts=1.0)) - bytes_of(mixed) == 16 * d


# Any plan of any architecture.

kinds = st.one_of(architectures(attentions(64), 2000), architectures(latent_attentions(64), 2000))
ways = st.sampled_from([1.0, 2.0, 4.0, 8.0])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    data = draw(st.integers(1, 16))
    return Plan(
        tensor=draw(ways),
        pipeline=draw(ways),
        data=float(data),
        expert=float(draw(st.sampled_from([e for e in range(1, data + 1) if data % e == 0]))),
        micro_batch=draw(ways),
        chunks=draw(ways),
        zero=float(draw(st.integers(0, 3))),
        zero_ways=float(draw(st.integers(0, data))),
        recompute=float(draw(st.sampled_from(list(Recompute)))),
        sequence_parallel=draw(st.sampled_from([0.0, 1.0])),
        gpipe=draw(st.sampled_from([0.0, 1.0])),
        fused_attention=draw(st.sampled_from([0.0, 1.0])),
    )


@settings(max_examples=50)
@given(kinds, plans(), st.integers(1, 8), st.integers(1, 4096))
def test_parts_are_finite_and_add_up(model, plan, m, s):
    made = compiled(model, plan, float(m * plan.data * plan.micro_batch), float(s))
    parts = np.array([of(made, name) for name in PARTS])
    assert np.all(np.isfinite(parts)) and np.all(parts >= 0) and np.all(parts[:4] > 0)
    assert of(made, "total") == pytest.approx(parts.sum(), rel=1e-12)


@settings(max_examples=50)
@given(kinds, plans(), st.integers(1, 8), st.integers(1, 4096))
def test_more_ways_and_more_recompute_never_need_more(model, plan, m, s):
    size = float(m * plan.data * plan.micro_batch), float(s)
    now = compiled(model, plan, *size)
    split = compiled(model, plan.replace(tensor=2 * plan.tensor), *size)
    again = compiled(model, plan.replace(recompute=min(plan.recompute + 1, 2.0)), *size)
    zero = compiled(model, plan.replace(zero=min(plan.zero + 1, 3.0)), *size)
    fused = compiled(model, plan.replace(fused_attention=1.0), *size)
    for name in (*PARTS, "total"):
        assert of(split, name) <= of(now, name), name
    for name in STATES:
        assert of(zero, name) <= of(now, name), name
    assert of(again, "activations") <= of(now, "activations")
    assert of(fused, "total") <= of(now, "total")
    assert of(compiled(model, plan, size[0], 2 * size[1]), "activations") > of(now, "activations")


@settings(max_examples=50)
@given(kinds, plans())
def test_chips_together_hold_at_least_the_model_and_its_state(model, plan):
    """However experts, ZeRO and hybrid groups split them: no parameter and no state is lost."""
    parameters = model.parameters.total * (1 - 1e-12)
    held = float(parameters_per_chip(model, plan))
    assert held * plan.chips >= parameters
    assert held <= model.parameters.total + model.d_model * model.vocabulary
    made = compiled(model, plan, plan.data * plan.micro_batch, 16.0)
    for name, size in zip(STATES, (2, 2, 12), strict=True):
        assert of(made, name) * plan.chips >= size * parameters, name


@given(kinds, st.integers(1, 16), tensor_ways, st.integers(1, 8))
def test_where_all_divides_they_hold_it_but_for_the_last_norm(model, per_stage, t, p):
    if isinstance(model.attention, Attention):  # shared heads are copied
        whole = dataclasses.replace(model.attention, kv_heads=model.attention.heads)
        model = model.replace(attention=whole)
        t = t if whole.heads % t == 0 else 1.0
    else:
        t = 1.0  # and so is the compression to a latent vector
    bare = model.replace(layers=float(per_stage * p), dense_layers=0.0, vocabulary=0.0, learned_positions=0.0)
    held = float(parameters_per_chip(bare, floats(tensor=t, pipeline=p)))
    assert held * t * p == pytest.approx(bare.parameters.total, rel=1e-12)


def test_layers_round_up_and_tables_are_the_larger_one():
    model = standard(10, 4, 64, 1000)
    layer, table = model.replace(vocabulary=0.0).parameters.total / 10, 1000 * 256
    assert float(parameters_per_chip(model, floats(pipeline=4))) == pytest.approx(3 * layer + table, rel=1e-12)
    held = float(parameters_per_chip(model.replace(learned_positions=512.0), floats(pipeline=4)))
    assert held == pytest.approx(3 * layer + table + 512 * 256, rel=1e-12)
    # On one stage both tables lie on the chip, or one where they are tied.
    for made in (model, model.replace(tied_embeddings=1.0)):
        assert float(parameters_per_chip(made, floats())) == pytest.approx(made.parameters.total, rel=1e-12)


# States, stage by stage (rajbhandari2020zero, section 5 and figure 1).


@given(st.integers(1, 64), st.integers(1, 64), tensor_ways, st.integers(1, 8), st.integers(1, 16))
def test_bytes_of_each_stage_of_zero(d, layers, t, p, heads):
    model = standard(layers * p, heads * t, 64, 1000)
    held = float(parameters_per_chip(model, floats(tensor=t, pipeline=p)))
    for stage, bytes_each in ((0, 16.0), (1, 4 + 12 / d), (2, 2 + 14 / d), (3, 16 / d)):
        made = compiled(model, floats(tensor=t, pipeline=p, data=d, zero=stage), float(d), 1.0)
        assert sum(of(made, name) for name in STATES) == pytest.approx(bytes_each * held, rel=1e-12), stage


@given(st.integers(1, 16), st.integers(1, 16), st.sampled_from([1, 2, 3]))
def test_hybrid_groups_split_among_themselves_only(group, groups, stage):
    model = standard(4, 4, 64)

    def states(**more: float) -> list[float]:
        made = compiled(model, floats(**more), 256.0, 1.0)
        return [of(made, name) for name in STATES]

    alone = states(data=group, zero=stage)
    assert states(data=group * groups, zero=stage, zero_ways=group) == alone
    # As if there were no groups where one holds everybody, or more; and nothing is split in groups of one.
    assert states(data=group, zero=stage, zero_ways=group) == alone
    assert states(data=group, zero=stage, zero_ways=10 * group) == alone
    assert states(data=group, zero=stage, zero_ways=1) == states(data=group)


def test_figure_1_of_the_zero_paper():
    # 7.5B parameters, 64 replicas: 120, 31.4, 16.6 and 1.9 GB.
    model = standard(36, 32, 128, 51200).replace(tied_embeddings=1.0)
    assert model.parameters.total == pytest.approx(7.5e9, rel=0.02)
    scale = 7.5e9 / model.parameters.total  # the figure's count is round
    for stage, published in ((0, 120), (1, 31.4), (2, 16.6), (3, 1.9)):
        made = compiled(model, floats(data=64, zero=stage), 64.0, 1024.0)
        assert scale * sum(of(made, name) for name in STATES) / 1e9 == pytest.approx(published, abs=0.05), stage


# What stands beside the parts that are kept.


def test_working_memory_is_a_layer_again_or_the_logits():
    model, s = standard(4, 8, 64, 50_000), 512
    layer, scores = (float(part) for part in activation_bytes(model, floats(), sequence_length=float(s)))

    def working(model: Architecture, **more: float) -> float:
        return of(compiled(model, floats(**more), 1.0, float(s)), "working")

    assert working(model) == working(model, recompute=2) == 4 * s * 50_000 > layer + scores
    small = model.replace(vocabulary=100.0)
    assert working(small, recompute=1) == pytest.approx(scores, rel=1e-12)
    assert working(small, recompute=2) == pytest.approx(layer + scores, rel=1e-12)
    # ZeRO-3 gathers one layer's weights on top.
    one = 2 * float(parameters_per_chip(small, floats(data=4, zero=3))) / 4
    assert working(small, data=4, zero=3) - working(small, data=4) == pytest.approx(one, rel=1e-12)


def test_memory_is_batched_and_differentiable():
    mixed = standard(8, 8, 64, 1000).replace(experts=8.0, top_k=2.0)
    data = jnp.array([1.0, 8.0, 64.0])
    batched = jax.vmap(lambda d: memory(mixed, Plan(data=d, zero=1.0), batch=64.0, sequence_length=128.0))(data)
    for i, d in enumerate(data):
        one = compiled(mixed, floats(data=float(d), zero=1), 64.0, 128.0)
        for name in (*PARTS, "total"):
            part = np.broadcast_to(getattr(batched, name), 3)[i]
            assert float(part) == pytest.approx(of(one, name), rel=1e-12)
    slope = jax.grad(lambda s: memory(mixed, floats(recompute=2), batch=4.0, sequence_length=s).activations)(128.0)
    assert slope == pytest.approx(2 * 8 * 512, rel=1e-12)
