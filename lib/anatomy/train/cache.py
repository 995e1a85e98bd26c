"""Answers kept under a hash of rooms that are named by hand; what still asks so goes over to `memo.remembered`."""

import ast
import hashlib
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from anatomy.memo import cache_directory, read_or_compute
from anatomy.memo.closure import without_docstrings


def code_hash(modules: Iterable[str], libraries: Iterable[str]) -> str:
    """SHA-256 of what modules of this library do, named from its root, and of the versions of other libraries."""
    sha = hashlib.sha256()
    for module in modules:
        source = files("anatomy").joinpath(module).read_text("utf-8")
        sha.update(ast.dump(without_docstrings(ast.parse(source))).encode())
    for library in libraries:
        sha.update(f"{library} {version(library)}".encode())
    return sha.hexdigest()


def answered(question: str, rooms: Iterable[str], answer: Callable[[], Any]) -> Any:
    """What a long computation said to a question, as JSON keeps it: from the cache, or computed now.

    Args:
        question: all that the answer depends on, code aside.
        rooms: of this library, whose code it depends on.
        answer: computes it.
    """
    root = files("anatomy")
    modules = sorted(str(path.relative_to(root)) for room in rooms for path in Path(str(root / room)).rglob("*.py"))
    key = hashlib.sha256(f"{question} {code_hash(modules, ('jax', 'jaxlib', 'optax'))}".encode()).hexdigest()[:32]
    return read_or_compute(cache_directory() / "answers" / f"{key}.json", answer)
