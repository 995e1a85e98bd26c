"""Recipes: the trainings that the book uses, by name. Each is seeded, cached, and trained when it is first asked for.

A recipe's results lie in the cache under a hash of the recipe, of those it starts from, and of the code that trains
it. Change any of these, and it is trained anew; kill a training, and it goes on from its last checkpoint.

    python -m anatomy.train.recipes            trains all that are missing, as `make models` does
    python -m anatomy.train.recipes target     trains one
"""

import argparse
import dataclasses
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from anatomy.model import Config
from anatomy.train import checkpoint, loop, tokens
from anatomy.train.cache import cache_directory, code_hash, kept
from anatomy.train.data import DATA, EPOCHS, LENGTH, SWEEP_ROWS, TARGET_ROWS, VOCABULARY
from anatomy.train.distillation import Distilled
from anatomy.train.loop import Trained, Training

MOE = ("__init__", "capacity", "dense", "experts", "grouped", "routing")
CODE = {
    "model": ("config", "attention", "transformer", *(f"moe/{name}" for name in MOE)),
    "train": ("loop", "corpus", "tokens", "instructions", "data", "distillation"),
}
HELD_OUT = 16_384  # tokens of each domain that losses are measured on
LIBRARIES = ("jax", "jaxlib", "optax", "tokenizers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training with a name.

    Attributes:
        about: what it is for, in a line.
        config: of the model.
        training: how.
        data: a key of `data.DATA`.
        start: name of the recipe whose weights it begins with, or none.
        teacher: name of the recipe whose law of the next token it learns in place of the token, or none.
    """

    about: str
    config: Config
    training: Training
    data: str = "mixture"
    start: str | None = None
    teacher: str | None = None


GPT = Config(vocabulary=VOCABULARY, context=LENGTH)  # the article's 16 experts, 2 of them used, and one key head
SMALL = Config(
    vocabulary=VOCABULARY, context=LENGTH // 2, layers=2, d_model=96, heads=3, kv_heads=1, head_dim=32, d_ff=96
)  # a sweep in minutes
SWEEP = Training(steps=SWEEP_ROWS // 16, batch=16, learning_rate=4e-3, z=0.0)
TUNING = Training(steps=64, batch=16, learning_rate=1e-3, warm_up=4, z=0.0)
DISTILLING = {"steps": 480, "learning_rate": 4e-3, "warm_up": 20}
SEEDS = (0, 1, 2)
EXPERTS = (1, 4, 16, 64)
ROUTERS = {"hash": "the hash of a token chooses them", "expert_choice": "experts choose tokens"}
HEADS = {
    "multi_head": {"heads": 3, "kv_heads": 3},
    "grouped": {"heads": 4, "kv_heads": 2, "head_dim": 24},
    "multi_query": {"heads": 3, "kv_heads": 1},
}


def sweep(
    about: str,
    config: Config = SMALL,
    data: str = "short",
    start: str | None = None,
    teacher: str | None = None,
    **changes: object,
) -> Recipe:
    """A small training on as many tokens as all others, or a tuning of what it left."""
    training = dataclasses.replace(TUNING if start else SWEEP, **changes)
    if config.experts == 1:
        training = dataclasses.replace(training, dispatch="all_experts")
    return Recipe(about=about, config=config, training=training, data=data, start=start, teacher=teacher)


def with_experts(experts: int) -> Config:
    """So many experts, two of them used; of one, which is dense, twice the width."""
    return SMALL.replace(experts=experts) if experts > 1 else SMALL.replace(experts=1, top_k=1, d_ff=2 * SMALL.d_ff)


def counted(experts: int) -> str:
    """So many experts, in words."""
    return f"{experts} experts" if experts > 1 else "Dense"


RECIPES: dict[str, Recipe] = {
    "target": Recipe(
        about="The article's architecture at small width, on prose and code.",
        config=GPT,
        training=Training(steps=TARGET_ROWS // 8, batch=8, learning_rate=3e-3, warm_up=40),
    ),
    "draft": Recipe(
        about="A dense model of one layer that guesses what the target will say.",
        config=GPT.replace(layers=1, d_model=128, heads=2, d_ff=512, experts=1, top_k=1),
        training=Training(steps=TARGET_ROWS // 8, batch=8, learning_rate=4e-3, warm_up=40, dispatch="all_experts"),
    ),
    "context": Recipe(
        about="The target, tuned to four times the context by position interpolation.",
        config=GPT.replace(context=4 * LENGTH, rope_scale=4.0),
        training=Training(steps=40, batch=4, learning_rate=5e-4, warm_up=5),
        data="long",
        start="target",
    ),
    "instructions": Recipe(
        about="The target, tuned to answer, with loss on the answers alone.",
        config=GPT,
        training=Training(steps=160, batch=32, learning_rate=1.5e-3, warm_up=10),
        data="instructions",
        start="target",
    ),
    **{
        f"experts_{n}_{seed}": sweep(f"{counted(n)}, seed {seed}.", with_experts(n), seed=seed)
        for n in EXPERTS
        for seed in SEEDS
    },
    **{
        f"tuned_{n}_{seed}": sweep(
            f"{counted(n)}, seed {seed}, tuned to a little code.", with_experts(n), "unseen_code", f"experts_{n}_{seed}"
        )
        for n in EXPERTS
        for seed in SEEDS
    },
    # Neither has a choice to balance.
    **{
        f"router_{router}": sweep(f"16 experts; {how}.", SMALL.replace(router=router), balance=0.0)
        for router, how in ROUTERS.items()
    },
    # Drafts.
    "distilled_1": sweep(
        "Dense, taught by the dense model of another seed.",
        with_experts(1),
        start="experts_1_1",
        teacher="experts_1_0",
        **DISTILLING,
    ),
    "distilled_16": sweep(
        "Dense, taught by 16 experts.",
        with_experts(1),
        start="experts_1_0",
        teacher="experts_16_0",
        **DISTILLING,
    ),
    "unbalanced": sweep("16 experts without the loss that balances them.", balance=0.0),
    # The same rows in other batches; rates go by the square root of the batch.
    "batch_4": sweep("Batches of 4 rows.", steps=960, batch=4, learning_rate=2e-3, warm_up=80),
    "batch_64": sweep("Batches of 64 rows.", steps=60, batch=64, micro_batch=16, learning_rate=8e-3, warm_up=5),
    "ramp": sweep("A batch that grows from 4 rows to 16.", steps=385, batch_start=4, ramp=1600, warm_up=80),
    **{f"epochs_{n}": sweep(f"{n} epochs of a part of the data.", data=f"epochs_{n}") for n in EPOCHS},
    # Half the rows of twice the length.
    **{
        f"attention_{name}": sweep(
            f"{heads['heads']} query heads; heads of keys and of values: {heads['kv_heads']}.",
            SMALL.replace(experts=4, context=LENGTH, **heads),
            "mixture",
            batch=SWEEP.batch // 2,
        )
        for name, heads in HEADS.items()
    },
}


@cache
def code() -> str:
    """SHA-256 of the code that training goes through, comments aside, and of the versions of the libraries."""
    return code_hash([f"{room}/{name}.py" for room, names in CODE.items() for name in names], LIBRARIES)


@cache
def measuring() -> str:
    """Hash of the code that measures what recipes made, so that a change of it is measured anew."""
    return code_hash(("train/recipes.py", "train/sweeps.py"), LIBRARIES)[:8]


def digest(name: str) -> str:
    """Hash of a recipe, of what it starts from and learns from, and of the code.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; allowed: {', '.join(RECIPES)}")
    recipe = dataclasses.replace(RECIPES[name], about="")
    others = [digest(other) for other in (recipe.start, recipe.teacher) if other]
    return hashlib.sha256(f"{recipe} {others} {code()}".encode()).hexdigest()[:16]


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
        data = DATA[recipe.data]()
        if recipe.teacher:
            data = Distilled(data, *trained(recipe.teacher, progress)[:2])
        every = min(50, max(recipe.training.steps // 4, 1))
        return loop.train(recipe.config, recipe.training, data, directory, digest(name), start, every, progress)


def seconds(name: str) -> float:
    """Wall time that the training took on this machine; 0 if it was not trained here."""
    return loop.spent(place(name))


def measured(name: str, what: str, measure: Callable[[Trained], Any]) -> Any:
    """Something measured of a recipe's model once, as JSON holds it, and kept beside the model.

    Raises:
        ValueError: there is no such recipe.
    """
    return kept(place(name) / f"{what}-{measuring()}.json", lambda: measure(trained(name)))


def held_out(name: str) -> dict[str, float]:
    """Loss of a recipe's model in nats a token on text that no training has seen, by domain.

    The first `HELD_OUT` tokens of each domain's held-out documents, in rows of the model's context; dispatch is exact.

    Raises:
        ValueError: there is no such recipe.
    """

    def measure(made: Trained) -> dict[str, float]:
        return {
            domain: mean_loss(
                made, tokens.packed(tokens.tokenizer(VOCABULARY), domain, "held_out", made.config.context)
            )
            for domain in tokens.EPOCHS
        }

    return measured(name, "held_out", measure)


def mean_loss(made: Trained, rows: Int[np.ndarray, "R length+1"]) -> float:
    """Loss in nats a token on the first `HELD_OUT` tokens of some rows; dispatch is exact."""
    parts = rows[: HELD_OUT // made.config.context].reshape(HELD_OUT // 4096, -1, rows.shape[1])
    with jax.enable_x64(False):
        return float(np.mean([loop.losses(made.config, made.weights, part) for part in parts]))


def main() -> None:
    """Train what is missing, and say what each recipe cost."""
    parser = argparse.ArgumentParser(prog="python -m anatomy.train.recipes", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of recipes, all by default: {', '.join(RECIPES)}")
    names = parser.parse_args().names or list(RECIPES)
    if unknown := [name for name in names if name not in RECIPES]:
        parser.error(f"recipe is {unknown[0]!r}; allowed: {', '.join(RECIPES)}")
    for name in names:
        rows = int(RECIPES[name].training.batches().sum())
        loss = ", ".join(f"{domain} {loss:.3f}" for domain, loss in held_out(name).items())
        print(f"{name:<22} {seconds(name):7.1f} s  {rows:6,} rows  held out: {loss}", flush=True)
    print(f"{'in all':<22} {sum(map(seconds, names)):7.1f} s")


if __name__ == "__main__":
    main()
