"""The training of sight: AdamW on what is added alone, or on everything from scratch with text beside the images.

As in `train.loop`, a step is a pure function of the state and of the rows that its number names, so that a run that was
killed and goes on ends with the same bits as one that was not.

Source: alayrac2022flamingo, section 2, for a text model that stays as it is.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from anatomy.model import Config, Weights, moe
from anatomy.model import init as init_text
from anatomy.model.vision import Added, Vision, encode, forward, init, kept, resample
from anatomy.specs.base import between, check_arguments, check_types, register
from anatomy.train.data import digits
from anatomy.train.data.tokens import Tokenizer
from anatomy.train.loop import driver
from anatomy.train.loop.batch import Batch, Data, batch_of
from anatomy.train.loop.objective import cross_entropy, masked
from anatomy.train.loop.objective import objective as objective_of_text
from anatomy.train.loop.settings import Training
from anatomy.train.loop.steps import State, Step

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


register(Learned)


class Sights(NamedTuple):
    """What a step reads: images with their captions and digits, and from scratch rows of text too."""

    images: Float[Array, "B height width"]
    captions: Batch
    labels: Int[Array, "B LONGEST"]
    text: Batch | None = None


def objective(
    config: Config, vision: Vision, training: Training, frozen: Weights | None, learned: Learned, batch: Sights
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss that is minimised, and what is measured of the captions.

    Captions and head where the text model is frozen; otherwise also text, and the losses of the routers on both.
    Padding of captions has no part in it.
    """
    text, dispatched = learned.text if frozen is None else frozen, moe.TRAINABLE[training.dispatch]
    latents, looked = resample(vision, learned.added, encode(vision, learned.added, batch.images))
    guess = (latents.reshape(len(latents), -1) @ learned.head).reshape(*batch.labels.shape, -1)
    seen, captions = kept(config, learned.added, latents, looked), batch.captions
    inputs, targets, counted = captions.rows[:, :-1], captions.rows[:, 1:], captions.loss_mask
    mask = masked(captions.padding_mask)
    output, _ = forward(config, vision, text, learned.added, inputs, seen, dispatch=dispatched, **mask)
    loss = cross_entropy(output.logits, targets, counted)
    right = ((output.logits.argmax(-1) == targets) * counted).sum() / counted.sum()
    total = loss + cross_entropy(guess, batch.labels % guess.shape[-1])  # none is the last
    if frozen is None:
        routers = training.balance * output.balance + training.z * output.z
        as_text = dataclasses.replace(training, dispatch=Training.dispatch)  # text is not all alike
        total += config.layers * routers + objective_of_text(config, as_text, text, batch.text)[0]
    return total, {"loss": loss, "right": right}


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(4, 5))
def step(
    config: Config,
    vision: Vision,
    training: Training,
    frozen: Weights | None,
    learned: Learned,
    optimizer: Any,
    batch: Sights,
) -> tuple[Learned, Any, dict[str, Array]]:
    """One step of AdamW, and what was measured."""
    of = lambda inputs: objective(config, vision, training, frozen, inputs, batch)  # noqa: E731
    (_, measured), gradient = jax.value_and_grad(of, has_aux=True)(learned)
    change, optimizer = training.optimizer().update(gradient, optimizer, learned)
    measured |= {"gradient": optax.tree.norm(gradient)}
    return optax.apply_updates(learned, change), optimizer, measured


def fresh(config: Config, vision: Vision, training: Training, frozen: bool) -> State:
    """The state before the first step; its weights are `Learned`, a text model that learns begins as its own recipe."""
    key = jax.random.key(training.seed)
    head = jnp.zeros((vision.latents * vision.d_image, digits.LONGEST * (len(digits.WORDS) + 1)), jnp.float32)
    text = None if frozen else init_text(config, key)
    learned = Learned(text, init(config, vision, jax.random.fold_in(key, 1)), head)
    history = {name: np.zeros(training.steps, np.float32) for name in MEASURED}
    return State(learned, training.optimizer().init(learned), history)


def batch(vision: Vision, training: Training, tokenizer: Tokenizer, number: int) -> Sights:
    """Images, captions and digits of a step, by its number."""
    drawn = digits.rows("train", number * training.batch, training.batch, vision)
    return Sights(drawn.images, Batch(*digits.captioned(tokenizer, drawn.labels)), drawn.labels)


def steps_of(
    config: Config,
    vision: Vision,
    training: Training,
    tokenizer: Tokenizer,
    text: Weights | Data,
    text_rows: int = 0,
) -> Step:
    """The function that takes one step, as `loop.steps_of`; arguments as those of `train`."""
    frozen = text if isinstance(text, Weights) else None

    def take(learned: Learned, optimizer: Any, number: int) -> tuple[Learned, Any, dict[str, Array]]:
        inputs = batch(vision, training, tokenizer, number)
        if frozen is None:
            inputs = inputs._replace(text=batch_of(text, number * text_rows, text_rows))
        return step(config, vision, training, frozen, learned, optimizer, inputs)

    return take


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
    title: str = "training",
) -> tuple[Learned, dict[str, np.ndarray]]:
    """Train sight, or go on where the last checkpoint ends.

    Args:
        config: of the text model.
        vision: of what is added.
        training: how; a batch is so many images.
        tokenizer: that writes captions.
        text: weights of a text model that stays as it is; or rows of text, for a model that learns from scratch.
        text_rows: of these in each step.
        directory: for checkpoints; None for none. Each training needs one of its own.
        maker: what the checkpoints belong to.
        every: steps between checkpoints.
        progress: whether images a second, loss and share of tokens that were right are shown.
        title: of what is shown.

    Returns:
        What was learned, and its history: a number for each step.

    Raises:
        TypeError, ValueError: an argument is something else than it should be, a number is impossible, rows of text
            are asked for without any or the other way round, the tokenizer has tokens beyond the vocabulary, the
            training has a ramp or smaller batches, or the directory holds what another training wrote.
        FloatingPointError: the loss is no number.
        KeyboardInterrupt: it was interrupted; the same call goes on from there.
    """
    check_types(
        "train",
        config=(config, Config),
        vision=(vision, Vision),
        training=(training, Training),
        tokenizer=(tokenizer, Tokenizer),
        text=(text, isinstance(text, Weights) or hasattr(text, "rows"), "Weights, or data with a method `rows`"),
    )
    frozen = isinstance(text, Weights)
    check_arguments("Training", WHOLE, **{name: getattr(training, name) for name in ("batch_start", "micro_batch")})
    least = 0 if frozen else 1
    check_arguments("train", between(least, least * 1e6, whole=True), text_rows=text_rows)
    if tokenizer.vocabulary > config.vocabulary:
        raise ValueError(f"tokenizer has {tokenizer.vocabulary} tokens; allowed: at most {config.vocabulary}")

    def remark(number: int, first: int, seconds: float, history: dict[str, np.ndarray]) -> str:
        speed = training.batch * (number + 1 - first) / seconds
        return f"{speed:,.0f} images/s, loss {history['loss'][number]:.3f}, right {history['right'][number]:.1%}"

    place = driver.Place(directory, driver.owner(maker, config, vision, training, text_rows, frozen), every)
    taken = steps_of(config, vision, training, tokenizer, text, text_rows)
    return driver.run(taken, fresh(config, vision, training, frozen), place, remark, progress, title)


def finished(
    config: Config,
    vision: Vision,
    training: Training,
    text_rows: int,
    frozen: bool,
    directory: Path,
    maker: str,
) -> tuple[Learned, dict[str, np.ndarray]] | None:
    """What `train` left in a directory when it ended, or None; arguments as there.

    Raises:
        ValueError: another training has ended there.
    """
    like = jax.eval_shape(partial(fresh, config, vision, training, frozen))
    return driver.ending(directory, like, driver.owner(maker, config, vision, training, text_rows, frozen))
