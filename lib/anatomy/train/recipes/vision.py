"""Recipes of sight: the same images learned by a text model that is frozen, and by one from scratch.

Both see the same text and the same images, and are of the same size. The first read its text before, as the text
recipe that it starts from; then only what sight adds is trained. The second reads both side by side, and all of it is
trained.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anatomy.model import Config, Weights
from anatomy.model.vision import Added, Vision
from anatomy.train.data import tokens
from anatomy.train.data.sources import DATA, VOCABULARY
from anatomy.train.loop.settings import Training
from anatomy.train.recipes.text import TEXT, Recipe, passed_parameters
from anatomy.train.vision import training as seeing

SIGHT = Vision()
# Captions begin with the same tokens, which want the same experts: a dispatch with places would drop most of them.
IMAGES = Training(steps=960, batch=32, learning_rate=3e-3, warm_up=40, z=0.0, dispatch="all_experts")
CAPTION = 16  # tokens of a row, about


class Seer(NamedTuple):
    """A model that sees, and how it came about."""

    recipe: "VisionRecipe"
    text: Weights
    added: Added
    history: dict[str, np.ndarray]

    @property
    def config(self) -> Config:
        """Of the text model."""
        return self.recipe.config

    @property
    def weights(self) -> Weights:
        """Of the text model."""
        return self.text


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionRecipe:
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
    def of_text(self) -> Recipe:
        """The recipe of the text model."""
        return TEXT[self.base]

    @property
    def config(self) -> Config:
        """Of the text model."""
        return self.of_text.config

    @property
    def text_rows(self) -> int:
        """Rows of text that a step reads, so that all that the text model has read are read once."""
        return int(self.of_text.training.batches().sum()) // self.training.steps if self.scratch else 0

    @property
    def needs(self) -> tuple[str, ...]:
        """Recipes whose models it is trained with."""
        return () if self.scratch else (self.base,)

    @property
    def identity(self) -> str:
        """All that its author decided."""
        return f"{dataclasses.replace(self, about='')} {self.of_text.identity}"

    @property
    def code(self) -> tuple[Callable[..., Any], ...]:
        """Functions that, with what they call, decide what comes out."""
        source = [DATA[self.of_text.data]] if self.scratch else []
        return (seeing.fresh, seeing.steps_of, tokens.tokenizer, *source)

    @property
    def work(self) -> float:
        """As `Recipe.work`."""
        read = self.training.batch * CAPTION + self.text_rows * self.config.context
        return float(self.training.steps * read) * passed_parameters(self.config, self.training)

    def model(
        self, of: Callable[[str], Any], directory: Path, maker: str, progress: bool = True, title: str = "training"
    ) -> Seer:
        """As `Recipe.model`."""
        how = (self.config, self.vision, self.training)
        found = seeing.finished(*how, self.text_rows, not self.scratch, directory, maker)
        text = None if self.scratch else of(self.base).weights
        if found is None:
            read = DATA[self.of_text.data]() if self.scratch else text
            bpe = tokens.tokenizer(VOCABULARY)
            found = seeing.train(*how, bpe, read, self.text_rows, directory, maker, progress=progress, title=title)
        learned, history = found
        return Seer(self, learned.text if self.scratch else text, learned.added, history)


VISION = {
    "vision": VisionRecipe(about="Sight added to a text model that is frozen."),
    "vision_scratch": VisionRecipe(
        about="The same model, text and images learned together from scratch.", scratch=True
    ),
}
