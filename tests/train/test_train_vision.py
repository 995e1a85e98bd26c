"""Sight trained: rows and captions, what is trained and what is not, going on after a kill, and how reading counts."""

import dataclasses
from types import SimpleNamespace

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from anatomy.model import Config
from anatomy.model import init as init_text
from anatomy.model.vision import Reading, Vision
from anatomy.train.data import tokens
from anatomy.train.data.corpus import CorpusError
from anatomy.train.data.digits import BLANK, LONGEST, SIDE, WORDS
from anatomy.train.loop import Training, checkpoint
from anatomy.train.vision import images, reading, recipes, training
from hypothesis import given, settings

TINY = Vision(patch=4, d_image=8, heads=2, layers=1, d_ff=8, latents=3, block_d_ff=8)
CONFIG = Config(vocabulary=1024, layers=1, d_model=8, heads=2, kv_heads=1, head_dim=4, d_ff=8, experts=2, context=32)
SHORT = Training(steps=4, batch=2, learning_rate=1e-2, warm_up=1, dispatch="all_experts")


@pytest.fixture(scope="module")
def bpe():
    return tokens.tokenizer(1024)


@pytest.fixture(scope="module")
def text():
    with jax.enable_x64(False):
        return init_text(CONFIG, jax.random.key(0))


@pytest.fixture(autouse=True)
def _single_precision():
    with jax.enable_x64(False):
        yield


def seer(text):
    """A model that sees, as it is before it is trained."""
    recipe = SimpleNamespace(config=CONFIG, vision=TINY, training=SHORT)
    return recipes.Seer(recipe, text, training.fresh(CONFIG, TINY, SHORT, True).learned.added, {})


class Text:
    """Rows of text by number."""

    def rows(self, start, count):
        return np.random.default_rng(start).integers(1024, size=(count, 9)).astype(np.int32), np.zeros(count, int)


# Rows and captions


@given(st.integers(0, 10**6), st.integers(0, 5))
def test_rows_are_the_same_wherever_one_starts(start, count):
    whole = images.rows("train", start, count + 1, TINY)
    last = images.rows("train", start + count, 1, TINY)
    np.testing.assert_array_equal(whole.images[count], last.images[0])
    np.testing.assert_array_equal(whole.labels[count], last.labels[0])


def test_a_row_shows_its_digits_from_the_left_each_in_its_cell():
    made, source = images.rows("held_out", 0, 200, TINY), images.digits("held_out")
    cell = TINY.width // LONGEST
    for picture, label in zip(made.images, made.labels, strict=True):
        count = int((label != BLANK).sum())
        assert count >= 1 and np.all(label[:count] != BLANK) and np.all(label[count:] == BLANK)
        for place in range(LONGEST):
            part = picture[:, cell * place : cell * (place + 1)]
            if place >= count:
                assert not part.any()
                continue
            same = source.images[source.labels == label[place]]
            spots = [part[y : y + SIDE, x : x + SIDE] for y in range(5) for x in range(5)]
            assert any(np.all(same == spot, axis=(1, 2)).any() for spot in spots)
    assert set((made.labels != BLANK).sum(1)) == {1, 2, 3} and 0 <= made.images.min() < made.images.max() == 1


def test_no_digit_is_in_both_splits():
    train, held_out = images.digits("train"), images.digits("held_out")
    assert (len(train.labels), len(held_out.labels)) == (1437, 360)
    assert not {one.tobytes() for one in train.images} & {one.tobytes() for one in held_out.images}
    assert set(train.labels) == set(held_out.labels) == set(range(10))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=LONGEST))
def test_a_caption_is_understood(label):
    assert images.understood(images.caption(label)) == label


def test_captions_as_tokens_say_prompt_words_and_end(bpe):
    labels = np.array([[7, BLANK, BLANK], [0, 1, 2]], np.int32)
    made, mask = images.captioned(bpe, labels)
    for row, counts, words in zip(made, mask, (" seven", " zero one two"), strict=True):
        counted = row[1:][counts > 0]
        assert row[0] == bpe.end == counted[-1] and bpe.decode(counted) == words
        assert bpe.decode(row) == images.PROMPT + words
    assert images.longest(bpe) == len(bpe.encode(" zero" * LONGEST)) + 1


def test_digits_that_are_others_are_refused(monkeypatch):
    images.digits.cache_clear()
    monkeypatch.setattr(images, "SHA256", "0")
    with pytest.raises(CorpusError, match=r"SHA-256 of the digits is f6d9\w+; allowed: 0"):
        images.digits("train")


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: images.digits("test"), "split is 'test'; allowed: train, held_out"),
        (lambda: images.rows("train", -1, 1, TINY), "rows.start is -1; allowed"),
        (
            lambda: images.rows("train", 0, 1, TINY.replace(width=20)),
            "images are 12 x 20 pixels; allowed: at least 8 x",
        ),
        (lambda: recipes.trained("cake"), "recipe is 'cake'; allowed: vision, vision_scratch"),
        (lambda: reading.score([], np.zeros((0, 3))), "answers and rows are 0 and 0; allowed: as many"),
    ],
)
def test_impossible_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# Training


def test_what_is_frozen_keeps_its_bytes_and_what_is_added_changes(bpe, text):
    before = [np.array(leaf).tobytes() for leaf in jax.tree.leaves(text)]
    start = training.fresh(CONFIG, TINY, SHORT, True)
    assert start.learned.text is None
    end = training.train(CONFIG, TINY, SHORT, bpe, text, progress=False)
    assert [np.array(leaf).tobytes() for leaf in jax.tree.leaves(text)] == before
    assert end.learned.text is None  # nor does the optimizer know of any other weights
    weights = sum(leaf.size for leaf in jax.tree.leaves(end.learned))
    moments = sum(leaf.size for leaf in jax.tree.leaves(end.optimizer) if leaf.ndim or leaf.dtype == np.float32)
    assert moments == 2 * weights
    changed = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), start.learned.added, end.learned.added)
    assert all(jax.tree.leaves(changed))
    assert np.all(end.history["loss"] > 0) and np.all(end.history["gradient"] > 0)


def test_from_scratch_everything_changes_and_text_counts(bpe):
    start = training.fresh(CONFIG, TINY, SHORT, False)
    end = training.train(CONFIG, TINY, SHORT, bpe, Text(), text_rows=2, progress=False)
    changed = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), start.learned, end.learned)
    assert all(jax.tree.leaves(changed))


def test_what_is_minimised_adds_up(bpe):
    """Captions, head, and from scratch the loss on text; without the losses of the routers."""
    plain = dataclasses.replace(SHORT, balance=0.0, z=0.0)
    learned = training.fresh(CONFIG, TINY, plain, False).learned
    batch = training.batch(TINY, plain, bpe, 0) | {"text": Text().rows(0, 2)[0]}
    alone = dataclasses.replace(learned, text=None)
    frozen, measured = training.objective(CONFIG, TINY, plain, learned.text, alone, batch)
    both, again = training.objective(CONFIG, TINY, plain, None, learned, batch)
    assert measured["loss"] == pytest.approx(float(again["loss"]))
    assert frozen == pytest.approx(float(measured["loss"]) + np.log(11), rel=1e-5)  # a head of zeros tells nothing
    text = training.loop.losses(CONFIG, learned.text, batch["text"]).mean()
    assert both == pytest.approx(float(frozen + text), rel=1e-4)


def test_a_training_that_was_killed_ends_with_the_same_bits(bpe, text, tmp_path, monkeypatch):
    whole = training.train(
        CONFIG, TINY, SHORT, bpe, text, directory=tmp_path / "whole", maker="m", every=1, progress=False
    )
    drawn = images.rows

    def dies(split, start, count, vision):
        if start >= 3 * SHORT.batch:
            raise KeyboardInterrupt
        return drawn(split, start, count, vision)

    again = dict(directory=tmp_path / "killed", maker="m", every=2, progress=False)
    monkeypatch.setattr(images, "rows", dies)
    with pytest.raises(KeyboardInterrupt):
        training.train(CONFIG, TINY, SHORT, bpe, text, **again)
    assert [path.name for path in checkpoint.newest_first(tmp_path / "killed")] == ["step-00000002.safetensors"]
    monkeypatch.setattr(images, "rows", drawn)
    resumed = training.train(CONFIG, TINY, SHORT, bpe, text, **again)
    assert killed.differing(killed.newest(tmp_path / "whole"), killed.newest(tmp_path / "killed")) == 0
    np.testing.assert_array_equal(resumed.history["loss"], whole.history["loss"])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"every": 0}, "train.every is 0; allowed: a whole number at least 1"),
        ({"text_rows": 2}, "train.text_rows is 2; allowed"),
        ({"config": CONFIG.replace(vocabulary=1000)}, "tokenizer has 1024 tokens; allowed: at most 1000"),
        ({"training": dataclasses.replace(SHORT, batch_start=1, ramp=8)}, "Training.batch_start is 1; allowed: 0, for"),
        ({"training": dataclasses.replace(SHORT, micro_batch=1)}, "Training.micro_batch is 1; allowed: 0, for"),
    ],
)
def test_what_cannot_be_trained_is_named(bpe, text, changes, words):
    given = {"config": CONFIG, "vision": TINY, "training": SHORT, "tokenizer": bpe, "text": text, "progress": False}
    with pytest.raises(ValueError, match=words):
        training.train(**(given | changes))


@pytest.mark.slow
def test_a_recipe_is_trained_once_and_found_again(tmp_path, monkeypatch):
    """Both kinds, tiny: the text model's recipe too."""
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path))
    text = recipes.recipes.RECIPES["experts_16_0"]
    tiny = dataclasses.replace(text, config=CONFIG.replace(context=128), training=Training(steps=4, batch=2))
    monkeypatch.setitem(recipes.recipes.RECIPES, "experts_16_0", tiny)
    for name in recipes.RECIPES:
        recipe = dataclasses.replace(recipes.RECIPES[name], vision=TINY, training=dataclasses.replace(SHORT, steps=2))
        monkeypatch.setitem(recipes.RECIPES, name, recipe)
        made = recipes.trained(name, progress=False)
        assert recipe.text_rows == (4 if recipe.scratch else 0) and recipes.seconds(name) > 0
        monkeypatch.setattr(recipes.training, "train", None)  # nothing is trained again
        again = recipes.trained(name, progress=False)
        monkeypatch.undo()
        monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path))
        monkeypatch.setitem(recipes.recipes.RECIPES, "experts_16_0", tiny)
        for one, other in zip(
            jax.tree.leaves((made.text, made.added)), jax.tree.leaves((again.text, again.added)), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_the_code_that_recipes_hash_is_the_code_that_trains():
    names = {path.split("/", 1)[1] for path in recipes.CODE}
    assert {"vision/images.py", "vision/training.py", "vision/encoder.py", "vision/language.py"} <= names
    assert recipes.digest("vision") != recipes.digest("vision_scratch")


# Reading


def test_scores_count_missing_and_surplus_digits():
    labels = np.array([[1, 2, BLANK], [3, BLANK, BLANK]])
    assert reading.score([[1, 2], [3]], labels) == {"digits": 1.0, "rows": 1.0}
    assert reading.score([[1], [3, 4]], labels) == {"digits": 0.5, "rows": 0.0}
    assert reading.score([[2, 1], [3]], labels) == {"digits": 1 / 3, "rows": 0.5}
    assert reading.score([[], []], labels) == {"digits": 0.0, "rows": 0.0}


@settings(max_examples=5)
@given(st.integers(0, 100))
def test_a_text_model_takes_the_likeliest_word_after_the_true_ones(seed):
    """Against the loss of whole captions, word by word."""
    bpe, text = tokens.tokenizer(1024), init_text(CONFIG, jax.random.key(seed))
    label = np.random.default_rng(seed).integers(10, size=2).tolist()
    found = reading.from_text(CONFIG, text, np.array([[*label, BLANK]]))
    first = len(images.prompt(bpe)) - 1
    for place in range(2):
        losses = []
        for word in range(len(WORDS)):
            said = bpe.encode(images.caption([*label[:place], word]))
            row = np.concatenate([images.prompt(bpe), said])
            each = reading.loop.losses(CONFIG, text, row[None])[0]
            losses.append(float(each[first + len(bpe.encode(images.caption(label[:place]))) :].sum()))
        assert losses[found[0][place]] == pytest.approx(min(losses), abs=1e-4)


@given(st.integers(1, 20), st.integers(1, 8))
def test_parts_are_of_one_size_and_hold_all_rows(count, size):
    rows = np.arange(2 * count).reshape(count, 2)
    parts = reading.in_parts(rows, size)
    assert {part.shape for part in parts} == {(size, 2)} and len(parts) == -(-count // size)
    np.testing.assert_array_equal(np.concatenate(parts)[:count], rows)


def test_words_that_are_read_are_digits(bpe, text, monkeypatch):
    said = [bpe.encode(" three one"), bpe.encode(" nine and")]
    longest = max(map(len, said))
    made = np.array([[*one, *[-1] * (longest - len(one))] for one in said])

    def reads(config, vision, text, added, pictures, prompt, limit, end):
        assert bpe.decode(prompt) == images.PROMPT and limit == images.longest(bpe) and end == bpe.end
        return Reading(made, np.array([len(one) for one in said]), pictures, pictures)

    monkeypatch.setattr(reading, "read", reads)
    assert reading.read_out(seer(text), np.zeros((2, 12, 36)))[1] == [[3, 1], [9, BLANK]]


def test_scores_are_of_the_held_out_rows_and_text(bpe, text, monkeypatch):
    """Whatever is added, a text model that is frozen has the loss that it has alone."""
    monkeypatch.setattr(reading, "HELD_OUT", 8)
    held_out = images.rows("held_out", 0, 8, TINY)
    true = [[int(digit) for digit in label if digit != BLANK] for label in held_out.labels]

    def reads(of, pictures):
        np.testing.assert_array_equal(pictures, held_out.images)
        return None, true

    monkeypatch.setattr(reading, "read_out", reads)
    made = reading.scores(seer(text))
    assert (made["digits"], made["rows"]) == (1, 1)
    for domain, loss in made["text"].items():
        rows = tokens.packed(bpe, domain, "held_out", CONFIG.context)[: 16_384 // CONFIG.context]
        assert loss == pytest.approx(float(training.loop.losses(CONFIG, text, rows).mean()), rel=1e-5)


def test_pixels_that_were_learned_are_read_place_by_place():
    rows = images.rows("train", 0, 60, TINY)
    made = reading.from_pixels(TINY, 60, rows)
    assert reading.score(made, rows.labels)["digits"] > 0.98
    other = images.rows("held_out", 0, 60, TINY)
    assert 0.2 < reading.score(reading.from_pixels(TINY, 1000, other), other.labels)["digits"] < 0.9


def test_baselines_are_measured_once_and_learn_from_as_many_rows(text, tmp_path, monkeypatch):
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path))
    monkeypatch.setattr(reading, "HELD_OUT", 20)
    base = dataclasses.replace(recipes.recipes.RECIPES["experts_16_0"], config=CONFIG, training=SHORT)
    monkeypatch.setitem(recipes.recipes.RECIPES, "experts_16_0", base)
    tiny = dataclasses.replace(recipes.RECIPES["vision"], training=dataclasses.replace(SHORT, batch=50))
    monkeypatch.setitem(recipes.RECIPES, "vision", tiny)
    monkeypatch.setattr(recipes.recipes, "trained", lambda name: SimpleNamespace(weights=text))
    learned = []
    from_pixels = reading.from_pixels
    monkeypatch.setattr(reading, "from_pixels", lambda *given: learned.append(given[1]) or from_pixels(*given))
    made = reading.baselines()
    assert learned == [200] and made["images"] == 200  # 4 steps of 50
    assert made["tokens"]["text"] == 4 * 2 * 32 and made["tokens"]["patches"] == 200 * 27
    assert 200 * 2 <= made["tokens"]["captions"] <= 200 * images.longest(tokens.tokenizer(1024))
    assert made["linear"]["digits"] > made["text_only"]["digits"]
    monkeypatch.setattr(recipes.recipes, "trained", None)
    assert reading.baselines() == made


def test_the_blind_model_beside_the_one_from_scratch_read_the_same_text_in_the_same_steps():
    blind, base = (recipes.recipes.RECIPES[name] for name in (reading.TEXT_ALONE, "experts_16_0"))
    scratch = recipes.RECIPES["vision_scratch"]
    assert (blind.config, blind.data, scratch.base) == (base.config, base.data, "experts_16_0")
    assert blind.training.steps == scratch.training.steps and blind.training.batch == scratch.text_rows
    assert blind.training.batches().sum() == base.training.batches().sum()


def test_recipes_are_trained_by_name(monkeypatch, capsys):
    made = {"digits": 0.5, "rows": 0.25, "text": {"prose": 1.0}}
    beside = {"images": 8, "text_only": made, "linear": made, "linear_cut": 0.75}
    asked = []
    monkeypatch.setattr(reading, "baselines", lambda: beside)
    monkeypatch.setattr(reading, "scored", lambda name: asked.append(name) or made)
    monkeypatch.setattr(reading, "seconds", lambda name: 1.5)
    monkeypatch.setattr("sys.argv", ["vision", "vision_scratch"])
    reading.main()
    assert asked == ["vision_scratch"] and capsys.readouterr().out.split()[-4:] == ["in", "all", "1.5", "s"]
    monkeypatch.setattr("sys.argv", ["vision", "cake"])
    with pytest.raises(SystemExit):
        reading.main()
    assert "recipe is 'cake'; allowed: vision, vision_scratch" in capsys.readouterr().err


def test_a_line_of_pixels_reads_what_is_linear():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=300)
    pixels = np.eye(3)[labels] + 0.05 * random.normal(size=(300, 3))
    assert np.mean(reading.linear(pixels[:200], labels[:200], pixels[200:]) == labels[200:]) > 0.98
    assert 0.85 < reading.cut_out() < 0.98
