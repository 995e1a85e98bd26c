"""A pass that serves: its parts against closed forms, its limits, and what must never happen."""

import dataclasses

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from anatomy.cost import collectives
from anatomy.cost.inference import steps
from anatomy.cost.inference.steps import decode, overheads, prefill
from anatomy.cost.training import derate
from anatomy.specs import Serving, architecture, catalogue
from hypothesis import given

GPT4, LLAMA = architecture("gpt4"), architecture("llama2_70b")
CLUSTER = catalogue.cluster("a100_sxm_80gb", 16.0)
AMPERE = overheads("ampere")
IDEAL = dataclasses.replace(
    AMPERE,
    efficiency=dataclasses.replace(AMPERE.efficiency, matmul=1.0, half_size=0.0, memory=1.0, link=1.0, network=1.0),
    hop=0.0, network_hop=0.0, kernel=0.0, overlap=0.0,
)  # fmt: skip
CHIP = CLUSTER.node.chip
ARTICLE = Serving(tensor=8.0, pipeline=16.0, head=0.0, micro_batches=16.0)
PARTS = ("compute", "weights", "scores", "cache", "activations", "tensor", "expert", "stages", "starts", "waiting")


@st.composite
def some_plans(draw):
    """Plans of every kind."""
    tensor = draw(st.sampled_from([1.0, 2.0, 4.0, 8.0]))
    expert = draw(st.sampled_from([1.0, 2.0, 16.0]))
    return Serving(
        tensor=tensor,
        rows=min(draw(st.sampled_from([1.0, 2.0, 4.0])), tensor),
        pipeline=draw(st.sampled_from([1.0, 2.0, 15.0, 16.0])),
        micro_batches=draw(st.sampled_from([1.0, 4.0, 16.0])),
        data=expert,
        expert=expert,
        cache_by_sequence=float(draw(st.booleans())),
    )


plans = some_plans()
sequences, contexts = st.floats(1, 1e5), st.floats(1, 1e5)


# Against closed forms.


def test_one_sequence_on_one_chip_reads_every_weight_but_the_input_table_once():
    made = decode(LLAMA, Serving(), CLUSTER, IDEAL, 1.0, 1000.0)
    parts = LLAMA.parameters
    read = parts.total - parts.embedding - LLAMA.d_model  # and the last norm
    assert float(made.weights) == pytest.approx(2 * read / CHIP.memory_bandwidth, rel=1e-6)
    cache = LLAMA.cache_bytes_per_token() * 1001
    assert float(made.cache) == pytest.approx(cache / CHIP.memory_bandwidth, rel=1e-9)


def test_products_are_two_flop_a_parameter():
    made = decode(LLAMA, Serving(), CLUSTER, IDEAL, 10_000.0, 1000.0)
    flop = LLAMA.flop_per_token(1001.0)
    assert float(made.compute) == pytest.approx(1e4 * (flop.attention + flop.mlp) / CHIP.flops_16bit, rel=1e-9)
    assert float(made.scores) == pytest.approx(1e4 * flop.scores / CHIP.flops_16bit, rel=1e-9)


def test_one_token_reads_its_experts_and_many_read_all():
    one, many = (decode(GPT4, Serving(), CLUSTER, IDEAL, n, 1.0) for n in (1.0, 1e6))
    parts = GPT4.parameters
    shared = parts.attention + parts.router + parts.norms + parts.unembedding - GPT4.d_model
    per_byte = 2 / CHIP.memory_bandwidth
    assert float(one.weights) == pytest.approx(per_byte * (shared + parts.experts / 8), rel=1e-6)
    table = 2 * 1e6 * parts.unembedding / CHIP.flops_16bit  # that product is bound by arithmetic
    expected = per_byte * (shared - parts.unembedding + parts.experts) + table
    assert float(many.weights) == pytest.approx(expected, rel=1e-6)


def test_megatron_layout_sends_two_all_reduces_a_layer():
    made = decode(GPT4, Serving(tensor=8.0), CLUSTER, IDEAL, 64.0, 100.0)
    link = CLUSTER.node.link
    each = collectives.all_reduce(2 * 64 * GPT4.d_model, 8.0, link.bandwidth)
    assert float(made.tensor) == pytest.approx(2 * GPT4.layers * float(each), rel=1e-9)


def test_micro_batches_wait_for_the_slowest_stage():
    plan = ARTICLE.replace(head=1.0, pipeline=15.0)
    few, many = (decode(GPT4, plan.replace(micro_batches=m), CLUSTER, AMPERE, 64.0 * m, 100.0) for m in (1.0, 60.0))
    assert float(few.waiting) == pytest.approx(0, abs=1e-12)
    # Sixty micro-batches keep fifteen stages busy, four rounds in the time of one.
    assert float(many.seconds) >= 4 * float(few.seconds) > 0.9 * float(many.seconds)
    assert float(many.tokens_per_second) > 14 * float(few.tokens_per_second)


def test_a_prompt_costs_what_its_tokens_cost():
    made = prefill(LLAMA, Serving(tensor=8.0), CLUSTER, IDEAL, 4.0, 2048.0)
    flop = 4 * 2048 * (LLAMA.flop_per_token(2049 / 2).total)
    spent = 8 * CHIP.flops_16bit * float(made.compute + made.scores)
    assert spent == pytest.approx(flop, rel=0.02)  # logits of one token a prompt
    assert float(made.tokens) == 8192 and float(made.period) == pytest.approx(float(made.seconds))


def test_gathered_weights_on_one_chip_are_the_plain_layout():
    one, other = (prefill(LLAMA, Serving(gathered=g), CLUSTER, AMPERE, 2.0, 512.0) for g in (0.0, 1.0))
    assert float(one.compute) == pytest.approx(float(other.compute))
    assert float(other.tensor) == 0


# What must always hold.


@given(plans, sequences, contexts)
def test_parts_are_finite_and_not_negative_and_add_up(plan, batch, context):
    for made in (
        decode(GPT4, plan, CLUSTER, AMPERE, batch, context),
        prefill(GPT4, plan, CLUSTER, AMPERE, batch, context),
    ):
        values = np.array([float(getattr(made, name)) for name in PARTS])
        assert np.isfinite(values).all() and (values >= -1e-12 * values.max()).all()
        assert float(made.seconds) == pytest.approx(values.sum(), rel=1e-12)
        assert 0 < float(made.mfu) <= 1


@given(plans, sequences, contexts, st.floats(1, 10), st.sampled_from(["flops_16bit", "memory_bandwidth"]))
def test_a_faster_chip_is_never_slower(plan, batch, context, by, what):
    def faster(cluster):
        chip = dataclasses.replace(cluster.node.chip, **{what: by * getattr(cluster.node.chip, what)})
        return dataclasses.replace(cluster, node=dataclasses.replace(cluster.node, chip=chip))

    slow, fast = (decode(GPT4, plan, c, AMPERE, batch, context) for c in (CLUSTER, faster(CLUSTER)))
    assert float(fast.seconds) <= float(slow.seconds) * (1 + 1e-12)


@given(plans, st.floats(1, 1e4), contexts, st.floats(1, 10))
def test_more_sequences_are_never_faster_and_never_give_fewer_tokens(plan, batch, context, by):
    few, many = (decode(GPT4, plan, CLUSTER, AMPERE, n, context) for n in (batch, by * batch))
    assert float(many.seconds) >= float(few.seconds) * (1 - 1e-12)
    assert float(many.tokens_per_second) >= float(few.tokens_per_second) * (1 - 1e-9)


@given(plans, st.floats(1, 1e4), contexts)
def test_narrower_weights_and_overlap_are_never_slower(plan, batch, context):
    plain = decode(GPT4, plan, CLUSTER, AMPERE, batch, context)
    narrow = decode(GPT4, plan.replace(weight_bytes=1.0), CLUSTER, AMPERE, batch, context)
    apart = decode(GPT4, plan, CLUSTER, dataclasses.replace(AMPERE, overlap=0.0), batch, context)
    assert float(narrow.seconds) <= float(plain.seconds) * (1 + 1e-12) <= float(apart.seconds) * (1 + 1e-9)


def test_the_same_function_under_jit_vmap_and_grad():
    def seconds(batch):
        return decode(GPT4, ARTICLE, CLUSTER, AMPERE, batch, 4096.0).seconds

    batches = np.array([16.0, 256.0, 4096.0])
    plain = [float(seconds(b)) for b in batches]
    assert np.asarray(jax.vmap(seconds)(batches)) == pytest.approx(plain, rel=1e-12)
    assert np.asarray(jax.jit(jax.vmap(seconds))(batches)) == pytest.approx(plain, rel=1e-12)
    slope = float(jax.grad(seconds)(256.0))
    assert slope == pytest.approx(float(seconds(256.5) - seconds(255.5)), rel=1e-3)


# Tori.


def test_a_group_along_one_axis_of_a_torus_has_the_links_of_that_axis():
    link = dataclasses.replace(CLUSTER.node.link, axes=3.0, side=4.0)
    assert [float(link.share(n)) for n in (4.0, 16.0, 64.0)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [float(link.hops(n)) for n in (4.0, 16.0, 64.0)] == pytest.approx([3, 6, 9])
    assert float(CLUSTER.node.link.hops(8.0)) == 7 and float(CLUSTER.node.link.share(2.0)) == 1


# What cannot be.


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: decode(GPT4, ARTICLE, CLUSTER, AMPERE, 0.0, 10.0), "decode.sequences is 0; allowed: a finite number"),
        (
            lambda: decode(GPT4, ARTICLE, CLUSTER, AMPERE, 8.0, -1.0),
            "decode.context is -1; allowed: a number at least 0",
        ),
        (lambda: prefill(GPT4, ARTICLE, CLUSTER, AMPERE, 8.0, float("nan")), "prefill.prompt is nan"),
        (lambda: decode(GPT4, ARTICLE, CLUSTER, AMPERE, 8.0, 1.0, imbalance=0.5), "decode.imbalance is 0.5; allowed"),
        (lambda: Serving(data=3.0, expert=2.0), r"Serving.expert is 2; allowed: a divisor of data \(3\)"),
        (lambda: Serving(tensor=4.0, rows=3.0), r"Serving.rows is 3; allowed: a divisor of tensor \(4\)"),
        (lambda: overheads("abacus"), "serving entry 'abacus'"),
    ],
)
def test_nonsense_is_refused(call, words):
    with pytest.raises((ValueError, KeyError), match=words):
        call()


def test_derated_links_keep_their_shape():
    net = derate(CLUSTER, AMPERE.efficiency)
    assert net.slowest_link(8.0).axes == 0
    assert isinstance(steps.KERNELS, float)
