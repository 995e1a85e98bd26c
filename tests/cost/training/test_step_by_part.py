"""One training step, part by part: by hand, in its limits, by what moves it, and by its gradients."""

import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.efficiency import Efficiency, derate, efficiency
from anatomy.cost.gemm import gemm_seconds
from anatomy.cost.training.pipeline import bubble
from anatomy.cost.training.step import Step, hardware_flop, training_step
from anatomy.specs import Architecture, Attention, Cluster, Link, Node, Plan, Recompute, architecture, catalogue, chip
from hypothesis import given, settings
from specs.random_architectures import architectures, attentions


@jax.jit
def step(model, plan, cluster, batch, length, share, imbalance=1.0):
    size = {"batch": batch, "sequence_length": length, "efficiency": share}
    return training_step(model, plan, cluster, **size, imbalance=imbalance)


batched = jax.jit(jax.vmap(step, in_axes=(None, 0, None, 0, None, None)))
WORK = ("matmul", "scores", "memory_bound", "recompute")
COMMUNICATION = ("tensor", "expert", "stages", "gradient_reduction")
PARTS = (*WORK, *COMMUNICATION, "bubble", "optimizer")
REAL = efficiency("a100_sxm_80gb")
IDEAL = Efficiency(matmul=1.0, half_size=0.0, memory=1.0, link=1.0, network=1.0)
A100 = chip("a100_sxm_80gb")


def floats(**ways: float) -> Plan:
    return Plan(**{name: float(value) for name, value in ways.items()})


def make(node_chips=8, nodes=64, segment_nodes=16, peak=312e12, memory=2039e9, link=300e9, inside=25e9, between=10e9):
    made = dataclasses.replace(A100, flops_16bit=peak, memory_bandwidth=memory)
    return Cluster(
        node=Node(chip=made, chips=float(node_chips), link=Link(bandwidth=link)),
        nodes=float(nodes),
        inside=Link(bandwidth=inside),
        between=Link(bandwidth=between),
        segment_nodes=float(segment_nodes),
    )


RATES = {"peak": 312e12, "memory": 2039e9, "link": 300e9, "inside": 25e9, "between": 10e9}
CLUSTER = make()
INFINITE = make(memory=1e40, link=1e40, inside=1e40, between=1e40)
DENSE = Architecture(
    layers=32.0,
    d_model=1024.0,
    attention=Attention(heads=16.0, kv_heads=16.0, head_dim=64.0),
    d_ff=4096.0,
    vocabulary=32000.0,
    context=2048.0,
)
MIXED = DENSE.replace(experts=8.0, top_k=2.0)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of up to 512 chips for 16 heads, 32 layers and 8 experts."""
    power = lambda most: st.sampled_from([2.0**i for i in range(most + 1)])  # noqa: E731
    data = draw(power(3))
    return Plan(
        tensor=draw(power(3)),
        pipeline=draw(power(3)),
        data=data,
        expert=min(draw(power(3)), data),
        micro_batch=draw(power(3)),
        chunks=draw(power(2)),
        zero=float(draw(st.integers(0, 3))),
        zero_ways=min(draw(st.sampled_from([0.0, 2.0, 4.0])), data),
        recompute=float(draw(st.sampled_from(list(Recompute)))),
        sequence_parallel=draw(st.sampled_from([0.0, 1.0])),
        gpipe=draw(st.sampled_from([0.0, 1.0])),
        fused_attention=draw(st.sampled_from([0.0, 1.0])),
        overlap=draw(st.floats(0, 1)),
    )


shares = st.builds(
    Efficiency,
    matmul=st.floats(0.1, 1),
    half_size=st.floats(0, 100),
    memory=st.floats(0.1, 1),
    link=st.floats(0.1, 1),
    network=st.floats(0.1, 1),
)
models = st.sampled_from([DENSE, MIXED])
micro_batches = st.integers(1, 64)
lengths = st.sampled_from([128.0, 2048.0])


def of_a_step(plan: Plan, m: int) -> float:
    return m * float(plan.data * plan.micro_batch)


def value(tree) -> np.ndarray:
    return np.array([float(leaf) for leaf in jax.tree.leaves(tree)])


def of(made: Step, name: str) -> float:
    return float(getattr(made, name))


# Parts and whole.


@given(models, plans(), shares, micro_batches, lengths)
def test_parts_add_up(model, plan, share, m, s):
    made = step(model, plan, CLUSTER, of_a_step(plan, m), s, share)
    parts = {name: of(made, name) for name in PARTS}
    assert all(np.isfinite(part) and part >= 0 for part in parts.values())
    assert of(made, "seconds") == pytest.approx(sum(parts.values()), rel=1e-12)
    # Every number of seconds is a part: none is left out of the sum.
    assert set(PARTS) == {f.name for f in dataclasses.fields(Step) if f.metadata.get("unit") == "s"}
    assert of(made, "tokens") == of_a_step(plan, m) * s
    assert of(made, "tokens_per_second") * of(made, "seconds") == pytest.approx(of(made, "tokens"), rel=1e-12)
    assert of(made, "peak") == pytest.approx(plan.chips * 312e12, rel=1e-12)
    flop_per_second = model.flop_per_token(s, backward=True).total * of(made, "tokens_per_second")
    assert of(made, "mfu") == pytest.approx(flop_per_second / of(made, "peak"), rel=1e-12)
    assert bool(made.fits) == (float(made.memory.total) <= 80e9)


@settings(max_examples=15)
@given(st.lists(plans(), min_size=2, max_size=3), models, shares, micro_batches)
def test_plain_jit_and_vmap_agree_in_every_number(drawn, model, share, m):
    stacked = jax.tree.map(lambda *leaves: jnp.array(leaves), *drawn)
    sizes = jnp.array([of_a_step(plan, m) for plan in drawn])
    across = batched(model, stacked, CLUSTER, sizes, 2048.0, share)
    np.testing.assert_allclose(across.seconds, sum(getattr(across, name) for name in PARTS), rtol=1e-12)
    for i, plan in enumerate(drawn):
        arguments = (model, plan, CLUSTER, of_a_step(plan, m), 2048.0, share)
        one, again = step(*arguments), step.__wrapped__(*arguments)
        alone = jax.tree.map(lambda leaf, i=i: np.broadcast_to(leaf, len(drawn))[i], across)
        for other in (again, alone):
            np.testing.assert_allclose(value(one), value(other), rtol=1e-12, atol=0)
            for name in ("seconds", "mfu", "hfu", "tokens_per_second", "fits"):
                assert of(one, name) == pytest.approx(of(other, name), rel=1e-12)


# Limits.


@given(models, shares, micro_batches, lengths, st.sampled_from(list(Recompute)), st.integers(0, 3))
def test_one_chip_sends_to_nobody_and_waits_for_nobody(model, share, m, s, recompute, zero):
    made = step(model, floats(recompute=recompute, zero=zero), CLUSTER, float(m), s, share)
    assert [of(made, name) for name in (*COMMUNICATION, "bubble")] == [0] * 5
    assert of(made, "matmul") > 0 and of(made, "optimizer") > 0


@given(plans(), micro_batches, lengths)
def test_infinitely_fast_networks_and_memory_leave_the_flop(plan, m, s):
    plan = plan.replace(fused_attention=0.0, expert=1.0)
    made = step(DENSE, plan, INFINITE, of_a_step(plan, m), s, IDEAL)
    # Every stage waits for the one with the output table; the others would have that time for themselves.
    logits = made.tokens * DENSE.flop_per_token(s, backward=True).unembedding
    busy = float((made.hardware_flop + (plan.pipeline - 1) * logits) / made.peak)
    assert of(made, "seconds") - of(made, "bubble") == pytest.approx(busy, rel=1e-9)
    assert of(made, "bubble") == pytest.approx(busy / m * bubble(stages=plan.pipeline, chunks=plan.chunks), rel=1e-9)
    if plan.pipeline == 1:
        assert of(made, "hfu") == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("name", catalogue.table("architectures"))
def test_every_model_of_the_catalogue_does_its_flop_at_peak(name):
    model = dataclasses.replace(architecture(name), name="")  # one program for all
    made = step(model, floats(recompute=2), INFINITE, 4.0, 2048.0, IDEAL)
    assert of(made, "hfu") == pytest.approx(1, rel=1e-9)


@given(models, plans(), shares, micro_batches, lengths)
def test_no_utilisation_above_what_matrix_products_reach(model, plan, share, m, s):
    plan = plan.replace(fused_attention=0.0)
    made = step(model, plan, CLUSTER, of_a_step(plan, m), s, share)
    assert 0 < of(made, "mfu") <= of(made, "hfu") * (1 + 1e-12)
    assert of(made, "hfu") <= share.matmul * (1 + 1e-12)
    if plan.recompute == Recompute.NONE:
        assert of(made, "mfu") == pytest.approx(of(made, "hfu"), rel=1e-12)
    else:
        assert of(made, "mfu") < of(made, "hfu")


def test_both_utilisations_count_the_whole_square_of_scores():
    """The convention of the papers: a kernel that skips the masked half can pass the peak at long contexts."""
    fused, plain = (step(DENSE, floats(fused_attention=by), INFINITE, 1.0, 32768.0, IDEAL) for by in (1, 0))
    assert of(plain, "hfu") == of(plain, "mfu") == pytest.approx(1, rel=1e-9)
    saved = DENSE.flop_per_token(32768.0).scores / DENSE.flop_per_token(32768.0).total / 2
    assert of(fused, "hfu") == of(fused, "mfu") == pytest.approx(1 / (1 - saved), rel=1e-9)


def test_recompute_raises_hfu_over_mfu():
    gpt3 = dataclasses.replace(architecture("gpt3_175b"), name="")
    ratios = {}
    for level in Recompute:
        made = step(gpt3, floats(tensor=8, pipeline=8, recompute=level), CLUSTER, 64.0, 2048.0, REAL)
        ratios[level] = of(made, "hfu") / of(made, "mfu")
    assert ratios[Recompute.NONE] == pytest.approx(1, rel=1e-12)
    # Scores are s / (6 h) of the rest, and are done once more in three.
    assert ratios[Recompute.SELECTIVE] - 1 == pytest.approx(2048 / (6 * 12288) / 3, rel=0.05)
    assert ratios[Recompute.FULL] == pytest.approx(4 / 3, rel=0.01)
    # Without logits it is four thirds to the last digit.
    bare = gpt3.replace(vocabulary=0.0)
    full, none = (hardware_flop(bare, floats(recompute=level), batch=64.0, sequence_length=2048.0) for level in (2, 0))
    assert full / none == pytest.approx(4 / 3, rel=1e-12)


# What moves it which way.


@given(models, plans(), shares, micro_batches, st.floats(1, 100), st.sampled_from(sorted(RATES)))
def test_faster_hardware_is_never_slower(model, plan, share, m, factor, name):
    rate = RATES[name] * factor
    faster = make(**{name: min(rate, RATES["inside"]) if name == "between" else rate})
    size = of_a_step(plan, m), 2048.0, share
    before, after = (of(step(model, plan, made, *size), "seconds") for made in (CLUSTER, faster))
    assert after <= before * (1 + 1e-12)
    if name in ("peak", "memory") and factor > 1.01:
        assert after < before


@given(models, plans(), shares, micro_batches, st.sampled_from(["matmul", "memory", "link", "network"]))
def test_better_programs_are_never_slower(model, plan, share, m, name):
    size = of_a_step(plan, m), 2048.0
    before = step(model, plan, CLUSTER, *size, share)
    after = step(model, plan, CLUSTER, *size, dataclasses.replace(share, **{name: 1.0}))
    assert of(after, "seconds") <= of(before, "seconds") * (1 + 1e-12)
    wasteful = dataclasses.replace(share, half_size=share.half_size + 10)
    assert of(step(model, plan, CLUSTER, *size, wasteful), "matmul") > of(before, "matmul")


@given(models, plans(), shares, micro_batches)
def test_chunks_overlap_and_recompute(model, plan, share, m):
    def steps(**changes: float) -> Step:
        return step(model, plan.replace(**changes), CLUSTER, of_a_step(plan, m), 2048.0, share)

    now, more = steps(), steps(chunks=2 * plan.chunks)
    assert of(more, "bubble") < of(now, "bubble") or plan.pipeline == 1
    assert of(more, "stages") == pytest.approx(2 * of(now, "stages"), rel=1e-12)  # the price of chunks
    hidden, shown = steps(overlap=1.0), steps(overlap=0.0)
    compute = sum(of(shown, name) for name in WORK) / m  # of one micro-batch
    rounds = m if plan.zero >= 2 else min(m, 1 + (plan.pipeline - 1) * (plan.chunks - 1) / plan.chunks)
    assert of(hidden, "gradient_reduction") == pytest.approx(
        max(0, of(shown, "gradient_reduction") - rounds * compute), abs=1e-12
    )
    assert (of(shown, "gradient_reduction") > 0) == (plan.data > 1)
    quiet = steps(overlap_layers=1.0)
    traffic = [sum(of(made, name) for name in ("tensor", "expert", "stages")) for made in (quiet, now)]
    assert traffic[0] == pytest.approx(max(0, traffic[1] - m * compute), abs=1e-12)
    plan = plan.replace(overlap=0.0)  # what is hidden behind compute would hide compute
    none, selective, full = (steps(recompute=float(level)) for level in Recompute)
    assert 0 == of(none, "recompute") < of(selective, "recompute") < of(full, "recompute")
    assert of(none, "mfu") > of(selective, "mfu") > of(full, "mfu")
    assert of(full, "tensor") == pytest.approx(1.5 * of(none, "tensor"), rel=1e-12)
    assert of(steps(fused_attention=1.0), "seconds") < of(steps(fused_attention=0.0), "seconds")


@given(plans(), shares, micro_batches)
def test_bubble_and_exchange_come_once_a_step_and_the_rest_with_each_micro_batch(plan, share, m):
    one = step(MIXED, plan, CLUSTER, of_a_step(plan, 1), 2048.0, share)
    many = step(MIXED, plan, CLUSTER, of_a_step(plan, m), 2048.0, share)
    each = (*WORK, "tensor", "expert", "stages")
    for name in each:
        assert of(many, name) == pytest.approx(m * of(one, name), rel=1e-12)
    assert of(many, "optimizer") == of(one, "optimizer")
    waiting = sum(of(one, name) for name in each) * (plan.pipeline - 1) / plan.chunks
    assert of(many, "bubble") == pytest.approx(waiting, rel=1e-12, abs=1e-15)


# Communication by hand.


def test_gradient_reduction():
    """64 replicas next to each other on 8 nodes of a segment; 2 bytes a gradient, twice round the rings."""
    made, size = make(nodes=8, segment_nodes=8), 2 * DENSE.parameters.total
    once = size * (7 / 8 / 300e9 + 7 / 64 / 25e9)

    def reduction(**more: float) -> float:
        return of(step(DENSE, floats(data=64, **more), made, 128.0, 2048.0, IDEAL), "gradient_reduction")

    for zero in (0, 1):
        assert reduction(zero=zero) == pytest.approx(2 * once, rel=1e-12)
    # ZeRO-2 scatters the gradients of each of two micro-batches, and gathers the weights once.
    assert reduction(zero=2) == pytest.approx((2 + 1) * once, rel=1e-12)
    assert reduction(zero=2, micro_batch=2) == pytest.approx(2 * once, rel=1e-12)
    # ZeRO-3: gathered forward and backward, scattered once, for each of two micro-batches.
    assert reduction(zero=3) == pytest.approx(2 * 3 * once, rel=1e-12)
    assert reduction(zero=3, micro_batch=2) == pytest.approx(3 * once, rel=1e-12)
    # In groups of a node nothing but an eighth of the gradients leaves it, once a step.
    inside, across = size * 7 / 8 / 300e9, size / 8 * 7 / 8 / 25e9
    assert reduction(zero=3, zero_ways=8) == pytest.approx(6 * inside + 2 * across, rel=1e-12)


def test_experts_that_no_other_replica_holds_are_not_exchanged():
    one = step(MIXED, floats(data=8, expert=8), make(nodes=1, segment_nodes=1), 64.0, 2048.0, IDEAL)
    shared = MIXED.parameters.total - MIXED.parameters.experts
    assert of(one, "gradient_reduction") == pytest.approx(2 * 2 * shared * 7 / 8 / 300e9, rel=1e-12)


def test_transfers_and_all_reduces():
    tokens, d = 2048.0, 1024.0
    made = step(DENSE, floats(tensor=8, pipeline=4), make(nodes=4, segment_nodes=4), 8.0, tokens, IDEAL)
    # Four all-reduces a layer, of 8 layers a stage and 8 micro-batches, on the fast link.
    assert of(made, "tensor") == pytest.approx(8 * 8 * 4 * 2 * (7 / 8) * 2 * tokens * d / 300e9, rel=1e-12)
    # An eighth of the activations by each chip to the next node, and as much back.
    assert of(made, "stages") == pytest.approx(8 * 2 * 2 * tokens * d / 8 / 25e9, rel=1e-12)
    # Two stages in a node: the fast link serves. Ways that reach beyond it go at the network's pace.
    near = step(DENSE, floats(tensor=4, pipeline=2), make(nodes=4, segment_nodes=4), 8.0, tokens, IDEAL)
    assert of(near, "stages") == pytest.approx(8 * 2 * 2 * tokens * d / 4 / 300e9, rel=1e-12)
    far = step(DENSE, floats(tensor=16), make(nodes=4, segment_nodes=4), 8.0, tokens, IDEAL)
    assert of(far, "tensor") == pytest.approx(8 * 32 * 4 * 2 * (15 / 16) * 2 * tokens * d / 25e9, rel=1e-12)


def test_more_expert_ways_exchange_more():
    model = DENSE.replace(experts=64.0, top_k=2.0)
    for expert in (1, 2, 4, 8, 16, 64):
        made = step(model, floats(data=64, expert=expert), make(), 64.0, 2048.0, IDEAL)
        # Four all-to-alls a layer of two copies of each token, over the slowest link of the group.
        link = 300e9 if expert <= 8 else 25e9
        size = 4 * 32 * 2 * 2 * 2048 * 1024
        assert of(made, "expert") == pytest.approx(size * (expert - 1) / expert / link, rel=1e-12)
    assert of(step(DENSE, floats(data=64, expert=8), make(), 64.0, 2048.0, IDEAL), "expert") == 0


# One product.


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 10_000), shares, st.permutations([0, 1, 2]))
def test_one_matrix_product(rows, columns, inner, share, order):
    sides = {"rows": float(rows), "columns": float(columns), "inner": float(inner)}
    turned = dict(zip(sides, (list(sides.values())[i] for i in order), strict=True))
    seconds = gemm_seconds(**sides, peak=312e12, efficiency=share)
    assert seconds == pytest.approx(gemm_seconds(**turned, peak=312e12, efficiency=share), rel=1e-12)
    best = 2 * rows * columns * inner / (312e12 * share.matmul)
    assert seconds >= best * (1 - 1e-12)
    sharp = dataclasses.replace(share, half_size=0.0)
    assert gemm_seconds(**sides, peak=312e12, efficiency=sharp) == pytest.approx(best, rel=1e-12)
    # A side of half_size halves the rate.
    half = dataclasses.replace(share, half_size=64.0)
    rate = 2 * 64 * 1e24 / gemm_seconds(rows=64.0, columns=1e12, inner=1e12, peak=312e12, efficiency=half)
    assert rate == pytest.approx(312e12 * share.matmul / 2, rel=1e-9)


def test_derated_links_are_a_share_of_the_published_ones():
    made = derate(CLUSTER, dataclasses.replace(IDEAL, link=0.5, network=0.25))
    assert made.node.link.bandwidth == 150e9
    assert (made.inside.bandwidth, made.between.bandwidth) == (6.25e9, 2.5e9)
    assert made.node.chip == CLUSTER.node.chip


# Experts.


@given(plans(), shares, micro_batches)
def test_a_mixture_of_one_is_dense(plan, share, m):
    plan, size = plan.replace(expert=1.0), (of_a_step(plan, m), 2048.0, share)
    one, dense = (step(model, plan, CLUSTER, *size) for model in (DENSE.replace(experts=1.0, top_k=1.0), DENSE))
    np.testing.assert_array_equal(value(one), value(dense))
    assert of(step(DENSE, plan, CLUSTER, *size, imbalance=2.0), "seconds") == of(dense, "seconds")


@given(plans(), micro_batches, st.integers(2, 8))
def test_one_expert_a_token_costs_an_mlp_and_a_router(plan, m, experts):
    """However many there are: with products of any size at full rate, only the router is more."""
    plan, model = plan.replace(expert=1.0), DENSE.replace(experts=float(experts))

    def matmul(model: Architecture, share: Efficiency) -> float:
        return of(step(model, plan, CLUSTER, of_a_step(plan, m), 2048.0, share), "matmul")

    router = 3 * m * 32 / plan.pipeline * 2 * plan.micro_batch * 2048 * 1024 * experts / 312e12
    assert matmul(model, IDEAL) - matmul(DENSE, IDEAL) == pytest.approx(router, rel=1e-6)
    # At the rate of real products, many small ones are slower.
    assert matmul(model, REAL) > matmul(DENSE, REAL) + router


@given(plans(), shares, micro_batches, st.floats(1.01, 8))
def test_imbalance_slows(plan, share, m, imbalance):
    size = of_a_step(plan, m), 2048.0, share
    even, skewed = (step(MIXED, plan, CLUSTER, *size, imbalance=by) for by in (1.0, imbalance))
    assert of(skewed, "matmul") > of(even, "matmul")
    assert of(skewed, "mfu") < of(even, "mfu")
    assert of(skewed, "model_flop") == of(even, "model_flop")


@settings(max_examples=25)
@given(architectures(attentions(64), 2000), st.sampled_from([1.0, 2.0, 4.0]), micro_batches)
def test_any_architecture_gives_finite_numbers(model, ways, m):
    model = model.replace(vocabulary=max(model.vocabulary, 1.0))
    plan = floats(tensor=ways, pipeline=min(ways, model.layers), data=ways)
    made = step(model, plan, CLUSTER, of_a_step(plan, m), 512.0, REAL)
    assert np.all(np.isfinite(value(made))) and of(made, "seconds") > 0


def test_a_model_without_tables_takes_time_too():
    made = step(DENSE.replace(vocabulary=0.0), floats(), CLUSTER, 8.0, 2048.0, REAL)
    assert np.isfinite(of(made, "seconds"))


# Gradients.

PLAN = floats(tensor=4, pipeline=4, data=16, expert=8, micro_batch=2, chunks=2, zero=1, recompute=1)
LAYOUT = {"node_chips": 8, "nodes": 32, "segment_nodes": 4}  # replicas in a node, in a segment and between
SMALL = make(**LAYOUT)


def seconds(share: Efficiency, made: Cluster) -> jax.Array:
    return training_step(MIXED, PLAN, made, batch=256.0, sequence_length=2048.0, efficiency=share).seconds


gradients = jax.jit(jax.grad(seconds, argnums=(0, 1)))
plain = jax.jit(seconds)


def difference(f, x: float) -> float:
    h = 1e-4 * x
    return (f(x - 2 * h) - 8 * f(x - h) + 8 * f(x + h) - f(x + 2 * h)) / (12 * h)


def by_rate() -> dict[str, float]:
    by = gradients(REAL, SMALL)[1]
    slopes = (by.node.chip.flops_16bit, by.node.chip.memory_bandwidth, by.node.link.bandwidth)
    return dict(zip(RATES, map(float, (*slopes, by.inside.bandwidth, by.between.bandwidth)), strict=True))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Efficiency)])
def test_gradients_by_efficiency(name):
    slope = float(getattr(gradients(REAL, SMALL)[0], name))
    measured = difference(lambda x: float(plain(dataclasses.replace(REAL, **{name: x}), SMALL)), getattr(REAL, name))
    assert slope == pytest.approx(measured, rel=1e-7)
    assert slope > 0 if name == "half_size" else slope < 0


@pytest.mark.parametrize("name", RATES)
def test_gradients_by_hardware(name):
    slope = by_rate()[name]
    measured = difference(lambda x: float(plain(REAL, make(**LAYOUT, **{name: x}))), RATES[name])
    assert slope == pytest.approx(measured, rel=1e-7)
    assert slope < 0


def test_elasticities_add_up_to_minus_one():
    """All rates twice as high, half the seconds: without latencies nothing else takes time."""
    total = sum(slope * RATES[name] for name, slope in by_rate().items())
    assert total / float(plain(REAL, SMALL)) == pytest.approx(-1, rel=1e-9)
