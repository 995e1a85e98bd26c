"""Checkpoints: one safetensors file a step, written whole or not at all, and read only if every byte is right.

A file holds the arrays of a tree under their paths. Its metadata says what made it and the SHA-256 of the arrays,
so that a truncated, altered or foreign file is refused and the one before it is used.
"""

import hashlib
import json
import re
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays

from anatomy.specs.base import between, check_arguments
from anatomy.train.cache import write_atomically

NAME = re.compile(r"step-(\d{8})\.safetensors")
STEPS = {**between(high=10**8 - 1, whole=True), "allowed": "a whole number from 0 to 99,999,999"}  # as a name has room
KEPT = 2  # the newest may turn out to be unreadable
ABANDONED = 600.0  # seconds after which a file half written is of a run that was killed


def save(directory: Path, step: int, tree: Any, maker: str) -> Path:
    """Write a tree of arrays, atomically, and remove older checkpoints but the one before.

    Later ones stay: they may be unusable, and what is written now is not.

    Args:
        directory: made if it is not there.
        step: of the training, at least 0.
        tree: arrays and numbers that JAX can walk through.
        maker: what the tree belongs to, such as the hash of a recipe; asked for again on loading.

    Raises:
        TypeError, ValueError: the step is no whole number from 0 to 99,999,999.
        OSError: the directory cannot be written to.
    """
    check_arguments("checkpoint", STEPS, step=step)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = named(tree)
    path = directory / f"step-{int(step):08d}.safetensors"
    for left in directory.glob(".step-*"):
        with suppress(FileNotFoundError):  # it may be done just now
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    write_atomically(path, save_arrays(arrays, {"maker": maker, "step": str(int(step)), "sha256": digest(arrays)}))
    up_to_now = [each for each in newest_first(directory) if each <= path]
    for old in up_to_now[KEPT:]:
        old.unlink(missing_ok=True)  # another process that trains the same may have removed it
    return path


def load(path: Path, like: Any, maker: str) -> tuple[int, Any]:
    """Read one checkpoint.

    Args:
        path: of the file.
        like: a tree of the same structure, shapes and types.
        maker: as it was given to `save`.

    Returns:
        The step, and the tree with NumPy arrays.

    Raises:
        ValueError: the file is truncated, altered, renamed, of another maker, or of another structure; the message
            says which.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("maker") != maker:  # asked first: a foreign file may hold what NumPy has no type for
                raise ValueError(f"{path.name} was made by {metadata.get('maker')!r}; allowed: {maker!r}")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, AttributeError) as error:  # the last where NumPy lacks the type
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    if metadata.get("sha256") != digest(arrays):
        raise ValueError(f"{path.name} was altered: its arrays do not have the SHA-256 that it names")
    if not (named_step := NAME.fullmatch(path.name)) or metadata.get("step") != str(int(named_step[1])):
        raise ValueError(f"{path.name} holds step {metadata.get('step')!r}; allowed: the step of its name")
    expected = {name: (a.shape, a.dtype) for name, a in named(like).items()}
    found = {name: (a.shape, a.dtype) for name, a in arrays.items()}
    if wrong := sorted(name for name in expected | found if expected.get(name) != found.get(name)):
        name = wrong[0]
        raise ValueError(f"{path.name} has {name} as {found.get(name)}; allowed: {expected.get(name)}")
    leaves, structure = jax.tree.flatten(like)
    return int(metadata["step"]), jax.tree.unflatten(structure, [arrays[name] for name in named(like, leaves)])


def latest(directory: Path, like: Any, maker: str) -> tuple[int, Any] | None:
    """The newest checkpoint that can be used, or None; those that cannot are named in a warning."""
    for path in newest_first(directory):
        try:
            return load(path, like, maker)
        except ValueError as error:
            warnings.warn(f"checkpoint not used: {error}", stacklevel=2)
    return None


def newest_first(directory: Path) -> list[Path]:
    """Checkpoints of a directory."""
    return sorted((p for p in directory.glob("*.safetensors") if NAME.fullmatch(p.name)), reverse=True)


def named(tree: Any, leaves: list[Any] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a tree by their paths, in the order of its leaves."""
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(tree)]
    values = jax.tree.leaves(tree) if leaves is None else leaves
    return {path: np.asarray(value, order="C") for path, value in zip(paths, values, strict=True)}


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and bytes, whatever their order."""
    made = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        made.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        made.update(array.tobytes())
    return made.hexdigest()
