"""What sight adds to a text model: arrays that are trained while those of the text model stay as they are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from anatomy.model.config import Config
from anatomy.model.vision.config import Vision
from anatomy.specs.base import register


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of encoder or resampler: attention, then an MLP. `source_norm` is of what the resampler reads."""

    attention_norm: Float[Array, "D"]
    source_norm: Float[Array, "D"] | None
    query: Float[Array, "D D"]
    key: Float[Array, "D D"]
    value: Float[Array, "D D"]
    output: Float[Array, "D D"]
    mlp_norm: Float[Array, "D"]
    up: Float[Array, "D F"]
    down: Float[Array, "F D"]


@dataclasses.dataclass(frozen=True)
class Gated:
    """A block in front of a layer of the text model: its tokens attend to latents, then pass an MLP.

    What each of the two adds to the stream is multiplied by tanh of its gate.
    """

    attention_norm: Float[Array, "D"]
    query: Float[Array, "D HC"]
    key: Float[Array, "D_image KC"]
    value: Float[Array, "D_image KC"]
    output: Float[Array, "HC D"]
    attention_gate: Float[Array, ""]
    mlp_norm: Float[Array, "D"]
    up: Float[Array, "D F"]
    down: Float[Array, "F D"]
    mlp_gate: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Added:
    """All that sight adds."""

    embedding: Float[Array, "PP D"]
    positions: Float[Array, "n D"]
    encoder: tuple[Layer, ...]
    encoder_norm: Float[Array, "D"]
    latents: Float[Array, "r D"]
    resampler: tuple[Layer, ...]
    latents_norm: Float[Array, "D"]
    blocks: tuple[Gated, ...]


for _tree in (Layer, Gated, Added):
    register(_tree)


def init(config: Config, vision: Vision, key: PRNGKeyArray) -> Added:
    """Weights to begin training from: matrices normal with deviation 1 / sqrt(inputs), gates 0.

    With all gates 0 the text model says what it said before (alayrac2022flamingo, section 2.2).

    Args:
        config: of the text model.
        vision: of what is added.
        key: of the draw.
    """
    d, f, width, narrow = vision.d_image, vision.d_ff, config.heads * config.head_dim, config.kv_heads * config.head_dim
    keys = iter(jax.random.split(key, 8 * (vision.layers + vision.resampler_layers + config.layers) + 3))

    def matrix(rows: int, columns: int, deviation: float | None = None) -> Array:
        scale = rows**-0.5 if deviation is None else deviation
        return scale * jax.random.normal(next(keys), (rows, columns), jnp.float32)

    def ones(size: int) -> Array:
        return jnp.ones(size, jnp.float32)

    def layer(reads: bool) -> Layer:
        query, value, output = (2**0.5 if reads else 1.0) * matrix(d, d), matrix(d, d), matrix(d, d)
        return Layer(
            attention_norm=ones(d),
            source_norm=ones(d) if reads else None,
            query=query,
            key=query if reads else matrix(d, d),
            value=value,
            output=output,
            mlp_norm=ones(d),
            up=matrix(d, f),
            down=matrix(f, d),
        )

    def gated() -> Gated:
        return Gated(
            attention_norm=ones(config.d_model),
            query=matrix(config.d_model, width),
            key=matrix(d, narrow),
            value=matrix(d, narrow),
            output=matrix(width, config.d_model),
            attention_gate=jnp.zeros((), jnp.float32),
            mlp_norm=ones(config.d_model),
            up=matrix(config.d_model, vision.block_d_ff),
            down=matrix(vision.block_d_ff, config.d_model),
            mlp_gate=jnp.zeros((), jnp.float32),
        )

    positions = matrix(vision.patches, d, 1.0)
    columns = positions.reshape(*vision.grid, d).sum(0) * vision.grid[0] ** -0.5
    strip = np.arange(vision.latents) * vision.grid[1] // vision.latents
    return Added(
        embedding=matrix(vision.patch**2, d),
        positions=positions,
        encoder=tuple(layer(False) for _ in range(vision.layers)),
        encoder_norm=ones(d),
        latents=columns[strip] + matrix(vision.latents, d, 0.1),
        resampler=tuple(layer(True) for _ in range(vision.resampler_layers)),
        latents_norm=ones(d),
        blocks=tuple(gated() for _ in range(vision.blocks(config))),
    )
