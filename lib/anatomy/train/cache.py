"""Where results that took time are kept between runs, and how they get there whole."""

import ast
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any


def cache_directory() -> Path:
    """Directory of all that is cached: `$ANATOMY_CACHE`, or `.cache/anatomy` of the user; made where missing.

    Raises:
        OSError: it cannot be made, for instance because a file has its name.
    """
    path = Path(os.environ.get("ANATOMY_CACHE") or Path.home() / ".cache" / "anatomy").expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that whoever reads it, after a kill too, finds the old bytes or the new, and never a part.

    Raises:
        OSError: the directory cannot be written to; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two processes may write the same file at once; the last one wins.
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def essence(source: str) -> str:
    """What a module does: its syntax without comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def code_hash(modules: Iterable[str], libraries: Iterable[str]) -> str:
    """SHA-256 of what modules of this library do, named from its root, and of the versions of other libraries."""
    made = hashlib.sha256()
    for module in modules:
        made.update(essence(files("anatomy").joinpath(module).read_text("utf-8")).encode())
    for library in libraries:
        made.update(f"{library} {version(library)}".encode())
    return made.hexdigest()


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
    return kept(cache_directory() / "answers" / f"{key}.json", answer)


def kept(file: Path, answer: Callable[[], Any]) -> Any:
    """What a file of JSON holds; where it is missing or damaged, the answer is computed and the file written."""
    try:
        return json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        write_atomically(file, json.dumps(answer()).encode())
        return json.loads(file.read_text("utf-8"))
