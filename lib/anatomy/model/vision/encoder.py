"""From pixels to latents: patches, a vision transformer, and a resampler.

Axes: B images of n patches, r latents, D width, H query heads, K KV heads, C width of a head, S queries,
N keys.

Source: dosovitskiy2021vit for patches and encoder; alayrac2022flamingo, section 2.1 and appendix A.1.1, for the
resampler. Norms are those of the text model, and there are no biases.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from anatomy.model.transformer import rms_norm
from anatomy.model.vision.config import Vision
from anatomy.model.vision.weights import Added, Layer

EPSILON = 1e-5  # of norms


def patches(vision: Vision, images: Float[Array, "B height width"]) -> Float[Array, "B n PP"]:
    """Patches of images row by row, each as a row of its pixels.

    Raises:
        ValueError: the images have another size.
    """
    if images.ndim != 3 or images.shape[1:] != (vision.height, vision.width):
        raise ValueError(f"images have shape {images.shape}; allowed: (B, {vision.height}, {vision.width})")
    (rows, columns), side = vision.grid, vision.patch
    cut = images.reshape(-1, rows, side, columns, side).transpose(0, 1, 3, 2, 4)
    return cut.reshape(-1, vision.patches, side * side)


def look(
    query: Float[Array, "B S HC"], key: Float[Array, "B N K C"], value: Float[Array, "B N K C"]
) -> tuple[Float[Array, "B S HC"], Float[Array, "B H S N"]]:
    """Each query looks at all keys: the mixed values, and how much it looks at each; weights sum to 1."""
    (b, s, _), (n, k, c) = query.shape, key.shape[1:]
    grouped = query.reshape(b, s, k, -1, c)
    weight = jax.nn.softmax(jnp.einsum("bskgc,bnkc->bkgsn", grouped, key) * c**-0.5)
    return jnp.einsum("bkgsn,bnkc->bskgc", weight, value).reshape(b, s, -1), weight.reshape(b, -1, s, n)


def mlp(x: Float[Array, "B S D"], weights: Layer) -> Float[Array, "B S D"]:
    """Two matrices with GELU between them; of a block of the text model likewise."""
    return jax.nn.gelu(x @ weights.up) @ weights.down


def layer(
    vision: Vision, weights: Layer, x: Float[Array, "B S D"], source: Float[Array, "B m D"] | None = None
) -> tuple[Float[Array, "B S D"], Float[Array, "B H S N"]]:
    """One layer: x attends to a source, or to itself where there is none; then the MLP."""
    y = rms_norm(x, weights.attention_norm, EPSILON)
    seen = y if source is None else rms_norm(source, weights.source_norm, EPSILON)
    key, value = ((seen @ matrix).reshape(*seen.shape[:2], vision.heads, -1) for matrix in (weights.key, weights.value))
    mixed, weight = look(y @ weights.query, key, value)
    x = x + mixed @ weights.output
    return x + mlp(rms_norm(x, weights.mlp_norm, EPSILON), weights), weight


def encode(vision: Vision, weights: Added, images: Float[Array, "B height width"]) -> Float[Array, "B n D"]:
    """What the encoder makes of each patch, having seen all of them.

    Raises:
        ValueError: the images have another size.
    """
    x = patches(vision, images) @ weights.embedding + weights.positions
    for each in weights.encoder:
        x, _ = layer(vision, each, x)
    return rms_norm(x, weights.encoder_norm, EPSILON)


def resample(
    vision: Vision, weights: Added, encoded: Float[Array, "B n D"]
) -> tuple[Float[Array, "B r D"], Float[Array, "B r n"]]:
    """Latents of images, and how much each looks at each patch: in the last layer, mean over heads, sum 1.

    There are no positions in here: patches in another order give the same latents. Flamingo's latents look at each
    other too; these look at patches alone, as those of jaegle2021perceiver do, which a short training learns sooner.
    """
    x = jnp.broadcast_to(weights.latents, (len(encoded), *weights.latents.shape))
    for each in weights.resampler:
        x, weight = layer(vision, each, x, encoded)
    return rms_norm(x, weights.latents_norm, EPSILON), weight.mean(1)
