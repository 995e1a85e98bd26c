"""Recipes: the trainings that the book uses, by name. Each is seeded, cached, and trained when it is first asked for.

A recipe's results lie in the cache under a hash of the recipe, of those it starts from, and of the code that trains
it. Change any of these, and it is trained anew; kill a training, and it goes on from its last checkpoint.

    python -m anatomy.train.recipes            trains all that are missing, as `make models` does
    python -m anatomy.train.recipes target     trains one
"""

import argparse
import ast
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import jax
import jax.numpy as jnp

from anatomy.model import Config
from anatomy.train import checkpoint, instructions, loop, tokens
from anatomy.train.cache import cache_directory, write_atomically
from anatomy.train.loop import Data, Trained, Training

VOCABULARY, LENGTH = 1024, 256
CODE = {
    "model": ("config", "routing", "dispatch", "transformer"),
    "train": ("loop", "corpus", "tokens", "instructions"),
}
LIBRARIES = ("jax", "optax", "tokenizers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training with a name.

    Attributes:
        about: what it is for, in a line.
        config: of the model.
        training: how.
        data: a key of `DATA`.
        start: name of the recipe whose weights it begins with, or none.
    """

    about: str
    config: Config
    training: Training
    data: str = "mixture"
    start: str | None = None


DATA: dict[str, Callable[[], Data]] = {
    # The article's epochs: two of prose, four of code.
    "mixture": lambda: tokens.mixture(tokens.tokenizer(VOCABULARY), LENGTH),
    "long": lambda: tokens.mixture(tokens.tokenizer(VOCABULARY), 4 * LENGTH, seed=1),
    "short": lambda: tokens.mixture(tokens.tokenizer(VOCABULARY), LENGTH // 2),
    "instructions": lambda: instructions.Instructions(
        instructions.pairs("train", 1000), tokens.tokenizer(VOCABULARY), 48, seed=0
    ),
}

GPT = Config(vocabulary=VOCABULARY, context=LENGTH)  # the article's 16 experts, 2 of them used, and one key head
SMALL = Config(
    vocabulary=VOCABULARY, context=LENGTH // 2, layers=2, d_model=96, heads=3, kv_heads=1, head_dim=32, d_ff=96
)  # a sweep in minutes
SWEEP = Training(steps=300, batch=16, learning_rate=4e-3, z=0.0)
SEEDS = (0, 1, 2)


def sweep(about: str, config: Config, **changes: object) -> dict[int, Recipe]:
    """The same small training with several seeds."""
    training = dataclasses.replace(SWEEP, **changes)
    return {
        seed: Recipe(about=about, config=config, training=dataclasses.replace(training, seed=seed), data="short")
        for seed in SEEDS
    }


RECIPES: dict[str, Recipe] = {
    "target": Recipe(
        about="The article's architecture at small width, on prose and code.",
        config=GPT,
        training=Training(steps=320, batch=16, learning_rate=3e-3),
    ),
    "draft": Recipe(
        about="A dense model of one layer that guesses what the target will say.",
        config=GPT.replace(layers=1, d_model=128, heads=2, d_ff=512, experts=1, top_k=1),
        training=Training(steps=600, batch=16, learning_rate=4e-3, dispatch="all_experts"),
    ),
    "context": Recipe(
        about="The target, fine-tuned to four times the context by position interpolation.",
        config=GPT.replace(context=4 * LENGTH, rope_scale=4.0),
        training=Training(steps=40, batch=4, learning_rate=5e-4, warm_up=5),
        data="long",
        start="target",
    ),
    "instructions": Recipe(
        about="The target, tuned to answer, with loss on the answers alone.",
        config=GPT,
        training=Training(steps=200, batch=32, learning_rate=1e-3, warm_up=10),
        data="instructions",
        start="target",
    ),
    "ramp": Recipe(
        about="A batch that grows fourfold over half of the data.",
        config=SMALL,
        training=dataclasses.replace(SWEEP, steps=480, batch_start=4, ramp=2400),
        data="short",
    ),
}
for _experts in (4, 16, 64):
    for _seed, _recipe in sweep(f"{_experts} experts, 2 of them used.", SMALL.replace(experts=_experts)).items():
        RECIPES[f"experts_{_experts}_{_seed}"] = _recipe
for _seed, _recipe in sweep(
    "Dense, with as many active parameters as two experts.", SMALL.replace(experts=1, top_k=1, d_ff=192)
).items():
    RECIPES[f"experts_1_{_seed}"] = dataclasses.replace(
        _recipe, training=dataclasses.replace(_recipe.training, dispatch="all_experts")
    )
for _name, _kv_heads in {"multi_head": 3, "multi_query": 1}.items():
    RECIPES[f"attention_{_name}"] = Recipe(
        about=f"{_kv_heads} key and value heads for 3 query heads.",
        config=SMALL.replace(experts=4, kv_heads=_kv_heads, context=LENGTH),
        training=SWEEP,
    )
RECIPES["attention_grouped"] = Recipe(
    about="2 key and value heads for 4 query heads.",
    config=SMALL.replace(experts=4, heads=4, kv_heads=2, head_dim=24, context=LENGTH),
    training=SWEEP,
)
for _router in ("hash", "expert_choice"):
    RECIPES[f"router_{_router}"] = sweep(f"16 experts, chosen by {_router}.", SMALL.replace(router=_router))[0]
RECIPES["unbalanced"] = sweep("16 experts without the loss that balances them.", SMALL, balance=0.0)[0]


def essence(source: str) -> str:
    """What a module does: its syntax without comments, layout and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


@cache
def code() -> str:
    """SHA-256 of the code that training goes through, comments aside, and of the versions of the libraries."""
    made = hashlib.sha256()
    for room, names in CODE.items():
        for name in names:
            made.update(essence(files("anatomy").joinpath(room, f"{name}.py").read_text("utf-8")).encode())
    for library in LIBRARIES:
        made.update(f"{library} {version(library)}".encode())
    return made.hexdigest()


def digest(name: str) -> str:
    """Hash of a recipe, of what it starts from, and of the code.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; allowed: {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    start = digest(recipe.start) if recipe.start else ""
    return hashlib.sha256(f"{recipe} {start} {code()}".encode()).hexdigest()[:16]


def place(name: str) -> Path:
    """Directory of a recipe's checkpoints."""
    return cache_directory() / "recipes" / f"{name}-{digest(name)}"


def trained(name: str, progress: bool = True) -> Trained:
    """The model of a recipe: from the cache, or trained now.

    Raises:
        ValueError: there is no such recipe.
    """
    directory, recipe = place(name), RECIPES[name]
    with jax.enable_x64(False):
        start = trained(recipe.start, progress).weights if recipe.start else None
        like = loop.fresh(recipe.config, recipe.training, start)
        if (found := checkpoint.latest(directory, like, digest(name))) and found[0] == recipe.training.steps:
            weights = jax.tree.map(jnp.asarray, found[1].weights)
            rows = {"rows": recipe.training.batches().astype(float)}
            return Trained(recipe.config, weights, dict(found[1].history) | rows)
        began = time.monotonic()
        made = loop.train(
            recipe.config, recipe.training, DATA[recipe.data](), directory, digest(name), start, progress=progress
        )
        spent = seconds(name) + time.monotonic() - began
        write_atomically(directory / "seconds.json", json.dumps(spent).encode())
        return made


def seconds(name: str) -> float:
    """Wall time that the training took on this machine; 0 if it was not trained here."""
    file = place(name) / "seconds.json"
    return float(json.loads(file.read_text())) if file.exists() else 0.0


def main() -> None:
    """Train what is missing, and say what each recipe cost."""
    parser = argparse.ArgumentParser(prog="python -m anatomy.train.recipes", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(RECIPES), help="of recipes; all by default")
    for name in parser.parse_args().names:
        made = trained(name)
        rows = int(made.history["rows"].sum())
        print(f"{name:<22} {seconds(name):7.1f} s  {rows:6,} rows  loss {made.history['loss'][-20:].mean():.3f}")
    print(f"{'in all':<22} {sum(map(seconds, RECIPES)):7.1f} s")


if __name__ == "__main__":
    main()
