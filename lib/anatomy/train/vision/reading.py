"""How well rows of held-out digits are read: by models that see, by the text model alone, by a linear classifier.

Everything is measured on the same held-out rows. `digits` is the share of digits that are right, place by place, of the
longer of what is there and what was read; `rows` the share of rows without a mistake.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from anatomy.memo import remembered
from anatomy.model import Config, Weights
from anatomy.model.vision import Reading, Vision, read
from anatomy.train import loop, recipes
from anatomy.train.data import digits, tokens
from anatomy.train.data.digits import BLANK, LONGEST, SIDE, WORDS
from anatomy.train.data.sources import VOCABULARY
from anatomy.train.recipes import Seer, VisionRecipe

HELD_OUT = 512  # rows
TEXT_ALONE = "batch_4"  # recipe of the same text model on the same text, in as many steps as the one from scratch


def score(said: Sequence[Sequence[int]], labels: Int[np.ndarray, "B LONGEST"]) -> dict[str, float]:
    """Shares of digits and of rows that were read right.

    Raises:
        ValueError: there are not as many answers as rows, or none.
    """
    if not len(said) == len(labels) > 0:
        raise ValueError(f"answers and rows are {len(said)} and {len(labels)}; allowed: as many of each, at least 1")
    true = [[int(digit) for digit in label if digit != BLANK] for label in labels]
    pairs = list(zip(map(list, said), true, strict=True))
    right = sum(one == other for answer, row in pairs for one, other in zip(answer, row, strict=False))
    return {
        "digits": right / sum(max(len(answer), len(row)) for answer, row in pairs),
        "rows": sum(answer == row for answer, row in pairs) / len(pairs),
    }


def read_out(seer: Seer, pictures: Float[np.ndarray, "B height width"]) -> tuple[Reading, list[list[int]]]:
    """What a model that sees says of pictures: the reading with its attention, and the digits that its words name."""
    bpe = tokens.tokenizer(VOCABULARY)
    with jax.enable_x64(False):
        made = read(
            seer.recipe.config,
            seer.recipe.vision,
            seer.text,
            seer.added,
            pictures,
            digits.prompt(bpe),
            digits.longest(bpe),
            bpe.end,
        )
    answers = (bpe.decode(answer[:count]) for answer, count in zip(made.tokens, made.count, strict=True))
    return made, [digits.understood(answer) for answer in answers]


def from_text(config: Config, text: Weights, labels: Int[np.ndarray, "B LONGEST"]) -> list[list[int]]:
    """What a text model makes of rows that it cannot see: at each place the likeliest of the ten words.

    It is told how many digits there are, and for each of them those before it, which is more than a model that reads
    knows.
    """
    bpe = tokens.tokenizer(VOCABULARY)
    prefixes = sorted({tuple(label[:n]) for label in labels.tolist() for n in range(LONGEST) if label[n] != BLANK})
    table = np.array([[*prefix, word] for prefix in prefixes for word in range(len(WORDS))], object)
    padded = np.full((len(table), LONGEST), BLANK, np.int32)
    for row, label in zip(padded, table, strict=True):
        row[: len(label)] = label
    rows, real, counted = digits.captioned(bpe, padded)
    counted *= np.cumsum(counted[:, ::-1], axis=1)[:, ::-1] > 1  # not the end
    with jax.enable_x64(False):
        parts = [
            np.asarray(loop.losses(config, text, *part)) for part in zip(in_parts(rows), in_parts(real), strict=True)
        ]
    loss = (np.concatenate(parts)[: len(rows)] * counted).sum(1).reshape(len(prefixes), len(WORDS))
    best = dict(zip(prefixes, loss.argmin(1).tolist(), strict=True))
    return [[best[tuple(label[:n])] for n in range(LONGEST) if label[n] != BLANK] for label in labels.tolist()]


def in_parts(rows: Shaped[np.ndarray, "n S"], size: int = 512) -> list[Shaped[np.ndarray, "size S"]]:
    """Rows in parts of one size, the last filled up with zeros; of a mask these say that nothing is real."""
    filled = np.concatenate([rows, np.zeros((-len(rows) % size, rows.shape[1]), rows.dtype)])
    return list(filled.reshape(-1, size, rows.shape[1]))


def from_pixels(vision: Vision, count: int, held_out: digits.Rows) -> list[list[int]]:
    """What linear classifiers make of all pixels of an image: one for each place, of ten digits or none.

    Args:
        vision: how large the images are.
        count: training rows to learn from.
        held_out: to read.
    """
    learned = digits.rows("train", 0, count, vision)
    places = [
        linear(
            learned.images.reshape(count, -1), learned.labels[:, n], held_out.images.reshape(len(held_out.images), -1)
        )
        for n in range(LONGEST)
    ]
    return [[int(digit) for digit in row[: [*row, BLANK].index(BLANK)]] for row in np.stack(places, axis=1).tolist()]


def cut_out() -> float:
    """Share of held-out digits that a linear classifier gets right when each comes cut out, at its own place."""
    train, held_out = digits.digits("train"), digits.digits("held_out")
    flat = [part.images.reshape(-1, SIDE * SIDE) for part in (train, held_out)]
    return float(np.mean(linear(flat[0], train.labels, flat[1]) == held_out.labels))


def linear(
    pixels: Float[np.ndarray, "n p"], labels: Int[np.ndarray, "n"], others: Float[np.ndarray, "m p"]
) -> Int[np.ndarray, "m"]:
    """Labels of others by multinomial logistic regression."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=200, tol=1e-3).fit(pixels, labels).predict(others)


def results() -> dict[str, Any]:
    """All that is measured of sight, on the same held-out rows.

    By recipe: digits, rows, and the loss on held-out text by domain, in nats a token. `text_only`, `linear` and
    `linear_cut`: the baselines, the last of digits cut out. `images`, `tokens`: that each model saw. `text_alone`: the
    loss of a blind model that read the same text in as many steps as the one from scratch, each of as many rows.
    """
    found = {name: scored(name) for name in recipes.VISION}
    return found | baselines() | {"text_alone": {"text": recipes.held_out(TEXT_ALONE)}}


def scored(name: str) -> dict[str, Any]:
    """Of a vision recipe's model, as in `results`; measured once, and kept beside it.

    Raises:
        ValueError: there is no such recipe of vision.
    """
    recipe_of_vision(name)
    return recipes.measured(name, read_held_out) | {"text": recipes.held_out(name)}


def read_held_out(seer: Seer) -> dict[str, float]:
    """Shares of the held-out digits and rows that a model reads right."""
    held_out = digits.rows("held_out", 0, HELD_OUT, seer.recipe.vision)
    return score(read_out(seer, held_out.images)[1], held_out.labels)


def recipe_of_vision(name: str) -> VisionRecipe:
    """The recipe of vision of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in recipes.VISION:
        raise ValueError(f"recipe of vision is {name!r}; allowed: {', '.join(recipes.VISION)}")
    return recipes.VISION[name]


def baselines(name: str = "vision") -> dict[str, Any]:
    """What stands beside a recipe's model, as in `results`; cached. All learn from the same rows.

    Raises:
        ValueError: there is no such recipe of vision.
    """
    recipe_of_vision(name)
    return remembered(baseline_scores, name, also=recipes.digest(name))


def baseline_scores(name: str) -> dict[str, Any]:
    """What `baselines` gives."""
    recipe = recipe_of_vision(name)
    base, count = recipe.of_text, recipe.training.steps * recipe.training.batch
    held_out = digits.rows("held_out", 0, HELD_OUT, recipe.vision)
    counted = digits.captioned(tokens.tokenizer(VOCABULARY), held_out.labels).loss_mask
    blind = from_text(recipe.config, recipes.trained(recipe.base).weights, held_out.labels)
    return {
        "text_only": score(blind, held_out.labels),
        "linear": score(from_pixels(recipe.vision, count, held_out), held_out.labels),
        "linear_cut": cut_out(),
        "images": count,
        "tokens": {
            "text": int(base.training.batches().sum()) * base.config.context,
            "patches": count * recipe.vision.patches,
            "captions": round(float(counted.sum(1).mean()) * count),
        },
    }
