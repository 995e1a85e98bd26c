"""Annotations are held against what tests pass; not inside `pytest.raises`, where wrong things are given on purpose.

There the library's own error is wanted, which says what is allowed.
"""

from types import TracebackType
from typing import Any

import numpy as np
import pytest
from beartype import BeartypeConf, BeartypeHintOverrides, beartype
from jaxtyping import TypeCheckError, config

# A whole number passes for a float, and NumPy's numbers pass for Python's.
NUMBERS = BeartypeHintOverrides({float: float | int | np.number | np.bool, int: int | np.integer, bool: bool | np.bool})
checked = beartype(conf=BeartypeConf(hint_overrides=NUMBERS))

_raises = pytest.raises


class Unchecked:
    """A `pytest.raises` in whose block arguments are not held against their annotations."""

    def __init__(self, expected: Any) -> None:
        self.expected = expected

    def __enter__(self) -> Any:
        self.before = config.jaxtyping_disable
        config.update("jaxtyping_disable", True)
        return self.expected.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        config.update("jaxtyping_disable", self.before)
        return bool(self.expected.__exit__(kind, error, trace))


def raises(*args: Any, **kwargs: Any) -> Any:
    """As `pytest.raises`, which keeps the checks where their own error is expected."""
    expected = _raises(*args, **kwargs)
    return expected if TypeCheckError in args else Unchecked(expected)
