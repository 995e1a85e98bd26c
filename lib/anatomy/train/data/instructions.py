"""Instructions with answers that a rule gives, so that what a tuned model says can be checked by machine.

Words and snippets come from the corpora. A word, and a document that snippets are taken from, belongs to one split
only: no question of the held-out part was seen in training.

Source: ouyang2022instructgpt for tuning on demonstrations, at a scale where the demonstrations are generated.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from anatomy.specs.base import between, check_arguments
from anatomy.train.data.corpus import CORPORA, SPLITS, Split, documents, split_of
from anatomy.train.data.tokens import Tokenizer, endless, permutation

AT_LEAST_NONE, AT_LEAST_ONE = between(whole=True), between(1, whole=True)
WORD = re.compile(r"(?<![\w'-])[a-z]{3,6}(?![\w'-])")
FREQUENT = 5  # times that a word occurs in the training documents, for a model to know it
SNIPPET = 32  # characters


class Rule(NamedTuple):
    """A kind of instruction: how it is put, with a place for the subject, and what the subject makes the answer."""

    question: str
    answer: Callable[[str], str]


WORD_RULES = {
    "copy": Rule("Copy the word {}", str),
    "capitals": Rule("Write in capitals the word {}", str.upper),
    "backwards": Rule("Write backwards the word {}", lambda word: word[::-1]),
    "letters": Rule("How many letters has the word {}", lambda word: str(len(word))),
    "first": Rule("What is the first letter of the word {}", lambda word: word[0]),
    "last": Rule("What is the last letter of the word {}", lambda word: word[-1]),
}
SNIPPET_RULE = "domain"
SNIPPET_QUESTION = "Is this prose or code: {}"
KINDS = (*WORD_RULES, SNIPPET_RULE)  # labels of rows count them


class Pair(NamedTuple):
    """An instruction and the one answer that is right."""

    kind: str
    question: str
    answer: str


@functools.cache
def words(split: Split) -> tuple[str, ...]:
    """Words of one split: short, in small letters, and frequent in the training documents of the prose; sorted.

    Raises:
        CorpusError: as `corpus.installed_files`.
        ValueError: there is no such split.
    """
    check_split(split)
    found = Counter(word for _, text in documents(CORPORA["prose"], "train") for word in WORD.findall(text))
    return tuple(sorted(w for w, times in found.items() if times >= FREQUENT and split_of(w) == split))


@functools.cache
def snippets(domain: str, split: Split) -> tuple[str, ...]:
    """Beginnings of long lines in documents of one split, each once; none that the training documents have too.

    Raises:
        CorpusError: as `corpus.installed_files`.
        ValueError: there is no such split.
    """
    lines = (line.strip() for _, text in documents(CORPORA[domain], split) for line in text.splitlines())
    found = dict.fromkeys(line[:SNIPPET].rstrip() for line in lines if len(line) > SNIPPET)
    seen = frozenset[str]() if split == "train" else frozenset(snippets(domain, "train"))
    return tuple(snippet for snippet in found if snippet not in seen)


def check_split(split: str) -> None:
    """Refuse a split that there is not.

    Raises:
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")


def pairs(split: Split, each: int, seed: int = 0) -> tuple[Pair, ...]:
    """Pairs of every kind, as many of each, drawn without repetition from the words and snippets of a split.

    Args:
        split: training or held out; they share no subject.
        each: pairs of a kind. Snippets are half prose and half code, prose first where `each` is odd.
        seed: of the draw.

    Raises:
        CorpusError: as `corpus.installed_files`.
        TypeError, ValueError: the split or a number is impossible, or there are fewer subjects.
    """
    check_split(split)
    check_arguments("pairs", between(1, len(words(split)), whole=True), each=each)
    check_arguments("pairs", AT_LEAST_NONE, seed=seed)
    made = []
    for label, (kind, rule) in enumerate(WORD_RULES.items()):
        drawn = draw(words(split), each, seed, label)
        made += [Pair(kind, rule.question.format(word), rule.answer(word)) for word in drawn]
    for number, domain in enumerate(CORPORA):
        half = (each + 1 - number) // len(CORPORA)
        drawn = draw(snippets(domain, split), half, seed, len(WORD_RULES) + number)
        made += [Pair(SNIPPET_RULE, SNIPPET_QUESTION.format(snippet), domain) for snippet in drawn]
    return tuple(made)


def draw(things: Sequence[str], count: int, *key: int) -> list[str]:
    """The first so many things, in an order that depends on the key.

    Raises:
        ValueError: there are fewer.
    """
    if count > len(things):
        raise ValueError(f"draw.count is {count}; allowed: at most {len(things)}, all that there are; draw fewer")
    return [things[i] for i in permutation(len(things), *key)[:count]]


def prompt(tokenizer: Tokenizer, question: str) -> Int32[np.ndarray, "S"]:
    """Tokens that a tuned model answers: the question between its mark and the mark of the answer."""
    return np.concatenate([[tokenizer.question], tokenizer.encode(question), [tokenizer.answer]], dtype=np.int32)


def reply(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """What a model said after a prompt: the text up to the first end token, without spaces around it."""
    said = []
    for token in tokens:
        if token == tokenizer.end:
            break
        said.append(token)
    return tokenizer.decode(said).strip()


def is_right(pair: Pair, said: str) -> bool:
    """Whether an answer is exactly the right one, but for spaces around it."""
    return said.strip() == pair.answer


def accuracy(pairs: Sequence[Pair], said: Sequence[str]) -> dict[str, float]:
    """Share of right answers of each kind that occurs.

    Raises:
        ValueError: there are more or fewer answers than pairs.
    """
    if len(pairs) != len(said):
        raise ValueError(f"answers are {len(said)}; allowed: {len(pairs)}, one of each pair")
    right: dict[str, list[bool]] = {}
    for pair, text in zip(pairs, said, strict=True):
        right.setdefault(pair.kind, []).append(is_right(pair, text))
    return {kind: sum(each) / len(each) for kind, each in right.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Instructions:
    """Pairs as rows of tokens, one pair a row and padded, with masks of what is real and what counts; without end.

    Each time through, the pairs come in another order.

    Attributes:
        pairs: to learn.
        tokenizer: that writes them.
        length: tokens that a row predicts.
        seed: of the orders.

    Raises:
        TypeError, ValueError: there are no pairs, one does not fit into a row, or a number is impossible.
    """

    pairs: tuple[Pair, ...]
    tokenizer: Tokenizer = dataclasses.field(repr=False)
    length: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be laid out."""
        check_arguments("Instructions", AT_LEAST_ONE, length=self.length)
        check_arguments("Instructions", AT_LEAST_NONE, seed=self.seed)
        if not self.pairs:
            raise ValueError("Instructions.pairs is empty; allowed: at least 1")
        longest = max(len(asked) + len(answered) for asked, answered in self._parts) - 1
        if self.length < longest:
            raise ValueError(f"Instructions.length is {self.length}; allowed: at least {longest}, for the longest pair")

    @functools.cached_property
    def _parts(self) -> list[tuple[Int32[np.ndarray, "S"], Int32[np.ndarray, "A"]]]:
        """Prompt of each pair, and the answer with its end token.

        The answer begins with a space, so that a word has the same tokens as in the question.
        """
        end = np.array([self.tokenizer.end], np.int32)
        return [
            (prompt(self.tokenizer, pair.question), np.append(self.tokenizer.encode(f" {pair.answer}"), end))
            for pair in self.pairs
        ]

    @functools.cached_property
    def table(
        self,
    ) -> tuple[Int32[np.ndarray, "R length+1"], Bool[np.ndarray, "R length"], Float32[np.ndarray, "R length"]]:
        """A row for each pair, padded with end tokens; which input tokens are real; and which predicted ones count.

        The last token of a pair predicts nothing. So as input it is padding.
        """
        tokens = np.full((len(self.pairs), self.length + 1), self.tokenizer.end, np.int32)
        real = np.zeros((len(self.pairs), self.length), bool)
        counted = np.zeros((len(self.pairs), self.length), np.float32)
        for row, (asked, answered) in enumerate(self._parts):
            start, end = len(asked), len(asked) + len(answered)
            tokens[row, :start], tokens[row, start:end] = asked, answered
            real[row, : end - 1] = True
            counted[row, start - 1 : end - 1] = 1.0  # token s is predicted at s - 1
        return tokens, real, counted

    def _numbers(self, start: int, count: int) -> list[int]:
        """Pairs in these rows."""
        check_arguments("Instructions", AT_LEAST_NONE, start=start, count=count)
        return endless(len(self.pairs), start, count, self.seed)

    def rows(self, start: int, count: int) -> tuple[Int32[np.ndarray, "count length+1"], Int32[np.ndarray, "count"]]:
        """Tokens of `count` rows from `start` on, and the number of their kind in `KINDS`.

        Raises:
            TypeError, ValueError: start or count is no whole number of at least 0.
        """
        numbers = self._numbers(start, count)
        return self.table[0][numbers], np.array([KINDS.index(self.pairs[i].kind) for i in numbers], np.int32)

    def padding_mask(self, start: int, count: int) -> Bool[np.ndarray, "count length"]:
        """True for the input tokens of these rows that belong to a pair and predict one of its tokens.

        Raises:
            TypeError, ValueError: as `rows`.
        """
        return self.table[1][self._numbers(start, count)]

    def loss_mask(self, start: int, count: int) -> Float32[np.ndarray, "count length"]:
        """1 for the tokens predicted in these rows that belong to an answer, its end token too; 0 for all others.

        Raises:
            TypeError, ValueError: as `rows`.
        """
        return self.table[2][self._numbers(start, count)]
