"""A training that is run: kept on disk, taken up again where it stopped, shown, and interrupted between steps.

A run that was killed or interrupted and goes on ends with the same bits as one that was not. While it runs,
checkpoints hold all that it is; when it ends, one file with its weights and history takes their place.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anatomy.memo import write_atomically
from anatomy.model import Config, Weights
from anatomy.specs.base import between, check_arguments, check_types
from anatomy.train.loop import checkpoint
from anatomy.train.loop.batch import Data
from anatomy.train.loop.interrupt import held_back
from anatomy.train.loop.progress import Progress
from anatomy.train.loop.settings import Training
from anatomy.train.loop.steps import State, Step, fresh, steps_of

CLOCK = "seconds.json"  # beside the checkpoints


class Trained(NamedTuple):
    """A model and how it came about."""

    config: Config
    weights: Weights
    history: dict[str, np.ndarray]


def train(
    config: Config,
    training: Training,
    data: Data,
    directory: Path | None = None,
    maker: str = "",
    start: Weights | None = None,
    every: int = 50,
    progress: bool = True,
    title: str = "training",
) -> Trained:
    """Train a model, or go on where its last checkpoint ends.

    Args:
        config: of the model.
        training: how.
        data: rows, and what may go with them: see `Data`.
        directory: for checkpoints; None for none. Each training needs one of its own.
        maker: what the checkpoints belong to, such as the hash of a recipe; needed with a directory.
        start: weights to begin from, for fine-tuning; by default `init` with the seed.
        every: steps between checkpoints.
        progress: whether tokens a second, loss and the share of choices that were dropped are shown.
        title: of what is shown.

    Returns:
        The model, and its history: a row for each step.

    Raises:
        TypeError, ValueError: an argument is something else than it should be; the data ends too early, has longer
            rows than the context or tokens beyond the vocabulary; it masks tokens, and a batch is more than one unit,
            which would weigh alike whatever they count; `every` is no whole number of at least 1; or there is a
            directory, and nothing says whose it is, or it holds what another training wrote.
        FloatingPointError: the loss is no number.
        KeyboardInterrupt: it was interrupted; the same call goes on from there.
    """
    check_types("train", config=(config, Config), training=(training, Training))
    check_types("train", data=(data, hasattr(data, "rows"), "data with a method `rows`, see `loop.Data`"))
    for kind in ("loss_mask", "padding_mask"):
        if hasattr(data, kind) and getattr(data, kind)(0, 1) is not None and training.unit != training.batch:
            raise ValueError(
                f"Training.micro_batch is {training.micro_batch}; allowed with a {kind}: batch ({training.batch}), "
                "or 0 and no ramp"
            )

    def check_end() -> None:
        data.rows(int(training.batches().sum()) - 1, 1)  # an end that comes too early is told at once

    rows_before = np.concatenate([[0], np.cumsum(training.batches())])

    def remark(number: int, first: int, seconds: float, history: dict[str, np.ndarray]) -> str:
        seen = (rows_before[number + 1] - rows_before[first]) * (data.rows(0, 1)[0].shape[1] - 1)
        return (
            f"{seen / seconds:,.0f} tokens/s, loss {history['loss'][number]:.3f}, "
            f"dropped {history['dropped'][number]:.1%}"
        )

    place = Place(directory, owner(maker, config, training), every)
    state = fresh(config, training, start)
    return result(
        config, training, *run(steps_of(config, training, data), state, place, remark, progress, title, check_end)
    )


def result(config: Config, training: Training, weights: Weights, history: dict[str, np.ndarray]) -> Trained:
    """A model, the rows of each step added to its history."""
    return Trained(config, weights, history | {"rows": training.batches().astype(float)})


def finished(config: Config, training: Training, directory: Path, maker: str) -> Trained | None:
    """The model that `train` left in a directory when it ended, or None; arguments as there.

    Raises:
        ValueError: another training has ended there.
    """
    like = jax.eval_shape(partial(fresh, config, training))
    end = ending(directory, like, owner(maker, config, training))
    return end and result(config, training, *end)


def owner(maker: str, *settings: object) -> str:
    """What tells the files of a training from those of another: its maker, and all that it was told."""
    return " ".join(map(str, (maker, *settings))) if maker else ""


class Place(NamedTuple):
    """Where a training is kept: a directory or None, what tells its files from another's, steps between checkpoints."""

    directory: Path | None
    maker: str
    every: int


def run(
    step: Step,
    state: State,
    place: Place,
    remark: Callable[[int, int, float, dict[str, np.ndarray]], str],
    progress: bool = True,
    title: str = "training",
    before: Callable[[], None] = lambda: None,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Take all steps that are not taken yet.

    Args:
        step: takes one.
        state: before the first; its history has room for all.
        place: where the training is kept.
        remark: what there is to say after a step, from its number, that of the first that this process took, the
            seconds since, and the history.
        progress: whether it is said.
        title: of what is said.
        before: called where steps are to be taken, before the first.

    Returns:
        The weights and the history at the end.

    Raises:
        TypeError, ValueError, FloatingPointError, KeyboardInterrupt: as `train`.
    """
    directory, maker, every = place
    check_arguments("train", between(1, whole=True), every=every)
    if directory is not None:
        if not maker:
            raise ValueError(
                "maker is ''; allowed with a directory: what tells its checkpoints from another training's"
            )
        if (end := ending(directory, state, maker)) is not None:
            return end
    steps, done = len(next(iter(state.history.values()))), 0
    if directory is not None and (found := checkpoint.latest(directory, state, maker)) is not None:
        done, state = found
    if done < steps:
        before()
    weights, optimizer = jax.tree.map(jnp.array, (state.weights, state.optimizer))  # copies: they are given away
    history = {name: np.array(values) for name, values in state.history.items()}
    earlier = seconds(directory)
    with held_back() as interrupted, Progress(title, steps, done, progress) as shown:
        for number in range(done, steps):
            weights, optimizer, measured = step(weights, optimizer, number)
            for name, values in jax.device_get(measured).items():
                history[name][number] = values
            if not np.isfinite(history["loss"][number]):
                raise FloatingPointError(f"loss is {history['loss'][number]} at step {number}; lower the learning rate")
            shown.step(remark(number, done, shown.seconds, history))
            stop = interrupted()
            if directory is not None and (stop or (number + 1) % every == 0) and number + 1 < steps:
                checkpoint.save(directory, number + 1, State(weights, optimizer, history), maker)
                write_atomically(directory / CLOCK, json.dumps(earlier + shown.seconds).encode())
            if stop and number + 1 < steps:
                kept = (
                    "nothing of it is kept" if directory is None else "its checkpoint is whole; run it again to go on"
                )
                raise KeyboardInterrupt(f"{title} stopped after step {number + 1} of {steps}; {kept}")
        if directory is not None:
            write_atomically(directory / CLOCK, json.dumps(earlier + shown.seconds).encode())
            checkpoint.finish(directory, steps, ended(State(weights, optimizer, history)), maker)
        if interrupted():
            raise KeyboardInterrupt(f"{title} had ended")
    return weights, history


def ended(state: State) -> dict[str, Any]:
    """What stays of a training that has ended."""
    return {"weights": state.weights, "history": dict(state.history)}


def ending(directory: Path, state: State, maker: str) -> tuple[Any, dict[str, np.ndarray]] | None:
    """Weights and history of a training that has ended in a directory, or None.

    Args:
        directory: of the training.
        state: of the same structure, shapes and types.
        maker: as `Place` has it.

    Raises:
        ForeignError: another training has ended there.
    """
    if (end := checkpoint.final(directory, ended(state), maker)) is None:
        return None
    return jax.tree.map(jnp.asarray, end["weights"]), end["history"]


def seconds(directory: Path | None) -> float:
    """Seconds that a training took up to its last checkpoint, over all the times that it was taken up; 0 if never."""
    if directory is None:
        return 0.0
    try:
        return float(json.loads((directory / CLOCK).read_text()))
    except (FileNotFoundError, ValueError):  # damaged: what was spent before is forgotten, the training is not
        return 0.0
