"""A training that is killed or interrupted ends with the bits of one that is not; and what differs is counted."""

import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.train import crash_test
from anatomy.train.loop import checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("kind", crash_test.KINDS)
def test_a_run_that_was_stopped_ends_with_the_same_bits(kind, by, tmp_path):
    """Signals at steps that chance chooses; then against the run that was never stopped."""
    chance = np.random.default_rng(os.getpid())
    steps = sorted(int(step) for step in chance.choice(np.arange(1, 45), 2, replace=False))
    never, again = tmp_path / "never", tmp_path / "stopped"
    assert crash_test.run(never, kind=kind) == []
    left = crash_test.run(again, steps, kind, by)
    # None was stopped at the end, and the second not before the first.
    assert all(step <= at < crash_test.TRAINING.steps for step, at in zip(steps, left, strict=True))
    assert left == sorted(left)
    one, other = crash_test.result(never), crash_test.result(again)
    assert crash_test.differing(one, other) == 0
    assert one["history.loss"].shape == (crash_test.TRAINING.steps,) and np.all(one["history.loss"] > 0)
    # A finished run cannot be stopped any more, and nothing but the end of it stays.
    with pytest.raises(RuntimeError, match="was not stopped after step 60: it ended and said nothing"):
        crash_test.run(never, [60], kind, by)
    assert not checkpoint.newest_first(never) and not checkpoint.newest_first(again)


@pytest.mark.slow
def test_a_training_that_fails_says_why(tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(RuntimeError, match=r"the training failed: .*(File exists|Not a directory)"):
        crash_test.run(tmp_path / "file")


def test_values_differ_by_their_bits(tmp_path):
    tree = {"a": jnp.array([0.0, 1.0, jnp.nan]), "b": jnp.arange(3)}
    checkpoint.finish(tmp_path, 1, tree, "x")
    one = crash_test.result(tmp_path)
    assert crash_test.differing(one, one) == 0  # no number equals itself, here
    assert crash_test.differing(one, one | {"a": np.array([-0.0, 1.0, np.nan], one["a"].dtype)}) == 1
    with pytest.raises(ValueError, match=r"arrays \['b'\] differ in shape or type"):
        crash_test.differing(one, {"a": one["a"]})
    with pytest.raises(ValueError, match=r"arrays \['b'\] differ"):
        crash_test.differing(one, one | {"b": one["b"][:2]})
    with pytest.raises(ValueError, match=r"has no final.safetensors; allowed: one in which a training ended"):
        crash_test.result(tmp_path / "none")
