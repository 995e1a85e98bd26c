"""Failures: the closed form against runs played through, the best interval against Lambert's W, published rates."""

import dataclasses
from decimal import Decimal, localcontext

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.training import reliability
from anatomy.cost.training.reliability import Failures, WallTime, published_failures
from anatomy.specs import catalogue
from hypothesis import given

HOUR, DAY = 3600.0, 86_400.0
PARTS = ("useful", "writing", "rework", "restart")
SAMPLE = Failures(rate=5e-8, write=30.0, restart=600.0)


def goodput_of(failures, nodes, interval):
    return reliability.goodput(failures, nodes=nodes, interval=interval)


def shares_of(failures, nodes, interval):
    return reliability.wall_time_shares(failures, nodes=nodes, interval=interval)


goodput, wall_time_shares, best_interval, young_interval, daly_interval, mean_time_between_failures = map(
    jax.jit,
    (
        goodput_of,
        shares_of,
        reliability.best_interval,
        reliability.young_interval,
        reliability.daly_interval,
        reliability.mean_time_between_failures,
    ),
)


def powers(low: float, high: float):
    return st.floats(low, high).map(lambda exponent: 10.0**exponent)


# A node that fails every three hours to every 30,000 years; writes and restarts of up to about an hour.
kinds = st.builds(
    Failures, rate=powers(-12, -4), write=st.just(0.0) | powers(-2, 3.5), restart=st.just(0.0) | powers(-1, 3.5)
)
nodes = st.integers(1, 20_000).map(float)
intervals = powers(0, 5)


def with_mean(hours: float, write: float, restart: float) -> Failures:
    """One node that fails so often."""
    return Failures(rate=1 / (hours * HOUR), write=write, restart=restart)


def as_parts(wall: WallTime) -> dict[str, float]:
    return {name: float(getattr(wall, name)) for name in PARTS}


# The closed form.


@given(kinds, nodes, intervals)
def test_parts_are_shares_and_add_up(kind, n, interval):
    wall = wall_time_shares(kind, n, interval)
    parts = as_parts(wall)
    assert sum(parts.values()) == pytest.approx(1, rel=1e-14)
    assert float(wall.total) == pytest.approx(1, rel=1e-14)
    assert all(0 <= share <= 1 for share in parts.values())
    assert parts["useful"] == float(goodput(kind, n, interval))
    assert parts["writing"] * interval == pytest.approx(parts["useful"] * kind.write, rel=1e-12)


@given(kinds, nodes, intervals)
def test_goodput_is_daly_s_complete_model(kind, n, interval):
    mean = 1 / (kind.rate * n)
    attempt = interval + kind.write
    if attempt + kind.restart < 500 * mean:  # beyond, the exponential overflows
        wall = mean * np.exp(kind.restart / mean) * np.expm1(attempt / mean)
        assert float(goodput(kind, n, interval)) == pytest.approx(interval / wall, rel=1e-12)
        assert 0 < float(goodput(kind, n, interval)) <= 1
        assert float(mean_time_between_failures(kind, n)) == pytest.approx(mean, rel=1e-14)


@given(kinds, nodes, intervals, st.floats(1.01, 10))
def test_more_nodes_slower_writes_and_slower_restarts_are_never_better(kind, n, interval, factor):
    now = float(goodput(kind, n, interval))
    assert float(goodput(kind, factor * n, interval)) <= now
    for name in ("rate", "write", "restart"):
        worse = dataclasses.replace(kind, **{name: factor * getattr(kind, name)})
        assert float(goodput(worse, n, interval)) <= now * (1 + 1e-15)


@given(kinds, nodes, st.floats(1.01, 10))
def test_more_nodes_are_never_better_at_their_own_best_interval(kind, n, factor):
    few, many = (float(goodput(kind, n, best_interval(kind, n))) for n in (n, factor * n))
    assert many <= few


@given(nodes, intervals, powers(-2, 3.5), powers(-1, 3.5))
def test_without_failures_only_writing_is_wall_time_shares(n, interval, write, restart):
    never = Failures(rate=0.0, write=write, restart=restart)
    assert float(goodput(never, n, interval)) == pytest.approx(interval / (interval + write), rel=1e-15)
    assert float(goodput(dataclasses.replace(never, write=0.0), n, interval)) == 1
    # Almost none are almost that: no seam between the series and the formula.
    rarely = dataclasses.replace(never, rate=1e-18)
    assert float(goodput(rarely, n, interval)) == pytest.approx(float(goodput(never, n, interval)), rel=1e-8)


@pytest.mark.parametrize("write", [0.0, 30.0])
def test_without_failures_the_best_interval_is_to_write_never(write):
    never = Failures(rate=0.0, write=write, restart=600.0)
    for best in (best_interval, young_interval, daly_interval):
        assert best(never, 1000.0) == np.inf
    assert goodput(never, 1000.0, best_interval(never, 1000.0)) == 1


def test_free_checkpoints_are_written_all_the_time():
    free = with_mean(3.0, 0.0, 600.0)
    assert best_interval(free, 1.0) == young_interval(free, 1.0) == daly_interval(free, 1.0) == 0
    assert float(goodput(free, 1.0, 0.0)) == pytest.approx(np.exp(-600 / (3 * HOUR)), rel=1e-15)
    assert float(goodput(free, 1.0, 1e-3)) == pytest.approx(float(goodput(free, 1.0, 0.0)), rel=1e-6)


def test_a_hopeless_run_makes_no_progress_and_no_nonsense():
    hopeless = as_parts(wall_time_shares(with_mean(0.001, 600.0, 3600.0), 1000.0, 1e6))
    assert hopeless == {"useful": 0, "writing": 0, "rework": 0, "restart": 1}


@pytest.mark.parametrize("attempt", [0.049999999, 0.05, 0.050000001])
def test_series_and_formula_meet_with_their_slopes(attempt):
    one = Failures(rate=1.0, write=0.0, restart=0.0)
    assert float(goodput(one, 1.0, attempt)) == pytest.approx(attempt / np.expm1(attempt), rel=1e-15)
    slope = (np.expm1(attempt) - attempt * np.exp(attempt)) / np.expm1(attempt) ** 2
    assert float(jax.grad(goodput_of, argnums=2)(one, 1.0, attempt)) == pytest.approx(slope, rel=1e-12)


# The closed form against runs that are played through.

PLAYED = {
    "Llama 3": (published_failures("llama3", write=10.0, restart=600.0), 2048.0, 465.0),
    "25,000 A100": (published_failures("rsc1", write=60.0, restart=900.0), 3125.0, 1800.0),
    "Daly, figure 3": (with_mean(24.0, 300.0, 600.0), 1.0, 7000.0),
    "Daly, figure 5: fails every quarter of an hour": (with_mean(0.25, 300.0, 600.0), 1.0, 550.0),
    "restart longer than between failures": (with_mean(0.1, 20.0, 720.0), 1.0, 100.0),
    "interval twice that between failures": (with_mean(0.5, 30.0, 60.0), 1.0, 3600.0),
    "free checkpoints, instant restart": (with_mean(1.0, 0.0, 0.0), 1.0, 1000.0),
}


@pytest.mark.parametrize("case", PLAYED)
def test_simulated_runs_agree_within_their_scatter(case):
    kind, n, interval = PLAYED[case]
    intervals = 100
    runs = reliability.simulate_failures(kind, nodes=n, interval=interval, work=intervals * interval, seed=1, runs=2000)
    np.testing.assert_allclose(runs.useful, intervals * interval)
    np.testing.assert_allclose(runs.writing, intervals * kind.write)
    expected = intervals * interval / float(goodput(kind, n, interval))
    shares = as_parts(wall_time_shares(kind, n, interval))
    for name in ("rework", "restart", "total"):
        seconds = getattr(runs, name)
        scatter = np.std(seconds) / np.sqrt(len(seconds))
        assert abs(np.mean(seconds) - expected * shares.get(name, 1)) <= 4 * scatter, name
    assert np.std(runs.total) / np.sqrt(2000) < 0.01 * expected  # else agreement would mean little


def test_a_simulation_without_failures_is_the_work_and_its_checkpoints():
    runs = reliability.simulate_failures(
        Failures(rate=0.0, write=5.0, restart=9.0), nodes=100, interval=60.0, work=301.0, runs=3
    )
    np.testing.assert_array_equal(runs.total, 6 * 65.0)  # 301 seconds are six intervals
    np.testing.assert_array_equal(runs.rework + runs.restart, 0)


def test_simulations_are_repeatable_and_differ_by_seed():
    first, again, other = (
        reliability.simulate_failures(SAMPLE, nodes=2000, interval=600.0, work=DAY, seed=seed, runs=5).total
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert len({*first, *other}) == 10


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(ValueError, match=r"simulate\.interval is 0; allowed: a finite number above 0"):
        reliability.simulate_failures(SAMPLE, nodes=2000, interval=0.0, work=DAY)
    with pytest.raises(ValueError, match=r"simulate\.work is -1; allowed"):
        reliability.simulate_failures(SAMPLE, nodes=2000, interval=600.0, work=-1.0)
    with pytest.raises(ValueError, match=r"failures expected in a run is inf; allowed: at most 1e\+06"):
        reliability.simulate_failures(with_mean(0.001, 600.0, 600.0), nodes=1000, interval=3600.0, work=DAY)


# The best interval.


def lambert(write: float) -> float:
    """1 + W(-e^(-1 - write)), the best interval for M = 1, to forty digits: -ln(1 - u) - u = write."""
    with localcontext() as context:
        context.prec = 60
        low, high = Decimal(0), Decimal(1) - Decimal("1e-50")
        for _ in range(150):
            middle = (low + high) / 2
            low, high = (middle, high) if -(1 - middle).ln() - middle < Decimal(write) else (low, middle)
        return float(low)


@pytest.mark.parametrize("write", [1e-16, 1e-8, 1e-4, 1.2499e-3, 1.2501e-3, 5e-3, 0.1, 0.5, 1.9, 2.1, 5.0, 40.0])
def test_the_best_interval_is_lambert_s_w(write):
    one = Failures(rate=1.0, write=write, restart=0.3)
    assert float(best_interval(one, 1.0)) == pytest.approx(lambert(write), rel=1e-14)


@given(kinds.filter(lambda kind: kind.write > 0), nodes, st.floats(1.01, 10))
def test_any_other_interval_loses(kind, n, off):
    best = best_interval(kind, n)
    top = float(goodput(kind, n, best))
    for other in (off * best, best / off, young_interval(kind, n), daly_interval(kind, n)):
        assert float(goodput(kind, n, other)) <= top * (1 + 1e-13)
    mean = 1 / (kind.rate * n)
    assert top == pytest.approx(np.exp(-(kind.restart + float(best) + kind.write) / mean), rel=1e-11, abs=1e-300)


@given(kinds, nodes)
def test_estimates_close_in_on_the_best_interval_as_failures_become_rare(kind, n):
    best, daly, young = (float(f(kind, n)) for f in (best_interval, daly_interval, young_interval))
    share = 2 * kind.write * kind.rate * n  # s^2
    if share < 0.1:
        # Young is off by the second term of the series, Daly by the fourth.
        assert young == pytest.approx(best, rel=0.4 * share**0.5 + 1e-12)
        assert daly == pytest.approx(best, rel=0.005 * share**1.5 + 1e-12)
    assert best <= min(young, 1 / (kind.rate * n)) * (1 + 1e-14)


@pytest.mark.parametrize("hours, minutes", [(24, 117), (6, 57), (0.25, 9.1)])
def test_daly_s_own_examples(hours, minutes):
    # Figures 3 to 5: writes of five minutes, restarts of ten.
    kind = with_mean(hours, 300.0, 600.0)
    assert float(daly_interval(kind, 1.0)) / 60 == pytest.approx(minutes, abs=0.05 if minutes < 10 else 0.5)
    assert float(best_interval(kind, 1.0)) == pytest.approx(float(daly_interval(kind, 1.0)), rel=3e-3)


def test_daly_where_writing_takes_longer_than_failing():
    assert daly_interval(with_mean(1.0, 2 * HOUR, 0.0), 1.0) == HOUR
    assert daly_interval(with_mean(1.0, 9 * HOUR, 0.0), 1.0) == HOUR


# Published rates. Seconds to write and to restart were not published with them. Ten to write: the weights and Adam's
# moments of 405B parameters, 14 bytes each, take three at the published 2 TB/s. Ten minutes to restart.


def hours_between(key: str, n: float) -> float:
    return float(mean_time_between_failures(published_failures(key, write=10.0, restart=600.0), n)) / HOUR


def at_best(key: str, n: float) -> float:
    kind = published_failures(key, write=10.0, restart=600.0)
    return float(goodput(kind, n, best_interval(kind, n)))


def test_llama_3_trains_for_more_than_nine_tenths_of_its_time():
    assert hours_between("llama3", 2048) == pytest.approx(54 * 24 / 419, rel=1e-14)
    assert at_best("llama3", 2048) > 0.9
    assert at_best("llama3", 2048) == pytest.approx(0.908, abs=5e-4)


def test_twenty_five_thousand_a100_fail_almost_every_hour():
    assert hours_between("rsc1", 3125) == pytest.approx(1.18, abs=5e-3)
    assert at_best("rsc1", 3125) == pytest.approx(0.810, abs=5e-4)


@pytest.mark.parametrize("gpus, hours", [(16_384, 1.8), (131_072, 0.23)])
def test_the_authors_project_the_same_time_between_failures(gpus, hours):
    assert hours_between("rsc1", gpus / 8) == pytest.approx(hours, abs=5e-3)


def test_published_rates_for_a_thousand_node_days():
    rates = {key: published_failures(key, write=0, restart=0).rate * 1000 * DAY for key in catalogue.table("failures")}
    assert rates == pytest.approx({"rsc1": 6.5, "llama3": 3.789, "opt_175b": 13.88}, rel=1e-3)


def test_opt_is_the_hundred_restarts_of_a_small_cluster():
    row = catalogue.entry("failures", "opt_175b")
    assert (row["failures"], row["nodes"]) == (35 + 70, 992 / 8)
    assert hours_between("opt_175b", row["nodes"]) == pytest.approx(14, abs=0.1)


def test_every_rate_has_a_source(references):
    for key in catalogue.table("failures"):
        assert catalogue.source_of("failures", key, "failures") in references
        assert published_failures(key, write=10, restart=600).rate > 0
    with pytest.raises(KeyError, match="failures entry 'lama3'; nearest: llama3"):
        published_failures("lama3", write=10.0, restart=600.0)


# Under the transforms.


def test_jit_vmap_and_plain_agree():
    counts = jnp.array([1.0, 128.0, 2048.0, 3125.0, 20_000.0])
    for function in (
        lambda n: reliability.goodput(SAMPLE, nodes=n, interval=900.0),
        lambda n: reliability.best_interval(SAMPLE, nodes=n),
    ):
        plain = [function(float(n)) for n in counts]
        np.testing.assert_allclose(jax.vmap(function)(counts), plain, rtol=1e-13)
        np.testing.assert_allclose(function(counts), plain, rtol=1e-13)  # over arrays too
        np.testing.assert_allclose([jax.jit(function)(n) for n in counts], plain, rtol=1e-13)


slopes = jax.jit(jax.grad(goodput_of, argnums=(0, 1, 2)))
slopes_at_best = jax.jit(
    jax.grad(
        lambda kind, n: reliability.goodput(kind, nodes=n, interval=reliability.best_interval(kind, nodes=n)),
        argnums=(0, 1),
    )
)


@given(kinds | kinds.map(lambda kind: dataclasses.replace(kind, rate=0.0)), nodes, intervals)
def test_gradients_are_finite_and_never_of_the_wrong_sign(kind, n, interval):
    kind_slope, nodes_slope, interval_slope = slopes(kind, n, interval)
    downhill = [*jax.tree.leaves(kind_slope), nodes_slope]
    assert np.all(np.isfinite(downhill)) and max(downhill) <= 0
    assert np.isfinite(interval_slope)
    assert np.all(np.isfinite(jax.tree.leaves(slopes_at_best(kind, n))))


@jax.jit
def of_logs(logs):
    """What is to be differentiated, by the logarithms of rate, write, restart, nodes and interval."""
    rate, write, restart, n, interval = jnp.exp(logs)
    kind = Failures(rate=rate, write=write, restart=restart)
    best = reliability.best_interval(kind, nodes=n)
    return jnp.stack(
        [
            reliability.goodput(kind, nodes=n, interval=interval),
            reliability.goodput(kind, nodes=n, interval=best),
            jnp.log(best),
        ]
    )


elasticities = jax.jit(jax.jacfwd(of_logs))


@pytest.mark.parametrize("hours", [0.25, 1.2, 24.0, 1000.0])
def test_gradients_are_finite_differences(hours):
    at, step = jnp.log(jnp.array([1 / (2048 * hours * HOUR), 30.0, 600.0, 2048.0, 900.0])), 1e-5
    differences = [(of_logs(at.at[i].add(step)) - of_logs(at.at[i].add(-step))) / (2 * step) for i in range(5)]
    np.testing.assert_allclose(elasticities(at), np.transpose(differences), rtol=1e-6, atol=1e-9)


def test_at_the_best_interval_goodput_is_flat():
    best = best_interval(SAMPLE, 2048.0)
    assert float(slopes(SAMPLE, 2048.0, best)[2]) == pytest.approx(0, abs=1e-15)
    # The square root: checkpoints that are written four times as fast are best written twice as often.
    elasticity = jax.grad(
        lambda w: jnp.log(reliability.best_interval(dataclasses.replace(SAMPLE, write=w), nodes=1.0))
    )(30.0)
    assert 30 * float(elasticity) == pytest.approx(0.5, abs=1e-3)


def test_absurd_failures_are_an_error():
    with pytest.raises(ValueError, match=r"Failures\.write is -1; allowed: a number at least 0 \(s\)"):
        Failures(rate=1e-8, write=-1.0, restart=0.0)


@pytest.mark.parametrize(
    "ask",
    [
        reliability.mean_time_between_failures,
        reliability.best_interval,
        lambda f, n: reliability.goodput(f, nodes=n, interval=100.0),
    ],
)
def test_absurd_nodes_are_an_error_that_names_them(ask):
    with pytest.raises(ValueError, match=r"reliability.nodes is -5; allowed: a number above 0"):
        ask(Failures(rate=1e-7, write=30, restart=300), -5)


def test_an_absurd_interval_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"reliability.interval is -100; allowed: a number at least 0"):
        reliability.goodput(Failures(rate=1e-7, write=30, restart=300), nodes=5, interval=-100.0)
