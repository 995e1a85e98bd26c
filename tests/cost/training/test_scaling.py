"""Scaling laws: the optimum against a minimiser, exponents by gradient, the spread of the published fits."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.training.scaling import chinchilla, effective_tokens, published_fits
from anatomy.specs import catalogue
from hypothesis import given
from scipy.optimize import minimize_scalar

KEYS = ("chinchilla", "chinchilla_unrounded", "besiroglu")
R_STAR = catalogue.entry("scaling", "repeated_data")["R_D_star"]
budgets = st.floats(1e18, 1e27)
slopes = jax.jit(jax.grad(lambda law, n, d: law.loss(n, d), argnums=(1, 2)))
fits = pytest.mark.parametrize("key", KEYS)


@fits
@given(flop=budgets)
def test_the_optimum_is_where_a_minimiser_finds_it(key, flop):
    law = chinchilla(key)
    best = minimize_scalar(
        lambda log_n: law.loss(np.exp(log_n), flop / 6 / np.exp(log_n)), bounds=(0, np.log(flop)), method="bounded"
    )
    parameters, tokens = law.optimum(flop)
    assert 6 * parameters * tokens == pytest.approx(flop, rel=1e-12)
    # A minimum is flat: the place is found to the square root of the precision of the value.
    assert law.loss(parameters, tokens) == pytest.approx(best.fun, rel=1e-10)
    assert parameters == pytest.approx(np.exp(best.x), rel=1e-3)


@fits
@given(flop=budgets, off=st.floats(1.05, 10))
def test_any_other_split_loses(key, flop, off):
    law = chinchilla(key)
    parameters, tokens = law.optimum(flop)
    assert law.loss(off * parameters, tokens / off) > law.loss(parameters, tokens)
    assert law.loss(parameters / off, off * tokens) > law.loss(parameters, tokens)


@fits
@given(flop=budgets)
def test_optimal_tokens_are_the_same_optimum(key, flop):
    law = chinchilla(key)
    parameters, tokens = law.optimum(flop)
    assert law.optimal_tokens(parameters) == pytest.approx(tokens, rel=1e-9)
    # There, a FLOP buys as much through parameters as through tokens.
    through_n, through_d = map(float, slopes(law, parameters, tokens))
    assert through_n * parameters == pytest.approx(through_d * tokens, rel=1e-9)
    assert through_n < 0


@fits
@pytest.mark.parametrize("flop", [1e20, 2.15e25])
def test_the_optimum_grows_with_a_power_of_the_budget(key, flop):
    law = chinchilla(key)
    exponents = jax.jacfwd(lambda c: jnp.log(jnp.stack(law.optimum(jnp.exp(c)))))(jnp.log(flop))
    share = law.beta / (law.alpha + law.beta)
    np.testing.assert_allclose(exponents, [share, 1 - share], rtol=1e-10)


def exponent(law) -> float:
    return law.beta / (law.alpha + law.beta)


def test_published_exponents():
    assert 0.45 < exponent(chinchilla("chinchilla")) < 0.46
    assert 0.45 < exponent(chinchilla("chinchilla_unrounded")) < 0.46
    row = catalogue.entry("scaling", "besiroglu")
    assert exponent(chinchilla("besiroglu")) == pytest.approx(0.5126, abs=0.001)
    assert (row["optimum_exponent"], row["optimum_exponent_error"]) == (0.5126, 0.018)


def test_chinchilla_by_its_own_law_and_the_replication():
    # 70e9 parameters at 5.76e23 FLOP: 20 tokens each. The printed fit wants far more, the refit about 20.
    assert chinchilla("besiroglu").optimal_tokens(70e9) / 70e9 == pytest.approx(20, rel=0.25)
    assert chinchilla("chinchilla").optimal_tokens(70e9) / 70e9 > 50


@fits
@given(n=st.floats(1e6, 1e13), d=st.floats(1e6, 1e14), factor=st.floats(1.01, 100))
def test_loss_falls_in_both_and_never_below_its_floor(key, n, d, factor):
    law = chinchilla(key)
    assert law.E < law.loss(factor * n, d) < law.loss(n, d)
    assert law.E < law.loss(n, factor * d) < law.loss(n, d)


def test_draws_reproduce_the_published_error_of_the_exponent():
    row = catalogue.entry("scaling", "besiroglu")
    draws = exponent(published_fits("besiroglu", draws=40_000))
    assert np.std(draws) == pytest.approx(row["optimum_exponent_error"], rel=0.15)
    assert np.mean(draws) == pytest.approx(row["optimum_exponent"], abs=0.001)


def test_draws_have_the_published_errors_one_by_one():
    fit, errors = published_fits("besiroglu", draws=40_000), catalogue.entry("scaling", "besiroglu")["standard_errors"]
    centre = chinchilla("besiroglu")
    for name in ("E", "alpha", "beta"):
        assert np.std(getattr(fit, name)) == pytest.approx(errors[name], rel=0.02)
        assert np.mean(getattr(fit, name)) == pytest.approx(getattr(centre, name), abs=0.02 * errors[name])
    # Drawn freely, A and B would swing the loss by far more than the fit's error; in the middle of the
    # runs, where the fit is firm, only E's is left.
    middle = jax.vmap(lambda law: law.loss((70e6 * 16e9) ** 0.5, (5e9 * 500e9) ** 0.5))(fit)
    assert np.std(middle) == pytest.approx(errors["E"], rel=0.02)
    far = jax.vmap(lambda law: law.loss(1e13, 1e15) - law.E)(fit)
    near = jax.vmap(lambda law: law.loss(1e9, 1e11) - law.E)(fit)
    assert np.std(far) / np.mean(far) > 3 * np.std(near) / np.mean(near)


def test_draws_are_repeatable_and_differ_by_seed():
    first, again, other = (published_fits("besiroglu", draws=5, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.alpha, again.alpha)
    assert len(set(first.alpha) & set(other.alpha)) == 0
    assert len(set(first.alpha)) == 5


def test_a_fit_without_errors_has_no_draws():
    with pytest.raises(KeyError, match="standard_errors"):
        published_fits("chinchilla", draws=5)


# Repeated data.

tokens = st.floats(1e6, 1e14)
epochs = st.floats(1, 200)


def effective(unique, epochs, decay):
    return effective_tokens(unique=unique, epochs=epochs, decay=decay)


worth = jax.jit(effective)


@given(tokens, st.floats(0.1, 100))
def test_one_epoch_is_all_fresh(unique, half_life):
    assert float(worth(unique, 1.0, half_life)) == pytest.approx(unique, rel=1e-14)


@given(tokens, epochs, st.floats(1.01, 5), st.floats(1, 100))
def test_repeating_helps_less_than_fresh_data(unique, passes, factor, half_life):
    now, later = (float(worth(unique, n, half_life)) for n in (passes, factor * passes))
    assert unique * (1 - 1e-12) <= now <= unique * passes * (1 + 1e-12)
    assert now <= later <= unique * (1 + half_life) * (1 + 1e-12)
    if passes < 10 * half_life:  # later the gain drowns in rounding
        assert later > now


def test_no_number_of_epochs_is_worth_more_than_the_limit():
    assert float(worth(1.0, 1e9, R_STAR)) == pytest.approx(1 + R_STAR, rel=1e-12)
    # After R* repetitions, a share 1 / e of what they can ever add is still to come.
    gained = float(worth(1.0, 1 + R_STAR, R_STAR)) - 1
    assert gained == pytest.approx(R_STAR * (1 - np.exp(-1)), rel=1e-12)


def test_four_epochs_are_almost_free():
    assert 0.92 < float(worth(1.0, 4.0, R_STAR)) / 4 < 1
    assert float(worth(1.0, 40.0, R_STAR)) / 40 < 0.5  # forty are not


def test_the_next_epoch_is_worth_e_to_the_minus_repeats():
    slope = jax.grad(effective, argnums=1)
    for repeats in (0.0, 3.0, R_STAR):
        assert slope(1.0, 1.0 + repeats, R_STAR) == pytest.approx(np.exp(-repeats / R_STAR), rel=1e-12)
