"""Sweeps against loops, fronts against all pairs, gradients and draws against closed forms, fits against the truth."""

import itertools
import re
from dataclasses import fields, replace

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost import explore
from anatomy.cost.efficiency import efficiency
from anatomy.cost.explore import fronts, sweeping
from anatomy.cost.training.run import rented_dollars, training_days
from anatomy.cost.training.step import training_step
from anatomy.specs import Cluster, Plan, Scalar, architecture, cluster
from anatomy.specs.base import number, spec
from hypothesis import given, settings

MODEL = architecture("mixtral_8x7b")
CLUSTER = cluster("a100_sxm_80gb", 16)
SHARE = efficiency("a100_sxm_80gb")


@spec
class Price:
    """A result as cost functions return them: numbers, a sum, a property, a spec inside."""

    sums = ("total",)

    rent: Scalar = number("dollars")
    power: Scalar = number("dollars")

    @property
    def total(self):
        return self.rent + self.power

    @property
    def cheap(self):
        return self.total < 100.0


def bill(hours, chips, watts=400.0):
    return {
        "price": Price(rent=2.0 * hours * chips, power=1e-4 * watts * hours * chips**0.5),
        "chips_hours": hours * chips,
    }


def train(tensor, pipeline, micro_batch):
    plan = Plan(tensor=tensor, pipeline=pipeline, data=2.0, micro_batch=micro_batch)
    return training_step(MODEL, plan, CLUSTER, batch=256.0, sequence_length=4096.0, efficiency=SHARE)


# Sweeps.


def test_a_sweep_is_a_loop():
    grid = {"tensor": [1, 2, 4, 8], "pipeline": [1, 2, 4], "micro_batch": np.array([1.0, 2.0])}
    rows = explore.sweep(train, grid, keep=["seconds", "mfu", "memory.total", "memory.weights", "fits"], progress=False)
    one = jax.jit(train)
    for i, values in enumerate(itertools.product(*grid.values())):
        made = one(*map(float, values))
        assert tuple(rows[name][i] for name in grid) == values
        for name, exact in (("seconds", made.seconds), ("mfu", made.mfu), ("memory.total", made.memory.total)):
            assert rows[name][i] == pytest.approx(float(exact), rel=1e-13)
        assert rows["fits"][i] == made.fits
    assert i + 1 == len(rows["fits"]) == 24
    assert rows["fits"].dtype == bool and rows["mfu"].dtype == np.float64 and rows["tensor"].dtype.kind == "i"
    assert {type(column) for column in rows.values()} == {np.ndarray}


def test_outputs_are_named_by_their_path():
    rows = explore.sweep(bill, {"hours": [1.0, 2.0], "chips": [4.0]}, progress=False)
    assert list(rows) == ["hours", "chips", "price.rent", "price.power", "price.total", "chips_hours"]
    np.testing.assert_allclose(rows["price.total"], rows["price.rent"] + rows["price.power"])
    some = explore.sweep(bill, {"hours": [1.0, 50.0], "chips": [4.0]}, keep=["price.cheap"], progress=False)
    assert list(some) == ["hours", "chips", "price.cheap"] and some["price.cheap"].tolist() == [True, False]
    assert explore.sweep(lambda x: 2 * x, {"x": [1, 2]}, progress=False)["value"].tolist() == [2.0, 4.0]
    pair = explore.sweep(lambda x: (x, [1.0, -x]), {"x": [3]}, progress=False)
    assert {name: column.item() for name, column in pair.items()} == {"x": 3, "0": 3.0, "1.0": 1.0, "1.1": -3.0}


def mixed(a, b, c):
    return a - jnp.where(c > 0, b, 0.5) * jnp.exp(-a)


axes = st.lists(st.floats(-5, 5), min_size=1, max_size=6)


@settings(max_examples=12)
@given(axes, axes, st.permutations([False, True]), st.integers(1, 40))
def test_chunks_do_not_change_results(a, b, c, chunk):
    grid = {"a": a, "b": b, "c": c}
    whole, parts = (explore.sweep(mixed, grid, chunk=size, progress=False) for size in (10_000, chunk))
    loop = [x - (y if z else 0.5) * np.exp(-x) for x, y, z in itertools.product(a, b, c)]
    np.testing.assert_allclose(whole["value"], loop, rtol=1e-13, atol=1e-13)
    for name, column in whole.items():
        assert np.array_equal(column, parts[name])


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_points_are_rows_side_by_side(chunk):
    columns = dict(zip("abc", np.random.default_rng(0).normal(size=(3, 100)), strict=True))
    rows = explore.sweep(mixed, points=columns, chunk=chunk, progress=False)
    expected = columns["a"] - np.where(columns["c"] > 0, columns["b"], 0.5) * np.exp(-columns["a"])
    np.testing.assert_allclose(rows["value"], expected, rtol=1e-13)
    assert np.shares_memory(rows["a"], columns["a"])  # not copied, and safe from here
    with pytest.raises(ValueError, match="read-only"):
        rows["a"][:] = 0


def test_the_function_is_traced_once_and_seen_as_it_is_now():
    traces, scale = [], 1.0

    def scaled(x):
        traces.append(x)
        return scale * x

    first = explore.sweep(scaled, {"x": np.arange(1000)}, chunk=10, progress=False)
    assert len(traces) == 1
    scale = 3.0
    assert np.array_equal(explore.sweep(scaled, {"x": np.arange(1000)}, progress=False)["value"], 3 * first["value"])


def test_double_precision_whatever_the_setting():
    with jax.enable_x64(False):
        rows = explore.sweep(lambda x: x + 1.0, {"x": [2**40]}, chunk=1, progress=False)
        assert explore.elasticities(lambda x: x + 2.0**40, {"x": 1.0})["x"] == pytest.approx(2.0**-40, rel=1e-9)
    assert rows["value"].item() == 2**40 + 1


def test_progress_goes_to_standard_error_when_it_takes_long(capsys, monkeypatch):
    explore.sweep(mixed, {"a": [1.0], "b": [1.0], "c": [1.0]})
    assert capsys.readouterr() == ("", "")
    quick = sweeping.tqdm
    monkeypatch.setattr(sweeping, "tqdm", lambda **options: quick(**options | {"delay": 0.0, "mininterval": 0.0}))
    explore.sweep(mixed, {"a": np.ones(50), "b": [1.0], "c": [1.0]}, chunk=10)
    shown = capsys.readouterr()
    assert shown.out == "" and "50.0/50.0" in shown.err


@pytest.mark.parametrize(
    "asked, error, message",
    [
        ({"grid": {"a": [1], "b": [1], "d": [1]}}, TypeError, "mixed(a, b, c): got an unexpected keyword argument 'd'"),
        ({"grid": {"a": [1], "b": [1]}}, TypeError, "mixed(a, b, c): missing a required argument: 'c'"),
        ({"grid": {"a": [1], "b": [], "c": [1]}}, ValueError, "b has shape (0,); allowed: one dimension, not empty"),
        ({"grid": {"a": [1], "b": 2.0, "c": [1]}}, ValueError, "b has shape (); allowed: one dimension, not empty"),
        ({"grid": {"a": ["x"], "b": [1], "c": [1]}}, TypeError, "a has values of type <U1; allowed: numbers"),
        ({"points": {"a": [1, 2], "b": [1], "c": [1]}}, ValueError, "lengths {'a': 2, 'b': 1, 'c': 1}; allowed: equal"),
        ({"grid": {}}, ValueError, "no parameters are given"),
        ({}, ValueError, "either a grid or points"),
        ({"grid": {"a": [1]}, "points": {"a": [1]}}, ValueError, "either a grid or points"),
        ({"grid": {"a": [1], "b": [1], "c": [1]}, "chunk": 0}, ValueError, "chunk is 0; allowed: at least 1"),
        ({"grid": {"a": [1], "b": [1], "c": [1]}, "keep": ["x"]}, ValueError, "output 'x' is unknown; allowed: value"),
    ],
)
def test_what_cannot_be_swept_is_refused(asked, error, message):
    with pytest.raises(error, match=re.escape(message)):
        explore.sweep(mixed, **asked, progress=False)


def test_outputs_that_make_no_column_are_refused():
    with pytest.raises(ValueError, match=r"output value has shape \(2,\); allowed: single numbers"):
        explore.sweep(lambda x: jnp.array([x, x]), {"x": [1]}, progress=False)
    with pytest.raises(ValueError, match="output x is named like a parameter"):
        explore.sweep(lambda x: {"x": x}, {"x": [1]}, progress=False)
    with pytest.raises(ValueError, match=r"'price.rents' is unknown; allowed: price.rent, price.power, price.total, "):
        explore.sweep(bill, {"hours": [1], "chips": [1]}, keep=["price.rents"], progress=False)


# Trade-offs.


def brute_front(values: np.ndarray) -> list[int]:
    """Rows that no row beats, by all pairs."""
    good = [i for i, row in enumerate(values) if not np.isnan(row).any()]
    return [i for i in good if not any((values[j] <= values[i]).all() and (values[j] < values[i]).any() for j in good)]


small = st.sampled_from([-1.0, 0.0, -0.0, 1.0, 2.0, 3.0, np.inf, np.nan])  # few values, so that many are equal


@given(st.integers(1, 5).flatmap(lambda k: st.lists(st.tuples(*[small] * k), max_size=40)), st.data())
def test_the_front_is_that_of_all_pairs(rows, data):
    values = np.array(rows, float).reshape(len(rows), -1 if rows else 1)
    names = [f"x{i}" for i in range(values.shape[1])]
    turned = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    columns = {name: -column if turn else column for name, column, turn in zip(names, values.T, turned, strict=True)}
    front = explore.pareto(
        columns,
        minimise=[name for name, turn in zip(names, turned, strict=True) if not turn],
        maximise=[name for name, turn in zip(names, turned, strict=True) if turn],
    )
    assert front.tolist() == brute_front(values)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_blocks_and_stairs_agree_on_large_fronts(objectives):
    rng = np.random.default_rng(objectives)
    values = np.abs(rng.normal(size=(3000, objectives)))
    values = (values / np.linalg.norm(values, axis=1, keepdims=True)).round(2)
    front = explore.pareto({f"x{i}": x for i, x in enumerate(values.T)}, minimise=[f"x{i}" for i in range(objectives)])
    distinct = np.unique(values, axis=0)
    blocks = distinct[fronts._blocks(distinct, size=64)]
    assert len(blocks) > 20 * objectives - 30
    assert np.array_equal(np.unique(values[front], axis=0), blocks)
    if objectives == 2:
        assert np.array_equal(blocks, distinct[brute_front(distinct)])


def test_only_rows_that_count_are_on_the_front():
    columns = {"seconds": [1.0, 2.0, 3.0], "memory": [9.0, 9.0, 1.0]}
    fits = np.array([False, True, True])
    assert explore.pareto(columns, minimise=["seconds", "memory"]).tolist() == [0, 2]
    assert explore.pareto(columns, minimise=["seconds", "memory"], where=fits).tolist() == [1, 2]
    assert explore.pareto(columns, minimise=["seconds"], where=~fits & fits).tolist() == []
    with pytest.raises(ValueError, match=r"objective 'cost' is no column; allowed: \['seconds', 'memory'\]"):
        explore.pareto(columns, minimise=["cost"])
    with pytest.raises(ValueError, match="no objective"):
        explore.pareto(columns)
    with pytest.raises(ValueError, match=r"where has shape \(2,\); allowed: \(3,\)"):
        explore.pareto(columns, maximise=["memory"], where=fits[:2])


# What drives it.


@settings(max_examples=15)
@given(st.lists(st.tuples(st.floats(0.1, 1e6), st.floats(-4, 4)), min_size=1, max_size=5))
def test_elasticities_of_a_power_law_are_its_exponents(pairs):
    def power(x):
        return 1e-3 * jnp.prod(jnp.stack([value**exponent for value, (_, exponent) in zip(x, pairs, strict=True)]))

    found = explore.elasticities(power, {"x": [value for value, _ in pairs]})
    sizes = [abs(elasticity) for elasticity in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    for i, (_, exponent) in enumerate(pairs):
        assert found[f"x.{i}"] == pytest.approx(exponent, rel=1e-10, abs=1e-12)


def test_elasticities_of_a_training_step_are_finite_differences():
    plan = Plan(tensor=8.0, pipeline=2.0, data=8.0, micro_batch=1.0)

    def seconds(cluster: Cluster, sequence):
        return training_step(MODEL, plan, cluster, batch=256.0, sequence_length=sequence, efficiency=SHARE).seconds

    found = explore.elasticities(seconds, {"cluster": CLUSTER, "sequence": 4096})
    chip = CLUSTER.node.chip
    h = 1e-5
    for name in ("flops_16bit", "memory_bandwidth"):
        value = getattr(chip, name)
        chips = [replace(chip, **{name: value * factor}) for factor in (1 + h, 1 - h)]
        up, down = (seconds(replace(CLUSTER, node=replace(CLUSTER.node, chip=each)), 4096.0) for each in chips)
        slope = (np.log(up) - np.log(down)) / (2 * h)
        assert found[f"cluster.node.chip.{name}"] == pytest.approx(slope, rel=1e-4)
        assert slope < -0.01
    assert found["cluster.node.chip.flops_4bit"] == 0
    assert len(found) == len(jax.tree.leaves(CLUSTER)) + 1


def test_inputs_that_are_zero_have_no_elasticity():
    assert explore.elasticities(lambda x, y: y + jnp.sqrt(x), {"x": 0, "y": 2}) == {"y": 1.0, "x": 0.0}
    found = explore.elasticities(lambda x, y: y + 0 * jnp.sqrt(x - 1), {"x": 1.0, "y": 2.0})
    assert list(found) == ["y", "x"] and np.isnan(found["x"])


def test_what_has_no_elasticity_is_refused():
    with pytest.raises(ValueError, match=r"x has shape \(2,\); allowed: single numbers"):
        explore.elasticities(lambda x: x.sum(), {"x": np.ones(2)})
    with pytest.raises(ValueError, match="allowed: a single number"):
        explore.elasticities(bill, {"hours": 1.0, "chips": 2.0})
    with pytest.raises(ValueError, match="the function is 0 there; allowed: finite and not 0"):
        explore.elasticities(lambda x: x - 1, {"x": 1.0})
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        explore.elasticities(lambda x: x, {"z": 1.0})


# How sure.

DRAWS = 40_000


def test_a_sum_of_normals_is_normal():
    given = {"a": explore.normal(1.0, 3.0), "b": explore.normal(-2.0, 4.0), "c": explore.fixed(10.0)}
    found = explore.propagate(lambda a, b, c: a + b + c, given, DRAWS, seed=1)
    np.testing.assert_allclose(found.quantiles["value"], 9 + 5 * np.array([-1.645, 0, 1.645]), atol=0.12)
    np.testing.assert_allclose(found.outputs["value"], sum(found.inputs.values()), rtol=1e-13)
    # A part's correlation with the sum is its share of the standard deviation; by ranks 6 / pi arcsin(r / 2).
    ranked = {name: 6 / np.pi * np.arcsin(share / 2) for name, share in (("b", 0.8), ("a", 0.6))}
    assert list(found.correlations["value"]) == ["b", "a", "c"]
    assert found.correlations["value"] == pytest.approx(ranked | {"c": 0.0}, abs=0.01)


def test_a_product_of_lognormals_is_lognormal():
    given = {"a": explore.lognormal(2.0, 1.5), "b": explore.lognormal(5.0, 1.2)}
    found = explore.propagate(lambda a, b: a / b, given, DRAWS, quantiles=[0.1587, 0.5, 0.8413])
    factor = np.exp(np.hypot(np.log(1.5), np.log(1.2)))
    np.testing.assert_allclose(found.quantiles["value"], 0.4 * factor ** np.array([-1, 0, 1]), rtol=0.015)
    assert found.correlations["value"]["a"] > 0 > found.correlations["value"]["b"]


def test_bounded_distributions_have_their_means_and_bounds():
    given = {
        "u": explore.uniform(2.0, 4.0),
        "t": explore.triangular(0.0, 1.0, 5.0),
        "l": explore.loguniform(0.1, 10.0),
    }
    drawn = explore.propagate(lambda u, t, l: u * t * l, given, DRAWS).inputs  # noqa: E741
    assert drawn["l"].min() >= 0.1 and drawn["l"].max() <= 10
    assert np.log(drawn["l"]).mean() == pytest.approx(0, abs=0.03) and np.median(drawn["l"]) == pytest.approx(
        1, rel=0.05
    )
    assert 2 <= drawn["u"].min() < 2.01 and 3.99 < drawn["u"].max() <= 4
    assert drawn["t"].min() >= 0 and drawn["t"].max() <= 5
    assert drawn["u"].mean() == pytest.approx(3, abs=0.02) and drawn["t"].mean() == pytest.approx(2, abs=0.03)


def cost(chips, utilisation, price):
    days = training_days(flop=2.15e25, chips=chips, peak=312e12, utilisation=utilisation)
    return {"days": days, "dollars": rented_dollars(chips=chips, days=days, dollars_per_hour=price)}


def test_draws_are_repeatable_and_do_not_depend_on_other_inputs():
    given = {"chips": 25_000.0, "utilisation": explore.uniform(0.32, 0.36), "price": explore.lognormal(1.0, 1.3)}
    first, again, other = (explore.propagate(cost, given, 500, seed) for seed in (3, 3, 4))
    for name in ("utilisation", "price"):
        assert np.array_equal(first.inputs[name], again.inputs[name])
        assert len(np.intersect1d(first.inputs[name], other.inputs[name])) == 0
    surer = explore.propagate(cost, given | {"price": explore.fixed(1.0)}, 500, 3)
    assert np.array_equal(first.inputs["utilisation"], surer.inputs["utilisation"])
    assert np.array_equal(first.outputs["days"], surer.outputs["days"])
    assert "chips" not in first.inputs and list(first.outputs) == ["days", "dollars"]
    # Rent does not depend on the number of chips, and more utilisation can only lower it.
    assert list(first.correlations["dollars"]) == ["price", "utilisation"]
    assert first.correlations["days"]["utilisation"] == pytest.approx(-1)


def test_specs_pass_through_and_outputs_may_be_named_like_inputs():
    def rent(price, hours):
        return Price(rent=price.rent * hours, power=price.power)

    base = Price(rent=2.0, power=1.0)
    found = explore.propagate(rent, {"price": base, "hours": explore.uniform(1.0, 2.0)}, 100, keep=["total", "cheap"])
    np.testing.assert_allclose(found.outputs["total"], 2 * found.inputs["hours"] + 1)
    assert found.outputs["cheap"].all() and found.correlations["cheap"]["hours"] == 0
    same = explore.propagate(lambda x: {"x": x}, {"x": explore.normal(0.0, 1.0)}, 100)
    assert np.array_equal(same.outputs["x"], same.inputs["x"])


def test_an_output_that_is_nan_says_nothing():
    found = explore.propagate(lambda x: {"log": jnp.log(x), "x2": x**2}, {"x": explore.normal(0.0, 1.0)}, 100)
    assert np.isnan(found.quantiles["log"]).all() and np.isnan(found.correlations["log"]["x"])
    assert np.isfinite(found.quantiles["x2"]).all()


@pytest.mark.parametrize(
    "make, values",
    [
        (explore.normal, (0.0, -1.0)),
        (explore.lognormal, (0.0, 2.0)),
        (explore.lognormal, (1.0, 0.5)),
        (explore.uniform, (2.0, 1.0)),
        (explore.loguniform, (0.0, 1.0)),
        (explore.loguniform, (2.0, 1.0)),
        (explore.triangular, (0.0, 3.0, 2.0)),
        (explore.triangular, (1.0, 1.0, 1.0)),
        (explore.normal, (0.0, np.nan)),
    ],
)
def test_impossible_distributions_are_refused(make, values):
    with pytest.raises(ValueError, match=f"^{make.__name__} has .*; allowed: "):
        make(*values)


def test_nothing_uncertain_is_refused():
    with pytest.raises(ValueError, match="0 distributions, 10000 draws; allowed: at least 1 and 2"):
        explore.propagate(cost, {"chips": 1.0, "utilisation": 0.3, "price": 1.0})
    with pytest.raises(TypeError, match=r"cost\(chips, utilisation, price\): missing"):
        explore.propagate(cost, {"chips": explore.fixed(1.0)})
    with pytest.raises(ValueError, match="1 distributions, 1 draws"):
        explore.propagate(lambda x: x, {"x": explore.fixed(1.0)}, 1)


# Fitted to what.


@spec
class Constants:
    """Limits of each kind."""

    share: Scalar = number("1", above=0, high=1)
    rate: Scalar = number("1/s", above=0)
    offset: Scalar = number("s", low=2.0)
    count: Scalar = number("things", whole=True, default=3.0)


SIZES = np.geomspace(1.0, 1e4, 9)


def seconds(c: Constants):
    return c.offset + c.count * SIZES / c.rate / c.share + 1e-3 * SIZES**2 * (1 - c.share)


truths = st.builds(
    Constants, share=st.floats(0.05, 0.95), rate=st.floats(0.1, 100), offset=st.floats(2.1, 50), count=st.just(3.0)
)


@settings(max_examples=10)
@given(truths)
def test_known_constants_are_recovered(truth):
    start = Constants(share=0.5, rate=5.0, offset=5.0)
    found = explore.calibrate(seconds, start, seconds(truth), hold=["count"])
    assert found.converged and np.abs(found.errors).max() < 1e-6
    for name in ("share", "rate", "offset"):
        assert getattr(found.constants, name) == pytest.approx(getattr(truth, name), rel=1e-4)
    assert isinstance(found.constants, Constants) and isinstance(found.constants.rate, float)
    assert found.constants.count == 3.0


def test_the_constants_of_the_cost_model_are_recovered():
    plans = [(1, 1, 1), (2, 1, 4), (8, 1, 2), (8, 2, 1), (4, 4, 1), (8, 8, 1), (1, 8, 2), (2, 2, 8)]
    columns = {name: np.array(column, float) for name, column in zip("tpb", zip(*plans, strict=True), strict=True)}

    def predict(share):
        def one(t, p, b):
            plan = Plan(tensor=t, pipeline=p, data=2.0, micro_batch=b, recompute=1.0)
            return training_step(MODEL, plan, CLUSTER, batch=64.0, sequence_length=2048.0, efficiency=share).seconds

        return jax.vmap(one)(columns["t"], columns["p"], columns["b"])

    truth = replace(SHARE, matmul=0.61, memory=0.7, half_size=30.0)
    start = replace(SHARE, matmul=0.9, memory=0.9, half_size=100.0)
    fitted = ("matmul", "memory", "half_size")
    hold = [field.name for field in fields(SHARE) if field.name not in fitted]
    found = explore.calibrate(predict, start, predict(truth), hold=hold)
    for name in fitted:
        assert getattr(found.constants, name) == pytest.approx(getattr(truth, name), rel=1e-5)


@pytest.mark.parametrize("start", [(-1.2, 1.0), (5.0, -5.0), (0.0, 0.0)])
def test_a_bent_valley_is_followed_to_its_end(start):
    # Rosenbrock's function as relative errors of what should be ones; constants without limits, in a dict.
    def valley(c):
        return jnp.stack([1 + 100 * (c["y"] - c["x"] ** 2), 2 - c["x"]])

    found = explore.calibrate(valley, dict(zip("xy", start, strict=True)), [1.0, 1.0])
    assert found.constants == pytest.approx({"x": 1.0, "y": 1.0}, rel=1e-6)
    assert found.converged


def test_a_prior_pulls_by_its_weight():
    # One observation of a positive constant x: (x / 2 - 1) / tolerance against (log x - log 1) / sd.
    def fit(sd):
        return explore.calibrate(lambda c: jnp.stack([c.rate]), start, [2.0], prior={"rate": (1.0, sd)}, hold=others)

    start, others = Constants(share=0.5, rate=1.5, offset=3.0), ["share", "offset", "count"]
    assert fit(1e-4).constants.rate == pytest.approx(1.0, abs=1e-3)
    assert fit(1e4).constants.rate == pytest.approx(2.0, rel=1e-6)
    x = fit(0.05).constants.rate  # in between, the slopes of the two squares balance
    assert (x / 2 - 1) / 0.05**2 * x / 2 + np.log(x) / 0.05**2 == pytest.approx(0, abs=1e-3)


def test_a_prior_decides_what_the_observations_leave_open():
    # Only the product share * rate is observed.
    start = Constants(share=0.5, rate=1.0, offset=3.0)
    found = explore.calibrate(
        lambda c: jnp.stack([c.share * c.rate]), start, [4.0], prior={"share": (0.8, 0.01)}, hold=["offset", "count"]
    )
    assert found.constants.share == pytest.approx(0.8, abs=1e-4)
    assert found.constants.rate == pytest.approx(5.0, rel=1e-3)


@pytest.mark.parametrize("observed", [10.0, 1e6])
def test_limits_hold_however_far_the_observation(observed):
    start = Constants(share=0.5, rate=1.0, offset=3.0)
    found = explore.calibrate(lambda c: jnp.stack([c.share]), start, [observed], hold=["rate", "offset", "count"])
    assert 0.99 < found.constants.share <= 1
    Constants(share=found.constants.share, rate=1.0, offset=3.0)


def test_too_few_steps_are_told():
    start = Constants(share=0.05, rate=0.1, offset=30.0)
    target = seconds(Constants(share=0.9, rate=50.0, offset=2.5))
    assert not explore.calibrate(seconds, start, target, hold=["count"], steps=2).converged


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"observed": np.zeros(9)}, "none of them 0"),
        ({"observed": np.ones(8)}, "the function returns shape (9,); allowed: (8,), as observed"),
        ({"hold": []}, "count is a whole number and cannot be fitted; name it in hold"),
        ({"hold": ["counts"]}, "constant 'counts' is unknown; allowed: share, rate, offset, count"),
        ({"hold": ["share", "rate", "offset", "count"]}, "every constant is held"),
        ({"prior": {"speed": (1.0, 1.0)}}, "constant 'speed' is unknown"),
        ({"prior": {"share": (1.0, 1.0)}}, "prior of share is 1.0; allowed: a number inside its limits, not on them"),
        ({"prior": {"share": (0.5, 0.0)}}, "priors have standard deviations [ 0. inf inf]; allowed: above 0"),
        ({"start": Constants(share=1.0, rate=1.0, offset=3.0)}, "start of share is 1.0; allowed: a number inside"),
        ({"start": Constants(share=0.5, rate=1.0, offset=2.0)}, "start of offset is 2.0; allowed: a number inside"),
        ({"function": lambda c: jnp.log(-c.rate) * SIZES}, "predictions at the start are"),
        ({"tolerance": 0.0}, "tolerance is 0; allowed: above 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(changed, message):
    start = Constants(share=0.5, rate=1.0, offset=3.0)
    asked = {"function": seconds, "start": start, "observed": np.ones(9), "hold": ["count"]} | changed
    with pytest.raises(ValueError, match=re.escape(message)):
        explore.calibrate(**asked)
