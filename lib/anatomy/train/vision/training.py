"""The training of sight: AdamW on what is added alone, or on everything from scratch with text beside the images.

As in `train.loop`, a step is a pure function of the state and of the rows that its number names, so that a run that was
killed and goes on ends with the same bits as one that was not.

Source: alayrac2022flamingo, section 2, for a text model that stays as it is.
"""

import dataclasses
import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from tqdm import tqdm

from anatomy.model import Config, Weights, moe
from anatomy.model import init as init_text
from anatomy.model.vision import Added, Vision, encode, forward, init, kept, resample
from anatomy.specs.base import between, check_arguments, register
from anatomy.train import checkpoint, loop
from anatomy.train.cache import write_atomically
from anatomy.train.loop import CLOCK, Data, Training
from anatomy.train.tokens import Tokenizer
from anatomy.train.vision import images

WHOLE = {**between(high=0), "allowed": "0, for each step of sight is one whole batch"}
MEASURED = ("loss", "right", "gradient")  # of the captions of a step: loss, share of tokens; norm of the gradient


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a training changes: what sight adds, the text model unless it is frozen, and a head that is left behind.

    The head says from the latents, by one matrix, which digit lies in each cell, or none. It stands for the training
    of an encoder on its own that published models begin from: captions alone, through a frozen model of text, teach an
    encoder that knows nothing too slowly for minutes.
    """

    text: Weights | None
    added: Added
    head: Float[Array, "rD LONGEST*11"]


@dataclasses.dataclass(frozen=True)
class State:
    """All that a training is at one step."""

    learned: Learned
    optimizer: Any
    history: Mapping[str, Float[np.ndarray, "steps"]]


for _tree in (Learned, State):
    register(_tree)


def objective(
    config: Config, vision: Vision, training: Training, frozen: Weights | None, learned: Learned, batch: Mapping
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss that is minimised, and what is measured of the captions.

    Captions and head where the text model is frozen; otherwise also text, and the losses of the routers on both.
    """
    text, dispatch = learned.text if frozen is None else frozen, moe.TRAINABLE[training.dispatch]
    latents, looked = resample(vision, learned.added, encode(vision, learned.added, batch["images"]))
    guess = (latents.reshape(len(latents), -1) @ learned.head).reshape(*batch["labels"].shape, -1)
    seen = kept(config, learned.added, latents, looked)
    made, _ = forward(config, vision, text, learned.added, batch["tokens"][:, :-1], seen, dispatch=dispatch)
    targets, mask = batch["tokens"][:, 1:], batch["mask"]
    loss = loop.cross_entropy(made.logits, targets, mask)
    right = ((made.logits.argmax(-1) == targets) * mask).sum() / mask.sum()
    total = loss + loop.cross_entropy(guess, batch["labels"] % guess.shape[-1])  # none is the last
    if frozen is None:
        routers = training.balance * made.balance + training.z * made.z
        as_text = dataclasses.replace(training, dispatch=Training.dispatch)  # text is not all alike
        total += config.layers * routers + loop.objective(config, as_text, text, batch["text"])[0]
    return total, {"loss": loss, "right": right}


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(4, 5))
def step(
    config: Config,
    vision: Vision,
    training: Training,
    frozen: Weights | None,
    learned: Learned,
    optimizer: Any,
    batch: Mapping,
) -> tuple[Learned, Any, dict[str, Array]]:
    """One step of AdamW, and what was measured."""
    of = lambda given: objective(config, vision, training, frozen, given, batch)  # noqa: E731
    (_, measured), gradient = jax.value_and_grad(of, has_aux=True)(learned)
    change, optimizer = training.optimizer().update(gradient, optimizer, learned)
    measured |= {"gradient": optax.tree.norm(gradient)}
    return optax.apply_updates(learned, change), optimizer, measured


def fresh(config: Config, vision: Vision, training: Training, frozen: bool) -> State:
    """The state before the first step; a text model that is not frozen begins as its own recipe would."""
    key = jax.random.key(training.seed)
    head = jnp.zeros((vision.latents * vision.d_image, images.LONGEST * (len(images.WORDS) + 1)), jnp.float32)
    text = None if frozen else init_text(config, key)
    learned = Learned(text, init(config, vision, jax.random.fold_in(key, 1)), head)
    history = {name: np.zeros(training.steps, np.float32) for name in MEASURED}
    return State(learned, training.optimizer().init(learned), history)


def train(
    config: Config,
    vision: Vision,
    training: Training,
    tokenizer: Tokenizer,
    text: Weights | Data,
    text_rows: int = 0,
    directory: Path | None = None,
    maker: str = "",
    every: int = 100,
    progress: bool = True,
) -> State:
    """Train sight, or go on where the last checkpoint ends.

    Args:
        config: of the text model.
        vision: of what is added.
        training: how; a batch is so many images.
        tokenizer: that writes captions.
        text: weights of a text model that stays as it is; or rows of text, for a model that learns from scratch.
        text_rows: of these in each step.
        directory: for checkpoints; None for none.
        maker: what the checkpoints belong to.
        every: steps between checkpoints.
        progress: whether a bar shows images a second, loss and share of tokens that were right.

    Returns:
        The last state, and its history: a number for each step.

    Raises:
        TypeError, ValueError: a number is impossible, rows of text are asked for without any or the other way round,
            the tokenizer has tokens beyond the vocabulary, or the training has a ramp or smaller batches.
        FloatingPointError: the loss is no number.
    """
    frozen = text if isinstance(text, Weights) else None
    check_arguments("Training", WHOLE, **{name: getattr(training, name) for name in ("batch_start", "micro_batch")})
    check_arguments("train", between(1, whole=True), every=every)
    least = 0 if frozen is not None else 1
    check_arguments("train", between(least, least * 1e6, whole=True), text_rows=text_rows)
    if tokenizer.vocabulary > config.vocabulary:
        raise ValueError(f"tokenizer has {tokenizer.vocabulary} tokens; allowed: at most {config.vocabulary}")
    state, done = fresh(config, vision, training, frozen is not None), 0
    if directory is not None and (found := checkpoint.latest(directory, state, maker)) is not None:
        done, state = found
    learned, optimizer = jax.tree.map(jnp.array, (state.learned, state.optimizer))  # copies: they are given away
    history = {name: np.array(values) for name, values in state.history.items()}
    before, began = loop.spent(directory), time.monotonic()
    with tqdm(total=training.steps, initial=done, desc="training", unit="step", disable=not progress) as bar:
        for number in range(done, training.steps):
            given = batch(vision, training, tokenizer, number)
            if frozen is None:
                given["text"] = text.rows(number * text_rows, text_rows)[0]
            learned, optimizer, measured = step(config, vision, training, frozen, learned, optimizer, given)
            for name, values in history.items():
                values[number] = measured[name]
            if not np.isfinite(history["loss"][number]):
                raise FloatingPointError(f"loss is {history['loss'][number]} at step {number}; lower the learning rate")
            speed = training.batch * (number + 1 - done) / (time.monotonic() - began)
            bar.set_postfix_str(
                f"{speed:,.0f} images/s, loss {history['loss'][number]:.3f}, right {history['right'][number]:.1%}"
            )
            bar.update()
            if directory is not None and ((number + 1) % every == 0 or number + 1 == training.steps):
                checkpoint.save(directory, number + 1, State(learned, optimizer, history), maker)
                write_atomically(directory / CLOCK, json.dumps(before + time.monotonic() - began).encode())
    return State(learned, optimizer, history)


def batch(vision: Vision, training: Training, tokenizer: Tokenizer, number: int) -> dict[str, np.ndarray]:
    """Images, captions and digits of a step, by its number."""
    drawn = images.rows("train", number * training.batch, training.batch, vision)
    tokens, mask = images.captioned(tokenizer, drawn.labels)
    return {"images": drawn.images, "tokens": tokens, "mask": mask, "labels": drawn.labels}
