"""Recipes: trained once, found again, and trained anew when something changes."""

import dataclasses

import jax
import numpy as np
import pytest
from anatomy.model import Config
from anatomy.train import loop, recipes
from anatomy import memo
from anatomy.train.data.sources import sources
from anatomy.train.loop import Training
from anatomy.train.data.markov import random_markov
from anatomy.train.recipes import RECIPES, Recipe

TINY = Config(
    vocabulary=16, layers=1, d_model=16, heads=2, kv_heads=1, head_dim=8, d_ff=16, experts=2, top_k=1, context=16
)


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    """A cache of its own, and two small recipes."""
    monkeypatch.setenv("ANATOMY_CACHE", str(tmp_path))
    asked = []

    class Source:
        def rows(self, first, count):
            asked.append(first)
            return random_markov(length=16).rows(first, count)

    first = Recipe(about="One.", config=TINY, training=Training(steps=3, batch=2), data="tiny")
    second = dataclasses.replace(first, about="Two.", start="one")
    monkeypatch.setattr(recipes, "RECIPES", {"one": first, "two": second})
    monkeypatch.setattr(recipes, "DATA", {"tiny": Source})
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
    monkeypatch.setitem(
        recipes.RECIPES, "one", dataclasses.replace(recipes.RECIPES["one"], training=Training(steps=60))
    )
    place = recipes.place("one")
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as killed:
        killed.setattr(loop, "update", killer(loop.update, calls=55))
        recipes.trained("one", progress=False)
    (place / loop.CLOCK).write_text("1000.0")
    recipes.trained("one", progress=False)
    assert recipes.seconds("one") > 1000


def test_what_it_starts_from_is_trained_first(kitchen):
    two = recipes.trained("two", progress=False)
    assert recipes.seconds("one") > 0
    one = recipes.trained("one", progress=False)
    assert not equal(one.weights, two.weights)


def test_any_change_is_another_recipe(kitchen, monkeypatch):
    before = {name: recipes.digest(name) for name in recipes.RECIPES}
    assert len(set(before.values())) == 2
    changed = dataclasses.replace(recipes.RECIPES["one"], training=Training(steps=4, batch=2))
    monkeypatch.setitem(recipes.RECIPES, "one", changed)
    assert all(recipes.digest(name) != before[name] for name in before)  # the second starts from the first
    monkeypatch.setattr(recipes, "code", lambda: "other")
    assert recipes.digest("one") != before["one"]


def test_comments_and_docstrings_make_no_other_recipe():
    one = '"""Says."""\ndef f(x):\n    """Does."""\n    return x + 1\n'
    two = "def f(x):  # plainly\n    return (x + 1)\n"
    assert cache.essence(one) == cache.essence(two) != cache.essence(two.replace("1", "2"))


def test_an_unknown_recipe_is_an_error_that_names_the_others():
    with pytest.raises(ValueError, match="recipe is 'cake'; allowed: target, draft"):
        recipes.trained("cake")


def test_recipes_can_be_built():
    for name, recipe in RECIPES.items():
        assert recipe.data in recipes.DATA and (recipe.start is None or recipe.start in RECIPES), name
        assert recipe.about.endswith(".")
        length = {"mixture": 256, "long": 1024, "instructions": 48}.get(recipe.data, 128)
        assert length <= recipe.config.context, name
        if recipe.start:  # weights must fit
            shapes = [recipes.RECIPES[r].config.replace(context=1, rope_scale=1.0) for r in (name, recipe.start)]
            assert shapes[0] == shapes[1]


def test_the_sweep_is_on_an_equal_footing():
    """Equal tokens, and equal active parameters but for the routers."""
    sweeps = [name for name, recipe in RECIPES.items() if recipe.config.context == 128 and not recipe.start]
    assert {int(RECIPES[name].training.batches().sum()) for name in sweeps} == {data.SWEEP_ROWS}
    active = {}
    for experts in (1, 4, 16, 64):
        recipe = RECIPES[f"experts_{experts}_0"]
        active[experts] = float(recipe.config.architecture.parameters.active)
    routers = 2 * 96 * 64  # of the largest
    assert max(active.values()) - min(active.values()) <= routers


def test_the_code_that_sweeps_are_tuned_to_is_new_to_them():
    seen = {row.tobytes() for row in data.DATA["short"]().rows(0, data.SWEEP_ROWS)[0]}
    count = len(data.unseen_code().numbers)
    rows, labels = data.DATA["unseen_code"]().rows(0, count)
    assert set(labels) == {data.mixture(data.LENGTH // 2).domains.index("code")}
    assert len({row.tobytes() for row in rows}) == count
    assert not seen & {row.tobytes() for row in rows}
