"""A pass that serves: its parts against closed forms, its limits, and what must never happen."""

import dataclasses

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from anatomy.cost import collectives
from anatomy.cost.efficiency import derate, overheads
from anatomy.cost.serving.steps import decode, prefill, slowest_stage
from anatomy.specs import Serving, architecture, catalogue
from hypothesis import given

GPT4, LLAMA = architecture("gpt4"), architecture("llama2_70b")
CLUSTER = catalogue.cluster("a100_sxm_80gb", 16.0)
AMPERE = overheads("a100_sxm_80gb")
IDEAL = dataclasses.replace(
    AMPERE,
    efficiency=dataclasses.replace(AMPERE.efficiency, matmul=1.0, half_size=0.0, memory=1.0, link=1.0, network=1.0),
    hop=0.0, network_hop=0.0, kernel=0.0, overlap=0.0,
)  # fmt: skip
CHIP = CLUSTER.node.chip
ARTICLE = Serving(tensor=8.0, pipeline=16.0, first_stage_share=0.0, micro_batches=16.0)
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


def of_contexts(model, plan, cluster, constants, batch, context):
    return decode(model, plan, cluster, constants, batch=batch, context=context)


def of_prompts(model, plan, cluster, constants, batch, prompt):
    return prefill(model, plan, cluster, constants, batch=batch, prompt=prompt)


# Against closed forms.


def test_one_sequence_on_one_chip_reads_every_weight_but_the_input_table_once():
    made = decode(LLAMA, Serving(), CLUSTER, IDEAL, batch=1.0, context=1000.0)
    parts = LLAMA.parameters
    read = parts.total - parts.embedding - LLAMA.d_model  # and the last norm
    assert float(made.weights) == pytest.approx(2 * read / CHIP.memory_bandwidth, rel=1e-6)
    cache = LLAMA.cache_bytes_per_token() * 1001
    assert float(made.cache) == pytest.approx(cache / CHIP.memory_bandwidth, rel=1e-9)


def test_products_are_two_flop_a_parameter():
    made = decode(LLAMA, Serving(), CLUSTER, IDEAL, batch=10_000.0, context=1000.0)
    flop = LLAMA.flop_per_token(1001.0)
    products = flop.attention + flop.mlp + flop.unembedding
    assert float(made.compute) == pytest.approx(1e4 * products / CHIP.flops_16bit, rel=1e-9)
    assert float(made.scores) == pytest.approx(1e4 * flop.scores / CHIP.flops_16bit, rel=1e-9)


def test_one_token_reads_its_experts_and_many_read_all():
    one, many = (decode(GPT4, Serving(), CLUSTER, IDEAL, batch=n, context=1.0) for n in (1.0, 1e6))
    parts = GPT4.parameters
    shared = parts.attention + parts.router + parts.norms + parts.unembedding - GPT4.d_model
    per_byte = 2 / CHIP.memory_bandwidth
    assert float(one.weights) == pytest.approx(per_byte * (shared + parts.experts / 8), rel=1e-6)
    assert float(many.weights) == pytest.approx(per_byte * (shared + parts.experts), rel=1e-6)


def test_megatron_layout_sends_two_all_reduces_a_layer():
    made = decode(GPT4, Serving(tensor=8.0), CLUSTER, IDEAL, batch=64.0, context=100.0)
    link = CLUSTER.node.link
    each = collectives.all_reduce(2 * 64 * GPT4.d_model, chips=8.0, bandwidth=link.bandwidth)
    assert float(made.tensor) == pytest.approx(2 * GPT4.layers * float(each), rel=1e-9)


def test_tensor_ways_over_nodes_exchange_level_by_level():
    """A node's chips share the bytes that cross the network, each through its own port."""
    made = decode(GPT4, Serving(tensor=16.0), CLUSTER, IDEAL, batch=64.0, context=100.0)
    each = collectives.hierarchical_reduction(2 * 64 * GPT4.d_model, replicas=16.0, neighbours=1.0, cluster=CLUSTER)
    assert float(made.tensor) == pytest.approx(2 * GPT4.layers * float(each), rel=1e-9)
    flat = collectives.all_reduce(2 * 64 * GPT4.d_model, chips=16.0, bandwidth=CLUSTER.inside.bandwidth)
    assert float(each) < float(flat) / 4


def test_messages_start_late_inside_a_node_and_between_nodes():
    constants = dataclasses.replace(IDEAL, hop=1e-6, network_hop=1e-3)
    made = decode(LLAMA, Serving(tensor=16.0), CLUSTER, constants, batch=8.0, context=100.0)
    assert float(made.starts) == pytest.approx(LLAMA.layers * 4 * (7e-6 + 1e-3), rel=1e-9)
    plan = Serving(tensor=8.0, data=16.0, expert=16.0)
    made = decode(GPT4, plan, CLUSTER, constants, batch=8.0, context=100.0)  # an all-to-all's messages go at once
    assert float(made.starts) == pytest.approx(GPT4.layers * (4 * 7e-6 + 2 * 1e-3), rel=1e-9)


def test_experts_of_one_node_exchange_over_its_link():
    plan = Serving(data=16.0, expert=16.0)
    made = decode(GPT4, plan, CLUSTER, IDEAL, batch=64.0, context=100.0)
    size = 2 * 64 * GPT4.top_k * GPT4.d_model
    link, network = CLUSTER.node.link.bandwidth, CLUSTER.inside.bandwidth
    expected = GPT4.layers * 2 * size * (7 / 16 / link + 8 / 16 / network)
    assert float(made.expert) == pytest.approx(expected, rel=1e-9)


def test_a_cache_split_by_sequences_has_no_sequence_on_two_chips():
    by_sequence = Serving(tensor=8.0, cache_by_sequence=1.0)
    one, eight, sixteen = (decode(GPT4, by_sequence, CLUSTER, IDEAL, batch=n, context=1000.0) for n in (1.0, 8.0, 16.0))
    alone = decode(GPT4, Serving(), CLUSTER, IDEAL, batch=1.0, context=1000.0)
    assert float(one.cache) == pytest.approx(float(alone.cache)) == pytest.approx(float(eight.cache))
    assert float(sixteen.cache) == pytest.approx(2 * float(one.cache))


def test_a_head_stage_makes_the_logits_while_others_compute_layers():
    """Fifteen stages of eight layers: with the tables on a stage of their own the turn of the slowest is shorter."""
    alone = decode(GPT4, ARTICLE.replace(micro_batches=64.0), CLUSTER, AMPERE, batch=6400.0, context=100.0)
    shared = decode(
        GPT4,
        ARTICLE.replace(pipeline=15.0, first_stage_share=1.0, micro_batches=64.0),
        CLUSTER,
        AMPERE,
        batch=6400.0,
        context=100.0,
    )
    assert float(alone.seconds) < float(shared.seconds)
    one = decode(GPT4, ARTICLE.replace(micro_batches=1.0), CLUSTER, AMPERE, batch=100.0, context=100.0)
    layers = float(one.seconds - one.stages) - logit_seconds(GPT4, 8.0, 100.0)
    assert float(alone.seconds) == pytest.approx(64 * (8 / 120 * layers + float(one.stages) / 16), rel=1e-9)


def logit_seconds(model, tensor, tokens):
    """Reading the output table, or multiplying by it, whatever takes longer, on one chip of several ways."""
    rows, columns, share = model.vocabulary / tensor, model.d_model, AMPERE.efficiency
    waste = share.half_size * (1 / rows + 1 / columns + 1 / tokens)
    products = 2 * tokens * rows * columns * (1 + waste) / (CHIP.flops_16bit * share.matmul)
    return max(products, 2 * rows * columns / (CHIP.memory_bandwidth * share.memory))


def test_a_step_written_out_by_hand():
    """A second implementation, for a dense model with grouped queries on one node, every term on its own line."""
    model, t, n, s = LLAMA, 8.0, 32.0, 2048.0
    share, d, h, kv, f = AMPERE.efficiency, 8192.0, 64 * 128.0, 8 * 128.0, 28672.0
    rate, peak = CHIP.memory_bandwidth * share.memory, CHIP.flops_16bit * share.matmul

    def product(rows, inner):
        return 2 * n * rows * inner * (1 + share.half_size * (1 / n + 1 / rows + 1 / inner)) / peak

    products = product((h + 2 * kv) / t, d) + product(d, h / t) + product(2 * f / t, d) + product(d, f / t)
    read = 2 * (d * (2 * h + 2 * kv) + 3 * d * f + 2 * d + d / 80) / t / rate  # and a share of the last norm
    scores, cache = 4 * h * n * (s + 1) / t / peak, 2 * 2 * kv * n * (s + 1) / t / rate
    moved = 2 * 2 * n * (2 * d + (2 * h + 2 * kv + 3 * f) / t) / rate
    sent = 2 * 2 * 7 / 8 * 2 * n * d / (CLUSTER.node.link.bandwidth * share.link)
    starts = (8 + 2) * AMPERE.kernel + 2 * 2 * 7 * AMPERE.hop
    layer = max(read, products) + max(scores, cache) + moved + sent + starts
    made = decode(model, Serving(tensor=t), CLUSTER, AMPERE, batch=n, context=s)
    assert float(made.seconds) == pytest.approx(80 * layer + logit_seconds(model, t, n), rel=1e-9)


@given(
    layers=st.integers(2, 130),
    pipeline=st.integers(1, 130),
    share=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
)
def test_stages_hold_all_layers_and_the_head_no_more_than_others(layers, pipeline, share):
    model, plan = GPT4.replace(layers=float(layers)), Serving(pipeline=float(pipeline), first_stage_share=share)
    first, most, least = (float(f(model)) for f in (plan.first_stage_layers, plan.stage_layers, plan.last_layers))
    assert 0 <= first <= most and most - least in (0, 1)
    others = max(pipeline - 1, 1)
    full = layers - first - others * least  # stages that have one more than the last
    assert 0 <= full < others or (full == 0 and most == least)
    if share == 1:
        assert most == -(-layers // pipeline)


def test_the_logits_go_to_a_stage_with_fewer_layers():
    plan, layer, logits = ARTICLE.replace(first_stage_share=1.0), 1.0, 0.5  # 120 layers on 16 stages
    assert float(slowest_stage(GPT4, plan, layer=layer, logits=logits)) == 8
    assert float(slowest_stage(GPT4, plan, layer=layer, logits=3.0)) == 7 + 3
    assert float(slowest_stage(GPT4, plan.replace(pipeline=15.0), layer=layer, logits=logits)) == 8.5
    assert float(slowest_stage(GPT4, ARTICLE, layer=layer, logits=logits)) == 8
    assert float(slowest_stage(GPT4, Serving(), layer=layer, logits=logits)) == 120.5


def test_micro_batches_wait_for_the_slowest_stage():
    plan = ARTICLE.replace(first_stage_share=1.0, pipeline=15.0)
    few, many = (
        decode(GPT4, plan.replace(micro_batches=m), CLUSTER, AMPERE, batch=64.0 * m, context=100.0) for m in (1.0, 60.0)
    )
    assert float(few.waiting) == pytest.approx(0, abs=1e-12)
    # Sixty micro-batches keep fifteen stages busy, four rounds in the time of one.
    assert float(many.seconds) >= 4 * float(few.seconds) > 0.9 * float(many.seconds)
    assert float(many.tokens_per_second) > 14 * float(few.tokens_per_second)


def test_a_prompt_costs_what_its_tokens_cost_and_the_logits_of_its_last():
    made = prefill(LLAMA, Serving(tensor=8.0), CLUSTER, IDEAL, batch=4.0, prompt=2048.0)
    spent = 8 * CHIP.flops_16bit * float(made.compute + made.scores)
    assert spent == pytest.approx(float(made.flop), rel=1e-9)
    each = LLAMA.flop_per_token(2049 / 2)
    assert float(made.flop) == pytest.approx(4 * 2048 * each.total - 4 * 2047 * each.unembedding, rel=1e-9)
    assert float(made.tokens) == 8192 and float(made.period) == pytest.approx(float(made.seconds))


@pytest.mark.parametrize("run", [of_contexts, of_prompts])
def test_sequences_fewer_than_micro_batches_are_one_each(run):
    for few in (1.0, 5.0):
        found, expected = (
            run(GPT4, ARTICLE.replace(micro_batches=m), CLUSTER, AMPERE, few, 100.0) for m in (16.0, few)
        )
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert float(one) == pytest.approx(float(other), rel=1e-12)


def test_gathered_weights_on_one_chip_are_the_plain_layout():
    one, other = (prefill(LLAMA, Serving(gathered=g), CLUSTER, AMPERE, batch=2.0, prompt=512.0) for g in (0.0, 1.0))
    assert float(one.compute) == pytest.approx(float(other.compute))
    assert float(other.tensor) == 0


# What must always hold.


@given(plans, sequences, contexts)
def test_parts_are_finite_and_not_negative_and_add_up(plan, batch, context):
    for made in (
        decode(GPT4, plan, CLUSTER, AMPERE, batch=batch, context=context),
        prefill(GPT4, plan, CLUSTER, AMPERE, batch=batch, prompt=context),
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

    slow, fast = (decode(GPT4, plan, c, AMPERE, batch=batch, context=context) for c in (CLUSTER, faster(CLUSTER)))
    assert float(fast.seconds) <= float(slow.seconds) * (1 + 1e-12)


@given(plans, sequences, contexts, st.floats(1, 10), st.sampled_from(["link", "network", "hop", "network_hop"]))
def test_faster_links_are_never_slower(plan, batch, context, by, what):
    constants, cluster = AMPERE, CLUSTER
    if "hop" in what:
        constants = dataclasses.replace(AMPERE, **{what: getattr(AMPERE, what) / by})
    elif what == "link":
        link = dataclasses.replace(CLUSTER.node.link, bandwidth=by * CLUSTER.node.link.bandwidth)
        cluster = dataclasses.replace(CLUSTER, node=dataclasses.replace(CLUSTER.node, link=link))
    else:
        link = dataclasses.replace(CLUSTER.inside, bandwidth=by * CLUSTER.inside.bandwidth)
        cluster = dataclasses.replace(CLUSTER, inside=link, between=link)
    for run in (of_contexts, of_prompts):
        slow, fast = (
            run(GPT4, plan, CLUSTER, AMPERE, batch, context),
            run(GPT4, plan, cluster, constants, batch, context),
        )
        assert float(fast.seconds) <= float(slow.seconds) * (1 + 1e-12)


@given(plans, sequences, contexts, st.floats(1, 10))
def test_longer_contexts_and_prompts_are_never_faster(plan, batch, context, by):
    for run in (of_contexts, of_prompts):
        short, long = (run(GPT4, plan, CLUSTER, AMPERE, batch, s) for s in (context, by * context))
        assert float(long.seconds) >= float(short.seconds) * (1 - 1e-12)


@given(plans, st.floats(1, 1e4), contexts)
def test_rates_belong_together(plan, batch, context):
    made = decode(GPT4, plan, CLUSTER, AMPERE, batch=batch, context=context)
    assert float(made.tokens_per_second) == pytest.approx(float(made.tokens_per_user * made.sequences), rel=1e-9)
    assert float(made.tokens_per_chip * made.chips) == pytest.approx(float(made.tokens_per_second), rel=1e-12)
    spent = float(made.dollars_per_million(3.6)) / 1e6 * float(made.tokens_per_second)
    assert spent == pytest.approx(float(made.chips) * 0.001, rel=1e-9)  # dollars a second


@given(plans, st.floats(1, 1e4), contexts, st.floats(1, 10))
def test_more_sequences_are_never_faster_and_never_give_fewer_tokens(plan, batch, context, by):
    few, many = (decode(GPT4, plan, CLUSTER, AMPERE, batch=n, context=context) for n in (batch, by * batch))
    assert float(many.seconds) >= float(few.seconds) * (1 - 1e-12)
    assert float(many.tokens_per_second) >= float(few.tokens_per_second) * (1 - 1e-9)


@given(plans, st.floats(1, 1e4), contexts)
def test_narrower_weights_and_overlap_are_never_slower(plan, batch, context):
    plain = decode(GPT4, plan, CLUSTER, AMPERE, batch=batch, context=context)
    narrow = decode(GPT4, plan.replace(weight_bytes=1.0), CLUSTER, AMPERE, batch=batch, context=context)
    apart = decode(GPT4, plan, CLUSTER, dataclasses.replace(AMPERE, overlap=0.0), batch=batch, context=context)
    assert float(narrow.seconds) <= float(plain.seconds) * (1 + 1e-12) <= float(apart.seconds) * (1 + 1e-9)


@pytest.mark.parametrize("run", [of_contexts, of_prompts])
def test_the_same_function_under_jit_vmap_and_grad(run):
    def seconds(batch):
        return run(GPT4, ARTICLE, CLUSTER, AMPERE, batch, 4096.0).seconds

    assert jax.eval_shape(seconds, 16.0).dtype == np.float64

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
        (
            lambda: decode(GPT4, ARTICLE, CLUSTER, AMPERE, batch=0.0, context=10.0),
            "decode.batch is 0; allowed: a finite number",
        ),
        (
            lambda: decode(GPT4, ARTICLE, CLUSTER, AMPERE, batch=8.0, context=-1.0),
            "decode.context is -1; allowed: a finite number at least 0",
        ),
        (lambda: prefill(GPT4, ARTICLE, CLUSTER, AMPERE, batch=8.0, prompt=float("nan")), "prefill.prompt is nan"),
        (
            lambda: decode(GPT4, ARTICLE, CLUSTER, AMPERE, batch=8.0, context=1.0, imbalance=0.5),
            "decode.imbalance is 0.5; allowed",
        ),
        (
            lambda: decode(GPT4, ARTICLE, CLUSTER, AMPERE, batch=8.0, context=np.inf),
            "decode.context is inf; allowed",
        ),
        (
            lambda: decode(GPT4, ARTICLE, CLUSTER, AMPERE, batch=8.0, context=1.0, imbalance=np.inf),
            "decode.imbalance is inf",
        ),
        *(
            (
                lambda touched=touched: decode(
                    GPT4, ARTICLE, CLUSTER, AMPERE, batch=8.0, context=1.0, active_experts=touched
                ),
                rf"decode.active_experts is {touched:g}; allowed: a number above 0 and at most experts \(16\)",
            )
            for touched in (-3.0, 0.0, 17.0, np.nan)
        ),
        (
            lambda: decode(GPT4, ARTICLE, CLUSTER, AMPERE, batch=8.0, context=1.0).dollars_per_million(-1.0),
            "dollars_per_million.chip_hour is -1",
        ),
        (lambda: Serving(data=3.0, expert=2.0), r"Serving.expert is 2; allowed: a divisor of data \(3\)"),
        (lambda: Serving(tensor=4.0, rows=3.0), r"Serving.rows is 3; allowed: a divisor of tensor \(4\)"),
        (lambda: overheads("abacus"), "chips entry 'abacus'"),
    ],
)
def test_nonsense_is_refused(call, words):
    with pytest.raises((ValueError, KeyError), match=words):
        call()


def test_derated_links_keep_their_shape():
    link = dataclasses.replace(CLUSTER.node.link, axes=3.0, side=4.0)
    torus = dataclasses.replace(CLUSTER, node=dataclasses.replace(CLUSTER.node, link=link))
    slow = derate(torus, AMPERE.efficiency).node.link
    assert (slow.axes, slow.side) == (3, 4)
    assert float(slow.bandwidth) == pytest.approx(AMPERE.efficiency.link * link.bandwidth)
