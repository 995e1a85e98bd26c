"""Recipes: the trainings that the book uses, by name. Each is seeded, cached, and trained when it is first asked for.

python -m anatomy.train.recipes            trains all that are missing, as `make models` does
python -m anatomy.train.recipes target     trains one, and those that it starts from
python -m anatomy.train.recipes --clean    removes them from the cache
"""

from anatomy.train.recipes.registry import (
    HELD_OUT,
    RECIPES,
    NotTrained,
    digest,
    directory,
    held_out,
    is_trained,
    known,
    measured,
    seconds,
    trained,
)
from anatomy.train.recipes.text import (
    EXPERTS,
    GPT,
    HEADS,
    SEEDS,
    SMALL,
    SWEEP,
    TEXT,
    TUNING,
    Recipe,
    sweep,
    with_experts,
)
from anatomy.train.recipes.vision import VISION, Seer, VisionRecipe

__all__ = [
    "EXPERTS",
    "GPT",
    "HEADS",
    "HELD_OUT",
    "RECIPES",
    "SEEDS",
    "SMALL",
    "SWEEP",
    "TEXT",
    "TUNING",
    "VISION",
    "NotTrained",
    "Recipe",
    "Seer",
    "VisionRecipe",
    "digest",
    "directory",
    "held_out",
    "is_trained",
    "known",
    "measured",
    "seconds",
    "sweep",
    "trained",
    "with_experts",
]
