"""What a training minimises, its gradients, and losses to be looked at.

Axes as in `model`: B rows, length tokens predicted in each, V vocabulary.

Source: fedus2022switch and zoph2022stmoe for the losses of the routers.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from anatomy.model import Config, Weights, forward, moe
from anatomy.train.loop.batch import Batch
from anatomy.train.loop.settings import Training


def cross_entropy(
    logits: Float[Array, "B S V"],
    targets: Int[Array, "B S"] | Float[Array, "B S V"],
    mask: Float[Array, "B S"] | None = None,
) -> Float[Array, ""]:
    """Mean loss of the next token, or of its distribution, in nats, over all tokens or over those of the mask."""
    known = targets.ndim < logits.ndim
    each = (optax.softmax_cross_entropy_with_integer_labels if known else optax.softmax_cross_entropy)(logits, targets)
    return each.mean() if mask is None else (each * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def objective(
    config: Config, training: Training, weights: Weights, batch: Batch
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Loss that is minimised, of the next tokens or of a teacher's distributions of them; and what is measured.

    Loss in nats a token, plus for each layer the weighted losses of its router. Padding has no part in any of these,
    nor in `dropped` and `load`.
    """
    dispatch = moe.TRAINABLE[training.dispatch]
    output = forward(config, weights, batch.rows[:, :-1], dispatch=dispatch, **masked(batch.padding_mask))
    targets = batch.rows[:, 1:] if batch.distributions is None else batch.distributions
    loss = cross_entropy(output.logits, targets, batch.loss_mask)
    total = loss + config.layers * (training.balance * output.balance + training.z * output.z)
    measured = {"loss": loss, "balance": output.balance, "z": output.z, "dropped": output.dropped}
    return total, measured | {"load": output.load}


def masked(padding_mask: Bool[Array, "B S"] | None) -> dict[str, Any]:
    """Arguments of `forward` that leave padding out; none where all tokens are real."""
    return {} if padding_mask is None else {"mask": padding_mask}


@partial(jax.jit, static_argnums=(0, 1))
def gradients(config: Config, training: Training, weights: Weights, batch: Batch) -> tuple[Weights, dict[str, Array]]:
    """Gradients of the objective on some rows, and what was measured."""
    of = lambda inputs: objective(config, training, inputs, batch)  # noqa: E731
    (_, measured), gradient = jax.value_and_grad(of, has_aux=True)(weights)
    return gradient, measured | {"square": optax.tree.norm(gradient, squared=True)}


@partial(jax.jit, static_argnums=0)
def losses(
    config: Config,
    weights: Weights,
    rows: Int[Array, "B length+1"],
    padding_mask: Bool[Array, "B length"] | None = None,
) -> Float[Array, "B length"]:
    """Loss of every token in nats, with exact dispatch.

    Args:
        config: of the model.
        weights: of the model.
        rows: tokens, of which all but the first are predicted.
        padding_mask: true where an input token is real; the loss of what padding predicts means nothing.
    """
    output = forward(config, weights, rows[:, :-1], dispatch=moe.with_overflow, **masked(padding_mask))
    return optax.softmax_cross_entropy_with_integer_labels(output.logits, rows[:, 1:])


def mean_loss(config: Config, weights: Weights, rows: Int[np.ndarray, "R length+1"], tokens: int) -> float:
    """Loss in nats a token on the first so many tokens of full rows; dispatch is exact.

    Raises:
        ValueError: the rows have fewer tokens, or these do not fill whole rows.
    """
    length, at_once = rows.shape[1] - 1, 4096  # tokens
    if tokens % length or tokens > length * len(rows):
        raise ValueError(
            f"mean_loss.tokens is {tokens}; allowed: a multiple of {length}, of which there are {len(rows)}; "
            "ask for fewer tokens, or give more rows"
        )
    parts = np.array_split(rows[: tokens // length], max(tokens // at_once, 1))
    with jax.enable_x64(False):
        return float(np.mean(np.concatenate([losses(config, weights, part) for part in parts])))
