"""The training loop: it learns, it goes on after a kill with the same bits, and it refuses what it cannot do."""

import dataclasses
import math
import os
import signal
import sys
from types import SimpleNamespace

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from anatomy.model import Config, forward, init, moe
from anatomy.train import loop
from anatomy.train.data.instructions import Instructions, Pair
from anatomy.train.data.markov import random_markov
from anatomy.train.data.tokens import train_tokenizer
from anatomy.train.loop import Batch, Training, checkpoint, train
from anatomy.train.loop.progress import duration
from hypothesis import given, settings

CONFIG = Config(
    vocabulary=16, layers=2, d_model=32, heads=2, kv_heads=1, head_dim=16, d_ff=32, experts=4, top_k=2, context=32
)


@pytest.fixture(scope="module")
def source():
    return random_markov(length=32)


class Data:
    """Rows of a source, of which those from a number on interrupt: by signals to this process, or at once."""

    def __init__(self, rows, before, signals=0):
        self.source, self.before, self.signals = rows, before, signals

    def rows(self, first, count):
        if first >= self.before and count > 1:
            if not self.signals:
                raise KeyboardInterrupt
            self.before = 10**9
            for _ in range(self.signals):
                os.kill(os.getpid(), signal.SIGINT)
        return self.source(first, count)


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
    _, measured = loop.objective(CONFIG, Training(steps=1, dispatch="all_experts"), weights, Batch(rows))
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
    total, _ = loop.objective(CONFIG, training, weights, Batch(rows, loss_mask=mask))
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
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert np.abs(one.embedding).max() > 1e-3


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
    end = tmp_path / checkpoint.FINAL
    end.write_bytes(end.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="checkpoint not used"):
        again = train(CONFIG, training, source, tmp_path, "m", every=2, progress=False)
    assert equal(whole.weights, again.weights) and equal(whole.history, again.history)


@pytest.mark.parametrize(
    "changes, ended",
    [({"steps": 6}, True), ({"steps": 2}, False), ({"learning_rate": 1e-3}, True), ({"seed": 1}, False)],
)
def test_a_directory_belongs_to_one_training(tmp_path, source, changes, ended):
    """Asked for more steps, fewer or other ones, what is there stays as it is, and the error says what to do."""
    training = Training(steps=4, batch=4)
    stops = Data(rows=source.rows, before=4 * training.batch if ended else 3 * training.batch)
    if ended:
        train(CONFIG, training, source, tmp_path, "m", every=1, progress=False)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, training, stops, tmp_path, "m", every=1, progress=False)
    there = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="belongs to another training: name another directory than"):
        train(CONFIG, dataclasses.replace(training, **changes), source, tmp_path, "m", every=1, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == there


# It is interrupted.


def test_an_interrupt_ends_the_step_and_leaves_a_whole_checkpoint(tmp_path, source):
    training = Training(steps=8, batch=4)
    whole = train(CONFIG, training, source, progress=False)
    interrupts = Data(rows=source.rows, before=3 * training.batch, signals=1)
    with pytest.raises(KeyboardInterrupt, match="small stopped after step 4 of 8; its checkpoint is whole; run it"):
        train(CONFIG, training, interrupts, tmp_path, "m", progress=False, title="small")
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == ["step-00000004.safetensors"]
    again = train(CONFIG, training, source, tmp_path, "m", progress=False)
    assert equal(whole.weights, again.weights) and equal(whole.history, again.history)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_in_the_last_step_loses_nothing(tmp_path, source):
    training = Training(steps=4, batch=4)
    interrupts = Data(rows=source.rows, before=3 * training.batch, signals=1)
    with pytest.raises(KeyboardInterrupt, match="training had ended"):
        train(CONFIG, training, interrupts, tmp_path, "m", progress=False)
    assert (tmp_path / checkpoint.FINAL).exists() and not checkpoint.newest_first(tmp_path)


def test_a_second_interrupt_is_raised_at_once(tmp_path, source):
    interrupts = Data(rows=source.rows, before=8, signals=2)
    with pytest.raises(KeyboardInterrupt, match="interrupted twice: the steps since the last checkpoint are lost"):
        train(CONFIG, Training(steps=8, batch=4), interrupts, tmp_path, "m", every=1, progress=False)
    assert checkpoint.newest_first(tmp_path)[0].name == "step-00000002.safetensors"


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


def test_where_there_is_no_terminal_a_line_is_printed_every_tenth_of_the_way(source, capsys):
    train(CONFIG, Training(steps=25, batch=4), source, title="small")
    shown = capsys.readouterr().err.splitlines()
    assert [line.split(" of 25 steps, ")[0] for line in shown] == [
        f"small: {share:>4}" for share in ("12%", "20%", "32%", "40%", "52%", "60%", "72%", "80%", "92%", "100%")
    ]
    assert all("tokens/s, loss" in line and "dropped" in line and line.endswith(" left") for line in shown)


def test_on_a_terminal_there_is_a_bar(source, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    train(CONFIG, Training(steps=2, batch=4), source, title="small")
    shown = capsys.readouterr().err
    assert "small: 100%" in shown and "tokens/s" in shown and "\r" in shown


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3599.7, "1 h 00 min"), (7384, "2 h 03 min")]
)
def test_seconds_are_said_with_minutes_and_hours(seconds, text):
    assert duration(seconds) == text


# What cannot be.


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"steps": 0}, "Training.steps is 0; allowed: a whole number from 1 to 2,147,483,647"),
        ({"batch": 10**12}, "Training.batch is 1000000000000; allowed: a whole number from 1 to 2,147,483,647"),
        ({"warm_up": 5}, r"Training.warm_up is 5; allowed: 0 to 4, fewer than steps \(5\); lower warm_up, or train"),
        ({"warm_up": 100}, "Training.warm_up is 100; allowed: 0 to 4"),
        ({"batch": 2.5}, "Training.batch is 2.5; allowed: a whole number from 1 to"),
        ({"steps": True}, "Training.steps is True; allowed: a whole number from 1 to"),
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
    assert loop.seconds(tmp_path) == 0
    train(CONFIG, Training(steps=2, batch=4), source, tmp_path, "m", progress=False)


def test_a_loss_that_is_no_number_stops_the_run(source):
    weights = jax.tree.map(lambda a: a * jnp.nan, init(CONFIG, jax.random.key(0)))
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        train(CONFIG, Training(steps=2, batch=4), source, start=weights, progress=False)


@pytest.mark.parametrize("kind", ["loss_mask", "padding_mask"])
def test_masks_want_whole_batches(source, kind):
    masked = SimpleNamespace(rows=source.rows, **{kind: lambda first, count: np.ones((count, 32), bool)})
    with pytest.raises(ValueError, match=rf"Training.micro_batch is 2; allowed with a {kind}: batch \(4\)"):
        train(CONFIG, Training(steps=1, batch=4, micro_batch=2), masked, progress=False)


@pytest.mark.parametrize("swapped", [("training", "config"), ("training", "data"), ("data", "training")])
def test_swapped_arguments_are_told(source, swapped):
    inputs = {"config": CONFIG, "training": Training(steps=1, batch=4), "data": source}
    one, other = swapped
    inputs |= {one: inputs[other], other: inputs[one]}
    words = r"train\.\w+ is a \w+; allowed: .*; arguments come in the order .*, or give them by name"
    with pytest.raises(TypeError, match=words):
        train(*inputs.values(), progress=False)


# Padding has no part in it.

BPE = train_tokenizer(["Write in capitals the word dog DOG", "What is the first letter of the word cat c"] * 3, 260)
PAIRS = (Pair("capitals", "Say dog", "DOG"), Pair("first", "First of cat", "c"), Pair("copy", "cat", "cat"))
PADDED = Config(
    vocabulary=260, layers=1, d_model=16, heads=2, kv_heads=1, head_dim=8, d_ff=16, experts=4, top_k=2, context=32
)


def padded_batch(length=24):
    return loop.batch_of(Instructions(PAIRS, BPE, length), 0, len(PAIRS))


@pytest.mark.parametrize(
    "dispatched, router",
    [*((each, "top_k") for each in sorted(moe.TRAINABLE)), ("by_capacity", "hash"), ("by_capacity", "expert_choice")],
)
def test_what_padding_holds_changes_no_bit(dispatched, router):
    """Of loss, gradients and all that is measured: other tokens there, at equal shapes."""
    config, weights = PADDED.replace(router=router), init(PADDED, jax.random.key(0))
    training, batch = Training(steps=1, batch=3, dispatch=dispatched), padded_batch()
    behind = np.concatenate([np.zeros((3, 1), bool), ~batch.padding_mask], axis=1) & (batch.rows == BPE.end)
    assert 0.2 < 1 - batch.padding_mask.mean() < 0.9
    one = loop.gradients(config, training, weights, batch)
    for token in (5, 77):
        other = batch._replace(rows=np.where(behind, token, batch.rows))
        assert np.any(other.rows != batch.rows)
        again = loop.gradients(config, training, weights, other._replace(loss_mask=batch.loss_mask))
        assert equal(one, again)


@pytest.mark.parametrize("dispatched", ["by_capacity", "with_overflow"])
def test_rows_of_padding_are_not_there(dispatched):
    """Real rows give the same beside rows of padding alone, whatever these hold."""
    weights, batch = init(PADDED, jax.random.key(0)), padded_batch()
    training = Training(steps=1, batch=6, dispatch=dispatched)
    rows = [np.full_like(batch.rows, token) for token in (3, 9)]
    none = np.zeros_like(batch.padding_mask), np.zeros_like(batch.loss_mask)
    found = [
        loop.gradients(
            PADDED, training, weights, Batch(*(map(np.concatenate, zip(batch[:3], (more, *none), strict=True))))
        )
        for more in rows
    ]
    assert equal(*found)
    if dispatched != "by_capacity":  # in which more rows have more places
        alone = loop.gradients(PADDED, training, weights, batch)
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(found[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_share_that_is_dropped_counts_real_tokens():
    """Against a count by hand, of a router that sends all tokens to the same two experts."""
    weights, batch = init(PADDED, jax.random.key(0)), padded_batch(18)
    router = jnp.zeros_like(weights.blocks.router)
    weights = dataclasses.replace(weights, blocks=dataclasses.replace(weights.blocks, router=router))
    _, measured = loop.gradients(PADDED, Training(steps=1, batch=3), weights, batch)
    tokens, real = batch.padding_mask.size, int(batch.padding_mask.sum())
    places = math.ceil(1.25 * tokens * PADDED.top_k / PADDED.experts)
    assert real > places
    assert float(measured["dropped"]) == pytest.approx(1 - places / real, rel=1e-6)
    np.testing.assert_allclose(measured["load"], [[0.5, 0.5, 0, 0]], atol=1e-6)


def test_without_padding_there_is_no_mask(source):
    """So that full rows keep the bits, and the program, that they had."""
    full = SimpleNamespace(rows=source.rows, padding_mask=lambda first, count: np.ones((count, 32), bool))
    assert loop.batch_of(full, 0, 4).padding_mask is None and loop.batch_of(source, 0, 4)[1:] == (None, None, None)


def test_what_is_measured(source):
    made = train(CONFIG, Training(steps=3, batch=8, micro_batch=2), source, progress=False)
    assert made.history["load"].shape == (3, 2, 4)
    np.testing.assert_allclose(made.history["load"].sum(-1), 1, rtol=1e-5)
    # The mean of squares is the square of the mean and the variance of the units on top.
    assert np.all(made.history["square"] > made.history["gradient"] ** 2)
    assert np.array_equal(made.history["rows"], [8, 8, 8])
