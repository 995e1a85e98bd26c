"""What the recipes train on, by name: each a function of this module, or a partial of one, that gives the data."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import numpy as np

from anatomy.train.data import instructions, tokens
from anatomy.train.loop.batch import Data

VOCABULARY, LENGTH = 1024, 256
TARGET_ROWS = 5120  # that the target and its draft see
SWEEP_ROWS = 3840  # of half that length, that each training of a sweep sees
EPOCHS = (2, 4, 16)
INSTRUCTION_LENGTH = 48  # tokens


def mixture(length: int, seed: int = 0) -> tokens.Mixture:
    """Prose and code with the article's epochs: two and four."""
    return tokens.mixture(tokens.tokenizer(VOCABULARY), length, seed=seed)


def read_through(length: int, rows: int) -> tokens.Mixture:
    """A mixture that ends after so many rows, all epochs read: of each domain a part, taken evenly from all of it.

    Raises:
        ValueError: the mixture has fewer rows.
    """
    whole = mixture(length)
    if rows > len(whole):
        raise ValueError(
            f"read_through.rows is {rows}; allowed: at most {len(whole)}, all that there are; ask for fewer"
        )

    def part(table: np.ndarray) -> np.ndarray:
        count = math.ceil(rows / len(whole) * len(table))
        return table[np.arange(count) * len(table) // count]

    return dataclasses.replace(whole, tables=tuple(map(part, whole.tables)))


def repeated(epochs: int) -> tokens.Repeated:
    """As many rows as a sweep trains on, of so many epochs of its first rows.

    Raises:
        ValueError: so many rows do not split into so many epochs.
    """
    if epochs < 1 or SWEEP_ROWS % epochs:
        raise ValueError(f"repeated.epochs is {epochs}; allowed: a divisor of {SWEEP_ROWS}, the rows of a sweep")
    return tokens.Repeated(mixture(LENGTH // 2), np.arange(SWEEP_ROWS // epochs))


def unseen_code(count: int = 128) -> tokens.Repeated:
    """A few rows of code, from a part of the mixture that no sweep comes to, again and again.

    Raises:
        ValueError: there are fewer rows there.
    """
    data = mixture(LENGTH // 2)
    first = 2 * SWEEP_ROWS
    _, labels = data.rows(first, 4 * count)
    code = np.flatnonzero(labels == data.domains.index("code"))
    if len(code) < count:
        raise ValueError(f"unseen_code.count is {count}; allowed: at most {len(code)}, the rows of code there")
    return tokens.Repeated(data, first + code[:count])


def instruction_rows() -> instructions.Instructions:
    """Instructions of every kind with their answers, one a row."""
    pairs = instructions.pairs("train", 2000)
    return instructions.Instructions(pairs, tokens.tokenizer(VOCABULARY), INSTRUCTION_LENGTH, seed=0)


DATA: dict[str, Callable[[], Data]] = {
    "mixture": partial(read_through, LENGTH, TARGET_ROWS),
    "long": partial(mixture, 4 * LENGTH, seed=1),
    "short": partial(mixture, LENGTH // 2),
    **{f"epochs_{n}": partial(repeated, n) for n in EPOCHS},
    "unseen_code": unseen_code,
    "instructions": instruction_rows,
}
