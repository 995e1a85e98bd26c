"""Instructions: answers that a second reading of the rule gives, splits that share nothing, masks on answers only."""

import re

import hypothesis.strategies as st
import numpy as np
import pytest
from anatomy.train.data import instructions as ins
from anatomy.train.data.corpus import CORPORA, SPLITS, documents
from anatomy.train.data.tokens import train_tokenizer
from hypothesis import given

TOKENIZER = train_tokenizer([text for corpus in CORPORA.values() for _, text in documents(corpus, "train")[:20]], 400)
EACH = {"train": 150, "held_out": 60}
PAIRS = {split: ins.pairs(split, each) for split, each in EACH.items()}
DATA = ins.Instructions(PAIRS["held_out"], TOKENIZER, length=64, seed=3)
TEXT = {
    (domain, split): "\n".join(text for _, text in documents(corpus, split))
    for domain, corpus in CORPORA.items()
    for split in SPLITS
}
every_split = pytest.mark.parametrize("split", SPLITS)


def solved(question: str, split: str) -> str:
    """The answer as a reader works it out from the words of the question."""
    if found := re.fullmatch(r"Is this prose or code: (.*)", question, re.DOTALL):
        (domain,) = [domain for domain in CORPORA if found[1] in TEXT[domain, split]]
        return domain
    task, word = re.fullmatch(r"(.*) the word ([a-z]+)", question).groups()
    if task == "Write in capitals":
        return "".join(chr(ord(letter) - 32) for letter in word)
    if task == "Write backwards":
        return "".join(reversed(word))
    return {
        "Copy": word,
        "How many letters has": f"{sum(1 for _ in word)}",
        "What is the first letter of": word[:1],
        "What is the last letter of": word[-1:],
    }[task]


@every_split
def test_answers_are_right(split):
    assert all(pair.answer == solved(pair.question, split) for pair in PAIRS[split])


@every_split
def test_kinds_are_even_and_nothing_is_asked_twice(split):
    kinds = [pair.kind for pair in PAIRS[split]]
    assert {kind: kinds.count(kind) for kind in ins.KINDS} == dict.fromkeys(ins.KINDS, EACH[split])
    assert len({pair.question for pair in PAIRS[split]}) == len(kinds)
    domains = [pair.answer for pair in PAIRS[split] if pair.kind == ins.SNIPPET_RULE]
    assert domains.count("prose") == domains.count("code") == EACH[split] / 2


def test_splits_share_no_subject():
    words = [set(ins.words(split)) for split in SPLITS]
    assert words[0].isdisjoint(words[1]) and len(words[0]) > 1000 and len(words[1]) > 60
    for domain in CORPORA:
        parts = [set(ins.snippets(domain, split)) for split in SPLITS]
        assert parts[0].isdisjoint(parts[1]) and min(map(len, parts)) > 1000


@every_split
def test_subjects_are_from_the_corpora(split):
    assert all(re.fullmatch("[a-z]{3,6}", word) and word in TEXT["prose", "train"] for word in ins.words(split))
    for domain in CORPORA:
        found = ins.snippets(domain, split)[::50]
        assert found and all(snippet in TEXT[domain, split] and len(snippet) <= 32 for snippet in found)


@given(st.integers(0, 2**40))
def test_pairs_depend_on_the_seed_alone(seed):
    made = ins.pairs("held_out", 5, seed)
    assert made == ins.pairs("held_out", 5, seed) != ins.pairs("held_out", 5, seed + 1)
    assert made[:5] == ins.pairs("held_out", 9, seed)[:5]


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("test", 5), "split is 'test'; allowed: train, held_out"),
        (("train", 0), "pairs.each is 0; allowed: a whole number at least 1 and at most"),
        (("held_out", 100_000), r"pairs.each is 100000; .* at most \d+"),
        (("train", 2.5), "pairs.each is 2.5"),
        (("train", 5, -1), "pairs.seed is -1"),
    ],
)
def test_impossible_draws_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        ins.pairs(*arguments)


def test_rows_hold_the_pair_and_the_mask_its_answer():
    count = len(DATA.pairs)
    tokens, kinds = DATA.rows(0, count)
    masks, inputs = DATA.loss_mask(0, count), DATA.padding_mask(0, count)
    # Input is what comes before something that counts: nothing behind the last of these.
    np.testing.assert_array_equal(inputs, np.cumsum(masks[:, ::-1], axis=1)[:, ::-1] > 0)
    assert (tokens.dtype, kinds.dtype, masks.dtype) == (np.int32, np.int32, np.float32)
    assert tokens.shape == (count, 65) and masks.shape == (count, 64) and set(np.unique(masks)) == {0, 1}
    found = []
    for row, kind, mask in zip(tokens, kinds, masks, strict=True):
        assert row[0] == TOKENIZER.question
        mark = list(row).index(TOKENIZER.answer)
        answer = row[1:][mask == 1]
        assert answer[-1] == TOKENIZER.end and TOKENIZER.end not in row[: mark + len(answer)]
        assert np.flatnonzero(mask)[0] == mark  # the first that counts is predicted at the mark
        assert (row[mark + len(answer) :] == TOKENIZER.end).all()
        pair = ins.Pair(ins.KINDS[kind], TOKENIZER.decode(row[1:mark]), ins.reply(TOKENIZER, answer))
        assert ins.is_right(pair, TOKENIZER.decode(answer))
        np.testing.assert_array_equal(ins.prompt(TOKENIZER, pair.question), row[: mark + 1])
        found.append(pair)
    assert sorted(found) == sorted(DATA.pairs) and found != list(DATA.pairs)


@given(st.integers(0, 2000), st.integers(0, 30), st.integers(0, 30))
def test_any_parts_make_up_the_whole(start, first, second):
    again = ins.Instructions(DATA.pairs, TOKENIZER, length=64, seed=3)
    for whole, part in zip(
        [*DATA.rows(start, first + second), DATA.loss_mask(start, first + second)],
        [
            np.concatenate([a, b])
            for a, b in zip(
                [*again.rows(start, first), again.loss_mask(start, first)],
                [*again.rows(start + first, second), again.loss_mask(start + first, second)],
                strict=True,
            )
        ],
        strict=True,
    ):
        np.testing.assert_array_equal(whole, part)


def test_every_pair_comes_once_each_time_through():
    count = len(DATA.pairs)
    times = [[row.tobytes() for row in DATA.rows(time * count, count)[0]] for time in range(3)]
    assert len(set(times[0])) == count
    assert set(times[0]) == set(times[1]) == set(times[2])
    assert times[0] != times[1] != times[2]
    other = ins.Instructions(DATA.pairs, TOKENIZER, length=64, seed=4)
    assert [row.tobytes() for row in other.rows(0, count)[0]] != times[0]


def test_a_reply_ends_at_the_end_token():
    said = [*TOKENIZER.encode(" god \n"), TOKENIZER.end, *TOKENIZER.encode("more")]
    assert ins.reply(TOKENIZER, said) == "god"
    assert ins.reply(TOKENIZER, []) == ins.reply(TOKENIZER, [TOKENIZER.end]) == ""


@pytest.mark.parametrize("said, right", [("god", True), (" god\n", True), ("God", False), ("go d", False), ("", False)])
def test_only_the_exact_answer_is_right(said, right):
    pair = ins.Pair("backwards", "Write backwards the word dog", "god")
    assert ins.is_right(pair, said) is right


def test_accuracy_by_kind():
    said = [pair.answer if pair.kind != "copy" else pair.answer + "!" for pair in DATA.pairs]
    said[-1] = "neither"
    scores = ins.accuracy(DATA.pairs, said)
    assert scores.pop("copy") == 0 and scores.pop("domain") == pytest.approx(1 - 1 / EACH["held_out"])
    assert scores == dict.fromkeys(set(ins.KINDS) - {"copy", "domain"}, 1)
    assert ins.accuracy([], []) == {}
    with pytest.raises(ValueError, match="answers are 1; allowed: 2"):
        ins.accuracy(DATA.pairs[:2], ["a"])


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: ins.Instructions((), TOKENIZER, 64), "pairs is empty"),
        (lambda: ins.Instructions(DATA.pairs, TOKENIZER, 0), "Instructions.length is 0"),
        (lambda: ins.Instructions(DATA.pairs, TOKENIZER, 64, seed=-1), "Instructions.seed is -1"),
        (lambda: DATA.rows(-1, 2), "Instructions.start is -1"),
        (lambda: DATA.loss_mask(0, -2), "Instructions.count is -2"),
    ],
)
def test_bad_input_is_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_row_too_short_for_a_pair_says_how_long_it_must_be():
    with pytest.raises(ValueError, match="length is 10; allowed: at least") as error:
        ins.Instructions(DATA.pairs, TOKENIZER, 10)
    longest = int(re.search(r"at least (\d+)", str(error.value))[1])
    fits = ins.Instructions(DATA.pairs, TOKENIZER, longest)
    assert (fits.loss_mask(0, len(DATA.pairs))[:, -1] == 1).sum() >= 1  # the longest pair fills its row
    with pytest.raises(ValueError, match="allowed: at least"):
        ins.Instructions(DATA.pairs, TOKENIZER, longest - 1)
