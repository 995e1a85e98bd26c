"""Arrivals and lengths have the laws they are named for; costs of steps are what was put in."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.efficiency import overheads
from anatomy.cost.queueing.step_costs import Affine, Modelled, Table, Work
from anatomy.cost.queueing.traffic import geometric_lengths, lognormal_lengths, poisson, uniform_lengths
from anatomy.cost.serving.steps import decode, prefill
from anatomy.specs import Serving, architecture, cluster
from hypothesis import given, settings
from scipy import stats

KEY = jax.random.key(1)
N = 40_000
MODEL, PLAN = architecture("gpt4_mqa"), Serving(tensor=8.0, pipeline=16.0, first_stage_share=0.0, micro_batches=16.0)
COST = Modelled(model=MODEL, plan=PLAN, cluster=cluster("a100_sxm_40gb", 16.0), constants=overheads("a100_sxm_80gb"))


def test_laws_of_arrivals_and_lengths():
    gaps = np.diff(poisson(KEY, count=N, rate=5.0))
    assert stats.kstest(gaps, "expon", args=(0, 0.2)).pvalue > 0.01
    tokens = np.asarray(geometric_lengths(KEY, count=N, mean=12.0))
    values, counts = np.unique(np.minimum(tokens, 60), return_counts=True)
    chance = np.append(stats.geom(1 / 12).pmf(values[:-1]), stats.geom(1 / 12).sf(59))
    assert stats.chisquare(counts, N * chance / chance.sum()).pvalue > 0.01
    values, counts = np.unique(uniform_lengths(KEY, count=N, low=3, high=10), return_counts=True)
    assert (values == np.arange(3, 11)).all() and stats.chisquare(counts).pvalue > 0.01
    long = np.asarray(lognormal_lengths(KEY, count=N, mean=1000.0, variation=1.0))
    assert long.mean() == pytest.approx(1000, rel=0.03) and long.std() / long.mean() == pytest.approx(1, rel=0.05)
    assert (long == np.ceil(long)).all() and np.asarray(
        lognormal_lengths(KEY, count=N, mean=1000.0, variation=1.0, longest=1500.0)
    ).max() == 1500
    assert (np.asarray(lognormal_lengths(KEY, count=9, mean=7.0, variation=0.0)) == 7).all()
    assert (np.asarray(geometric_lengths(KEY, count=9, mean=1.0)) == 1).all()


def test_bursts_keep_the_rate():
    arrival = np.asarray(poisson(KEY, count=N, rate=5.0, burst_size=4.0))
    assert N / arrival[-1] == pytest.approx(5, rel=0.05)
    assert np.mean(np.diff(arrival) == 0) == pytest.approx(0.75, abs=0.01)
    # The same key, twice as often: the same pattern.
    np.testing.assert_allclose(poisson(KEY, count=9, rate=2.0) * 2, poisson(KEY, count=9, rate=4.0) * 4, rtol=1e-12)


def test_affine_adds_up():
    cost = Affine(step=1.0, sequence=2.0, prompt=3.0, reading=4.0, cached=5.0, attended=6.0)
    assert float(cost(Work(1.0, 0.0, 1.0, 1.0))) == 1 + 2 + 5 + 6
    assert float(cost(Work(0.0, 2.0, 0.0, 3.0))) == 1 + 6 + 4 + 18


@given(st.floats(0, 40), st.floats(0, 900), st.floats(0, 300))
def test_a_table_of_a_plane_is_the_plane(sequences, cached_each, prompt):
    def plane(n, cached, read):
        return 0.3 + 0.02 * n + 1e-3 * cached + 1e-2 * read + 1e-4 * n * cached

    axes = np.array([0.0, 1, 4, 32]), np.array([0.0, 100, 700]), np.array([0.0, 64, 256])
    table = Table(*axes, plane(*np.meshgrid(*axes, indexing="ij")))
    found = float(table(Work(sequences, prompt, cached_each * max(sequences, 1.0), 0.0)))
    assert found == pytest.approx(plane(sequences, cached_each, prompt), rel=1e-9)


def test_a_table_of_one_point_is_a_constant_and_a_pytree():
    table = Table(*map(np.array, ([8.0], [0.0, 1.0], [0.0], [[[0.5], [0.5]]])))
    assert float(table(Work(3.0, 9.0, 100.0, 0.0))) == 0.5
    twice = jax.tree.map(lambda x: 2 * x, table)
    assert float(twice(Work(1.0, 0.0, 0.0, 0.0))) == 1.0
    assert float(jax.jit(lambda t: t(Work(1.0, 0.0, 0.0, 0.0)))(table)) == 0.5


@settings(max_examples=15)
@given(st.sampled_from([16.0, 100.0, 2048.0]), st.floats(1, 8192))
def test_modelled_is_decode_where_only_tokens_are_made(sequences, context):
    made = decode(MODEL, PLAN, COST.cluster, COST.constants, batch=sequences, context=context)
    found = COST(Work(sequences, 0.0, sequences * context, sequences * (context + 1)))
    assert float(found) == pytest.approx(float(made.seconds), rel=1e-9)


def test_modelled_is_prefill_where_only_prompts_are_read():
    made = prefill(MODEL, PLAN, COST.cluster, COST.constants, batch=16.0, prompt=512.0)
    found = COST(Work(0.0, 16 * 512.0, 0.0, 16 * 512 * 513 / 2, reading=16.0))
    # A server goes on with the next prompts as soon as the first stage is free.
    assert float(found) == pytest.approx(float(jnp.maximum(made.seconds - made.waiting, made.period)), rel=1e-9)


def test_a_modelled_step_grows_with_its_work():
    alone = jax.vmap(lambda n: COST(Work(n, 0.0, n * 1000, n * 1001)))(jnp.array([1.0, 4.0, 64.0, 1024.0, 8192.0]))
    assert (jnp.diff(alone) >= 0).all() and alone[-1] > 2 * alone[0]
    read = jax.vmap(lambda p: COST(Work(64.0, p, 64e3, 64e3 + p * p / 2)))(jnp.array([0.0, 64.0, 4096.0, 65536.0]))
    assert (jnp.diff(read) > 0).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Affine(step=-1.0), "Affine.step is -1"),
        (
            lambda: poisson(jax.random.key(0), count=-1, rate=1.0),
            "poisson.count is -1; allowed: a whole number at least 1",
        ),
        (
            lambda: lognormal_lengths(jax.random.key(0), count=0, mean=9.0, variation=1.0),
            "lognormal_lengths.count is 0",
        ),
        (lambda: geometric_lengths(jax.random.key(0), count=0, mean=9.0), "geometric_lengths.count is 0"),
        (
            lambda: uniform_lengths(jax.random.key(0), count=2, low=3, high=2),
            "uniform_lengths.low is 3; allowed: at most high",
        ),
        (
            lambda: uniform_lengths(jax.random.key(0), count=2, low=1, high=2.5),
            "uniform_lengths.high is 2.5; allowed: a whole number",
        ),
        (lambda: Table([2.0, 1.0], [0.0], [0.0], np.ones((2, 1, 1))), "Table.sequences is"),
        (lambda: Table([1.0], [0.0], [0.0], np.ones((2, 1, 1))), "Table.seconds has shape"),
        (lambda: Table([1.0], [0.0], [0.0], np.zeros((1, 1, 1))), "Table.seconds is 0"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
