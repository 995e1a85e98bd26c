"""Results of long computations, kept until something that they depend on changes."""

import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from anatomy.memo.closure import code_digest
from anatomy.memo.files import cache_directory, read_or_compute


def remembered(
    function: Callable[..., Any], *arguments: Any, also: Any = (), cut: Iterable[Callable[..., Any]] = ()
) -> Any:
    """What a function of this library returns for these arguments: from the cache, or computed now.

    The key holds the arguments and the code and data in the static import closure of the function, so nothing that
    matters has to be listed. What the closure cannot know, such as the digest of a trained model, goes into `also`.

    Args:
        function: at the top level of a module; returns what JSON can hold.
        arguments: with a `repr` that tells them apart.
        also: anything else that the result depends on, with such a `repr`.
        cut: functions whose code is left out, since `also` says what they return.

    Returns:
        The result as JSON holds it.

    Raises:
        ValueError: the function is not at the top level of a module of this library.
    """
    question = (
        f"{function.__module__}.{function.__qualname__} {arguments!r} {also!r} {code_digest(function, cut=tuple(cut))}"
    )
    key = hashlib.sha256(question.encode()).hexdigest()[:32]
    file = cache_directory() / "results" / f"{key}.json"
    return read_or_compute(file, functools.partial(function, *arguments))
