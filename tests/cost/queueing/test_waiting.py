"""Closed forms of queues: against tables, each other, enumeration and their limits."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.queueing import waiting
from hypothesis import given
from scipy.stats import geom

loads = st.floats(0.01, 0.98)


@given(loads, st.floats(1e-3, 1e3))
def test_pollaczek_khinchine_holds_its_two_special_cases(load, service):
    rate = load / service
    assert float(waiting.mm1_wait(rate=rate, service=service)) == pytest.approx(load * service / (1 - load), rel=1e-12)
    assert float(waiting.md1_wait(rate=rate, service=service)) == pytest.approx(
        float(waiting.mm1_wait(rate=rate, service=service)) / 2, rel=1e-12
    )


@given(loads, st.integers(1, 60))
def test_erlang_c_is_the_recursion_of_erlang_b(load, servers):
    offered, blocked = load * servers, 1.0
    for k in range(1, servers + 1):
        blocked = offered * blocked / (k + offered * blocked)
    expected = servers * blocked / (servers - offered * (1 - blocked))
    assert float(waiting.erlang_c(servers=servers, offered_load=offered)) == pytest.approx(expected, rel=1e-9)


def test_erlang_c_of_many_servers_is_still_a_number():
    offered = np.array([1000.0, 2000.0, 2047.9])
    found = np.asarray(waiting.erlang_c(servers=2048, offered_load=offered))
    assert np.isfinite(found).all() and (np.diff(found) > 0).all() and 0 <= found[0] < 1e-12 and 0.9 < found[-1] < 1


@given(loads, st.integers(1, 30))
def test_one_server_of_many_is_mm1_and_approximations_meet_it(load, servers):
    assert float(waiting.mmc_wait(servers=1, rate=load, service=1.0)) == pytest.approx(
        float(waiting.mm1_wait(rate=load, service=1.0)), rel=1e-9
    )
    assert float(waiting.mgc_wait(servers=1, rate=load, service=1.0, variation=0.7)) == pytest.approx(
        float(waiting.mg1_wait(rate=load, service=1.0, variation=0.7)), rel=1e-9
    )
    # In heavy traffic the approximation is close for any number of servers.
    exact, near = (
        float(f)
        for f in (
            waiting.mmc_wait(servers=servers, rate=0.95 * servers, service=1.0),
            waiting.mgc_wait(servers=servers, rate=0.95 * servers, service=1.0, variation=1.0),
        )
    )
    assert near == pytest.approx(exact, rel=0.05)


def test_a_full_server_never_catches_up():
    for wait in (
        waiting.mm1_wait(rate=1.0, service=1.0),
        waiting.md1_wait(rate=2.0, service=1.0),
        waiting.mmc_wait(servers=3, rate=3.0, service=1.0),
        waiting.mgc_wait(servers=3.0, rate=4.0, service=1.0, variation=1.0),
        waiting.mm1_latency(rate=1.0, service=1.0, share=0.5),
    ):
        assert np.isinf(wait)
    assert float(waiting.erlang_c(servers=3, offered_load=5.0)) == 1


@pytest.mark.parametrize("wait", [waiting.mm1_wait, waiting.md1_wait])
def test_waits_grow_with_load_and_can_be_differentiated(wait):
    def at(rate):
        return wait(rate=rate, service=1.0)

    assert (jnp.diff(jax.vmap(at)(jnp.linspace(0.05, 0.95, 9))) > 0).all()
    assert jax.grad(at)(0.5) > 0 and np.isfinite(jax.grad(at)(1.5))
    assert jax.jit(at)(0.5) == at(0.5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 4))
def test_the_longest_of_a_batch_is_that_of_all_batches(lengths, batch):
    every = [max(drawn) for drawn in itertools.product(lengths, repeat=batch)]
    assert float(waiting.longest(np.array(lengths, float), batch=batch)) == pytest.approx(np.mean(every), rel=1e-12)


def test_the_longest_of_known_laws():
    places = (np.arange(200_000) + 0.5) / 200_000
    exponential, harmonic = -np.log1p(-places), np.sum(1 / np.arange(1, 33))
    assert float(waiting.longest(exponential, batch=32)) == pytest.approx(harmonic, rel=1e-3)
    assert float(waiting.longest(places, batch=9)) == pytest.approx(0.9, rel=1e-4)
    tokens = geom(0.01).ppf(places)
    tail = 1 - (1 - 0.99 ** np.arange(20_000)) ** 16
    assert float(waiting.longest(tokens, batch=16)) == pytest.approx(tail.sum(), rel=1e-3)
    two = np.where(places < 0.75, 10.0, 80.0)
    assert float(waiting.longest_of_two(short=10.0, long=80.0, share=0.25, batch=7)) == pytest.approx(
        float(waiting.longest(two, batch=7)), rel=1e-9
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: waiting.mg1_wait(rate=-1.0, service=1.0, variation=1.0), "mg1_wait.rate is -1"),
        (lambda: waiting.mg1_wait(rate=1.0, service=0.0, variation=1.0), "mg1_wait.service is 0"),
        (lambda: waiting.mm1_latency(rate=1.0, service=0.5, share=1.5), "mm1_latency.share is 1.5"),
        (lambda: waiting.erlang_c(servers=2.5, offered_load=1.0), "erlang_c.servers is 2.5"),
        (lambda: waiting.mgc_wait(servers=0.5, rate=1.0, service=1.0, variation=1.0), "mgc_wait.servers is 0.5"),
        (lambda: waiting.longest(np.array([-1.0]), batch=2), "longest.lengths is -1"),
        (lambda: waiting.longest(np.array([]), batch=2), "longest.lengths is empty"),
        (
            lambda: waiting.longest_of_two(short=10.0, long=5.0, share=0.5, batch=2),
            "longest_of_two.long is 5; allowed: at least short",
        ),
        (lambda: waiting.longest_of_two(short=1.0, long=2.0, share=1.5, batch=2), "longest_of_two.share is 1.5"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
