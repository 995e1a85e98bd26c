"""Recipes of sight: the same images learned by a text model that is frozen, and by one from scratch.

Both see the same text and the same images, and are of the same size. The first read its text before, as the recipe of
`train.recipes` that it starts from; then only what sight adds is trained. The second reads both side by side, and all
of it is trained.
"""

import dataclasses
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anatomy.model import Config, Weights
from anatomy.model.vision import Added, Vision
from anatomy.train import checkpoint, loop, recipes, tokens
from anatomy.train.cache import cache_directory, code_hash
from anatomy.train.data import DATA, VOCABULARY
from anatomy.train.loop import Training
from anatomy.train.vision import training
from anatomy.train.vision.training import Learned

CODE = (
    *(f"model/vision/{name}.py" for name in ("config", "weights", "encoder", "language")),
    *(f"train/vision/{name}.py" for name in ("images", "training")),
)
SIGHT = Vision()
# Captions begin with the same tokens, which want the same experts: a dispatch with places would drop most of them.
IMAGES = Training(steps=960, batch=32, learning_rate=3e-3, warm_up=40, z=0.0, dispatch="all_experts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training of sight with a name.

    Attributes:
        about: what it is for, in a line.
        base: the recipe of the text model; from scratch only its size, its training and its text are taken over.
        vision: what is added.
        training: how; a batch is so many images.
        scratch: whether everything is trained, text too.
    """

    about: str
    base: str = "experts_16_0"
    vision: Vision = SIGHT
    training: Training = IMAGES
    scratch: bool = False

    @property
    def config(self) -> Config:
        """Of the text model."""
        return recipes.RECIPES[self.base].config

    @property
    def text_rows(self) -> int:
        """Rows of text that a step reads, so that all that the text model has read are read once."""
        return recipes.RECIPES[self.base].training.batches().sum() // self.training.steps if self.scratch else 0


RECIPES = {
    "vision": Recipe(about="Sight added to a text model that is frozen."),
    "vision_scratch": Recipe(about="The same model, text and images learned together from scratch.", scratch=True),
}


class Seer(NamedTuple):
    """A model that sees, and how it came about."""

    recipe: Recipe
    text: Weights
    added: Added
    history: dict[str, np.ndarray]


@cache
def code() -> str:
    """SHA-256 of the code that sight is trained by, beside that of the text model."""
    return code_hash(CODE, ())


def known(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; allowed: {', '.join(RECIPES)}")
    return RECIPES[name]


def digest(name: str) -> str:
    """Hash of a recipe, of the text model's, and of the code.

    Raises:
        ValueError: there is no such recipe.
    """
    recipe = dataclasses.replace(known(name), about="")
    return hashlib.sha256(f"{recipe} {recipes.digest(recipe.base)} {code()}".encode()).hexdigest()[:16]


def place(name: str) -> Path:
    """Directory of a recipe's checkpoints."""
    return cache_directory() / "recipes" / f"{name}-{digest(name)}"


def trained(name: str, progress: bool = True) -> Seer:
    """The model of a recipe: from the cache, or trained now.

    Raises:
        ValueError: there is no such recipe.
        CorpusError: it must be trained, and texts or digits are not installed.
    """
    directory, recipe = place(name), known(name)
    with jax.enable_x64(False):
        text = None if recipe.scratch else recipes.trained(recipe.base, progress).weights
        like = training.fresh(recipe.config, recipe.vision, recipe.training, not recipe.scratch)
        found = checkpoint.latest(directory, like, digest(name))
        if found and found[0] == recipe.training.steps:
            learned, history = jax.tree.map(jnp.asarray, found[1].learned), dict(found[1].history)
        else:
            learned, history = learn(name, text, progress)
    return Seer(recipe, learned.text if recipe.scratch else text, learned.added, history)


def learn(name: str, text: Weights | None, progress: bool) -> tuple[Learned, dict[str, np.ndarray]]:
    """Train a recipe, or go on where its last checkpoint ends."""
    recipe = known(name)
    state = training.train(
        recipe.config,
        recipe.vision,
        recipe.training,
        tokens.tokenizer(VOCABULARY),
        DATA[recipes.RECIPES[recipe.base].data]() if text is None else text,
        recipe.text_rows,
        place(name),
        digest(name),
        progress=progress,
    )
    return state.learned, dict(state.history)


def seconds(name: str) -> float:
    """Wall time that the training took on this machine; 0 if it was not trained here."""
    return loop.spent(place(name))
