"""A training that is killed ends with the bits of one that is not; and what differs is counted."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.train import crash_test
from anatomy.train.loop import checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("kind", killed.KINDS)
def test_a_killed_run_ends_with_the_same_bits(kind, tmp_path):
    """SIGKILL at steps that chance chooses; then against the run that was never killed."""
    chance = np.random.default_rng(os.getpid())
    steps = sorted(int(step) for step in chance.choice(np.arange(1, 45), 2, replace=False))
    never, again = tmp_path / "never", tmp_path / "killed"
    assert killed.run(never, kind=kind) == []
    left = killed.run(again, steps, kind)
    # None was killed at the end, and the second not before the first.
    assert all(step <= at < killed.TRAINING.steps for step, at in zip(steps, left, strict=True)) and left == sorted(
        left
    )
    one, other = killed.newest(never), killed.newest(again)
    assert killed.differing(one, other) == 0
    assert one["history.loss"].shape == (killed.TRAINING.steps,) and np.all(one["history.loss"] > 0)
    # A finished run cannot be killed any more.
    with pytest.raises(RuntimeError, match="was not killed after step 99: it ended and said nothing"):
        killed.run(never, [99], kind)


@pytest.mark.slow
def test_a_training_that_fails_says_why(tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(RuntimeError, match=r"the training failed: .*(File exists|Not a directory)"):
        killed.run(tmp_path / "file")


def test_values_differ_by_their_bits(tmp_path):
    tree = {"a": jnp.array([0.0, 1.0, jnp.nan]), "b": jnp.arange(3)}
    checkpoint.save(tmp_path, 1, tree, "x")
    one = killed.newest(tmp_path)
    assert killed.differing(one, one) == 0  # no number equals itself, here
    assert killed.differing(one, one | {"a": np.array([-0.0, 1.0, np.nan], one["a"].dtype)}) == 1
    with pytest.raises(ValueError, match=r"arrays \['b'\] differ in shape or type"):
        killed.differing(one, {"a": one["a"]})
    with pytest.raises(ValueError, match=r"arrays \['b'\] differ"):
        killed.differing(one, one | {"b": one["b"][:2]})
    with pytest.raises(ValueError, match="has no checkpoint"):
        killed.newest(tmp_path / "none")
