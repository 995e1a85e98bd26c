"""Rows of handwritten digits to read out: pixels, and captions in words.

The digits are those that ship with scikit-learn: 1,797 of 8 x 8 pixels by 13 writers (E. Alpaydin and C. Kaynak,
Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, CC BY 4.0; the package is under
BSD-3-Clause). The last fifth is held out; digits lie in the order of writing, so that most of it is by other hands.

An image has a cell for each digit of the longest row, and a digit lies anywhere in its cell, with edges on a grid.

Rows are addressed by number. A row of one split never has a digit of the other.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from anatomy.model.vision import Vision
from anatomy.specs.base import between, check_arguments
from anatomy.train.data.corpus import SPLITS, CorpusError, Split
from anatomy.train.data.tokens import Tokenizer

SIDE = 8  # pixels of a digit
TRAINED_ON = 1437  # digits; the others are held out
LONGEST = 3  # digits of a row
GRID = 4  # pixels; edges of digits lie on multiples of it
SHA256 = "f6d9e39f37dc45d327f6db33428ee58970ccceabb2535a5c179de35886b70443"  # of pixels and labels
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPT = "The number is"
BLANK = -1  # label of a place without a digit


class Digits(NamedTuple):
    """Handwritten digits: ink from 0 to 1, and which they are."""

    images: Float32[np.ndarray, "n 8 8"]
    labels: Int[np.ndarray, "n"]


@functools.cache
def digits(split: Split) -> Digits:
    """Digits of one split.

    Raises:
        CorpusError: scikit-learn is not installed, or has other digits.
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise CorpusError("the digits are not installed; install scikit-learn") from error
    found = load_digits()
    read = hashlib.sha256(found.images.astype("<f8").tobytes() + found.target.astype("<i8").tobytes()).hexdigest()
    if read != SHA256:
        raise CorpusError(f"SHA-256 of the digits is {read}; allowed: {SHA256}")
    part = slice(TRAINED_ON) if split == "train" else slice(TRAINED_ON, None)
    return Digits((found.images[part] / 16).astype(np.float32), found.target[part])


class Rows(NamedTuple):
    """Images, and the digits in each from left to right, `BLANK` behind the last."""

    images: Float32[np.ndarray, "B height width"]
    labels: Int32[np.ndarray, "B LONGEST"]


def rows(split: Split, start: int, count: int, vision: Vision, seed: int = 0) -> Rows:
    """Rows of one to three digits, each number as often, from the left, every digit somewhere in a cell of its own.

    Args:
        split: whose digits.
        start: number of the first row.
        count: of rows.
        vision: how large the images are.
        seed: of the draw.

    Raises:
        CorpusError: as `digits`.
        TypeError, ValueError: a number is impossible, or the images have no room for three digits.
    """
    check_arguments("rows", between(whole=True), start=start, count=count, seed=seed)
    if vision.height < SIDE or vision.width < LONGEST * SIDE:
        size = f"{vision.height} x {vision.width}"
        raise ValueError(f"images are {size} pixels; allowed: at least {SIDE} x {LONGEST * SIDE}")
    source, cell = digits(split), vision.width // LONGEST
    images = np.zeros((count, vision.height, vision.width), np.float32)
    labels = np.full((count, LONGEST), BLANK, np.int32)
    for image, label, number in zip(images, labels, range(start, start + count), strict=True):
        random = np.random.default_rng((seed, SPLITS.index(split), number))
        length = int(random.integers(1, LONGEST + 1))
        chosen = random.integers(len(source.labels), size=length)
        lefts = cell * np.arange(length) + GRID * random.integers((cell - SIDE) // GRID + 1, size=length)
        tops = GRID * random.integers((vision.height - SIDE) // GRID + 1, size=length)
        for one, left, top in zip(chosen, lefts, tops, strict=True):
            image[top : top + SIDE, left : left + SIDE] = source.images[one]
        label[:length] = source.labels[chosen]
    return Rows(images, labels)


def caption(label: Sequence[int]) -> str:
    """What a row says, in words, with a space in front of each."""
    return "".join(f" {WORDS[digit]}" for digit in label if digit != BLANK)


def understood(text: str) -> list[int]:
    """Digits of a caption, word by word; `BLANK` for a word that names none."""
    return [WORDS.index(word) if word in WORDS else BLANK for word in text.split()]


def prompt(tokenizer: Tokenizer) -> Int32[np.ndarray, "S"]:
    """Tokens that every caption follows: the mark between documents, then words."""
    return np.concatenate([[tokenizer.end], tokenizer.encode(PROMPT)]).astype(np.int32)


@functools.cache
def longest(tokenizer: Tokenizer) -> int:
    """Most tokens of a caption, the mark that ends it among them."""
    return LONGEST * max(len(tokenizer.encode(caption([digit]))) for digit in range(len(WORDS))) + 1


class Captions(NamedTuple):
    """Prompt, caption and end of each row, padded with ends; which inputs are real; which predicted tokens count."""

    tokens: Int32[np.ndarray, "B S+1"]
    padding_mask: Bool[np.ndarray, "B S"]
    loss_mask: Float32[np.ndarray, "B S"]


def captioned(tokenizer: Tokenizer, labels: Int32[np.ndarray, "B LONGEST"]) -> Captions:
    """Rows of tokens for rows of digits. The loss counts caption and end; an end predicts nothing, and is no input."""
    first = prompt(tokenizer)
    tokens = np.full((len(labels), len(first) + longest(tokenizer)), tokenizer.end, np.int32)
    real = np.zeros((len(labels), tokens.shape[1] - 1), bool)
    counted = np.zeros(real.shape, np.float32)
    for row, inputs, counts, label in zip(tokens, real, counted, labels, strict=True):
        words = tokenizer.encode(caption(label))
        end = len(first) + len(words)
        row[: len(first)], row[len(first) : end] = first, words
        inputs[:end] = True
        counts[len(first) - 1 : end] = 1
    return Captions(tokens, real, counted)
