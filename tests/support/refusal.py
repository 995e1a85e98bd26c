"""`pytest.raises` without type checks: what is given inside is wrong on purpose, to see the library's own error."""

from types import TracebackType
from typing import Any

import pytest
from jaxtyping import config

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
    """As `pytest.raises`."""
    return Unchecked(_raises(*args, **kwargs))
