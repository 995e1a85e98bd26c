"""What the recipes train on, by name."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from anatomy.train import instructions, tokens
from anatomy.train.loop import Data

VOCABULARY, LENGTH = 1024, 256
TARGET_ROWS = 5120  # that the target and its draft see
SWEEP_ROWS = 3840  # of half that length, that each training of a sweep sees
EPOCHS = (2, 4, 16)


def mixture(length: int, seed: int = 0) -> tokens.Mixture:
    """Prose and code with the article's epochs: two and four."""
    return tokens.mixture(tokens.tokenizer(VOCABULARY), length, seed=seed)


def read_through(length: int, rows: int) -> tokens.Mixture:
    """A mixture that ends after so many rows, all epochs read: of each domain a part, taken evenly from all of it."""
    whole = mixture(length)

    def part(table: np.ndarray) -> np.ndarray:
        count = math.ceil(rows / len(whole) * len(table))
        return table[np.arange(count) * len(table) // count]

    return dataclasses.replace(whole, tables=tuple(map(part, whole.tables)))


def repeated(epochs: int) -> tokens.Repeated:
    """As many rows as a sweep trains on, of so many epochs of its first rows."""
    return tokens.Repeated(mixture(LENGTH // 2), np.arange(SWEEP_ROWS // epochs))


def unseen_code(count: int = 128) -> tokens.Repeated:
    """A few rows of code, from a part of the mixture that no sweep comes to, again and again."""
    data = mixture(LENGTH // 2)
    first = 2 * SWEEP_ROWS
    _, labels = data.rows(first, 4 * count)
    return tokens.Repeated(data, first + np.flatnonzero(labels == data.domains.index("code"))[:count])


DATA: dict[str, Callable[[], Data]] = {
    "mixture": lambda: read_through(LENGTH, TARGET_ROWS),
    "long": lambda: mixture(4 * LENGTH, seed=1),
    "short": lambda: mixture(LENGTH // 2),
    **{f"epochs_{n}": (lambda n=n: repeated(n)) for n in EPOCHS},
    "unseen_code": unseen_code,
    "instructions": lambda: instructions.Instructions(
        instructions.pairs("train", 2000), tokens.tokenizer(VOCABULARY), 48, seed=0
    ),
}
