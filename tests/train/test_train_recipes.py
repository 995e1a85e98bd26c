"""Recipes of text and vision: trained once, found again, and trained anew when something changes."""

import dataclasses
import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import jax
import numpy as np
import pytest
from anatomy.model import Config
from anatomy.train import crash_test, loop, recipes
from anatomy.train.data import sources
from anatomy.train.data.markov import Markov, random_markov
from anatomy.train.loop import Training, checkpoint, steps
from anatomy.train.recipes import RECIPES, TEXT, VISION, Recipe, __main__, jobs, registry

TINY = Config(
    vocabulary=16, layers=1, d_model=16, heads=2, kv_heads=1, head_dim=8, d_ff=16, experts=2, top_k=1, context=16
)


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    """A cache of its own, and two small recipes; the first rows of all that was asked for."""
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path))
    asked, rows = [], Markov.rows

    def noted(self, first, count):
        asked.append(first)
        return rows(self, first, count)

    first = Recipe(about="One.", config=TINY, training=Training(steps=3, batch=2), data="tiny")
    second = dataclasses.replace(first, about="Two.", start="one")
    monkeypatch.setattr(registry, "RECIPES", {"one": first, "two": second})
    monkeypatch.setitem(sources.DATA, "tiny", partial(random_markov, 16))
    monkeypatch.setattr(Markov, "rows", noted)
    return asked


def killer(function, calls: int):
    """The function, until it was called so often."""
    left = iter(range(calls))

    def call(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return call


def equal(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_a_recipe_is_trained_once_and_found_again(kitchen):
    assert recipes.seconds("one") == 0
    made = recipes.trained("one", progress=False)
    count = len(kitchen)
    again = recipes.trained("one", progress=False)
    assert count and len(kitchen) == count and equal(made.weights, again.weights) and equal(made.history, again.history)
    assert recipes.seconds("one") > 0
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(made.weights))


def test_a_killed_training_keeps_its_clock(kitchen, monkeypatch):
    """What was spent before a kill is counted too, up to the last checkpoint."""
    one = dataclasses.replace(registry.RECIPES["one"], training=Training(steps=60, batch=2))
    monkeypatch.setitem(registry.RECIPES, "one", one)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as killed:
        killed.setattr(steps, "update", killer(steps.update, calls=55))
        recipes.trained("one", progress=False)
    (recipes.directory("one") / loop.CLOCK).write_text("1000.0")
    recipes.trained("one", progress=False)
    assert recipes.seconds("one") > 1000


def test_what_it_starts_from_is_trained_first(kitchen):
    two = recipes.trained("two", progress=False)
    assert recipes.seconds("one") > 0
    one = recipes.trained("one", progress=False)
    assert not equal(one.weights, two.weights)


def test_any_change_is_another_recipe(kitchen, monkeypatch):
    before = {name: recipes.digest(name) for name in registry.RECIPES}
    assert len(set(before.values())) == 2
    changed = dataclasses.replace(registry.RECIPES["one"], training=Training(steps=4, batch=2))
    monkeypatch.setitem(registry.RECIPES, "one", changed)
    assert all(recipes.digest(name) != before[name] for name in before)  # the second starts from the first
    monkeypatch.setattr(registry, "code", lambda functions: "other")
    assert recipes.digest("one") != before["one"]


def test_what_it_says_of_itself_is_no_change(kitchen, monkeypatch):
    before = recipes.digest("one")
    monkeypatch.setitem(registry.RECIPES, "one", dataclasses.replace(registry.RECIPES["one"], about="Other words."))
    assert recipes.digest("one") == before


def test_the_code_of_a_recipe_is_what_decides_what_comes_out():
    """What trains and what is read; not how it is kept on disk, shown, served, or seen by the cost models."""
    for name in ("target", "instructions", "distilled_16", "vision", "vision_scratch"):
        reached = registry.closure(*recipes.known(name).code, cut=registry.CUT)
        modules = reached.modules
        assert {"anatomy.model.transformer", "anatomy.model.moe.routing", "anatomy.train.loop.settings"} <= modules, (
            name
        )
        kept_out = ("anatomy.decode", "anatomy.cost", "anatomy.specs.architecture", "anatomy.train.loop.checkpoint")
        assert not [module for module in modules if module.startswith((*kept_out, "anatomy.train.loop.progress"))]
        assert {"jax", "jaxlib", "optax", "tokenizers"} <= set(reached.libraries)
        assert ("anatomy.train.data.instructions" in modules) == (name == "instructions")
        assert ("anatomy.train.data.distillation" in modules) == (name == "distilled_16")
        assert ("anatomy.model.vision.encoder" in modules) == (name in VISION)


def test_only_weights_and_history_stay(kitchen):
    recipes.trained("one", progress=False)
    assert {path.name for path in recipes.directory("one").iterdir()} == {checkpoint.FINAL, loop.CLOCK}
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(recipes.trained("one", progress=False).weights))
    assert (recipes.directory("one") / checkpoint.FINAL).stat().st_size < held + 4000


def test_all_recipes_take_at_most_300_megabytes():
    def size(recipe):
        with jax.enable_x64(False):
            if isinstance(recipe, recipes.VisionRecipe):
                fresh = partial(recipes.vision.seeing.fresh, recipe.config, recipe.vision, recipe.training)
                state = jax.eval_shape(partial(fresh, not recipe.scratch))
            else:
                state = jax.eval_shape(partial(loop.fresh, recipe.config, recipe.training))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.weights, dict(state.history))))

    assert 100e6 < 0.87 * sum(map(size, RECIPES.values())) < 300e6  # as small as ends are written


def test_an_unknown_recipe_is_an_error_that_names_the_others():
    with pytest.raises(ValueError, match="recipe is 'cake'; allowed: target, draft"):
        recipes.trained("cake")


def test_recipes_can_be_built():
    for name, recipe in TEXT.items():
        assert recipe.data in sources.DATA and (recipe.start is None or recipe.start in RECIPES), name
        assert recipe.about.endswith(".")
        length = {"mixture": 256, "long": 1024, "instructions": 48}.get(recipe.data, 128)
        assert length <= recipe.config.context, name
        if recipe.start:  # weights must fit
            shapes = [TEXT[r].config.replace(context=1, rope_scale=1.0) for r in (name, recipe.start)]
            assert shapes[0] == shapes[1]


def test_the_sweep_is_on_an_equal_footing():
    """Equal tokens, and equal active parameters but for the routers."""
    sweeps = [name for name, recipe in TEXT.items() if recipe.config.context == 128 and not recipe.start]
    assert {int(RECIPES[name].training.batches().sum()) for name in sweeps} == {sources.SWEEP_ROWS}
    active = {}
    for experts in (1, 4, 16, 64):
        recipe = RECIPES[f"experts_{experts}_0"]
        active[experts] = float(recipe.config.architecture.parameters.active)
    routers = 2 * 96 * 64  # of the largest
    assert max(active.values()) - min(active.values()) <= routers


def test_the_code_that_sweeps_are_tuned_to_is_new_to_them():
    seen = {row.tobytes() for row in sources.DATA["short"]().rows(0, sources.SWEEP_ROWS)[0]}
    count = len(sources.unseen_code().numbers)
    rows, labels = sources.DATA["unseen_code"]().rows(0, count)
    assert set(labels) == {sources.mixture(sources.LENGTH // 2).domains.index("code")}
    assert len({row.tobytes() for row in rows}) == count
    assert not seen & {row.tobytes() for row in rows}


# The command.


def test_names_are_ordered_by_need_and_each_is_trained_once():
    assert jobs.with_needed(["tuned_4_1", "experts_4_1"]) == ["experts_4_1", "tuned_4_1"]
    assert jobs.with_needed(["distilled_16"]) == ["experts_1_0", "experts_16_0", "distilled_16"]
    assert jobs.with_needed(["vision"]) == ["experts_16_0", "vision"]
    everything = jobs.with_needed(list(RECIPES))
    assert sorted(everything) == sorted(RECIPES)
    assert all(everything.index(need) < everything.index(name) for name in RECIPES for need in RECIPES[name].needs)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["target", "target"], "recipe 'target' is named twice; allowed: each once; leave one of them out"),
        (["cake"], "recipe is 'cake'; allowed: target, draft"),
        (["--jobs", "0"], "--jobs is 0; allowed: at least 1"),
        (["--clean", "target"], "--clean removes all recipes; allowed: no names with it"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(arguments)
    assert stop.value.code == 2 and words in capsys.readouterr().err


@pytest.fixture
def quick(kitchen, monkeypatch):
    """The kitchen, without what is measured on the texts."""
    monkeypatch.setattr(registry, "held_out_losses", no_losses)
    monkeypatch.setattr(registry, "code_digest", lambda function: "0" * 8)


def no_losses(model):
    return {"nothing": float(model.weights.norm.sum())}


def test_the_command_says_which_of_how_many_and_how_long(quick, capsys):
    assert __main__.main(["two"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "training 1 of 2: one; how long all will take is known after the first"
    assert said[1].startswith("one ") and "6 rows  held out: nothing" in said[1]
    assert said[2].startswith("training 2 of 2: two; about ") and said[2].endswith(" for all that is left")
    assert said[-1].startswith("in all")
    assert __main__.main(["two"]) == 0
    assert "training" not in capsys.readouterr().out  # there is nothing to train


def test_an_interrupted_command_says_how_to_go_on(quick, capsys, monkeypatch):
    monkeypatch.setattr(registry.driver, "held_back", interrupted_at_once)
    assert __main__.main(["one"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "interrupted: one stopped after step 1 of 3; its checkpoint is whole; run it again to go on"
    )


@contextmanager
def interrupted_at_once():
    yield lambda: True


def test_cleaning_removes_all_recipes(quick, capsys, tmp_path):
    __main__.main(["one"])
    assert __main__.main(["--clean"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("removed 0 MB") and not (tmp_path / "recipes").exists()
    assert __main__.main(["--clean"]) == 0


# Two recipes and one that needs the first, in a script that worker processes import too.
SCRIPT = """
import sys
from functools import partial
from anatomy.model import Config
from anatomy.train.data import sources
from anatomy.train.data.markov import random_markov
from anatomy.train.loop import Training
from anatomy.train.recipes import Recipe, __main__, registry

def norm(model):
    return {"norm": float(model.weights.norm.sum())}

config = Config(vocabulary=16, layers=1, d_model=64, heads=2, kv_heads=1, head_dim=32, d_ff=128, experts=4, context=64)
one = Recipe(about="One.", config=config, training=Training(steps=6, batch=16), data="tiny")
two = Recipe(about="Two.", config=config, training=Training(steps=6, batch=16, seed=1), data="tiny")
three = Recipe(about="Three.", config=config, training=Training(steps=4, batch=16), data="tiny", start="one")
sources.DATA["tiny"] = partial(random_markov, 64)
registry.RECIPES = {"three": three, "one": one, "two": two}
registry.held_out_losses, registry.code_digest = norm, lambda function: "0" * 8
if __name__ == "__main__":
    sys.exit(__main__.main(["three", "two", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_processes_that_train_at_once_give_the_bits_of_a_single_one(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    found = []
    for number in ("1", "2"):
        cached = {"ANATOMY_CACHE": str(tmp_path / number)}
        command = [sys.executable, tmp_path / "script.py", "--jobs", number]
        done = subprocess.run(command, env=os.environ | cached, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert [line.split()[1:4] for line in lines if line.startswith("training")] == [[n, "of", "3:"] for n in "123"]
        assert {line.split()[0] for line in lines[:-1] if "held out" in line} == {"one", "two", "three"}
        ends = sorted((tmp_path / number / "recipes").glob(f"*/{checkpoint.FINAL}"))
        found.append({path.parent.name: checkpoint.arrays_of(path) for path in ends})
    assert len(found[0]) == 3 and found[0].keys() == found[1].keys()
    for name, arrays in found[0].items():
        assert crash_test.differing(arrays, found[1][name]) == 0
