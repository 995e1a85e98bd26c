"""Recipes of text models: the article's model at small width and its draft, what they are tuned to, and sweeps."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anatomy.model import Config
from anatomy.train.data.distillation import Distilled
from anatomy.train.data.sources import DATA, EPOCHS, LENGTH, SWEEP_ROWS, TARGET_ROWS, VOCABULARY
from anatomy.train.loop.driver import Trained, finished, train
from anatomy.train.loop.settings import Training
from anatomy.train.loop.steps import fresh, steps_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training of a text model with a name.

    Attributes:
        about: what it is for, in a line.
        config: of the model.
        training: how.
        data: a key of `sources.DATA`.
        start: name of the recipe whose weights it begins with, or none.
        teacher: name of the recipe whose distribution of the next token it learns in place of the token, or none.
    """

    about: str
    config: Config
    training: Training
    data: str = "mixture"
    start: str | None = None
    teacher: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Recipes whose models it is trained with."""
        return tuple(name for name in (self.start, self.teacher) if name)

    @property
    def identity(self) -> str:
        """All that its author decided."""
        return repr(dataclasses.replace(self, about=""))

    @property
    def code(self) -> tuple[Callable[..., Any], ...]:
        """Functions that, with what they call, decide what comes out."""
        return (fresh, steps_of, DATA[self.data], *([Distilled] if self.teacher else []))

    @property
    def work(self) -> float:
        """Tokens times parameters that a token passes, roughly in proportion to the time that it takes."""
        return (
            float(self.training.batches().sum()) * self.config.context * passed_parameters(self.config, self.training)
        )

    def model(
        self, of: Callable[[str], Any], directory: Path, maker: str, progress: bool = True, title: str = "training"
    ) -> Trained:
        """The model that lies in a directory, trained there first if it does not.

        Args:
            of: gives the model of a recipe in `needs`, asked only where it is needed.
            directory: of this training alone.
            maker: what its files belong to.
            progress: whether it says how far it is.
            title: of what it says.
        """
        if (found := finished(self.config, self.training, directory, maker)) is not None:
            return found
        data = DATA[self.data]()
        if self.teacher:
            data = Distilled(data, *of(self.teacher)[:2])
        start = of(self.start).weights if self.start else None
        every = min(50, max(self.training.steps // 4, 1))
        return train(self.config, self.training, data, directory, maker, start, every, progress, title)


def passed_parameters(config: Config, training: Training) -> float:
    """Parameters that a token passes in training: those of all experts where each computes every token."""
    parameters = config.architecture.parameters
    return float(parameters.total if training.dispatch == "all_experts" else parameters.active)


GPT = Config(vocabulary=VOCABULARY, context=LENGTH)  # the article's 16 experts, 2 of them used, and one key head
SMALL = Config(
    vocabulary=VOCABULARY, context=LENGTH // 2, layers=2, d_model=96, heads=3, kv_heads=1, head_dim=32, d_ff=96
)  # a sweep in minutes
SWEEP = Training(steps=SWEEP_ROWS // 16, batch=16, learning_rate=4e-3, warm_up=20, z=0.0)
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


TEXT: dict[str, Recipe] = {
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
