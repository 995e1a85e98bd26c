"""The training loop: it learns, it goes on after a kill with the same bits, and it refuses what it cannot do."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from anatomy.model import Config, forward, init
from anatomy.train import loop
from anatomy.train.loop import checkpoint
from anatomy.train.loop import Training, train
from anatomy.train.data.markov import random_markov
from hypothesis import given, settings

CONFIG = Config(
    vocabulary=16, layers=2, d_model=32, heads=2, kv_heads=1, head_dim=16, d_ff=32, experts=4, top_k=2, context=32
)


@pytest.fixture(scope="module")
def source():
    return random_markov(length=32)


def equal(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


# It learns.


@pytest.mark.slow
def test_a_markov_source_is_learnt_to_its_entropy():
    source = random_markov(length=64)
    config = CONFIG.replace(context=64, d_model=64, head_dim=32, d_ff=64)
    made = train(config, Training(steps=400, batch=32, learning_rate=4e-3, warm_up=20), source, progress=False)
    rows, _ = source.rows(2**40, 64)
    loss = float(loop.losses(config, made.weights, rows).mean())
    assert source.least_loss - 0.02 <= loss <= source.least_loss + 0.1
    assert made.history["loss"][0] > loss + 0.5


def test_loss_is_cross_entropy_of_the_next_token(source):
    rows, _ = source.rows(0, 4)
    weights = init(CONFIG, jax.random.key(0))
    _, measured = loop.objective(CONFIG, Training(steps=1, dispatch="all_experts"), weights, rows)
    logits = np.asarray(forward(CONFIG, weights, rows[:, :-1]).logits, np.float64)
    chosen = np.take_along_axis(logits, rows[:, 1:, None], -1)[..., 0]
    by_hand = np.log(np.exp(logits).sum(-1)) - chosen
    assert float(measured["loss"]) == pytest.approx(by_hand.mean(), rel=1e-5)
    assert float(loop.losses(CONFIG, weights, rows).mean()) == pytest.approx(by_hand.mean(), rel=1e-5)


def test_a_mask_counts_its_tokens_alone(source):
    rows, _ = source.rows(0, 4)
    weights = init(CONFIG, jax.random.key(0))
    mask = np.zeros((4, 32), np.float32)
    mask[1, 5:9] = 1
    training = Training(steps=1, dispatch="all_experts", balance=0.0, z=0.0)
    total, _ = loop.objective(CONFIG, training, weights, rows, mask)
    assert float(total) == pytest.approx(float(loop.losses(CONFIG, weights, rows)[1, 5:9].mean()), rel=1e-5)


def test_gradients_add_up_over_units(source):
    whole = Training(steps=1, batch=8, balance=0.0, z=0.0, dispatch="all_experts")
    parts = Training(steps=1, batch=8, micro_batch=2, balance=0.0, z=0.0, dispatch="all_experts")
    weights = init(CONFIG, jax.random.key(0))
    one, two = (loop.accumulate(CONFIG, t, weights, source, 0, 8) for t in (whole, parts))
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(two[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
    assert float(one[1]["loss"]) == pytest.approx(float(two[1]["loss"]), rel=1e-5)


def test_the_optimizer_is_adamw_without_decay_of_norms():
    training = Training(steps=10, warm_up=0, decay=0.5, clip=1e9)
    weights = init(CONFIG, jax.random.key(0))
    none = jax.tree.map(jnp.zeros_like, weights)
    change, _ = training.optimizer().update(none, training.optimizer().init(weights), weights)
    rate = float(training.schedule()(0))
    assert rate == pytest.approx(training.learning_rate, rel=1e-6)
    np.testing.assert_allclose(change.embedding, -rate * 0.5 * weights.embedding, rtol=1e-5)
    assert not np.any(change.norm) and not np.any(change.blocks.attention_norm)


def test_gradients_are_clipped():
    training = Training(steps=10, clip=0.5)
    weights = init(CONFIG, jax.random.key(0))
    large = jax.tree.map(lambda a: 100 * jnp.ones_like(a), weights)
    clipped, _ = optax.clip_by_global_norm(0.5).update(large, optax.EmptyState())
    one, two = (
        training.optimizer().update(g, training.optimizer().init(weights), weights)[0] for g in (large, clipped)
    )
    assert equal(one, two)


# The batch grows.


def test_a_ramp_is_linear_in_the_rows_seen():
    training = Training(steps=200, batch=32, batch_start=4, ramp=2000)
    sizes = training.batches()
    seen = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    line = np.clip(4 + 28 * seen / 2000, None, 32)
    assert sizes[0] == 4 and sizes[-1] == 32 and np.all(np.diff(sizes) >= 0)
    assert np.all(sizes <= line) and np.all(line - sizes < 4) and np.all(sizes % 4 == 0)


@given(st.integers(1, 50), st.integers(1, 8))
def test_without_a_ramp_all_batches_are_equal(steps, batch):
    assert np.array_equal(Training(steps=steps, batch=batch).batches(), np.full(steps, batch))


# It goes on.


@settings(max_examples=3)
@given(cut=st.integers(1, 11))
def test_a_run_that_stops_and_goes_on_ends_with_the_same_bits(tmp_path_factory, source, cut):
    training = Training(steps=12, batch=8, batch_start=4, ramp=40)
    whole = train(CONFIG, training, source, progress=False)
    directory = tmp_path_factory.mktemp("cut")

    class Stops:
        def rows(self, first, count):
            if first >= training.batches()[:cut].sum():
                raise KeyboardInterrupt
            return source.rows(first, count)

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, training, Stops(), directory, "m", every=1, progress=False)
    again = train(CONFIG, training, source, directory, "m", every=1, progress=False)
    assert equal(whole.weights, again.weights) and equal(whole.history, again.history)


def test_a_broken_checkpoint_costs_its_steps_and_no_bits(tmp_path, source):
    training = Training(steps=6, batch=4)
    whole = train(CONFIG, training, source, tmp_path, "m", every=2, progress=False)
    newest = checkpoint.newest_first(tmp_path)[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="checkpoint not used"):
        again = train(CONFIG, training, source, tmp_path, "m", every=2, progress=False)
    assert equal(whole.weights, again.weights) and equal(whole.history, again.history)


def test_a_finished_run_is_read_not_trained(tmp_path, source):
    training = Training(steps=3, batch=4)
    made = train(CONFIG, training, source, tmp_path, "m", progress=False)

    class Nothing:
        def rows(self, first, count):
            raise AssertionError("asked for rows")

    assert equal(made.weights, train(CONFIG, training, Nothing(), tmp_path, "m", progress=False).weights)


def test_fine_tuning_begins_with_the_weights_given(source):
    weights = init(CONFIG, jax.random.key(5))
    made = train(
        CONFIG, Training(steps=1, batch=4, warm_up=0, learning_rate=1e-12), source, start=weights, progress=False
    )
    assert float(jnp.abs(made.weights.embedding - weights.embedding).max()) < 1e-9


def test_the_bar_shows_what_is_asked_for(source, capsys):
    train(CONFIG, Training(steps=2, batch=4), source)
    shown = capsys.readouterr().err
    assert "tokens/s" in shown and "loss" in shown and "dropped" in shown


# What cannot be.


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"steps": 0}, "Training.steps is 0; allowed: a whole number at least 1"),
        ({"batch": 2.5}, "Training.batch is 2.5; allowed: a whole number at least 1"),
        ({"steps": True}, "Training.steps is True; allowed: a whole number at least 1"),
        ({"learning_rate": 0}, "Training.learning_rate is 0; allowed: a finite number above 0"),
        ({"learning_rate": "x"}, "Training.learning_rate is 'x'; allowed: a finite number above 0"),
        ({"clip": float("nan")}, "Training.clip is nan; allowed: a finite number above 0"),
        ({"decay": -1}, "Training.decay is -1; allowed: a finite number at least 0"),
        ({"dispatch": "magic"}, "Training.dispatch is 'magic'; allowed: all_experts"),
        ({"batch": 10, "micro_batch": 4}, r"Training.batch is 10; allowed: a multiple of micro_batch \(4\)"),
        ({"batch": 8, "batch_start": 16, "ramp": 5}, "Training.batch is 8; allowed: a multiple"),
        ({"batch_start": 4}, "Training.ramp is 0; allowed: above 0 with batch_start, and 0 without"),
        ({"ramp": 4}, "Training.ramp is 4; allowed: above 0 with batch_start, and 0 without"),
    ],
)
def test_bad_trainings_are_refused(wrong, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Training(**({"steps": 5} | wrong))


@pytest.mark.parametrize(
    "changes, how, words",
    [
        ({}, {"every": 0}, "train.every is 0; allowed: a whole number at least 1"),
        ({"vocabulary": 8}, {}, "a token of the data is [0-9]+; allowed: below 8, Config.vocabulary"),
        ({"context": 16}, {}, "tokens of a sequence are 32; allowed: at most 16, the Config.context"),
    ],
)
def test_data_that_does_not_fit_is_refused(source, changes, how, words):
    with pytest.raises(ValueError, match=words):
        train(CONFIG.replace(**changes), Training(steps=2, batch=4), source, progress=False, **how)


def test_data_that_ends_too_early_is_refused_before_the_first_step(source):
    class Short:
        def rows(self, first, count):
            if first + count > 6:
                raise ValueError("the end")
            raise AssertionError("a step was begun")

    with pytest.raises(ValueError, match="the end"):
        train(CONFIG, Training(steps=2, batch=4), Short(), progress=False)


def test_a_damaged_clock_is_forgotten(tmp_path, source):
    train(CONFIG, Training(steps=2, batch=4), source, tmp_path, "m", progress=False)
    (tmp_path / loop.CLOCK).write_text("{")
    assert loop.spent(tmp_path) == 0
    train(CONFIG, Training(steps=2, batch=4), source, tmp_path, "m", progress=False)


def test_a_loss_that_is_no_number_stops_the_run(source):
    weights = jax.tree.map(lambda a: a * jnp.nan, init(CONFIG, jax.random.key(0)))
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        train(CONFIG, Training(steps=2, batch=4), source, start=weights, progress=False)


def test_masks_want_whole_batches(source):
    class Masked:
        def rows(self, first, count):
            return source.rows(first, count)

        def masks(self, first, count):
            return np.ones((count, 32), np.float32)

    with pytest.raises(ValueError, match=r"Training.micro_batch is 2; allowed with masks: batch \(4\)"):
        train(CONFIG, Training(steps=1, batch=4, micro_batch=2), Masked(), progress=False)


def test_what_is_measured(source):
    made = train(CONFIG, Training(steps=3, batch=8, micro_batch=2), source, progress=False)
    assert made.history["load"].shape == (3, 2, 4)
    np.testing.assert_allclose(made.history["load"].sum(-1), 1, rtol=1e-5)
    # The mean of squares is the square of the mean and the variance of the units on top.
    assert np.all(made.history["square"] > made.history["gradient"] ** 2)
    assert np.array_equal(made.history["rows"], [8, 8, 8])
