"""What was measured of trained models, once on this machine."""

from collections.abc import Callable, Iterable
from typing import Any

from anatomy.memo import remembered
from anatomy.train import recipes


def cached(models: Iterable[str], measure: Callable[..., Any], *arguments: Any) -> Any:
    """What a measurement gives, as JSON holds it: kept until a model, its own code or the data that it reads changes.

    Args:
        models: names of the recipes that it asks for.
        measure: a function at the top level of a module.
        arguments: of the function, with a `repr` that tells them apart.

    Raises:
        ValueError: there is no such recipe, or the function has no name by which its code is found.
    """
    digests = [recipes.digest(name) for name in models]
    return remembered(measure, *arguments, also=digests, cut=[recipes.trained])
