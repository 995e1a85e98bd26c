"""Files of published runs, of training and of serving: read row by row.

The schemas stand at the top of `runs.toml` and of `serving.toml`. A row that is incomplete or impossible, or has the
name of an earlier one, is refused with the reason, and the others go on.
"""

import dataclasses
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax

from anatomy.validate import published, serving

# That come with the library: those it was built on, and the held-out runs.
FILES = ("runs", "further", "serving", "serving_further")


@dataclasses.dataclass(frozen=True)
class Refused:
    """A row that cannot be used, and why."""

    name: str
    reason: str


def read(path: str | Path | None = None) -> tuple[list[Any], list[Refused]]:
    """The runs of a file, and the rows that were refused; a row with a prompt or an answer is one of serving.

    Args:
        path: of a file; or `runs`, the default, `further`, `serving` or `serving_further`, which come with the library.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not TOML, or has no [[run]].
    """
    path = "runs" if path is None else path
    file = files("anatomy.validate") / f"{path}.toml" if path in FILES else Path(path)
    try:
        rows = tomllib.loads(file.read_text("utf-8")).get("run", [])
    except ValueError as error:  # of TOML, or of numbers too long for Python
        raise ValueError(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise OSError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} has no [[run]]; allowed: one or more")
    runs: list[Any] = []
    refused: list[Refused] = []
    names: dict[str, int] = {}  # the first row of each, of those that are used
    for index, row in enumerate(rows, start=1):
        given = row.get("name") if isinstance(row, dict) else None
        name = given if isinstance(given, str) and given else f"row {index}"
        served = isinstance(row, dict) and not serving.LENGTHS.isdisjoint(row)
        try:
            with jax.enable_x64(True):
                run = (serving if served else published).run_of(row)
            if name in names:
                raise ValueError(f"run.name is {name!r}, as that of row {names[name]}; allowed: a name of its own")
            names[name] = index
            runs.append(run)
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            refused.append(Refused(name, str(error.args[0]) if error.args else repr(error)))
    return runs, refused
