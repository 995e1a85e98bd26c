"""Checkpoints: one safetensors file a step, written whole or not at all, and read only if every byte is right.

A file holds the arrays of a tree under their paths. Its metadata says what made it and the SHA-256 of the arrays. A
file that is truncated or altered is refused and the one before it is used; one that another training wrote is never
passed over, let alone removed: whoever asks is told to take a directory of its own.

What stays of a training that has ended is written smaller by a seventh, without loss: the bytes of floating-point
numbers that hold sign and exponent are much alike, so they are laid side by side and compressed.
"""

import hashlib
import json
import re
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_arrays

from anatomy.memo import write_atomically
from anatomy.specs.base import between, check_arguments

NAME = re.compile(r"step-(\d{8})\.safetensors")
FINAL = "final.safetensors"  # takes the place of all checkpoints when a training has ended
STEPS = {**between(high=10**8 - 1, whole=True), "allowed": "a whole number from 0 to 99,999,999"}  # as a name has room
KEPT = 2  # the newest may turn out to be unreadable
ABANDONED = 600.0  # seconds after which a file half written is of a run that was killed


class ForeignError(ValueError):
    """A file is whole, and belongs to another training."""


def save(directory: Path, step: int, tree: Any, maker: str) -> Path:
    """Write a tree of arrays, atomically, and remove older checkpoints of the same maker but the one before.

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
    path = write(directory, f"step-{int(step):08d}.safetensors", step, tree, maker)
    remove([each for each in newest_first(directory) if each <= path][KEPT:], maker)
    return path


def finish(directory: Path, step: int, tree: Any, maker: str) -> Path:
    """Write what stays of a training that has ended, then remove its checkpoints.

    Args:
        directory: of the training.
        step: its last.
        tree: what stays.
        maker: as it was given to `save`.

    Raises:
        TypeError, ValueError, OSError: as `save`.
    """
    check_arguments("checkpoint", STEPS, step=step)
    path = write(directory, FINAL, step, tree, maker, small=True)
    remove(newest_first(directory), maker)
    return path


def write(directory: Path, name: str, step: int, tree: Any, maker: str, small: bool = False) -> Path:
    """Write one file, and clear away what killed writers left half written."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = named(tree)
    for left in directory.glob(".*.safetensors.*"):
        with suppress(FileNotFoundError):  # it may be done just now
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
    metadata = {"maker": maker, "step": str(int(step)), "sha256": digest(arrays)}
    if small:
        metadata["compressed"] = json.dumps({name: [str(a.dtype), a.shape] for name, a in arrays.items()})
        arrays = {name: compressed(array) for name, array in arrays.items()}
    write_atomically(directory / name, save_arrays(arrays, metadata))
    return directory / name


def remove(paths: list[Path], maker: str) -> None:
    """Remove checkpoints of this maker; those of others stay, and so do those that cannot be read."""
    for path in paths:
        with suppress(ValueError):
            if metadata_of(path).get("maker") == maker:
                path.unlink(missing_ok=True)  # another process that trains the same may have removed it


def metadata_of(path: Path) -> dict[str, str]:
    """What a file says of itself.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, by name.

    Raises:
        ValueError: it cannot be read.
    """
    kinds = json.loads(metadata_of(path).get("compressed", "{}"))
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return {name: expanded(array, *kinds[name]) if kinds else array for name, array in arrays.items()}
    except (SafetensorError, OSError, AttributeError, zlib.error, KeyError, TypeError) as error:
        # AttributeError where NumPy lacks the type
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def compressed(array: np.ndarray) -> UInt8[np.ndarray, "bytes"]:
    """An array as fewer bytes: all first bytes of its numbers, then all second ones, and so on, deflated."""
    bytes_ = array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize)
    return np.frombuffer(zlib.compress(bytes_.T.tobytes(), level=1), np.uint8)


def expanded(data: UInt8[np.ndarray, "bytes"], kind: str, shape: Sequence[int]) -> np.ndarray:
    """The array that `compressed` was given."""
    dtype = np.dtype(kind)
    planes = np.frombuffer(zlib.decompress(data.tobytes()), np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype).reshape(shape)


def load(path: Path, like: Any, maker: str) -> tuple[int, Any]:
    """Read one checkpoint, or what stayed of a training that has ended.

    Args:
        path: of the file.
        like: a tree of the same structure, shapes and types; shapes alone will do.
        maker: as it was given to `save`.

    Returns:
        The step, and the tree with NumPy arrays.

    Raises:
        ForeignError: the file is of another maker, or of another structure; the message says which, and what to do.
        ValueError: it is truncated, altered or renamed; the message says which.
    """
    metadata = metadata_of(path)
    if metadata.get("maker") != maker:  # asked first: a foreign file may hold what NumPy has no type for
        raise foreign(path, f"was made by {metadata.get('maker')!r}; allowed: {maker!r}")
    arrays = arrays_of(path)
    if metadata.get("sha256") != digest(arrays):
        raise ValueError(f"{path.name} was altered: its arrays do not have the SHA-256 that it names")
    step, of_name = metadata.get("step"), NAME.fullmatch(path.name)
    if step is None or not step.isdecimal() or (of_name and step != str(int(of_name[1]))):
        raise ValueError(f"{path.name} holds step {step!r}; allowed: the step of its name")
    paths = names(like)
    leaves, structure = jax.tree.flatten(like)
    expected = {
        n: (tuple(np.shape(a)), np.dtype(getattr(a, "dtype", type(a)))) for n, a in zip(paths, leaves, strict=True)
    }
    found = {name: (a.shape, a.dtype) for name, a in arrays.items()}
    if wrong := sorted(name for name in expected | found if expected.get(name) != found.get(name)):
        name = wrong[0]
        raise foreign(path, f"has {name} as {found.get(name)}; allowed: {expected.get(name)}")
    return int(step), jax.tree.unflatten(structure, [arrays[name] for name in paths])


def foreign(path: Path, reason: str) -> ForeignError:
    """The error of a file that belongs to another training, with what to do."""
    return ForeignError(
        f"{path.name} {reason}; it belongs to another training: name another directory than {path.parent}, "
        "or remove the file if nobody needs it"
    )


def latest(directory: Path, like: Any, maker: str) -> tuple[int, Any] | None:
    """The newest checkpoint that can be used, or None; those that are damaged are named in a warning.

    Raises:
        ForeignError: a newer one is of another training.
    """
    for path in newest_first(directory):
        if (found := load_or_warn(path, like, maker)) is not None:
            return found
    return None


def final(directory: Path, like: Any, maker: str) -> Any | None:
    """What stayed of a training that has ended, or None; one that is damaged is named in a warning.

    Checkpoints that a kill left beside it are removed.

    Raises:
        ForeignError: it is of another training.
    """
    path = directory / FINAL
    if not path.exists() or (found := load_or_warn(path, like, maker)) is None:
        return None
    remove(newest_first(directory), maker)
    return found[1]


def load_or_warn(path: Path, like: Any, maker: str) -> tuple[int, Any] | None:
    """As `load`; None, and a warning, where the file is damaged."""
    try:
        return load(path, like, maker)
    except ForeignError:
        raise
    except ValueError as error:
        warnings.warn(f"checkpoint not used: {error}", stacklevel=3)
        return None


def newest_first(directory: Path) -> list[Path]:
    """Checkpoints of a directory."""
    return sorted((p for p in directory.glob("*.safetensors") if NAME.fullmatch(p.name)), reverse=True)


def names(tree: Any) -> list[str]:
    """Paths of a tree's leaves."""
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(tree)]


def named(tree: Any) -> dict[str, np.ndarray]:
    """Arrays of a tree by their paths, in the order of its leaves."""
    leaves = (np.asarray(leaf, order="C") for leaf in jax.tree.leaves(tree))
    return dict(zip(names(tree), leaves, strict=True))


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and bytes, whatever their order."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
