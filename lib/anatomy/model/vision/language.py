"""The text model with sight: blocks of gated cross-attention in front of its layers, which stay as they are.

A block adds tanh(gate) times what it computes, so that gates of 0 leave the stream alone, bit for bit. Keys and values
of an image do not depend on the text: they are made once, and serve for every token that is decoded.

Axes as in `transformer`; r latents of an image, l blocks.

Source: alayrac2022flamingo, section 2.2; keys and values are shared by query heads as in the text model
(shazeer2019mqa).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from anatomy.model import moe
from anatomy.model.attention import Rows, cached, causal
from anatomy.model.config import Config
from anatomy.model.transformer import Block, Output, Weights, block, check_mask, grown, output, positions_of, rms_norm
from anatomy.model.vision.config import Vision
from anatomy.model.vision.encoder import encode, look, mlp, resample
from anatomy.model.vision.weights import Added, Gated
from anatomy.specs.base import register


@dataclasses.dataclass(frozen=True)
class Seen:
    """Images as the text model attends to them: keys and values of each block, and what the latents looked at."""

    key: Float[Array, "l B r K C"]
    value: Float[Array, "l B r K C"]
    patches: Float[Array, "B r n"]


register(Seen)


def see(config: Config, vision: Vision, added: Added, images: Float[Array, "B height width"]) -> Seen:
    """Encode and resample images, and make keys and values of their latents for every block.

    Args:
        config: of the text model.
        vision: of what is added.
        added: its weights.
        images: grey, 0 to 1.

    Raises:
        ValueError: the images have another size.
    """
    return kept(config, added, *resample(vision, added, encode(vision, added, images)))


def kept(config: Config, added: Added, latents: Float[Array, "B r D"], looked: Float[Array, "B r n"]) -> Seen:
    """Keys and values of latents for every block, and what the latents looked at."""

    def heads(matrices: list[Array]) -> Array:
        made = jnp.stack([latents @ matrix for matrix in matrices])
        return made.reshape(*made.shape[:3], config.kv_heads, config.head_dim)

    return Seen(heads([b.key for b in added.blocks]), heads([b.value for b in added.blocks]), looked)


def gated(
    config: Config,
    weights: Gated,
    x: Float[Array, "B S D"],
    key: Float[Array, "B r K C"],
    value: Float[Array, "B r K C"],
) -> tuple[Float[Array, "B S D"], Float[Array, "B H S r"]]:
    """One block: the stream, and how much each token looks at each latent."""
    mixed, weight = look(rms_norm(x, weights.attention_norm, config.norm_epsilon) @ weights.query, key, value)
    x = x + jnp.tanh(weights.attention_gate) * (mixed @ weights.output)
    y = mlp(rms_norm(x, weights.mlp_norm, config.norm_epsilon), weights)
    return x + jnp.tanh(weights.mlp_gate) * y, weight


def layers(text: Weights) -> tuple[Block, ...]:
    """The layers of a text model one by one, be they stacked or unstacked."""
    if isinstance(text.blocks, tuple):
        return text.blocks
    return tuple(jax.tree.map(lambda a, i=i: a[i], text.blocks) for i in range(len(text.blocks.attention_norm)))


def forward(
    config: Config,
    vision: Vision,
    text: Weights,
    added: Added,
    tokens: Int[Array, "B S"],
    seen: Seen,
    cache: Rows | None = None,
    dispatch: moe.Dispatch = moe.all_experts,
    mask: Bool[Array, "B S"] | None = None,
) -> tuple[Output, Float[Array, "l B H S r"]]:
    """As `transformer.forward`, each sequence with an image that all of its tokens see.

    Args:
        config: of the text model.
        vision: of what is added.
        text: weights of the text model, stacked or unstacked.
        added: weights of what is added.
        tokens: ids; with a cache they follow those that it holds.
        seen: an image for each sequence.
        cache: of earlier tokens, or none.
        dispatch: brings tokens to experts.
        mask: which tokens are real, as in `transformer.forward`; None: all.

    Returns:
        What the text model gives, and how much each token looks at each latent in each block.

    Raises:
        ValueError: a sequence has more tokens than the context, or than the cache has room for; or there are not as
            many images as sequences.
    """
    room, limit = (config.context, "Config.context") if cache is None else (cache.room, "room of the cache")
    if tokens.shape[1] > room:
        raise ValueError(f"tokens of a sequence are {tokens.shape[1]}; allowed: at most {room}, the {limit}")
    if seen.key.shape[1] != tokens.shape[0]:
        raise ValueError(f"images are {seen.key.shape[1]}; allowed: as many as sequences ({tokens.shape[0]})")
    check_mask(tokens, mask)
    positions = positions_of(tokens, cache)
    x, past, routings, looked = text.embedding[tokens], [], [], []
    for index, weights in enumerate(layers(text)):
        if index % vision.every == 0:
            place = index // vision.every
            x, weight = gated(config, added.blocks[place], x, seen.key[place], seen.value[place])
            looked.append(weight)
        attention = causal(positions)
        if cache is not None:
            attention = cached((cache.key[index], cache.value[index]), positions)
        x, pair, routing = block(config, weights, x, tokens, positions, attention, dispatch, mask=mask)
        past.append(pair)
        routings.append(routing._replace(choices=None))
    logits = rms_norm(x, text.norm, config.norm_epsilon) @ text.unembedding
    cache = grown(cache, None if cache is None else tuple(zip(*past, strict=True)), tokens, mask)
    return output(logits, jax.tree.map(lambda *parts: jnp.stack(parts), *routings), cache), jnp.stack(looked)
