"""The training loop: AdamW on next-token loss, a batch that may grow, and checkpoints to go on from.

Every step is a pure function of the state and of the rows of the data that its number names. So a run that was
killed and goes on ends with the same bits as one that was not.

Source: loshchilov2019adamw for the optimizer; brown2020gpt3, appendix B, for the batch ramp; fedus2022switch and
zoph2022stmoe for the losses of the routers.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from anatomy.model import Config, Weights, forward, init, moe
from anatomy.specs.base import FINITE, between, check_arguments, check_number, register
from anatomy.train import checkpoint
from anatomy.train.cache import write_atomically

AT_LEAST_NONE = {**between(high=1e300), "allowed": "a finite number at least 0"}


class Data(Protocol):
    """Rows in an order that is fixed: training may start anywhere in it."""

    def rows(self, start: int, count: int) -> tuple[Int[np.ndarray, "count length+1"], Int[np.ndarray, "count"]]:
        """Tokens of rows from `start` on, and the domain that each came from."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained.

    Attributes:
        steps: updates of the weights.
        batch: rows of a step, once the batch has grown.
        batch_start: rows of the first step; the batch grows in proportion to the rows seen. 0: no ramp.
        ramp: rows over which it grows.
        micro_batch: rows that pass at once; gradients add up over the batch. 0: the whole batch.
        learning_rate: the highest.
        warm_up: steps in which it is reached.
        last: share of it that a cosine leaves at the end.
        decay: weight decay of matrices.
        clip: norm to which gradients are clipped.
        balance: weight of the load-balancing loss of each layer.
        z: weight of the z loss of each layer.
        dispatch: name of one of `model.moe.TRAINABLE`.
        seed: of the weights.

    Raises:
        TypeError, ValueError: a field is impossible; the message names it, its value and what is allowed.
    """

    steps: int
    batch: int = 16
    batch_start: int = 0
    ramp: int = 0
    micro_batch: int = 0
    learning_rate: float = 2e-3
    warm_up: int = 20
    last: float = 0.1
    decay: float = 0.1
    clip: float = 1.0
    balance: float = 0.02
    z: float = 0.001
    dispatch: str = "by_capacity"
    seed: int = dataclasses.field(default=0, compare=False)  # one program for all seeds

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for field in dataclasses.fields(self):
            value, low = getattr(self, field.name), 1 if field.name in ("steps", "batch") else 0
            if field.type is int:
                right = isinstance(value, int) and not isinstance(value, bool) and value >= low
                self._refuse(not right, field.name, f"a whole number at least {low}")
            elif field.type is float:
                above = field.name in ("learning_rate", "clip")
                share = between(high=1) if field.name == "last" else AT_LEAST_NONE
                check_number("Training", field.name, value, FINITE if above else share)
        self._refuse(self.dispatch not in moe.TRAINABLE, "dispatch", ", ".join(sorted(moe.TRAINABLE)))
        self._refuse(self.batch % self.unit, "batch", f"a multiple of micro_batch ({self.unit})")
        self._refuse(self.batch_start % self.unit, "batch_start", f"a multiple of micro_batch ({self.unit})")
        self._refuse(self.batch_start > self.batch, "batch_start", f"at most batch ({self.batch})")
        self._refuse(bool(self.batch_start) != bool(self.ramp), "ramp", "above 0 with batch_start, and 0 without")

    def _refuse(self, wrong: object, name: str, allowed: str) -> None:
        """Refuse one field."""
        if wrong:
            raise ValueError(f"Training.{name} is {getattr(self, name)!r}; allowed: {allowed}")

    @property
    def unit(self) -> int:
        """Rows that pass at once: the batch grows by as many."""
        return self.micro_batch or self.batch_start or self.batch

    def batches(self) -> Int[np.ndarray, "steps"]:
        """Rows of each step, in whole units."""
        sizes, seen = [], 0
        for _ in range(self.steps):
            grown = self.batch
            if self.ramp and seen < self.ramp:
                grown = self.batch_start + (self.batch - self.batch_start) * seen / self.ramp
            sizes.append(int(grown) // self.unit * self.unit)
            seen += sizes[-1]
        return np.array(sizes)

    def schedule(self) -> optax.Schedule:
        """Learning rate by step: up in a line, down in a cosine."""
        return optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, min(self.warm_up, self.steps - 1), self.steps, self.last * self.learning_rate
        )

    def adamw(self) -> optax.GradientTransformation:
        """AdamW; norms are not decayed."""

        def is_matrix(weights: Weights) -> Any:
            return jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in path[-1].name, weights)

        return optax.adamw(self.schedule(), b1=0.9, b2=0.95, weight_decay=self.decay, mask=is_matrix)

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW with clipped gradients."""
        return optax.chain(optax.clip_by_global_norm(self.clip), self.adamw())


@dataclasses.dataclass(frozen=True)
class State:
    """All that a training is at one step."""

    weights: Weights
    optimizer: Any
    history: Mapping[str, Float[np.ndarray, "steps *shape"]]  # what was measured at each step


register(State)


class Trained(NamedTuple):
    """A model and how it came about."""

    config: Config
    weights: Weights
    history: dict[str, np.ndarray]


# Of every step: losses, share of choices that were dropped, norm of the gradient, mean square of the norms of its
# units' gradients, and beside these the load of each expert in each layer.
MEASURED = ("loss", "balance", "z", "dropped", "gradient", "square")

CLOCK = "seconds.json"  # beside the checkpoints


def cross_entropy(
    logits: Float[Array, "B S V"],
    targets: Int[Array, "B S"] | Float[Array, "B S V"],
    mask: Float[Array, "B S"] | None = None,
) -> Float[Array, ""]:
    """Mean loss of the next token, or of its law, in nats, over all tokens or over those of the mask."""
    known = targets.ndim < logits.ndim
    each = (optax.softmax_cross_entropy_with_integer_labels if known else optax.softmax_cross_entropy)(logits, targets)
    return each.mean() if mask is None else (each * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def objective(
    config: Config,
    training: Training,
    weights: Weights,
    rows: Int[Array, "B length+1"],
    mask: Float[Array, "B length"] | None = None,
    law: Float[Array, "B length V"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss that is minimised, of the next tokens or of the law that a teacher gives them; and what is measured."""
    made = forward(config, weights, rows[:, :-1], dispatch=moe.TRAINABLE[training.dispatch])
    loss = cross_entropy(made.logits, rows[:, 1:] if law is None else law, mask)
    total = loss + config.layers * (training.balance * made.balance + training.z * made.z)
    measured = {"loss": loss, "balance": made.balance, "z": made.z, "dropped": made.dropped}
    return total, measured | {"load": made.load}


@partial(jax.jit, static_argnums=(0, 1))
def gradients(
    config: Config,
    training: Training,
    weights: Weights,
    rows: Array,
    mask: Array | None = None,
    law: Array | None = None,
) -> tuple[Weights, dict[str, Array]]:
    """Gradients of the objective on some rows, and what was measured."""
    of = lambda given: objective(config, training, given, rows, mask, law)  # noqa: E731
    (_, measured), made = jax.value_and_grad(of, has_aux=True)(weights)
    return made, measured | {"square": optax.tree.norm(made, squared=True)}


@partial(jax.jit, donate_argnums=0)
def added(one: Any, other: Any) -> Any:
    """Sum of two trees."""
    return jax.tree.map(jnp.add, one, other)


@partial(jax.jit, donate_argnums=0)
def scaled(tree: Any, factor: float) -> Any:
    """A tree times a number."""
    return jax.tree.map(lambda leaf: leaf * factor, tree)


@partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def update(training: Training, weights: Weights, optimizer: Any, gradient: Weights) -> tuple[Weights, Any, Array]:
    """One step of AdamW; also the norm of the gradient, before it is clipped."""
    change, optimizer = training.optimizer().update(gradient, optimizer, weights)
    return optax.apply_updates(weights, change), optimizer, optax.tree.norm(gradient)


def train(
    config: Config,
    training: Training,
    data: Data,
    directory: Path | None = None,
    maker: str = "",
    start: Weights | None = None,
    every: int = 50,
    progress: bool = True,
) -> Trained:
    """Train a model, or go on where its last checkpoint ends.

    Args:
        config: of the model.
        training: how.
        data: rows; with a method `masks` also the tokens that the loss counts, with `laws` what is learned of them.
        directory: for checkpoints; None for none.
        maker: what the checkpoints belong to, such as the hash of a recipe; needed with a directory.
        start: weights to begin from, for fine-tuning; by default `init` with the seed.
        every: steps between checkpoints.
        progress: whether a bar shows tokens a second, loss and the share of choices that were dropped.

    Returns:
        The model, and its history: a row for each step.

    Raises:
        TypeError, ValueError: the data ends too early, has longer rows than the context or tokens beyond the
            vocabulary; it has masks, and a batch is more than one unit, which would weigh alike whatever they count;
            `every` is no whole number of at least 1; or there is a directory, and nothing says whose it is.
        FloatingPointError: the loss is no number.
    """
    check_arguments("train", between(1, whole=True), every=every)
    if directory is not None and not maker:
        raise ValueError("maker is ''; allowed with a directory: what tells its checkpoints from another training's")
    if hasattr(data, "masks") and training.unit != training.batch:
        raise ValueError(f"Training.micro_batch is {training.unit}; allowed with masks: batch ({training.batch})")
    batches = training.batches()
    first_rows = np.concatenate([[0], np.cumsum(batches)])
    state = fresh(config, training, start)
    done = 0
    if directory is not None and (found := checkpoint.latest(directory, state, maker)) is not None:
        done, state = found
    if done < training.steps:
        data.rows(int(first_rows[-1]) - 1, 1)  # an end that comes too early is told at once
    weights, optimizer = jax.tree.map(jnp.array, (state.weights, state.optimizer))  # copies: they are given away
    history = {name: np.array(values) for name, values in state.history.items()}
    before, began = spent(directory), time.monotonic()
    with tqdm(total=training.steps, initial=done, desc="training", unit="step", disable=not progress) as bar:
        for step in range(done, training.steps):
            gradient, measured = accumulate(config, training, weights, data, first_rows[step], batches[step])
            weights, optimizer, norm = update(training, weights, optimizer, gradient)
            measured |= {"gradient": norm}
            for name, values in history.items():
                values[step] = measured[name]
            if not np.isfinite(history["loss"][step]):
                raise FloatingPointError(f"loss is {history['loss'][step]} at step {step}; lower the learning rate")
            seen = (first_rows[step + 1] - first_rows[done]) * (data.rows(0, 1)[0].shape[1] - 1)
            bar.set_postfix_str(
                f"{seen / (time.monotonic() - began):,.0f} tokens/s, loss {history['loss'][step]:.3f}, "
                f"dropped {history['dropped'][step]:.1%}"
            )
            bar.update()
            if directory is not None and ((step + 1) % every == 0 or step + 1 == training.steps):
                checkpoint.save(directory, step + 1, State(weights, optimizer, history), maker)
                write_atomically(directory / CLOCK, json.dumps(before + time.monotonic() - began).encode())
    return Trained(config, weights, history | {"rows": batches.astype(float)})


def spent(directory: Path | None) -> float:
    """Seconds that a training took up to its last checkpoint, over all the times that it was taken up; 0 if never."""
    if directory is None:
        return 0.0
    try:
        return float(json.loads((directory / CLOCK).read_text()))
    except (FileNotFoundError, ValueError):  # damaged: what was spent before is forgotten, the training is not
        return 0.0


def fresh(config: Config, training: Training, start: Weights | None = None) -> State:
    """The state before the first step."""
    weights = init(config, jax.random.key(training.seed)) if start is None else jax.tree.map(jnp.array, start)
    history = {name: np.zeros(training.steps, np.float32) for name in MEASURED}
    history["load"] = np.zeros((training.steps, config.layers, config.experts), np.float32)
    return State(weights, training.optimizer().init(weights), history)


def accumulate(
    config: Config, training: Training, weights: Weights, data: Data, first: int, count: int
) -> tuple[Weights, dict[str, Array]]:
    """Mean gradient and measures of a batch, unit by unit."""
    parts = []
    for begin in range(int(first), int(first + count), training.unit):
        rows, _ = data.rows(begin, training.unit)
        if (highest := rows.max()) >= config.vocabulary:
            raise ValueError(f"a token of the data is {highest}; allowed: below {config.vocabulary}, Config.vocabulary")
        mask = data.masks(begin, training.unit) if hasattr(data, "masks") else None
        law = data.laws(begin, training.unit) if hasattr(data, "laws") else None
        parts.append(gradients(config, training, weights, rows, mask, law))
        if len(parts) > 1:
            parts = [added(*parts)]
    number = count // training.unit
    return parts[0] if number == 1 else scaled(parts[0], 1 / number)


@partial(jax.jit, static_argnums=0)
def losses(config: Config, weights: Weights, rows: Int[Array, "B length+1"]) -> Float[Array, "B length"]:
    """Loss of every token in nats, with exact dispatch."""
    made = forward(config, weights, rows[:, :-1], dispatch=moe.with_overflow)
    return optax.softmax_cross_entropy_with_integer_labels(made.logits, rows[:, 1:])
