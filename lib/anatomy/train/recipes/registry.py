"""All recipes by name, of text and of vision: where each lies, and what it gave. One is trained when first asked for.

A recipe's results lie in the cache under a hash of the recipe, of those it starts from, and of the code that trains
it. Change any of these, and it is trained anew; kill or interrupt a training, and it goes on from its last checkpoint.
"""

import hashlib
import os
import shutil
from collections import ChainMap
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax

from anatomy.memo import cache_directory, closure, code_digest, read_or_compute
from anatomy.train.data import tokens
from anatomy.train.data.sources import VOCABULARY
from anatomy.train.loop import driver
from anatomy.train.loop.checkpoint import FINAL
from anatomy.train.loop.driver import Trained
from anatomy.train.loop.objective import mean_loss
from anatomy.train.recipes.text import TEXT, Recipe
from anatomy.train.recipes.vision import VISION, Seer, VisionRecipe

HELD_OUT = 16_384  # tokens of each domain that losses are measured on
# Looked up in both tables; text comes first.
RECIPES: ChainMap[str, Recipe | VisionRecipe] = ChainMap(VISION, TEXT)
# What these are as the cost models see them trains nothing.
CUT = (("anatomy.model.config", "Config"), ("anatomy.model.vision.config", "Vision"))


class NotTrained(RuntimeError):
    """A model is asked for that is not in the cache, where `ANATOMY_TRAIN=never` forbids to train it."""


def known(name: str) -> Recipe | VisionRecipe:
    """The recipe of that name.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; allowed: {', '.join(RECIPES)}")
    return RECIPES[name]


@cache
def code(functions: tuple[Callable[..., Any], ...]) -> str:
    """SHA-256 of what functions do, with all that they reach, and of what partial ones are bound to."""
    bound = [(f.args, f.keywords) for f in functions if isinstance(f, partial)]
    return hashlib.sha256(f"{closure(*functions, cut=CUT).digest()} {bound}".encode()).hexdigest()


def digest(name: str) -> str:
    """Hash of a recipe, of those that it starts from and learns from, and of the code that decides what comes out.

    Raises:
        ValueError: there is no such recipe.
    """
    recipe = known(name)
    others = [digest(other) for other in recipe.needs]
    return hashlib.sha256(f"{recipe.identity} {others} {code(recipe.code)}".encode()).hexdigest()[:16]


def directory(name: str) -> Path:
    """Where all of a recipe lies: checkpoints while it is trained, then its weights, history and measurements.

    Raises:
        ValueError: there is no such recipe.
    """
    return cache_directory() / "recipes" / f"{name}-{digest(name)}"


def is_trained(name: str) -> bool:
    """Whether a recipe's model lies in the cache.

    Raises:
        ValueError: there is no such recipe.
    """
    return (directory(name) / FINAL).exists()


def trained(name: str, progress: bool = True) -> Trained | Seer:
    """The model of a recipe: from the cache, or trained now, after those that it needs.

    Raises:
        ValueError: there is no such recipe.
        NotTrained: it must be trained, and `ANATOMY_TRAIN` is "never".
        CorpusError: it must be trained, and what it reads is not installed.
        KeyboardInterrupt: it was interrupted; asked for again, it goes on from there.
    """
    recipe = known(name)
    if os.environ.get("ANATOMY_TRAIN") == "never" and not is_trained(name):
        raise NotTrained(f"recipe {name!r} is not trained; unset ANATOMY_TRAIN, or run `make models` first")
    with jax.enable_x64(False):
        return recipe.model(partial(trained, progress=progress), directory(name), digest(name), progress, name)


def seconds(name: str) -> float:
    """Wall time that the training took on this machine; 0 if it was not trained here.

    Raises:
        ValueError: there is no such recipe.
    """
    return driver.seconds(directory(name))


def measured(name: str, measure: Callable[[Any], Any]) -> Any:
    """Something measured of a recipe's model once, as JSON holds it, and kept beside the model.

    Args:
        name: of the recipe.
        measure: a function at the top level of a module, from the model; measured anew when its code changes.

    Raises:
        ValueError: there is no such recipe, or the function has no name by which its code is found.
    """
    file = directory(name) / f"{measure.__name__}-{code_digest(measure)[:8]}.json"
    return read_or_compute(file, lambda: measure(trained(name)))


def held_out(name: str) -> dict[str, float]:
    """Loss of a recipe's text model in nats a token on text that no training has seen, by domain.

    The first `HELD_OUT` tokens of each domain's held-out documents, in rows of the model's context; dispatch is exact.

    Raises:
        ValueError: there is no such recipe.
    """
    return measured(name, held_out_losses)


def held_out_losses(model: Trained | Seer) -> dict[str, float]:
    """What `held_out` measures."""
    bpe, length = tokens.tokenizer(VOCABULARY), model.config.context
    rows = {domain: tokens.packed(bpe, domain, "held_out", length) for domain in tokens.EPOCHS}
    return {domain: mean_loss(model.config, model.weights, some, HELD_OUT) for domain, some in rows.items()}


def clean() -> int:
    """Remove all recipes from the cache, those of older code too; the bytes that they took."""
    place = cache_directory() / "recipes"
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    shutil.rmtree(place, ignore_errors=True)
    return size
