"""The steps of a training of text: each a pure function of weights, optimizer, and the rows that its number names.

What is trained is decided here and in what is called from here; `driver` keeps it on disk, shows and interrupts it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from anatomy.model import Config, Weights, init
from anatomy.specs.base import register
from anatomy.train.loop.batch import Batch, Data, batch_of
from anatomy.train.loop.objective import gradients
from anatomy.train.loop.settings import Training

# Of every step: losses, share of choices that were dropped, norm of the gradient, mean square of the norms of its
# units' gradients, and beside these the load of each expert in each layer.
MEASURED = ("loss", "balance", "z", "dropped", "gradient", "square")

Step = Callable[[Any, Any, int], tuple[Any, Any, dict[str, Array]]]  # weights, optimizer, number; and what was measured


@dataclasses.dataclass(frozen=True)
class State:
    """All that a training is at one step."""

    weights: Any  # `Weights`, or of sight `Learned`
    optimizer: Any
    history: Mapping[str, Float[np.ndarray, "steps *shape"]]  # what was measured at each step


register(State)


def fresh(config: Config, training: Training, start: Weights | None = None) -> State:
    """The state before the first step."""
    weights = init(config, jax.random.key(training.seed)) if start is None else jax.tree.map(jnp.array, start)
    history = {name: np.zeros(training.steps, np.float32) for name in MEASURED}
    history["load"] = np.zeros((training.steps, config.layers, config.experts), np.float32)
    return State(weights, training.optimizer().init(weights), history)


def steps_of(config: Config, training: Training, data: Data) -> Step:
    """The function that takes one step, from weights, the optimizer's state and the number of the step.

    It gives the next weights and state and what was measured, and uses up those that it was given. The rows of a step
    follow those of the step before.
    """
    batches = training.batches()
    first_rows = np.concatenate([[0], np.cumsum(batches)])

    def step(weights: Weights, optimizer: Any, number: int) -> tuple[Weights, Any, dict[str, Array]]:
        gradient, measured = accumulate(config, training, weights, data, first_rows[number], batches[number])
        weights, optimizer, norm = update(training, weights, optimizer, gradient)
        return weights, optimizer, measured | {"gradient": norm}

    return step


def accumulate(
    config: Config, training: Training, weights: Weights, data: Data, first: int, count: int
) -> tuple[Weights, dict[str, Array]]:
    """Mean gradient and measures of a batch, unit by unit.

    Raises:
        ValueError: a token is beyond the vocabulary.
    """
    parts = []
    for begin in range(int(first), int(first + count), training.unit):
        batch = batch_of(data, begin, training.unit)
        check_tokens(config, batch)
        parts.append(gradients(config, training, weights, batch))
        if len(parts) > 1:
            parts = [added(*parts)]
    number = count // training.unit
    return parts[0] if number == 1 else scaled(parts[0], 1 / number)


def check_tokens(config: Config, batch: Batch) -> None:
    """Refuse tokens that a model does not know.

    Raises:
        ValueError: so they are.
    """
    if (highest := batch.rows.max()) >= config.vocabulary:
        raise ValueError(f"a token of the data is {highest}; allowed: below {config.vocabulary}, Config.vocabulary")


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
