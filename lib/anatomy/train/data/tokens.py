"""From texts to rows of tokens: byte-level BPE, packing, and a mixture of domains in a fixed order.

Rows are addressed by number. Nothing has a state: a training that goes on at any step asks for the same rows as one
that was never stopped.

Source: radford2019language for byte-level BPE; muennighoff2023data for repeated epochs.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tokenizers
from jaxtyping import Int32, Int64
from tokenizers import decoders, models, pre_tokenizers, trainers

from anatomy.memo import cache_directory, write_atomically
from anatomy.specs.base import between, check_arguments
from anatomy.train.data.corpus import CORPORA, Split, documents

MARKS = ("<|end|>", "<|question|>", "<|answer|>")  # tokens 0, 1 and 2
SMALLEST = 256 + len(MARKS)  # every byte is a token, so that any text can be written
EPOCHS = {"prose": 2, "code": 4}  # as the article says of text and code
AT_LEAST_NONE, AT_LEAST_ONE = between(whole=True), between(1, whole=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Byte-level BPE that writes any text, and marks that no text can hold.

    Attributes:
        bpe: the tokenizer proper.
    """

    bpe: tokenizers.Tokenizer

    end = 0  # after every document
    question = 1  # before a question
    answer = 2  # before its answer

    def __post_init__(self) -> None:
        """Have text that looks like a mark written as text."""
        self.bpe.encode_special_tokens = True

    @property
    def vocabulary(self) -> int:
        """V, tokens."""
        return self.bpe.get_vocab_size()

    @functools.cached_property
    def sizes(self) -> Int32[np.ndarray, "V"]:
        """Bytes of text in each token; marks have none. What bits per byte divide by."""
        words = (self.bpe.id_to_token(token) for token in range(len(MARKS), self.vocabulary))
        return np.array([0] * len(MARKS) + [len(word) for word in words], np.int32)  # a letter stands for a byte

    def encode(self, text: str) -> Int32[np.ndarray, "S"]:
        """Tokens of a text, without marks."""
        return np.array(self.bpe.encode(text).ids, np.int32)

    def encode_all(self, texts: Sequence[str]) -> list[Int32[np.ndarray, "S"]]:
        """Tokens of each text; faster than one by one."""
        return [np.array(encoding.ids, np.int32) for encoding in self.bpe.encode_batch_fast(texts)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens; marks are left out, and bytes that are no UTF-8 become the replacement character."""
        return self.bpe.decode([int(token) for token in tokens])


def train_tokenizer(texts: Iterable[str], vocabulary: int = 1024) -> Tokenizer:
    """Learn the merges of a BPE.

    Args:
        texts: to learn from; the same texts give the same tokenizer.
        vocabulary: V, tokens in all, marks and single bytes among them.

    Raises:
        TypeError, ValueError: the vocabulary is too small to write every byte, or larger than the texts can fill.
    """
    check_arguments("tokenizer", between(SMALLEST, whole=True), vocabulary=vocabulary)
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(MARKS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    if bpe.get_vocab_size() != vocabulary:
        raise ValueError(
            f"tokenizer.vocabulary is {vocabulary}; allowed: at most {bpe.get_vocab_size()} for these texts"
        )
    return Tokenizer(bpe)


def load_tokenizer(text: str, vocabulary: int) -> Tokenizer:
    """A tokenizer from its JSON.

    Raises:
        ValueError: the JSON is truncated, damaged, or of another tokenizer.
    """
    try:
        bpe = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"tokenizer cannot be read: {error}") from error
    if sorted(bpe.get_vocab().values()) != list(range(vocabulary)):
        raise ValueError(f"tokenizer has {bpe.get_vocab_size()} tokens; allowed: 0 to {vocabulary - 1}, each once")
    if (marks := tuple(map(bpe.id_to_token, range(len(MARKS))))) != MARKS:
        raise ValueError(f"tokenizer begins with {marks}; allowed: {MARKS}")
    return Tokenizer(bpe)


def cached_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """As `train_tokenizer`, and kept as a JSON file for the next time.

    The file is found again by the texts, the settings and the version of the library. One that is damaged is made
    anew.

    Raises:
        TypeError, ValueError: as `train_tokenizer`.
    """
    settings = {"vocabulary": vocabulary, "marks": MARKS, "tokenizers": tokenizers.__version__}
    key = hashlib.sha256(json.dumps(settings).encode())
    for text in texts:
        key.update(hashlib.sha256(text.encode()).digest())
    path = cache_directory() / "tokenizers" / f"{key.hexdigest()[:32]}.json"
    try:
        return load_tokenizer(path.read_text("utf-8"), vocabulary)
    except (FileNotFoundError, ValueError):  # bytes that are no UTF-8 are a ValueError too
        made = train_tokenizer(texts, vocabulary)
        write_atomically(path, made.bpe.to_str().encode())
        return made


@functools.cache
def tokenizer(vocabulary: int = 1024) -> Tokenizer:
    """The tokenizer of the small model, of the training documents of all domains.

    Raises:
        TypeError, ValueError: as `train_tokenizer`.
        CorpusError: as `corpus.installed_files`.
    """
    texts = [document.text for corpus in CORPORA.values() for document in documents(corpus, "train")]
    return cached_tokenizer(texts, vocabulary)


def pack(texts: Sequence[Int32[np.ndarray, "S"]], end: int, length: int) -> Int32[np.ndarray, "R length+1"]:
    """Rows of tokens: documents one after the other, each after an end token, cut where a row is full.

    The last token of a row is also the first of the next, so that every token is predicted once. Tokens that fill
    no row are left out.

    Args:
        texts: tokens of each document.
        end: the token between them; there is one before the first, too, for a text to begin after.
        length: tokens that a row predicts.

    Raises:
        TypeError, ValueError: the length is no whole number of at least 1.
    """
    check_arguments("pack", AT_LEAST_ONE, length=length)
    mark = np.array([end], np.int32)
    stream = np.concatenate([mark, *(part for text in texts for part in (text, mark))])
    first = np.arange((len(stream) - 1) // length) * length
    return stream[first[:, None] + np.arange(length + 1)]


@functools.lru_cache(maxsize=16)  # a domain takes seconds to write as tokens
def packed(tokenizer: Tokenizer, domain: str, split: Split, length: int) -> Int32[np.ndarray, "R length+1"]:
    """Rows of one part of a domain in the order of its documents, read-only; the held-out part is to measure losses on.

    Raises:
        TypeError, ValueError: the domain, the split or the length is impossible.
        CorpusError: as `corpus.installed_files`.
    """
    if domain not in CORPORA:
        raise ValueError(f"domain is {domain!r}; allowed: {', '.join(CORPORA)}")
    texts = [document.text for document in documents(CORPORA[domain], split)]
    rows = pack(tokenizer.encode_all(texts), tokenizer.end, length)
    rows.flags.writeable = False
    return rows


def bytes_per_token(tokenizer: Tokenizer, rows: Int32[np.ndarray, "R length+1"]) -> float:
    """Mean bytes of the tokens that rows predict, end tokens counted; 0 where there are no rows.

    Bits per byte are the mean loss in nats, divided by ln 2 and by this.
    """
    predicted = rows[:, 1:]
    return float(tokenizer.sizes[predicted].sum() / max(predicted.size, 1))


def permutation(size: int, *key: int) -> Int64[np.ndarray, "size"]:
    """An order of `size` things that depends on the key alone.

    Made of raw bits, of which NumPy promises that no version changes them.
    """
    return np.argsort(np.random.Philox(key).random_raw(size), kind="stable")


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Domains of which each is read for its number of epochs, interleaved in proportion.

    A domain with n rows in all its epochs has its i-th at (i + 1/2) / n of the way, so that any stretch of the
    mixture holds the domains as the whole does. In each epoch of a domain its rows come in another order.

    Attributes:
        domains: their names; the labels of rows count them.
        tables: rows of each domain, all of one length.
        epochs: how often each domain is read.
        seed: of the orders.

    Raises:
        TypeError, ValueError: the fields do not fit together, or a number is impossible.
    """

    domains: tuple[str, ...]
    tables: tuple[Int32[np.ndarray, "R length+1"], ...]
    epochs: tuple[int, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be mixed."""
        if not len(self.domains) == len(self.tables) == len(self.epochs) >= 1:
            counts = f"{len(self.domains)}, {len(self.tables)} and {len(self.epochs)}"
            raise ValueError(f"Mixture.domains, tables and epochs are {counts}; allowed: as many of each, at least 1")
        for domain, table, epochs in zip(self.domains, self.tables, self.epochs, strict=True):
            check_arguments("Mixture.epochs", AT_LEAST_ONE, **{domain: epochs})
            if table.ndim != 2 or table.shape[1] != self.tables[0].shape[1] or not len(table):
                raise ValueError(
                    f"Mixture.tables of {domain} is {table.shape}; allowed: at least 1, as long as all others"
                )
        check_arguments("Mixture", AT_LEAST_NONE, seed=self.seed)

    @functools.cached_property
    def order(self) -> tuple[Int32[np.ndarray, "N"], Int64[np.ndarray, "N"]]:
        """Domain of each row of the mixture, and its number in the table of that domain."""
        numbers = [
            np.concatenate([permutation(len(table), self.seed, label, epoch) for epoch in range(epochs)])
            for label, (table, epochs) in enumerate(zip(self.tables, self.epochs, strict=True))
        ]
        labels = np.repeat(np.arange(len(numbers), dtype=np.int32), [len(n) for n in numbers])
        way = np.concatenate([(np.arange(len(n)) + 0.5) / len(n) for n in numbers])
        by_way = np.argsort(way, kind="stable")
        return labels[by_way], np.concatenate(numbers)[by_way]

    def __len__(self) -> int:
        """N, rows in all epochs of all domains."""
        return len(self.order[0])

    def rows(self, start: int, count: int) -> tuple[Int32[np.ndarray, "count length+1"], Int32[np.ndarray, "count"]]:
        """Tokens of `count` rows from `start` on, and the domain of each.

        Raises:
            TypeError, ValueError: start or count is no whole number of at least 0, or they lead beyond the end.
        """
        check_arguments("Mixture", AT_LEAST_NONE, start=start, count=count)
        if start + count > len(self):
            raise ValueError(f"Mixture start + count is {start + count}; allowed: at most {len(self)}, its rows")
        labels, numbers = (part[start : start + count] for part in self.order)
        tokens = np.empty((count, self.tables[0].shape[1]), np.int32)
        for label, table in enumerate(self.tables):
            tokens[labels == label] = table[numbers[labels == label]]
        return tokens, labels


@dataclasses.dataclass(frozen=True, eq=False)
class Repeated:
    """A few rows of a mixture, read again and again without end, each time in another order.

    Attributes:
        data: that the rows are of.
        numbers: of these rows.
        seed: of the orders.

    Raises:
        TypeError, ValueError: there are no rows, one is beyond the end, or the seed is impossible.
    """

    data: Mixture
    numbers: Int64[np.ndarray, "U"]
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be read."""
        check_arguments("Repeated", AT_LEAST_NONE, seed=self.seed)
        if not len(self.numbers) or min(self.numbers) < 0 or max(self.numbers) >= len(self.data):
            raise ValueError(f"Repeated.numbers is {self.numbers}; allowed: at least 1, each below {len(self.data)}")

    @functools.cached_property
    def table(self) -> tuple[Int32[np.ndarray, "U length+1"], Int32[np.ndarray, "U"]]:
        """The rows, and the domain of each."""
        rows, labels = zip(*(self.data.rows(int(number), 1) for number in self.numbers), strict=True)
        return np.concatenate(rows), np.concatenate(labels)

    def rows(self, start: int, count: int) -> tuple[Int32[np.ndarray, "count length+1"], Int32[np.ndarray, "count"]]:
        """Tokens of `count` rows from `start` on, and the domain of each.

        Raises:
            TypeError, ValueError: start or count is no whole number of at least 0.
        """
        check_arguments("Repeated", AT_LEAST_NONE, start=start, count=count)
        numbers = endless(len(self.numbers), start, count, self.seed)
        return self.table[0][numbers], self.table[1][numbers]


def endless(size: int, start: int, count: int, seed: int) -> list[int]:
    """Numbers at `count` places from `start` on, of `size` things in another order each time through."""
    places = [divmod(place, size) for place in range(start, start + count)]
    orders = {time: permutation(size, seed, time) for time in {time for time, _ in places}}
    return [int(orders[time][place]) for time, place in places]


def mixture(tokenizer: Tokenizer, length: int, epochs: Mapping[str, int] = EPOCHS, seed: int = 0) -> Mixture:
    """The training documents of these domains, packed and mixed.

    Args:
        tokenizer: that writes them.
        length: tokens that a row predicts.
        epochs: of each domain.
        seed: of the order.

    Raises:
        TypeError, ValueError: as `packed` and `Mixture`.
        CorpusError: as `corpus.installed_files`.
    """
    tables = tuple(packed(tokenizer, domain, "train", length) for domain in epochs)
    return Mixture(tuple(epochs), tables, tuple(epochs.values()), seed)
