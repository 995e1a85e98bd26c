"""Checkpoints: what was written comes back, and what was not written whole is refused."""

import os
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from anatomy.model import Config, init
from anatomy.train.loop import State, Training, checkpoint, fresh
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save_file

CONFIG = Config(vocabulary=32, layers=1, d_model=16, heads=2, kv_heads=1, head_dim=8, d_ff=8, experts=2, top_k=1)


@pytest.fixture(scope="module")
def state() -> State:
    return fresh(CONFIG, Training(steps=5))


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_what_was_written_comes_back(tmp_path, state):
    checkpoint.save(tmp_path, 7, state, "mine")
    step, found = checkpoint.latest(tmp_path, state, "mine")
    assert step == 7 and same(found, state)
    assert jax.tree.structure(found) == jax.tree.structure(state)


def test_the_newest_counts_and_old_ones_go(tmp_path, state):
    for step in (1, 2, 3, 20):
        checkpoint.save(tmp_path, step, state, "mine")
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == [
        "step-00000020.safetensors",
        "step-00000003.safetensors",
    ]
    assert checkpoint.latest(tmp_path, state, "mine")[0] == 20
    assert checkpoint.latest(tmp_path / "nothing", state, "mine") is None


@settings(max_examples=25)
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused_and_the_one_before_is_used(tmp_path_factory, state, share):
    directory = tmp_path_factory.mktemp("cut")
    checkpoint.save(directory, 1, state, "mine")
    path = checkpoint.save(directory, 2, state, "mine")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.warns(UserWarning, match="checkpoint not used: step-00000002.safetensors cannot be read"):
        assert checkpoint.latest(directory, state, "mine")[0] == 1


@settings(max_examples=25)
@given(place=st.floats(0, 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(tmp_path_factory, state, place, bit):
    directory = tmp_path_factory.mktemp("bit")
    path = checkpoint.save(directory, 2, state, "mine")
    bytes_ = bytearray(path.read_bytes())
    where = min(int(place * len(bytes_)), len(bytes_) - 1)
    bytes_[where] ^= 1 << bit
    path.write_bytes(bytes_)
    try:
        _, found = checkpoint.load(path, state, "mine")
    except ValueError as error:
        assert path.name in str(error)
    else:
        assert same(found, state)  # it hit the padding of the header


def test_foreign_files_are_refused_with_the_reason(tmp_path, state):
    path = checkpoint.save(tmp_path, 1, state, "mine")
    with pytest.raises(checkpoint.ForeignError, match=r"was made by 'mine'; allowed: 'yours'; .*another directory"):
        checkpoint.load(path, state, "yours")
    foreign = tmp_path / "step-00000009.safetensors"
    save_file({"x": np.zeros(3)}, foreign)
    with pytest.raises(ValueError, match=r"was made by None; allowed: 'mine'"):
        checkpoint.load(foreign, state, "mine")
    save_file({"x": np.zeros(3)}, foreign, {"maker": "mine", "step": "9", "sha256": "0"})
    with pytest.raises(ValueError, match="was altered"):
        checkpoint.load(foreign, state, "mine")
    with pytest.warns(UserWarning, match="step-00000009"):
        assert checkpoint.latest(tmp_path, state, "mine")[0] == 1


def test_what_another_training_wrote_is_neither_passed_over_nor_removed(tmp_path, state):
    """Whatever is written or has ended beside it: a maker's files are its own."""
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, state, "theirs")
    theirs = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(checkpoint.ForeignError, match="belongs to another training: name another directory than"):
        checkpoint.latest(tmp_path, state, "mine")
    for step in (4, 5, 6, 7):
        checkpoint.save(tmp_path, step, state, "mine")
    checkpoint.finish(tmp_path, 8, state, "mine")
    assert {path: path.read_bytes() for path in checkpoint.newest_first(tmp_path)} == theirs
    with pytest.raises(checkpoint.ForeignError, match=r"final.safetensors was made by 'mine'; allowed: 'theirs'"):
        checkpoint.final(tmp_path, state, "theirs")


def test_what_has_ended_takes_the_place_of_its_checkpoints(tmp_path, state):
    assert checkpoint.final(tmp_path, state, "mine") is None
    for step in (3, 4):
        checkpoint.save(tmp_path, step, state, "mine")
    checkpoint.finish(tmp_path, 5, state.weights, "mine")
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FINAL]
    checkpoint.save(tmp_path, 4, state, "mine")  # as a kill between the two leaves it
    shapes = jax.eval_shape(lambda: state.weights)
    assert same(checkpoint.final(tmp_path, shapes, "mine"), state.weights)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FINAL]


@given(
    arrays(st.sampled_from([np.float32, np.float64, np.int32, np.bool_]), array_shapes(min_dims=0, min_side=0)),
)
def test_what_is_compressed_comes_back(values):
    again = checkpoint.expanded(checkpoint.compressed(values), str(values.dtype), values.shape)
    assert (again.dtype, again.shape, again.tobytes()) == (values.dtype, values.shape, values.tobytes())


def test_an_end_is_smaller_by_a_seventh(tmp_path):
    weights = {"a": np.random.default_rng(0).normal(0, 0.05, 10**6).astype(np.float32)}
    assert checkpoint.finish(tmp_path, 1, weights, "mine").stat().st_size < 0.87 * weights["a"].nbytes


def test_an_end_that_is_damaged_costs_its_steps(tmp_path, state):
    path = checkpoint.finish(tmp_path, 5, state, "mine")
    path.write_bytes(path.read_bytes()[:-1])
    checkpoint.save(tmp_path, 4, state, "mine")
    with pytest.warns(UserWarning, match="checkpoint not used: final.safetensors cannot be read"):
        assert checkpoint.final(tmp_path, state, "mine") is None
    assert checkpoint.latest(tmp_path, state, "mine")[0] == 4


def test_later_files_that_cannot_be_used_do_not_cost_what_is_written(tmp_path, state):
    for step in (6, 7, 8, 9):
        path = checkpoint.save(tmp_path, step, state, "mine")
        path.write_bytes(path.read_bytes()[:-1])
    for step in (1, 2, 3):
        assert checkpoint.save(tmp_path, step, state, "mine").exists()
        with pytest.warns(UserWarning, match="checkpoint not used"):
            assert checkpoint.latest(tmp_path, state, "mine")[0] == step
    mine = [path for path in checkpoint.newest_first(tmp_path) if path.name < "step-00000006"]
    assert [path.name for path in mine] == ["step-00000003.safetensors", "step-00000002.safetensors"]


def test_a_file_of_a_type_that_numpy_lacks_is_refused(tmp_path, state):
    checkpoint.save(tmp_path, 1, state, "mine")
    foreign = tmp_path / "step-00000009.safetensors"
    save_file({"x": np.zeros(3, ml_dtypes.float8_e4m3fn)}, foreign)
    with pytest.raises(checkpoint.ForeignError, match=r"step-00000009.safetensors was made by None"):
        checkpoint.latest(tmp_path, state, "mine")
    save_file({"x": np.zeros(3, ml_dtypes.float8_e4m3fn)}, foreign, {"maker": "mine"})
    with pytest.warns(UserWarning, match=r"step-00000009.safetensors cannot be read: .*float8_e4m3fn"):
        assert checkpoint.latest(tmp_path, state, "mine")[0] == 1


@pytest.mark.parametrize("step", [None, "-4", "8", "9.0", "nine"])
def test_a_file_whose_step_is_not_that_of_its_name_is_refused(tmp_path, state, step):
    checkpoint.save(tmp_path, 1, state, "mine")
    named = checkpoint.named(state)
    metadata = {"maker": "mine", "sha256": checkpoint.digest(named)} | ({} if step is None else {"step": step})
    save_file(named, tmp_path / "step-00000009.safetensors", metadata)
    with pytest.warns(UserWarning, match=f"step-00000009.safetensors holds step {step!r}; allowed: the step of its"):
        assert checkpoint.latest(tmp_path, state, "mine")[0] == 1


@pytest.mark.parametrize("step", [-1, 1.5, 10**8, "3"])
def test_a_step_that_a_name_has_no_room_for_is_refused(tmp_path, state, step):
    with pytest.raises((TypeError, ValueError), match=r"checkpoint.step is .*; allowed: a whole number from 0 to"):
        checkpoint.save(tmp_path, step, state, "mine")
    assert not list(tmp_path.iterdir())


def test_several_may_write_the_same_checkpoints_at_once(tmp_path, state):
    """Two processes that train one recipe, such as `make models` and an open notebook."""
    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(lambda: [checkpoint.save(tmp_path, s, state, "m") for s in range(30)]) for _ in range(4)]
    for writer in writers:
        writer.result()
    assert checkpoint.latest(tmp_path, state, "m")[0] == 29


def test_another_model_is_refused_by_the_first_array_that_differs(tmp_path, state):
    path = checkpoint.save(tmp_path, 1, state, "mine")
    other = State(init(CONFIG.replace(d_ff=16), jax.random.key(0)), state.optimizer, state.history)
    with pytest.raises(ValueError, match=r"weights\.blocks\.experts\.down as .*; allowed: .*16, 16"):
        checkpoint.load(path, other, "mine")


def test_what_a_killed_writer_left_is_cleared_and_what_another_writes_is_not(tmp_path, state):
    old, new = (tmp_path / f".step-00000001.safetensors.{end}" for end in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    checkpoint.save(tmp_path, 2, state, "mine")
    assert {path.name for path in tmp_path.iterdir()} == {new.name, "step-00000002.safetensors"}


def test_types_are_kept(tmp_path):
    tree = {"a": jnp.arange(3, dtype=jnp.int32), "b": jnp.ones((2, 2), jnp.float32), "c": np.float64(0.1)}
    checkpoint.save(tmp_path, 0, tree, "x")
    _, found = checkpoint.latest(tmp_path, tree, "x")
    assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in tree.items()} and same(tree, found)
