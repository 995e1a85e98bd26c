"""A run as a whole: the identity that ties FLOP, chips, time and utilisation together."""

import dataclasses
import re

import hypothesis.strategies as st
import jax
import pytest
from anatomy.cost.efficiency import efficiency
from anatomy.cost.training.reliability import Failures, best_interval, goodput, published_failures
from anatomy.cost.training.run import (
    Prices,
    ramp_steps,
    rented_dollars,
    training_days,
    training_flop,
    training_run,
    utilisation,
)
from anatomy.cost.training.step import training_step
from anatomy.specs import Plan, architecture, chip, cluster
from anatomy.specs.units import DAY
from hypothesis import given

flops = st.floats(1e18, 1e27)
chips = st.floats(1, 1e6)
peaks = st.floats(1e12, 1e16)
shares = st.floats(0.01, 1)
RUN = {"flop": 2.15e25, "chips": 25_000.0, "peak": 312e12, "utilisation": 0.34}


def test_the_article_trains_for_ninety_four_days():
    peak = chip("a100_sxm_40gb").flops_16bit
    assert training_days(flop=2.15e25, chips=25_000, peak=peak, utilisation=0.34) == pytest.approx(93.8, abs=0.05)
    # It says 90 to 100 days at 32 to 36 %: the ends belong together, the faster with the higher share.
    assert utilisation(flop=2.15e25, chips=25_000, peak=peak, days=90) == pytest.approx(0.3545, abs=5e-4)
    assert utilisation(flop=2.15e25, chips=25_000, peak=peak, days=100) == pytest.approx(0.319, abs=5e-4)


@given(flops, chips, peaks, shares)
def test_chips_at_work_for_that_long_do_the_flop(flop, n, peak, share):
    days = training_days(flop=flop, chips=n, peak=peak, utilisation=share)
    assert n * peak * share * days * 24 * 60 * 60 == pytest.approx(flop, rel=1e-12)
    assert utilisation(flop=flop, chips=n, peak=peak, days=days) == pytest.approx(share, rel=1e-12)


@given(flops, chips, peaks, shares, st.floats(1.01, 10))
def test_more_work_takes_longer_and_more_of_all_else_is_faster(flop, n, peak, share, factor):
    share = share / factor  # a better one is still at most 1
    days = training_days(flop=flop, chips=n, peak=peak, utilisation=share)
    assert training_days(flop=factor * flop, chips=n, peak=peak, utilisation=share) > days
    assert training_days(flop=flop, chips=factor * n, peak=peak, utilisation=share) < days
    assert training_days(flop=flop, chips=n, peak=factor * peak, utilisation=share) < days
    assert training_days(flop=flop, chips=n, peak=peak, utilisation=factor * share) < days


@pytest.mark.parametrize("name, elasticity", [("flop", 1), ("chips", -1), ("peak", -1), ("utilisation", -1)])
def test_a_percent_more_buys_a_percent(name, elasticity):
    slope = jax.grad(lambda x: training_days(**RUN | {name: x}))(RUN[name])
    assert slope * RUN[name] / training_days(**RUN) == pytest.approx(elasticity, rel=1e-12)


def test_six_flop_a_parameter_and_token():
    # GPT-3's table D.1: 174.6e9 parameters, 300e9 tokens, 3.14e23 FLOP.
    assert training_flop(parameters=174.6e9, tokens=300e9) == pytest.approx(3.14e23, rel=2e-3)
    # The rule against the count by part: the same but for tables, norms and scores.
    gpt3 = architecture("gpt3_175b")
    counted = 300e9 * gpt3.flop_per_token((2048 + 1) / 2, backward=True).total
    assert training_flop(parameters=gpt3.parameters.total, tokens=300e9) == pytest.approx(counted, rel=0.03)


def test_rent_is_chips_times_hours():
    assert DAY == 24 * 60 * 60
    # The article: 25,000 A100 for about 95 days at a dollar an hour is its 63 million, less a tenth.
    assert rented_dollars(chips=25_000, days=95, dollars_per_hour=1.0) == 57e6
    assert rented_dollars(chips=1, days=1 / 24, dollars_per_hour=4.1) == pytest.approx(4.1)


GPT3, CLUSTER = architecture("gpt3_175b"), cluster("a100_sxm_80gb", 128)
PLAN = Plan(tensor=8.0, pipeline=8.0, data=16.0, recompute=2.0)
NEVER = Failures(rate=0.0, write=0.0, restart=0.0)
SOMETIMES = published_failures("rsc1", write=30.0, restart=300.0)
PRICES = Prices(rent=1.5, purchase=20_000.0, years=4.0, watts=800.0, energy=0.07)
SIZE = {"batch": 1536.0, "sequence_length": 2048.0, "efficiency": efficiency("a100_sxm_80gb")}
TOKENS = 300e9


def run(failures=SOMETIMES, prices=PRICES, tokens=TOKENS, **ramp):
    return training_run(GPT3, PLAN, CLUSTER, **SIZE, tokens=tokens, failures=failures, prices=prices, **ramp)


def test_without_failures_and_ramp_a_run_is_its_steps():
    made, one = run(NEVER), training_step(GPT3, PLAN, CLUSTER, **SIZE)
    assert float(made.steps) == pytest.approx(TOKENS / (1536 * 2048))
    assert float(made.seconds) == pytest.approx(float(made.steps * one.seconds), rel=1e-12)
    assert float(made.goodput) == 1 and float(made.mfu) == pytest.approx(float(one.mfu), rel=1e-12)


def test_failures_come_on_top():
    made, free = run(), run(NEVER)
    nodes = 1024 / 8
    share = float(goodput(SOMETIMES, nodes=nodes, interval=best_interval(SOMETIMES, nodes=nodes)))
    assert float(made.training) == pytest.approx(float(free.seconds), rel=1e-12)
    assert float(made.goodput) == pytest.approx(share, rel=1e-12)
    parts = (made.training, made.writing, made.rework, made.restart)
    assert all(part > 0 for part in parts) and float(made.seconds) == pytest.approx(float(sum(parts)))


def test_the_bill():
    made = run()
    hours = 1024 * float(made.seconds) / 3600
    assert float(made.chip_hours) == pytest.approx(hours)
    assert float(made.rented) == pytest.approx(1.5 * hours)
    assert float(made.rented) == pytest.approx(float(rented_dollars(chips=1024, days=made.days, dollars_per_hour=1.5)))
    assert float(made.joules) == pytest.approx(800 * 3600 * hours)
    assert float(made.owned) == pytest.approx(hours * (20_000 / (4 * 8766) + 0.8 * 0.07))


def test_a_ramp_is_the_sum_of_its_steps():
    """Played through: each step takes its batch, which grows with the tokens seen."""
    start, ramp = 64.0, 6e9
    seen, steps, seconds = 0.0, 0, 0.0
    one, two = (float(training_step(GPT3, PLAN, CLUSTER, **SIZE | {"batch": b}).seconds) for b in (1000.0, 1001.0))
    while seen < ramp:
        batch = start + (1536 - start) * seen / ramp
        seen, steps, seconds = seen + batch * 2048, steps + 1, seconds + one + (two - one) * (batch - 1000)
    assert float(ramp_steps(tokens=ramp, start=start, end=1536.0, sequence_length=2048.0)) == pytest.approx(
        steps, rel=1e-2
    )
    made = run(NEVER, tokens=ramp, ramp_tokens=ramp, ramp_start=start)
    assert float(made.seconds) == pytest.approx(seconds, rel=1e-2)
    assert float(made.seconds) > float(run(NEVER, tokens=ramp).seconds)


def test_interleaved_stages_are_never_ramped_below_a_micro_batch_each():
    plan = PLAN.replace(chunks=2)
    least = float(plan.data * plan.micro_batch * plan.pipeline)
    low, at = (
        training_run(
            GPT3, plan, CLUSTER, **SIZE, tokens=TOKENS, failures=NEVER, prices=PRICES, ramp_tokens=6e9, ramp_start=start
        )
        for start in (1.0, least)
    )
    assert plan.pipeline > 1 and float(low.steps) == float(at.steps)


def test_a_plan_that_cannot_be_run_or_does_not_fit_is_marked():
    assert bool(run().legal) and bool(run().fits)
    wrong = PLAN.replace(pipeline=97.0, data=1.0)
    made = training_run(GPT3, wrong, CLUSTER, **SIZE, tokens=TOKENS, failures=NEVER, prices=PRICES)
    assert not bool(made.legal)
    large = training_run(GPT3, Plan(data=8.0), CLUSTER, **SIZE, tokens=TOKENS, failures=NEVER, prices=PRICES)
    assert bool(large.legal) and not bool(large.fits)


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda: training_days(flop=1e24, chips=1000, peak=3e14, utilisation=5.0),
            "training_days.utilisation is 5; allowed: a number above 0",
        ),
        (lambda: training_days(flop=1e24, chips=1000, peak=3e14, utilisation=-1.0), "training_days.utilisation is -1"),
        (
            lambda: training_days(flop=1e24, chips=0, peak=3e14, utilisation=0.4),
            "training_days.chips is 0; allowed: a number above 0",
        ),
        (
            lambda: training_flop(parameters=-10, tokens=1e12),
            "training_flop.parameters is -10; allowed: a number at least 0",
        ),
        (
            lambda: rented_dollars(chips=-10, days=90, dollars_per_hour=1.0),
            "rented_dollars.chips is -10; allowed: a number at least 0",
        ),
        (lambda: utilisation(flop=1e24, chips=1000, peak=3e14, days=0), "utilisation.days is 0"),
        (
            lambda: ramp_steps(tokens=1e9, start=100.0, end=10.0, sequence_length=2048.0),
            "ramp_steps.end is 10; allowed: at least start (100)",
        ),
        (
            lambda: ramp_steps(tokens=1e9, start=0.0, end=10.0, sequence_length=2048.0),
            "ramp_steps.start is 0; allowed: a number above 0",
        ),
        (lambda: run(tokens=0.0), "training_run.tokens is 0; allowed: a number above 0"),
        (lambda: run(ramp_tokens=-1.0), "training_run.ramp_tokens is -1"),
    ],
)
def test_absurd_input_is_an_error_that_names_it(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


@given(st.floats(1, 1e4), st.floats(1, 1e4), st.floats(1, 1e12))
def test_a_ramp_takes_steps_between_those_of_its_ends(one, other, tokens):
    start, end = sorted((one, other))
    steps = float(ramp_steps(tokens=tokens, start=start, end=end, sequence_length=2048.0))
    assert tokens / (end * 2048) * (1 - 1e-6) <= steps <= tokens / (start * 2048) * (1 + 1e-6)


def test_gradients_of_a_run():
    def dollars(share):
        size = SIZE | {"efficiency": dataclasses.replace(SIZE["efficiency"], matmul=share)}
        ramp = {"ramp_tokens": 1e10, "ramp_start": 64.0}
        return training_run(
            GPT3, PLAN, CLUSTER, **size, **ramp, tokens=TOKENS, failures=SOMETIMES, prices=PRICES
        ).rented

    slope = (dollars(0.7001) - dollars(0.6999)) / 2e-4
    assert float(jax.grad(dollars)(0.7)) == pytest.approx(float(slope), rel=1e-5)
    assert float(jax.jit(dollars)(0.7)) == pytest.approx(float(dollars(0.7)), rel=1e-12)
