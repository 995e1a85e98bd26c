"""A day of a fleet: shares add up, limits are known, and it agrees with an account kept hour by hour."""

import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.queueing import waiting
from anatomy.cost.serving.day import daily_load, day
from hypothesis import given

HOURS = np.arange(0, 24, 0.5)
swings, shares = st.floats(0, 1), st.floats(0.1, 1)


@given(swings, shares, st.floats(0.3, 3), st.integers(1, 50), st.floats(0, 5))
def test_shares_add_up(swing, usable, capacity, deployments, turning):
    made = day(
        daily_load(HOURS, swing=swing), capacity=capacity, usable=usable, deployments=deployments, turning=turning
    )
    assert float(made.total) == pytest.approx(1)
    assert min(float(x) for x in (made.busy, made.spare, made.turning, made.free, made.unserved)) >= -1e-9


@given(swings)
def test_price_is_peak_over_mean_of_a_fleet_for_the_peak(swing):
    load = daily_load(HOURS, swing=swing)
    assert float(day(load, capacity=load.max()).price()) == pytest.approx(1 + swing, rel=1e-9)
    # Latency that leaves a half empty doubles it, and chips that earn their whole rent undo what can be turned over.
    assert float(day(load, capacity=2 * load.max(), usable=0.5).price()) == pytest.approx(2 * (1 + swing), rel=1e-9)
    assert float(day(load, capacity=load.max(), deployments=10**6).price(1.0)) == pytest.approx(1, abs=1e-4)


@given(swings, st.integers(1, 9), st.floats(0, 3))
def test_it_is_the_account_kept_hour_by_hour(swing, deployments, turning):
    load, capacity = np.asarray(daily_load(HOURS, swing=swing)), 1.6
    on, turned, served = [], 0.0, 0.0
    for value in load:
        carried = min(value, capacity)
        on.append(min(k for k in range(deployments + 1) if k * capacity / deployments >= carried * (1 - 1e-9)))
        served += carried * 0.5
    for before, now in zip([on[-1], *on[:-1]], on, strict=True):
        turned += abs(now - before) * turning
    hours = 24.0 * deployments
    off = sum(deployments - n for n in on) * 0.5
    made = day(load, capacity=capacity, usable=1.0, deployments=deployments, turning=turning)
    assert float(made.busy) == pytest.approx(served / capacity * deployments / hours)
    assert float(made.turning) == pytest.approx(min(turned, off) / hours, abs=1e-9)
    assert float(made.free) == pytest.approx((off - min(turned, off)) / hours, abs=1e-9)
    assert float(made.unserved) == pytest.approx(1 - served / (load.sum() * 0.5), abs=1e-9)


@given(st.integers(1, 500), st.floats(0.1, 50), st.floats(0.01, 100))
def test_largest_load_is_the_inverse_of_the_wait(servers, service, wait):
    load = float(waiting.largest_load(servers=servers, service=service, wait=wait))
    assert 0 < load < 1
    found = float(waiting.mmc_wait(servers=servers, rate=load * servers / service, service=service))
    assert found == pytest.approx(wait, rel=1e-3) or load > 1 - 1e-9


def test_largest_load_of_few_servers_is_exact():
    """Two servers: W = rho^2 / (1 - rho^2) E[S], so that rho = sqrt(w / (1 + w)) with w = W / E[S]."""
    for wait in (0.01, 1.0, 20.0):
        assert float(waiting.largest_load(servers=2, service=4.0, wait=4 * wait)) == pytest.approx(
            (wait / (1 + wait)) ** 0.5, rel=1e-9
        )
    # So of eight: sums of the Poisson law, without the gamma function.
    load = float(waiting.largest_load(servers=8, service=208.0, wait=1.0))
    terms = [(8 * load) ** k / math.factorial(k) for k in range(9)]
    waits = terms[8] / (1 - load) / (sum(terms[:8]) + terms[8] / (1 - load))
    assert waits * 208.0 / (8 * (1 - load)) == pytest.approx(1.0, rel=1e-9)


def test_under_vmap_and_jit_as_plain():
    load = daily_load(HOURS, swing=0.5)
    each = jax.jit(
        jax.vmap(lambda turning: day(load, capacity=1.5, usable=0.8, deployments=10.0, turning=turning).price(0.5))
    )(jnp.array([0.0, 1.0]))
    assert np.asarray(each) == pytest.approx(
        [float(day(load, capacity=1.5, usable=0.8, deployments=10, turning=t).price(0.5)) for t in (0.0, 1.0)]
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: daily_load(HOURS, swing=1.5), "daily_load.swing is 1.5"),
        (lambda: day(-HOURS, capacity=1.0), "day.load is"),
        (lambda: day(0 * HOURS, capacity=1.0), "day.load, at its highest, is 0; allowed: a number above 0"),
        (lambda: day(HOURS[:0], capacity=1.0), r"day.load has shape \(0,\)"),
        (lambda: day(HOURS, capacity=30.0).price(-0.5), "price.earns is -0.5"),
        (lambda: day(HOURS, capacity=0.0), "day.capacity is 0"),
        (lambda: day(HOURS, capacity=1.0, usable=1.5), "day.usable is 1.5"),
        (lambda: day(HOURS, capacity=1.0, usable=1.0, deployments=2.5), "day.deployments is 2.5"),
        (lambda: waiting.largest_load(servers=8.0, service=1.0, wait=-1.0), "largest_load.wait is -1"),
        (lambda: waiting.largest_load(servers=2.5, service=1.0, wait=1.0), "erlang_c.servers is 2.5"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
