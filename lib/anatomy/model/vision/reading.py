"""Reading out an image: the most likely tokens one by one, with keys and values of text and image kept.

Axes as in `language`; A tokens of an answer.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from anatomy.model import moe
from anatomy.model.attention import Rows, empty_cache
from anatomy.model.config import Config
from anatomy.model.transformer import Weights
from anatomy.model.vision.config import Vision
from anatomy.model.vision.language import Seen, forward, see
from anatomy.model.vision.weights import Added
from anatomy.specs.base import between, check_arguments


class Reading(NamedTuple):
    """What a model read in each image.

    Attributes:
        tokens: of the answers, -1 past their end.
        count: tokens of each answer, the one that ends it not among them.
        attention: how much the model looked at each latent when it chose each token, in each block, mean over heads;
            what it did past the end of an answer means nothing.
        patches: how much each latent looked at each patch.
    """

    tokens: Int[np.ndarray, "B A"]
    count: Int[np.ndarray, "B"]
    attention: Float[np.ndarray, "B A l r"]
    patches: Float[np.ndarray, "B r n"]


_see = partial(jax.jit, static_argnums=(0, 1))(see)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=6)
def _step(
    config: Config, vision: Vision, text: Weights, added: Added, tokens: Array, seen: Seen, cache: Rows
) -> tuple[Array, Array, Rows]:
    """The most likely next token of each sequence, where the last token looked, and the longer cache."""
    made, looked = forward(config, vision, text, added, tokens, seen, cache, moe.all_experts)
    token = made.logits[:, -1].argmax(-1).astype(jnp.int32)
    token = jnp.where(jnp.isfinite(made.logits[:, -1]).all(-1), token, -1)
    return token, looked[:, :, :, -1].mean(2).swapaxes(0, 1), made.cache


def read(
    config: Config,
    vision: Vision,
    text: Weights,
    added: Added,
    images: Float[Array, "B height width"],
    prompt: Int[np.ndarray, "S"],
    limit: int,
    end: int,
) -> Reading:
    """Have a model read images out, each after the same prompt, by greedy decoding.

    Args:
        config: of the text model.
        vision: of what is added.
        text: weights of the text model.
        added: weights of what is added.
        images: grey, 0 to 1.
        prompt: tokens that every answer follows.
        limit: A, most tokens of an answer.
        end: the token that ends an answer.

    Raises:
        FloatingPointError: logits are not finite.
        TypeError, ValueError: the limit is no whole number of at least 1, the prompt is empty or does not fit the
            context with the answer, a token is not in the vocabulary, or the images have another size or range.
    """
    check_arguments("read", between(1, whole=True), limit=limit)
    check_arguments("read", between(high=config.vocabulary - 1, whole=True), prompt=prompt, end=end)
    check_arguments("read", between(high=1.0), images=images)
    if not 0 < len(prompt) <= config.context - limit:
        allowed = f"1 to {config.context - limit}, Config.context less limit"
        raise ValueError(f"tokens of the prompt are {len(prompt)}; allowed: {allowed}")
    seen = _see(config, vision, added, images)
    cache = empty_cache(config, len(images), room=len(prompt) + limit)
    tokens = jnp.broadcast_to(jnp.asarray(prompt, jnp.int32), (len(images), len(prompt)))
    chosen, looked = [], []
    for _ in range(limit):
        token, at, cache = _step(config, vision, text, added, tokens, seen, cache)
        chosen.append(np.asarray(token))
        if (chosen[-1] < 0).any():
            image = int(np.argmax(chosen[-1] < 0))
            raise FloatingPointError(f"read: the logits of image {image} are not finite; allowed: finite weights")
        looked.append(np.asarray(at))
        tokens = token[:, None]
        if np.all(np.any(np.equal(chosen, end), axis=0)):
            break
    answer = np.stack(chosen, axis=1)
    going = np.cumsum(answer == end, axis=1) == 0
    return Reading(np.where(going, answer, -1), going.sum(1), np.stack(looked, axis=1), np.asarray(seen.patches))


def over_patches(vision: Vision, reading: Reading) -> Float[np.ndarray, "B A rows columns"]:
    """How much the model looked at each patch when it chose each token, mean over blocks; sums to 1.

    A token looks at latents and these at patches, so the two are multiplied. The encoder has mixed patches before:
    where the model looks is not all that it saw there.
    """
    through = np.einsum("balr,brn->ban", reading.attention, reading.patches)
    return (through / through.sum(-1, keepdims=True)).reshape(*through.shape[:2], *vision.grid)
