"""How well rows of held-out digits are read: by models that see, by the text model alone, by a linear classifier.

Everything is measured on the same held-out rows. `digits` is the share of digits that are right, place by place, of the
longer of what is there and what was read; `rows` the share of rows without a mistake.
"""

import argparse
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from anatomy.model import Config, Weights
from anatomy.model.vision import Reading, Vision, read
from anatomy.train import loop, recipes, tokens
from anatomy.train.cache import code_hash, kept
from anatomy.train.data import VOCABULARY
from anatomy.train.loop import Trained
from anatomy.train.vision import images
from anatomy.train.vision.images import BLANK, LONGEST, SIDE, WORDS
from anatomy.train.vision.recipes import RECIPES, Seer, known, place, seconds, trained

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
            images.prompt(bpe),
            images.longest(bpe),
            bpe.end,
        )
    answers = (bpe.decode(answer[:count]) for answer, count in zip(made.tokens, made.count, strict=True))
    return made, [images.understood(answer) for answer in answers]


def from_text(config: Config, text: Weights, labels: Int[np.ndarray, "B LONGEST"]) -> list[list[int]]:
    """What a text model makes of rows that it cannot see: at each place the likeliest of the ten words.

    It is told how many digits there are, and for each of them those before it, which is more than a model that reads
    knows.
    """
    bpe = tokens.tokenizer(VOCABULARY)
    prefixes = sorted({tuple(label[:n]) for label in labels.tolist() for n in range(LONGEST) if label[n] != BLANK})
    table = np.array([[*prefix, word] for prefix in prefixes for word in range(len(WORDS))], object)
    padded = np.full((len(table), LONGEST), BLANK, np.int32)
    for row, digits in zip(padded, table, strict=True):
        row[: len(digits)] = digits
    rows, mask = images.captioned(bpe, padded)
    mask *= np.cumsum(mask[:, ::-1], axis=1)[:, ::-1] > 1  # not the end
    with jax.enable_x64(False):
        parts = [np.asarray(loop.losses(config, text, part)) for part in in_parts(rows)]
    loss = (np.concatenate(parts)[: len(rows)] * mask).sum(1).reshape(len(prefixes), len(WORDS))
    best = dict(zip(prefixes, loss.argmin(1).tolist(), strict=True))
    return [[best[tuple(label[:n])] for n in range(LONGEST) if label[n] != BLANK] for label in labels.tolist()]


def in_parts(rows: Int[np.ndarray, "n S"], size: int = 512) -> list[Int[np.ndarray, "size S"]]:
    """Rows in parts of one size, the last filled up with its own last row."""
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size, axis=0)])
    return list(filled.reshape(-1, size, rows.shape[1]))


def from_pixels(vision: Vision, count: int, held_out: images.Rows) -> list[list[int]]:
    """What linear classifiers make of all pixels of an image: one for each place, of ten digits or none.

    Args:
        vision: how large the images are.
        count: training rows to learn from.
        held_out: to read.
    """
    learned = images.rows("train", 0, count, vision)
    places = [
        linear(
            learned.images.reshape(count, -1), learned.labels[:, n], held_out.images.reshape(len(held_out.images), -1)
        )
        for n in range(LONGEST)
    ]
    return [[int(digit) for digit in row[: [*row, BLANK].index(BLANK)]] for row in np.stack(places, axis=1).tolist()]


def cut_out() -> float:
    """Share of held-out digits that a linear classifier gets right when each comes cut out, at its own place."""
    train, held_out = images.digits("train"), images.digits("held_out")
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
    found = {name: scored(name) for name in RECIPES}
    return found | baselines() | {"text_alone": {"text": recipes.held_out(TEXT_ALONE)}}


@cache
def measuring() -> str:
    """Hash of the code and the libraries that measure here, so that a change of them is measured anew."""
    modules = ("vision/reading", "vision/images", "vision/recipes", "recipes")
    code = [*(f"train/{module}.py" for module in modules), "model/vision/reading.py"]
    return code_hash(code, (*recipes.LIBRARIES, "scikit-learn"))[:8]


def scored(name: str) -> dict[str, Any]:
    """Of a recipe's model, as in `results`; measured once, and kept beside it.

    Raises:
        ValueError: there is no such recipe.
    """
    return kept(place(name) / f"scores-{measuring()}.json", lambda: scores(trained(name)))


def scores(seer: Seer) -> dict[str, Any]:
    """What a model reads right of the held-out rows, and its loss on held-out text."""
    bpe, config = tokens.tokenizer(VOCABULARY), seer.recipe.config
    held_out = images.rows("held_out", 0, HELD_OUT, seer.recipe.vision)
    text = {
        domain: recipes.mean_loss(
            Trained(config, seer.text, {}), tokens.packed(bpe, domain, "held_out", config.context)
        )
        for domain in tokens.EPOCHS
    }
    return score(read_out(seer, held_out.images)[1], held_out.labels) | {"text": text}


def baselines(name: str = "vision") -> dict[str, Any]:
    """What stands beside a recipe's model, as in `results`; kept beside it. All learn from the same rows.

    Raises:
        ValueError: there is no such recipe.
    """
    recipe = known(name)
    base, count = recipes.RECIPES[recipe.base], recipe.training.steps * recipe.training.batch

    def measure() -> dict[str, Any]:
        held_out = images.rows("held_out", 0, HELD_OUT, recipe.vision)
        _, mask = images.captioned(tokens.tokenizer(VOCABULARY), held_out.labels)
        blind = from_text(recipe.config, recipes.trained(recipe.base).weights, held_out.labels)
        return {
            "text_only": score(blind, held_out.labels),
            "linear": score(from_pixels(recipe.vision, count, held_out), held_out.labels),
            "linear_cut": cut_out(),
            "images": count,
            "tokens": {
                "text": int(base.training.batches().sum()) * base.config.context,
                "patches": count * recipe.vision.patches,
                "captions": round(count * float(mask.sum(1).mean())),
            },
        }

    return kept(place(name) / f"baselines-{measuring()}.json", measure)


def main() -> None:
    """Train what is missing, and say what it cost and what it reads."""
    parser = argparse.ArgumentParser(prog="python -m anatomy.train.vision", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of recipes, all by default: {', '.join(RECIPES)}")
    names = parser.parse_args().names or list(RECIPES)
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"recipe is {unknown[0]!r}; allowed: {', '.join(RECIPES)}")
    found = baselines()
    for name in names:
        made = scored(name)
        texts = ", ".join(f"{domain} {loss:.3f}" for domain, loss in made["text"].items())
        read = f"digits {made['digits']:.1%}, rows {made['rows']:.1%}"
        print(f"{name:<22} {seconds(name):7.1f} s  {found['images']:6,} images  held out: {read}; {texts}", flush=True)
    others = ", ".join(f"{name} {found[name]['digits']:.1%}" for name in ("text_only", "linear"))
    print(f"{'beside them':<22} digits: {others}, linear of digits cut out {found['linear_cut']:.1%}")
    print(f"{'in all':<22} {sum(map(seconds, names)):7.1f} s")
