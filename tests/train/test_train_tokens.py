"""Tokens that give back every text, rows that hold every token, and mixtures that may begin anywhere."""

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from anatomy.train.data import tokens as t
from anatomy.train.data.corpus import CORPORA, documents
from hypothesis import assume, given

TEXTS = [text for corpus in CORPORA.values() for _, text in documents(corpus, "train")[:40]]
SMALL = t.train_tokenizer(TEXTS, 400)
texts = st.text() | st.lists(st.sampled_from(["<|end|>", "<|answer|>", " ", "\n", "\t", "é", "\0", "the"])).map("".join)


@given(texts)
def test_every_text_comes_back(text):
    tokens = SMALL.encode(text)
    assert tokens.dtype == np.int32 and SMALL.decode(tokens) == text
    assert SMALL.sizes[tokens].sum() == len(text.encode())
    assert tokens.min(initial=3) >= 3  # no text holds a mark, whatever it looks like


@given(st.lists(texts, max_size=4))
def test_many_texts_are_as_one_by_one(many):
    assert [list(tokens) for tokens in SMALL.encode_all(many)] == [list(SMALL.encode(text)) for text in many]


def test_real_text_becomes_shorter():
    for text in TEXTS:
        assert SMALL.decode(SMALL.encode(text)) == text
    assert sum(len(SMALL.encode(text)) for text in TEXTS) < 0.6 * sum(len(text.encode()) for text in TEXTS)


def test_marks_come_first_and_are_not_shown():
    assert SMALL.vocabulary == 400 == len(SMALL.sizes)
    marks = [SMALL.end, SMALL.question, SMALL.answer]
    assert [SMALL.bpe.id_to_token(mark) for mark in marks] == list(t.MARKS) and marks == [0, 1, 2]
    assert list(SMALL.sizes[:3]) == [0, 0, 0] and SMALL.sizes[3:].min() == 1
    assert SMALL.decode([1, *SMALL.encode("who"), 2, *SMALL.encode("me"), 0]) == "whome"


def test_the_same_texts_give_the_same_tokenizer():
    assert t.train_tokenizer(iter(TEXTS), 400).bpe.to_str() == SMALL.bpe.to_str()
    assert t.train_tokenizer(TEXTS[1:], 400).bpe.to_str() != SMALL.bpe.to_str()


@pytest.mark.parametrize("vocabulary", [0, -1, 258, 300.5, math.nan])
def test_too_small_vocabularies_are_refused(vocabulary):
    with pytest.raises(ValueError, match=r"tokenizer.vocabulary is .*; allowed: a whole number at least 259"):
        t.train_tokenizer(TEXTS, vocabulary)


def test_vocabularies_that_texts_cannot_fill_are_refused():
    assert t.train_tokenizer(["aa aa"], 260).sizes[-1] == 2
    with pytest.raises(ValueError, match=r"vocabulary is 400; allowed: at most 26\d for these texts"):
        t.train_tokenizer(["aa aa"], 400)


# The cache.


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_a_cached_tokenizer_is_read_again(directory, monkeypatch):
    assert t.cached_tokenizer(TEXTS, 400).bpe.to_str() == SMALL.bpe.to_str()
    (path,) = files(directory)
    monkeypatch.setattr(t, "train_tokenizer", None)  # it is not called
    again = t.cached_tokenizer(TEXTS, 400)
    assert again.bpe.to_str() == SMALL.bpe.to_str() == path.read_text("utf-8")
    assert again.encode("<|end|>").min() >= 3


def test_other_texts_or_settings_have_files_of_their_own(directory):
    for made in ((TEXTS, 400), (TEXTS, 401), (TEXTS[1:], 400), ([TEXTS[0] + TEXTS[1], *TEXTS[2:]], 400)):
        t.cached_tokenizer(*made)
    assert len(files(directory)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"\xff" + data,
        lambda data: data.replace(b'"q":', b'"r":'),
        lambda data: t.train_tokenizer(TEXTS, 401).bpe.to_str().encode(),
    ],
    ids=["half", "last byte", "empty", "no text", "a letter twice", "another"],
)
def test_a_damaged_file_is_made_anew(directory, damage):
    t.cached_tokenizer(TEXTS, 400)
    (path,) = files(directory)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    assert t.cached_tokenizer(TEXTS, 400).bpe.to_str() == SMALL.bpe.to_str()
    assert files(directory) == [path] and path.read_bytes() == whole


JSON = SMALL.bpe.to_str()


@given(st.integers(0, len(JSON) - 1))
def test_any_truncated_json_is_refused(size):
    with pytest.raises(ValueError, match="tokenizer cannot be read"):
        t.load_tokenizer(JSON[:size], 400)


def test_other_marks_are_refused():
    with pytest.raises(ValueError, match=r"tokenizer begins with .*quiz.*; allowed: .*question"):
        t.load_tokenizer(JSON.replace("<|question|>", "<|quiz|>"), 400)


# Packing.


@given(st.lists(st.lists(st.integers(1, 99), max_size=9), max_size=9), st.integers(1, 7))
def test_packing_keeps_every_token_in_order(many, length):
    rows = t.pack([np.array(text, np.int32) for text in many], 0, length)
    assert rows.dtype == np.int32 and rows.shape[1] == length + 1
    stream = [0, *itertools.chain.from_iterable([*text, 0] for text in many)]
    assert list(rows[:, :-1].ravel()) == stream[: len(rows) * length]
    assert list(rows[:, 1:].ravel()) == stream[1 : len(rows) * length + 1]  # each is predicted once
    assert len(stream) - 1 - len(rows) * length < length  # no row is missing


@pytest.mark.parametrize("length", [0, -3, 2.5])
def test_impossible_lengths_are_refused(length):
    with pytest.raises(ValueError, match=r"pack.length is .*; allowed: a whole number at least 1"):
        t.pack([], 0, length)


def test_held_out_rows_are_the_documents():
    rows = t.packed(SMALL, "prose", "held_out", 64)
    found = documents(CORPORA["prose"], "held_out")
    text = "".join(text for _, text in found)
    read = SMALL.decode(rows[:, 1:].ravel())
    assert text.startswith(read) and len(text) - len(read) < 64 * SMALL.sizes.max()
    assert (rows[:, 1:] == SMALL.end).sum() in (len(found) - 1, len(found))
    assert t.bytes_per_token(SMALL, rows) == pytest.approx(len(read.encode()) / rows[:, 1:].size, rel=1e-12)
    with pytest.raises(ValueError, match="read-only"):
        rows[0, 0] = 1


def test_bytes_per_token_of_nothing():
    assert t.bytes_per_token(SMALL, np.zeros((0, 5), np.int32)) == 0


@pytest.mark.parametrize(
    "domain, split, text",
    [("verse", "train", "domain is 'verse'; allowed: prose, code"), ("code", "dev", "split is 'dev'; allowed: train")],
)
def test_unknown_parts_are_refused(domain, split, text):
    with pytest.raises(ValueError, match=text):
        t.packed(SMALL, domain, split, 64)


# Mixtures.


def mix(sizes, epochs, seed=0, length=3):
    """Rows that say where they come from: domain, number, domain, number."""
    tables = [np.array([[d, r] * 2 for r in range(size)], np.int32) for d, size in enumerate(sizes)]
    return t.Mixture(tuple("abcd"[: len(sizes)]), tuple(tables), tuple(epochs), seed)


domains = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 4)), min_size=1, max_size=4)
seeds = st.integers(0, 2**63)


@given(domains, seeds, st.data())
def test_any_stretch_is_part_of_the_whole(made, seed, data):
    whole = mix(*zip(*made, strict=True), seed)
    tokens, labels = whole.rows(0, len(whole))
    start = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - start))
    part = mix(*zip(*made, strict=True), seed).rows(start, count)  # another process would begin like this
    assert part[0].dtype == part[1].dtype == np.int32 and part[0].shape == (count, 4)
    np.testing.assert_array_equal(part[0], tokens[start : start + count])
    np.testing.assert_array_equal(part[1], labels[start : start + count])


@given(domains, seeds)
def test_every_row_comes_once_an_epoch(made, seed):
    whole = mix(*zip(*made, strict=True), seed)
    tokens, labels = whole.rows(0, len(whole))
    assert len(whole) == sum(size * epochs for size, epochs in made)
    np.testing.assert_array_equal(tokens[:, 0], labels)
    for domain, (size, epochs) in enumerate(made):
        numbers = tokens[labels == domain, 1].reshape(epochs, size)
        np.testing.assert_array_equal(np.sort(numbers, axis=1), np.broadcast_to(np.arange(size), (epochs, size)))


@given(domains, seeds)
def test_domains_are_mixed_evenly(made, seed):
    whole = mix(*zip(*made, strict=True), seed)
    labels = whole.rows(0, len(whole))[1]
    for domain, (size, epochs) in enumerate(made):
        so_far = np.cumsum(labels == domain)
        fair = np.arange(1, len(labels) + 1) * size * epochs / len(labels)
        assert np.abs(so_far - fair).max() <= len(made) / 2 + 1e-9


@given(st.integers(20, 60), seeds, seeds)
def test_orders_differ_by_epoch_domain_and_seed(size, seed, other):
    assume(seed != other)
    whole, another = mix([size, size], [2, 1], seed), mix([size, size], [2, 1], other)
    tokens, labels = whole.rows(0, len(whole))
    first, second = tokens[labels == 0, 1].reshape(2, size)
    orders = [first, second, tokens[labels == 1, 1], another.rows(0, len(whole))[0][labels == 0, 1][:size]]
    assert all((a != b).any() for a, b in itertools.combinations([*orders, np.arange(size)], 2))


def test_the_order_of_a_seed_is_for_ever():
    assert list(t.permutation(8, 1, 2, 3)) == [1, 2, 4, 6, 5, 0, 7, 3]


@pytest.mark.parametrize(
    "start, count, text",
    [
        (-1, 2, "Mixture.start is -1"),
        (0, -2, "Mixture.count is -2"),
        (0.5, 2, "Mixture.start is 0.5"),
        (7, 2, r"start \+ count is 9; allowed: at most 8"),
        (9, 0, r"start \+ count is 9; allowed: at most 8"),
    ],
)
def test_rows_that_are_not_there_are_refused(start, count, text):
    with pytest.raises(ValueError, match=text):
        mix([2, 4], [2, 1]).rows(start, count)


@pytest.mark.parametrize(
    "fields, text",
    [
        (dict(domains=("a",)), "are 1, 2 and 2; allowed: as many of each"),
        (dict(domains=(), tables=(), epochs=()), "are 0, 0 and 0"),
        (dict(epochs=(1, 0)), "Mixture.epochs.b is 0"),
        (dict(epochs=(1.5, 1)), "Mixture.epochs.a is 1.5"),
        (dict(tables=(np.zeros((2, 4), np.int32), np.zeros((2, 3), np.int32))), r"tables of b is \(2, 3\)"),
        (dict(tables=(np.zeros((0, 4), np.int32), np.zeros((2, 4), np.int32))), r"tables of a is \(0, 4\)"),
        (dict(seed=-1), "Mixture.seed is -1"),
    ],
)
def test_impossible_mixtures_are_refused(fields, text):
    good = dict(domains=("a", "b"), tables=(np.zeros((2, 4), np.int32),) * 2, epochs=(1, 2), seed=0)
    t.Mixture(**good)
    with pytest.raises(ValueError, match=text):
        t.Mixture(**(good | fields))


@given(st.integers(2, 30), st.data(), seeds, st.integers(0, 200), st.integers(0, 40))
def test_repeated_rows_come_once_each_time_through(size, data, seed, start, count):
    whole = mix([size, size], [2, 1])
    numbers = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=12, unique=True)))
    again = t.Repeated(whole, numbers, seed)
    once, labels = (np.concatenate(part) for part in zip(*(whole.rows(int(n), 1) for n in numbers), strict=True))
    for time in range(3):
        tokens, domain = again.rows(time * len(numbers), len(numbers))
        assert sorted(map(tuple, tokens)) == sorted(map(tuple, once)) and sorted(domain) == sorted(labels)
    long, _ = again.rows(0, start + count)
    part, _ = t.Repeated(whole, numbers, seed).rows(start, count)
    np.testing.assert_array_equal(part, long[start:])


@pytest.mark.parametrize(
    "numbers, seed, text",
    [
        ([], 0, "Repeated.numbers is .*; allowed: at least 1, each below 8"),
        ([3, 8], 0, "Repeated.numbers is .*; allowed: at least 1, each below 8"),
        ([-1], 0, "Repeated.numbers is .*; allowed: at least 1, each below 8"),
        ([1], -1, "Repeated.seed is -1"),
    ],
)
def test_impossible_repetitions_are_refused(numbers, seed, text):
    with pytest.raises(ValueError, match=text):
        t.Repeated(mix([2, 4], [2, 1]), np.array(numbers, int), seed)


@pytest.mark.slow
def test_the_mixture_of_the_book(directory):
    t.tokenizer.cache_clear()
    made = t.tokenizer()
    whole = t.mixture(made, 256, seed=1)
    assert made.vocabulary == 1024 and whole.domains == ("prose", "code") and whole.epochs == (2, 4)
    _, labels = whole.rows(0, len(whole))
    rows = {domain: len(table) for domain, table in zip(whole.domains, whole.tables, strict=True)}
    assert np.bincount(labels).tolist() == [2 * rows["prose"], 4 * rows["code"]]
    for domain in whole.domains:
        held_out = t.packed(made, domain, "held_out", 256)
        seen = {row.tobytes() for row in whole.tables[whole.domains.index(domain)]}
        assert not any(row.tobytes() in seen for row in held_out)
        size = sum(len(text.encode()) for _, text in documents(CORPORA[domain], "held_out"))
        assert t.bytes_per_token(made, held_out) == pytest.approx(size / held_out[:, 1:].size, rel=0.01)
        assert 2.5 < t.bytes_per_token(made, held_out) < 3.0
