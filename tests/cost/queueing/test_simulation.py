"""The simulated server: token by token as plain Python has it, and against what queueing theory knows."""

import dataclasses
from collections import deque

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.queueing import waiting
from anatomy.cost.queueing.answers import between_tokens
from anatomy.cost.queueing.simulation import Policy, simulate, static
from anatomy.cost.queueing.step_costs import Affine, Table, Work
from anatomy.cost.queueing.traffic import Requests, geometric_lengths, lognormal_lengths, poisson, uniform_lengths
from hypothesis import given, settings

KEY = jax.random.key(0)
COST = Affine(step=0.1, sequence=0.01, prompt=0.003, reading=0.05, cached=1e-4, attended=1e-5)
COUNT, WIDTH = 12, 4


def in_plain_python(requests, policy, cost):
    """The same server with queues and loops: one step at a time, one token at a time."""
    rows = list(
        zip(*(np.asarray(x).tolist() for x in (requests.arrival, requests.prompt, requests.output)), strict=True)
    )
    queue, flight, clock, found = deque(range(len(rows))), [], 0.0, {}
    while queue or flight:
        if not flight:
            clock = max(clock, rows[queue[min(int(policy.fill), len(queue)) - 1]][0])
        came = []
        while (
            queue
            and rows[queue[0]][0] <= clock
            and len(flight) < policy.slots
            and (policy.continuous or len(flight) == len(came))
        ):
            i = queue.popleft()
            came.append({"i": i, "prompt": rows[i][1], "read": 0.0, "made": 0, "start": clock, "times": []})
            flight.append(came[-1])
        if policy.padded and came:
            longest = max(one["prompt"] for one in came)
            for one in came:
                one["prompt"] = longest
        budget, work = policy.chunk, {"sequences": 0.0, "prompt": 0.0, "cached": 0.0, "attended": 0.0}
        ready = []
        for one in flight:
            left = one["prompt"] - one["read"]
            if left > 0:
                take = min(left, budget)
                budget -= take
                if take:
                    work["cached"] += one["read"]
                    work["attended"] += sum(range(int(one["read"]) + 1, int(one["read"] + take) + 1))
                work["prompt"] += take
                one["read"] += take
                if one["read"] == one["prompt"]:
                    ready.append(one)
            elif len(one["times"]) < rows[one["i"]][2] or policy.padded:
                cached = max(one["prompt"] + one["made"] - (one["prompt"] > 0), 0)
                work["sequences"] += 1
                work["cached"] += cached
                work["attended"] += cached + 1
                ready.append(one)
        clock += float(cost(Work(**work)))
        for one in ready:
            one["made"] += 1
            if len(one["times"]) < rows[one["i"]][2]:
                one["times"].append(clock)
        over = [one for one in flight if len(one["times"]) == rows[one["i"]][2]]
        if policy.continuous or len(over) == len(flight):
            for one in over:
                times = one["times"]
                found[one["i"]] = {
                    "start": one["start"], "first": times[0], "finish": clock if policy.held else times[-1],
                    "released": clock, "gap": max(np.diff(times), default=0.0), "prompted": one["prompt"] > 0,
                }  # fmt: skip
            flight = [one for one in flight if one not in over]
    return {name: np.array([found[i][name] for i in range(len(rows))]) for name in found[0]}


policies = st.builds(
    lambda slots, kind, chunk, fill: dataclasses.replace(
        Policy(slots=slots, continuous=float(kind == 0)) if kind < 2 else static(slots),
        chunk=chunk, fill=min(fill, slots), held=float(kind == 3),
    ),
    st.integers(1, WIDTH), st.integers(0, 3), st.sampled_from([1.0, 3.0, 7.0, np.inf]), st.integers(1, WIDTH),
)  # fmt: skip
lists = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 12), st.integers(1, 15)), min_size=COUNT, max_size=COUNT)


@settings(max_examples=60)
@given(lists, policies)
def test_it_is_the_server_in_plain_python(rows, policy):
    gaps, prompt, output = (np.array(column, float) for column in zip(*rows, strict=True))
    requests = Requests(arrival=np.cumsum(gaps), prompt=prompt, output=output)
    found, expected = simulate(requests, policy, COST, width=WIDTH, trace=1024), in_plain_python(requests, policy, COST)
    prompted = expected.pop("prompted")
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-9, atol=1e-9, err_msg=name)
    # What was kept of the steps makes all tokens but those that end a prompt, and fills the slots while they are held.
    steps = found.steps
    assert float(jnp.sum(steps.steps * steps.making)) == np.sum(output) - np.sum(prompted)
    held = float(jnp.sum(steps.seconds * steps.taken))
    assert held == pytest.approx(float(jnp.sum(found.released - found.start)), rel=1e-9)
    assert 0 < float(found.slot_use(policy.slots)) <= 1 + 1e-12


def test_who_has_no_prompt_does_not_wait_for_the_prompts_of_others():
    requests = Requests(arrival=np.zeros(2), prompt=np.array([9.0, 0.0]), output=np.array([1.0, 2.0]))
    found = simulate(requests, Policy(slots=2, chunk=3.0), Affine(step=1.0))
    np.testing.assert_allclose(found.first, [3, 1])
    np.testing.assert_allclose(found.finish, [3, 2])


@settings(max_examples=20)
@given(lists, policies)
def test_littles_law(rows, policy):
    # Mean number in the system = rate * mean time there; the number is counted at moments in between.
    gaps, prompt, output = (np.array(column, float) for column in zip(*rows, strict=True))
    found = simulate(Requests(arrival=np.cumsum(gaps), prompt=prompt, output=output), policy, COST, width=WIDTH)
    times = np.unique(np.concatenate([found.arrival, found.finish, found.start, found.released]))
    middle, lasts = (times[1:] + times[:-1]) / 2, np.diff(times)
    for count, spent in (
        (found.in_system(middle), found.latency),
        (found.in_flight(middle), found.released - found.start),
    ):
        span = times[-1] - times[0]
        assert np.sum(count * lasts) / span == pytest.approx(COUNT / span * float(jnp.mean(spent)), rel=1e-9)
    assert float(jnp.max(found.in_flight(middle))) <= policy.slots
    # First come, first served.
    assert (np.diff(found.start) >= 0).all() and (found.wait >= 0).all()


def runs(make, policy, cost, rates, width, seeds=8):
    """Mean waits over seeds and their standard errors, at each rate: one program."""

    def one(rate, key):
        return simulate(make(key, rate), policy, cost, width=width).settled()

    found = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(jnp.asarray(rates), jax.random.split(KEY, seeds))
    means = jnp.mean(found.wait, -1)
    return found, np.asarray(means.mean(-1)), np.asarray(means.std(-1) / seeds**0.5)


COME = 16_000
NO_START = Affine(step=1e-12, prompt=1.0)  # the prompt is the service


def test_one_slot_is_mm1():
    rates = np.array([0.3, 0.6, 0.75])

    def make(key, rate):
        come, last = jax.random.split(key)
        return Requests(
            arrival=poisson(come, count=COME, rate=rate),
            prompt=jax.random.exponential(last, (COME,)),
            output=jnp.ones(COME),
        )

    found, mean, error = runs(make, Policy(slots=1), NO_START, rates, 1)
    expected = np.asarray(waiting.mm1_wait(rate=rates, service=1.0))
    assert (np.abs(mean - expected) < 4 * error).all() and (error < 0.04 * expected).all()
    for share in (0.5, 0.9, 0.99):
        quantiles = np.quantile(found.latency, share, axis=(1, 2))
        np.testing.assert_allclose(quantiles, waiting.mm1_latency(rate=rates, service=1.0, share=share), rtol=0.06)


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_one_slot_is_mg1(spread):
    rates = np.array([0.3, 0.6])
    low, high = 1 - spread, 1 + spread  # two lengths as likely, or few long ones

    def make(key, rate):
        come, last = jax.random.split(key)
        share = 0.5 if spread < 1 else 1 / (1 + spread**2)  # P(long): lengths 0 and 1 + C^2 have that spread
        long = jax.random.uniform(last, (COME,)) < share
        service = jnp.where(long, high, low) if spread < 1 else jnp.where(long, 1 + spread**2, 1e-9)
        return Requests(arrival=poisson(come, count=COME, rate=rate), prompt=service, output=jnp.ones(COME))

    _, mean, error = runs(make, Policy(slots=1), NO_START, rates, 1)
    assert (
        np.abs(mean - np.asarray(waiting.mg1_wait(rate=rates, service=1.0, variation=spread))) < 4 * error + 1e-9
    ).all()
    assert (error < 0.06 * mean).all()


def test_tokens_of_one_slot_are_mg1():
    # Geometric answers: C^2 = 1 - 1 / mean; an idle server begins at once, so nothing is lost to whole steps.
    tokens = 20.0

    def make(key, rate):
        come, last = jax.random.split(key)
        return Requests(
            arrival=poisson(come, count=COME, rate=rate),
            prompt=jnp.zeros(COME),
            output=geometric_lengths(last, count=COME, mean=tokens),
        )

    _, mean, error = runs(make, Policy(slots=1), Affine(step=1 / tokens), [0.6], 1)
    assert (
        abs(mean[0] - float(waiting.mg1_wait(rate=0.6, service=1.0, variation=(1 - 1 / tokens) ** 0.5))) < 4 * error[0]
    )


def test_many_slots_are_mmc():
    slots, tokens = 6, 400.0
    rates = slots * np.array([0.6, 0.75])

    def make(key, rate):
        come, last = jax.random.split(key)
        return Requests(
            arrival=poisson(come, count=COME, rate=rate),
            prompt=jnp.zeros(COME),
            output=geometric_lengths(last, count=COME, mean=tokens),
        )

    _, mean, error = runs(make, Policy(slots=slots), Affine(step=1 / tokens), rates, slots)
    boundary = 0.5 / tokens  # a server that is not idle admits at the next step
    assert (
        np.abs(mean - boundary - np.asarray(waiting.mmc_wait(servers=slots, rate=rates, service=1.0))) < 4 * error
    ).all()
    assert (error < 0.1 * mean).all()


@pytest.mark.parametrize(
    "lengths",
    [
        lambda key, n: uniform_lengths(key, count=n, low=1, high=128),
        lambda key, n: geometric_lengths(key, count=n, mean=64.0),
        lambda key, n: lognormal_lengths(key, count=n, mean=64.0, variation=2.0, longest=2000.0),
    ],
    ids=["uniform", "geometric", "lognormal"],
)
def test_the_gain_at_saturation_is_the_longest_over_the_mean(lengths):
    count, slots = 16 * 400, 16
    output = lengths(KEY, count)
    requests = Requests(arrival=jnp.zeros(count), prompt=jnp.zeros(count), output=output)
    one, many = (simulate(requests, p, Affine(step=1.0)) for p in (static(slots), Policy(slots=slots)))
    expected = float(waiting.longest(output, batch=slots) / jnp.mean(output))
    measured = float(many.tokens_per_second / one.tokens_per_second)
    assert measured == pytest.approx(expected, rel=0.05)
    # Static batches one after the other, exactly.
    assert float(one.span) == float(jnp.sum(jnp.max(output.reshape(-1, slots), axis=1)))


def test_chunks_bound_the_time_between_tokens():
    keys = jax.random.split(KEY, 3)
    requests = Requests(
        arrival=poisson(keys[0], count=400, rate=1.0),
        prompt=lognormal_lengths(keys[1], count=400, mean=300.0, variation=1.5, longest=4000.0),
        output=lognormal_lengths(keys[2], count=400, mean=40.0, variation=1.0),
    )
    cost = Affine(step=0.02, prompt=1e-3)
    whole, parts = (simulate(requests, Policy(slots=16, chunk=chunk), cost, trace=16_000) for chunk in (np.inf, 64.0))
    assert float(jnp.max(parts.gap)) <= 0.02 + 64e-3 + 1e-9 < 0.5 < float(jnp.max(whole.gap))
    one, other = (between_tokens(found.steps, np.array([0.5, 0.99, 1.0])) for found in (whole, parts))
    assert other[1] < one[1] and other[2] == pytest.approx(float(jnp.max(parts.gap)))
    # The same tokens are read in either way.
    assert float(jnp.sum(whole.steps.prompt)) == float(jnp.sum(parts.steps.prompt)) == float(jnp.sum(requests.prompt))


def test_jit_vmap_and_plain_agree():
    requests = Requests(arrival=np.arange(COUNT) * 0.7, prompt=np.full(COUNT, 5.0), output=np.arange(COUNT) + 1.0)
    policies = [Policy(slots=2, chunk=4.0), static(3), Policy(slots=4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x, float) for x in leaves]), *policies)
    at_once = jax.jit(jax.vmap(lambda policy: simulate(requests, policy, COST, width=4)))(stacked)
    for i, policy in enumerate(policies):
        alone = simulate(requests, policy, COST, width=4)
        for name in ("start", "first", "finish", "released", "gap", "slot"):
            np.testing.assert_allclose(getattr(at_once, name)[i], getattr(alone, name), rtol=1e-12)


def test_a_plain_function_is_a_cost_and_longer_batches_change_nothing():
    requests = Requests(arrival=np.arange(COUNT) * 0.7, prompt=np.full(COUNT, 5.0), output=np.arange(COUNT) + 1.0)
    made = simulate(requests, Policy(slots=2), lambda work: 0.1 + 0.01 * work.sequences + 0.003 * work.prompt)
    same = simulate(requests, Policy(slots=2), Affine(step=0.1, sequence=0.01, prompt=0.003), width=4)
    np.testing.assert_allclose(made.finish, same.finish, rtol=1e-12)


TEN = Requests(arrival=np.arange(10.0), prompt=np.ones(10), output=np.ones(10))
LONG = dataclasses.replace(TEN, output=np.full(10, 40.0))
FALLING = Table(*map(np.array, ([1.0], [0.0, 10.0], [0.0], [[[1.0], [0.1]]])))  # below 0 from eleven tokens on


def test_use_of_slots_is_that_of_all_steps_or_none():
    made = [simulate(LONG, Policy(slots=4), COST, trace=trace) for trace in (0, 20, 512)]
    for wrong in (made[0], made[1], made[2].settled()):
        with pytest.raises(ValueError, match=r"slot_use.steps, in seconds of slots, is .*; allowed: about"):
            wrong.slot_use(4)
    assert 0 < float(made[2].slot_use(4)) <= 1
    assert 0 < float(jax.jit(lambda answers: answers.slot_use(4))(made[2])) <= 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Policy(slots=0), "Policy.slots is 0"),
        (lambda: Policy(slots=2, chunk=0.0), "Policy.chunk is 0"),
        (lambda: Policy(slots=2, fill=3), "Policy.fill is 3; allowed: at most slots"),
        (lambda: Policy(slots=2, padded=1.0), "Policy.padded is 1; allowed: 0 where continuous is 1"),
        (lambda: dataclasses.replace(TEN, arrival=np.arange(10.0)[::-1]), "Requests.arrival is 8"),
        (lambda: dataclasses.replace(TEN, prompt=np.ones(3)), r"Requests.prompt has shape \(3,\)"),
        (lambda: dataclasses.replace(TEN, output=np.zeros(10)), "Requests.output is 0"),
        (lambda: simulate(TEN, Policy(slots=4), COST, width=3), "simulate.width is 3"),
        (lambda: simulate(TEN, Policy(slots=4), COST, trace=-1), "simulate.trace is -1"),
        (lambda: simulate(TEN, Policy(slots=4), Affine(step=0.0)), "simulate.cost is 0"),
        (lambda: simulate(TEN, Policy(slots=4), lambda work: work.sequences / 0.0), "simulate.cost is inf"),
        (lambda: simulate(LONG, Policy(slots=1), FALLING), "simulate.cost is -[0-9.]+; allowed: a finite number at"),
        (lambda: simulate(LONG, Policy(slots=4), lambda work: (3.0 - work.sequences) ** 0.5), "simulate.cost is nan"),
        (lambda: simulate(LONG, Policy(slots=4), lambda work: 1 / (3.0 - work.sequences)), "simulate.cost is inf"),
        (lambda: jax.jit(lambda n: simulate(TEN, Policy(slots=n), COST).finish)(4.0), "simulate.width is None"),
        (lambda: simulate(TEN, Policy(slots=4), COST).settled(0.6), "settled.skip is 0.6"),
        (lambda: poisson(KEY, count=3, rate=0.0), "poisson.rate is 0"),
        (lambda: poisson(KEY, count=3, rate=1.0, burst_size=0.5), "poisson.burst_size is 0.5"),
        (lambda: uniform_lengths(KEY, count=3, low=5, high=4), "uniform_lengths.low is 5"),
        (lambda: lognormal_lengths(KEY, count=3, mean=10.0, variation=-1.0), "lognormal_lengths.variation is -1"),
        (lambda: geometric_lengths(KEY, count=3, mean=0.5), "geometric_lengths.mean is 0.5"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(TypeError, match=r"simulate.cost is 3"):
        simulate(TEN, Policy(slots=1), 3)
