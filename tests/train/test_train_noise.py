"""The noise of gradients is found in gradients whose noise is known."""

import hypothesis.strategies as st
import numpy as np
import pytest
from anatomy.model import Config
from anatomy.train import loop
from anatomy.train.loop import Training, steps
from anatomy.train.noise import Estimate, critical_batch, estimate
from hypothesis import given

positive = st.floats(1e-3, 1e3)


def norms(signal, noise, unit, batch, steps=1):
    """Expected mean square of the units' norms, and norm of the whole gradient."""
    return np.full(steps, signal + noise / unit), np.full(steps, np.sqrt(signal + noise / batch))


def drawn(signal, noise, unit, batch, steps, dimensions=40, seed=0):
    """The same of gradients that are drawn: |G|^2 is `signal`, the trace of the covariance `noise`."""
    random = np.random.default_rng(seed)
    true = random.standard_normal(dimensions)
    true *= np.sqrt(signal) / np.linalg.norm(true)
    rows = true + np.sqrt(noise / dimensions) * random.standard_normal((steps, batch // unit, unit, dimensions))
    units = rows.mean(2)
    return (units**2).sum(-1).mean(1), np.linalg.norm(units.mean(1), axis=-1)


@given(positive, positive, st.integers(1, 32), st.integers(2, 16))
def test_expected_norms_give_signal_and_noise_back(signal, noise, unit, number):
    found = estimate(*norms(signal, noise, unit, number * unit), unit, np.full(1, number * unit))
    # The noise is a difference of norms, which lose digits where one dwarfs the other.
    assert found.signal[0] == pytest.approx(signal, rel=1e-6, abs=1e-9 * noise)
    assert found.noise[0] == pytest.approx(noise, rel=1e-6, abs=1e-9 * signal * unit * number)


@pytest.mark.parametrize("unit, batch", [(1, 2), (4, 16), (16, 64)])
@pytest.mark.parametrize("signal, noise", [(1.0, 10.0), (2.0, 100.0)])
def test_drawn_gradients_give_the_critical_batch(unit, batch, signal, noise):
    found = estimate(*drawn(signal, noise, unit, batch, steps=20_000 // batch), unit, np.array([batch]))
    assert found.signal.mean() == pytest.approx(signal, rel=0.15)
    assert found.noise.mean() == pytest.approx(noise, rel=0.05)
    assert found.critical_batch == pytest.approx(noise / signal, rel=0.15)


@given(positive, positive, positive)
def test_the_scale_of_the_loss_does_not_matter(signal, noise, scale):
    squares, gradient = norms(signal, noise, 2, 8)
    one = estimate(squares, gradient, 2, np.array([8.0]))
    two = estimate(scale**2 * squares, scale * gradient, 2, np.array([8.0]))
    assert two.critical_batch == pytest.approx(one.critical_batch, rel=1e-6)


def test_it_counts_in_rows_whatever_the_units():
    random = np.random.default_rng(1)
    rows = 0.5 + random.standard_normal((4000, 16, 8))  # |G|^2 is 2, S is 8
    whole = np.linalg.norm(rows.mean(1), axis=-1)
    for unit in (1, 2, 4, 8):
        parts = rows.reshape(4000, 16 // unit, unit, 8).mean(2)
        found = estimate((parts**2).sum(-1).mean(1), whole, unit, np.array([16]))
        assert found.critical_batch == pytest.approx(4, rel=0.1)


def test_single_steps_are_averaged_before_they_are_divided():
    found = Estimate(signal=np.array([-1.0, 3.0]), noise=np.array([2.0, 4.0]))
    assert found.critical_batch == 3
    assert Estimate(np.array([-1.0]), np.array([2.0])).critical_batch == np.inf


@given(st.integers(1, 40), st.data())
def test_windows_hold_the_last_steps_each_once(steps, data):
    width = data.draw(st.integers(1, steps))
    windows = Estimate(np.arange(steps), 2.0 * np.arange(steps)).windows(width)
    assert all(len(window.signal) == len(window.noise) == width for window in windows)
    np.testing.assert_array_equal(np.concatenate([w.signal for w in windows]), np.arange(steps % width, steps))


def test_what_tells_no_noise_is_refused():
    squares, gradient = norms(1.0, 1.0, 4, 16, steps=3)
    with pytest.raises(ValueError, match=r"noise\.batch is 4; allowed: more rows than a unit has \(4\)"):
        estimate(squares, gradient, 4, np.array([16, 4, 16]))
    with pytest.raises(ValueError, match=r"noise\.units is -1; allowed: a finite number at least 0"):
        estimate(-np.ones(3), gradient, 4, np.array([16]))
    with pytest.raises(ValueError, match=r"noise\.gradient is inf; allowed"):
        estimate(squares, np.array([1, np.inf, 1]), 4, np.array([16]))
    with pytest.raises(ValueError, match=r"noise\.unit is 0; allowed"):
        estimate(squares, gradient, 0, np.array([16]))
    with pytest.raises(ValueError, match=r"windows\.steps is 4; allowed: .* at most 3"):
        estimate(squares, gradient, 4, np.array([16])).windows(4)


@given(st.floats(1, 1e4), st.floats(1, 1e4), st.sets(st.integers(1, 512), min_size=2, max_size=5))
def test_runs_that_reach_one_loss_tell_the_critical_batch(least_rows, least_steps, batches):
    batch = np.array(sorted(batches), float)
    needed = least_rows + least_steps * batch
    # At the critical batch twice the fewest rows and twice the fewest steps are needed: that is what it means.
    assert (needed / least_rows - 1) * (needed / batch / least_steps - 1) == pytest.approx(1, rel=1e-6)
    assert critical_batch(batch, needed) == pytest.approx(least_rows / least_steps, rel=1e-4, abs=1e-6)


def test_larger_batches_that_cost_nothing_have_no_critical_one():
    assert critical_batch(np.array([4, 16]), np.array([100, 100 - 1e-9])) == np.inf
    assert critical_batch(np.array([4, 16]), np.array([100, 500])) == 0  # in proportion, and more
    with pytest.raises(
        ValueError, match=r"critical_batch\.batch is \[4 4\]; allowed: at least two batches that differ"
    ):
        critical_batch(np.array([4, 4]), np.array([100, 110]))
    with pytest.raises(ValueError, match=r"critical_batch\.rows is nan; allowed: a finite number above 0"):
        critical_batch(np.array([4, 16]), np.array([100, np.nan]))


def test_what_a_training_keeps_is_what_the_estimate_asks_for(monkeypatch):
    """The mean square of its units' gradients, beside their mean."""
    each = np.random.default_rng(3).standard_normal((3, 50))

    def one(config, training, weights, batch):
        gradient = each[batch.rows[0, 0]]
        return {"all": gradient}, {"square": (gradient**2).sum()}

    class Numbered:
        def rows(self, start, count):
            return np.full((count, 1), start // count), np.zeros(count)

    monkeypatch.setattr(steps, "gradients", one)
    training = Training(steps=1, batch=6, micro_batch=2)
    whole, measured = loop.accumulate(Config(), training, None, Numbered(), 0, 6)
    found = estimate(measured["square"], np.linalg.norm(whole["all"]), training.unit, 6)
    assert found.noise == pytest.approx(2 * each.var(0, ddof=1).sum())  # S of a row, two to a unit
    assert found.signal == pytest.approx((each.mean(0) ** 2).sum() - each.var(0, ddof=1).sum() / 3)
