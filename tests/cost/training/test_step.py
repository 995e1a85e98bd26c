"""The training step: sums, limits, monotonicity, and the published count of FLOP."""

import dataclasses
import itertools
import re

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy import specs
from anatomy.cost.efficiency import Efficiency, efficiency
from anatomy.cost.training.step import training_step
from anatomy.specs import Cluster, Link, Node, Plan, Recompute
from anatomy.validate import read
from hypothesis import given

GPT4, GPT3 = specs.architecture("gpt4"), specs.architecture("gpt3_175b")
CLUSTER = specs.cluster("a100_sxm_40gb", 3125)
SHARE = efficiency("a100_sxm_80gb")
ARTICLE = Plan(
    tensor=8, pipeline=15, data=208, zero=1, recompute=Recompute.FULL, sequence_parallel=True, fused_attention=True
)
ASKED = {"batch": 60e6 / 8192, "sequence_length": 8192.0}
WORK = (
    "matmul",
    "scores",
    "memory_bound",
    "recompute",
    "tensor",
    "expert",
    "stages",
    "bubble",
    "gradient_reduction",
    "optimizer",
)

plans = st.builds(
    Plan,
    tensor=st.sampled_from([1, 2, 4, 8]),
    pipeline=st.sampled_from([1, 2, 8, 15, 30]),
    data=st.sampled_from([1, 8, 64, 208]),
    micro_batch=st.integers(1, 4),
    chunks=st.sampled_from([1, 2, 4]),
    zero=st.integers(0, 3),
    recompute=st.sampled_from(list(Recompute)),
    sequence_parallel=st.booleans(),
    fused_attention=st.booleans(),
)


def seconds(plan=ARTICLE, cluster=CLUSTER, share=SHARE, model=GPT4, **options):
    return float(training_step(model, plan, cluster, **ASKED, efficiency=share, **options).seconds)


@given(plans)
def test_parts_add_up_and_utilisation_is_in_order(plan):
    made = training_step(GPT4, plan, CLUSTER, **ASKED, efficiency=SHARE)
    assert float(made.seconds) == pytest.approx(sum(float(getattr(made, part)) for part in WORK))
    assert all(float(getattr(made, part)) >= 0 for part in WORK)
    assert 0 < float(made.mfu) <= float(made.hfu) < 1
    assert float(made.tokens_per_second) == pytest.approx(60e6 / float(made.seconds))
    if plan.recompute == Recompute.NONE:
        assert float(made.mfu) == pytest.approx(float(made.hfu))


def test_jit_vmap_and_plain_agree():
    tensor = np.array([1.0, 2.0, 8.0])
    one = lambda t: training_step(GPT4, ARTICLE.replace(tensor=t), CLUSTER, **ASKED, efficiency=SHARE).seconds  # noqa: E731
    plain = [float(one(t)) for t in tensor]
    assert np.allclose(jax.vmap(one)(jnp.asarray(tensor)), plain, rtol=1e-12)
    assert np.allclose([jax.jit(one)(t) for t in tensor], plain, rtol=1e-12)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Efficiency)])
def test_gradients_are_those_of_finite_differences(field):
    def of(value):
        return training_step(
            GPT4, ARTICLE, CLUSTER, **ASKED, efficiency=dataclasses.replace(SHARE, **{field: value})
        ).seconds

    at = getattr(SHARE, field)
    small = 1e-5 * at
    assert jax.grad(of)(at) == pytest.approx(float((of(at + small) - of(at - small)) / (2 * small)), rel=1e-6)


def one_chip(**changes) -> Cluster:
    chip = dataclasses.replace(specs.chip("a100_sxm_80gb"), **changes)
    link = Link(bandwidth=25e9)
    return Cluster(node=Node(chip=chip, chips=1, link=link), nodes=1, inside=link, between=link, segment_nodes=1)


def test_one_chip_neither_sends_nor_waits():
    made = training_step(GPT3, Plan(), one_chip(), batch=8.0, sequence_length=2048.0, efficiency=SHARE)
    for part in ("tensor", "expert", "stages", "bubble", "gradient_reduction", "recompute"):
        assert float(getattr(made, part)) == 0.0, part


def test_without_limits_but_the_peak_it_takes_the_flop_over_the_peak():
    ideal = Efficiency(matmul=1.0, half_size=0.0, memory=1.0, link=1.0, network=1.0)
    endless = one_chip(memory_bandwidth=1e30)
    made = training_step(GPT3, Plan(), endless, batch=8.0, sequence_length=2048.0, efficiency=ideal)
    assert float(made.seconds) == pytest.approx(float(made.model_flop / made.peak), rel=1e-9)
    assert float(made.mfu) == pytest.approx(1.0)


def test_the_bubble_comes_on_top():
    made = training_step(GPT4, ARTICLE, CLUSTER, **ASKED, efficiency=SHARE)
    waiting = float(made.bubble / (made.seconds - made.gradient_reduction - made.optimizer))
    m = ASKED["batch"] / 208
    assert waiting == pytest.approx(14 / (m + 14))


def faster(part: str, factor: float) -> Cluster:
    """The cluster with one of its rates multiplied."""
    node, chip = CLUSTER.node, CLUSTER.node.chip
    if part in ("inside", "between"):
        both = {name: Link(bandwidth=getattr(CLUSTER, name).bandwidth * factor) for name in ("inside", "between")}
        return dataclasses.replace(CLUSTER, **both)
    if part == "link":
        return dataclasses.replace(CLUSTER, node=dataclasses.replace(node, link=Link(bandwidth=300e9 * factor)))
    quick = dataclasses.replace(chip, **{part: getattr(chip, part) * factor})
    return dataclasses.replace(CLUSTER, node=dataclasses.replace(node, chip=quick))


@given(plans, st.sampled_from(["inside", "link", "flops_16bit", "memory_bandwidth"]), st.floats(1.0, 100.0))
def test_better_hardware_is_never_slower(plan, part, factor):
    assert seconds(plan, faster(part, factor)) <= seconds(plan) * (1 + 1e-12)


def test_choices_pull_the_way_they_should():
    assert seconds(ARTICLE.replace(chunks=4)) < seconds()  # a smaller bubble
    assert seconds(ARTICLE.replace(recompute=Recompute.SELECTIVE)) < seconds()
    assert seconds(ARTICLE.replace(sequence_parallel=False)) > seconds()
    assert seconds(ARTICLE.replace(overlap=1)) < seconds()
    assert seconds(ARTICLE.replace(overlap_layers=1)) < seconds()
    assert seconds(imbalance=1.5) > seconds()
    uneven = specs.cluster("a100_sxm_40gb", 3125, 125, between=0.1)
    assert seconds(cluster=uneven) > seconds()


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"batch": 0.0}, "step.batch is 0; allowed: a finite number above 0"),
        ({"sequence_length": -1.0}, "step.sequence_length is -1; allowed: a finite number above 0"),
        ({"batch": float("inf")}, "step.batch is inf; allowed: a finite number above 0"),
        ({"imbalance": 0.5}, "step.imbalance is 0.5; allowed: a number at least 1"),
    ],
)
def test_absurd_input_is_an_error_that_names_it(wrong, words):
    asked = ASKED | wrong
    with pytest.raises(ValueError, match=re.escape(words)):
        training_step(GPT4, ARTICLE, CLUSTER, efficiency=SHARE, **asked)


def test_a_plan_that_cannot_be_run_is_marked():
    assert bool(training_step(GPT4, ARTICLE, CLUSTER, **ASKED, efficiency=SHARE).legal)
    assert not bool(training_step(GPT4, ARTICLE.replace(tensor=5.0), CLUSTER, **ASKED, efficiency=SHARE).legal)
    assert not bool(
        training_step(
            GPT4, ARTICLE, CLUSTER, batch=10.0, sequence_length=ASKED["sequence_length"], efficiency=SHARE
        ).legal
    )


def test_full_recompute_costs_a_third():
    made = training_step(GPT4, ARTICLE, CLUSTER, **ASKED, efficiency=SHARE)
    assert float(made.hfu / made.mfu) == pytest.approx(4 / 3, abs=0.01)


def test_flop_are_those_of_the_megatron_paper():
    # narayanan2021megatron, equation 3, counts the recomputed forward pass.
    for run in [run for run in read()[0] if run.name.startswith("Megatron-LM")]:
        B, s, L, h, V = run.batch, run.sequence_length, run.model.layers, run.model.d_model, run.model.vocabulary
        expected = 96 * B * s * L * h**2 * (1 + s / (6 * h) + V / (16 * L * h))
        assert float(run.predict().hardware_flop) == pytest.approx(expected, rel=1e-9)


def test_a_mixture_that_uses_all_its_experts_is_one_wide_mlp():
    ideal = dataclasses.replace(SHARE, half_size=0.0)  # small products as fast as large ones
    mixture = GPT3.replace(experts=4, top_k=4, d_ff=GPT3.d_ff / 4)
    plan = Plan(tensor=8, pipeline=8)
    made, dense = (
        training_step(model, plan, CLUSTER, batch=64.0, sequence_length=2048.0, efficiency=ideal)
        for model in (mixture, GPT3)
    )
    router = 3 * 64 * 96 / 8 * 2 * 2048 * 12288 * 4 / (312e12 * SHARE.matmul)
    assert float(made.matmul - dense.matmul) == pytest.approx(router, rel=1e-6)
    assert float(made.memory.total) == pytest.approx(float(dense.memory.total), rel=1e-3)


def test_expert_ways_trade_memory_for_traffic():
    ways = [
        training_step(GPT4, ARTICLE.replace(expert=e), CLUSTER, **ASKED, efficiency=SHARE) for e in (1, 2, 4, 8, 16)
    ]
    traffic = [float(made.expert) for made in ways]
    held = [float(made.memory.weights) for made in ways]
    assert traffic[0] == 0.0 and traffic == sorted(traffic)
    assert held == sorted(held, reverse=True)


def test_hybrid_sharding_talks_less_than_full_sharding():
    base = Plan(tensor=8, data=3125, zero=3)
    times = [
        float(training_step(GPT4, base.replace(zero_ways=w), CLUSTER, **ASKED, efficiency=SHARE).gradient_reduction)
        for w in (0, 125, 25)
    ]
    assert times == sorted(times, reverse=True)
    pipelined = float(training_step(GPT4, ARTICLE, CLUSTER, **ASKED, efficiency=SHARE).gradient_reduction)
    assert all(pipelined < other for other in times)


def test_the_plan_of_the_article_lands_near_its_utilisation():
    made = training_step(GPT4, ARTICLE, CLUSTER, **ASKED, efficiency=SHARE)
    assert 0.30 < float(made.mfu) < 0.37
    assert not bool(made.fits)  # ZeRO 1 keeps weights and gradients whole on each chip


def test_all_combinations_are_finite():
    for e, z, v in itertools.product((1, 16), range(4), (1, 8)):
        made = training_step(GPT4, ARTICLE.replace(expert=e, zero=z, chunks=v), CLUSTER, **ASKED, efficiency=SHARE)
        assert all(np.isfinite(leaf) for leaf in map(float, jax.tree.leaves(made)))


def test_tensor_ways_beyond_a_node_go_at_the_pace_of_the_network():
    inside, across = (
        training_step(GPT4, ARTICLE.replace(tensor=t, data=104), CLUSTER, **ASKED, efficiency=SHARE).tensor
        for t in (8, 16)
    )
    assert float(across) > 5 * float(inside)  # 25 GB/s instead of 300
