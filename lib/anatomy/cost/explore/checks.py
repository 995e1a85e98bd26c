"""What every question checks and names alike."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

Function = Callable[..., Any]  # from numbers or specs, by name
Names = Sequence[str]
Numbers = Mapping[str, Any]  # by name


def expect(right: Any, text: str) -> None:
    """Raise a ValueError with this text where something is not right."""
    if not right:
        raise ValueError(text)


def check_parameters(function: Function, names: Numbers) -> None:
    """Refuse names that are no parameters of a function, and parameters that are left without a value."""
    expect(names, "no parameters are given; allowed: at least one")
    signature = inspect.signature(function)
    try:
        signature.bind_partial(**names)  # says first what is unknown, then what is missing
        signature.bind(**names)
    except TypeError as error:
        called = f"{getattr(function, '__name__', 'function')}({', '.join(signature.parameters)})"
        raise TypeError(f"{called}: {error}") from None


def path_name(path: Any) -> str:
    """A path of JAX as text: names joined by dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def largest_first(numbers: Mapping[str, float]) -> dict[str, float]:
    """Sorted by size whatever the sign, NaN last."""
    return dict(sorted(numbers.items(), key=lambda item: (math.isnan(item[1]), -abs(item[1]))))
