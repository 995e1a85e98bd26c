"""Where results that took time are kept between runs, and how they get there whole."""

import json
import os
import tempfile
from collections.abc import Callable
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


def read_or_compute(file: Path, compute: Callable[[], Any]) -> Any:
    """What a JSON file holds; where it is missing or damaged, it is computed and written first.

    Computed or read, the result has been through JSON, so that both have one form: tuples are lists, keys are strings.
    """
    try:
        return json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        write_atomically(file, json.dumps(compute()).encode())
        return json.loads(file.read_text("utf-8"))
