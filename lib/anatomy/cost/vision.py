"""What it costs a language model to see: parameters, FLOP and memory beside its own, and the bytes of its input.

Symbols: d width of the language model, L its layers, n patches and r latents of an image, P side of a patch.
"""

from typing import ClassVar

import jax.numpy as jnp

from anatomy.specs import Architecture, Attention, Cluster, CrossAttention, Encoder, Resampler, Scalar
from anatomy.specs.base import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, SHARE, check_arguments, number, spec


@spec
class Added:
    """Parameters that vision adds, by part; the parts add up to `total`."""

    sums: ClassVar = ("total",)

    encoder: Scalar = number("parameters", doc="that read patches")
    resampler: Scalar = number("parameters", doc="that make latents of them")
    blocks: Scalar = number("parameters", doc="between the layers of the language model")

    @property
    def total(self) -> Scalar:
        """All that is stored on top of the language model."""
        return self.encoder + self.resampler + self.blocks


@spec
class Tuning:
    """FLOP of training on text and images, by part; the parts add up to `total`."""

    sums: ClassVar = ("total",)

    language: Scalar = number("FLOP", doc="of the language model")
    blocks: Scalar = number("FLOP", doc="of cross-attention blocks, keys and values of images included")
    images: Scalar = number("FLOP", doc="of encoder and resampler")

    @property
    def total(self) -> Scalar:
        """All of it."""
        return self.language + self.blocks + self.images


@spec
class Traffic:
    """Bytes a second that the input of a training run is, and what part of the network it takes."""

    cluster: Scalar = number("bytes/s", doc="of all chips")
    node: Scalar = number("bytes/s", doc="of a node")
    chip: Scalar = number("bytes/s", doc="of a chip")
    share: Scalar = number("1", doc="of the bandwidth of a node's network adapters")


def blocks_like(model: Architecture, *, every: Scalar, d_image: Scalar) -> CrossAttention:
    """Cross-attention blocks for a language model: one for each `every` of its layers, or a part of them.

    As in Flamingo, a block has the heads of the language model and an MLP of four times its width.

    Args:
        model: whose layers they stand between.
        every: layers for each block.
        d_image: width of what they attend to.

    Raises:
        TypeError, ValueError: every is below 1, or d_image not above 0.

    Source: alayrac2022flamingo, table 5 and appendix A.1.2.
    """
    check_arguments("blocks_like", AT_LEAST_ONE, every=every)
    check_arguments("blocks_like", ABOVE_ZERO, d_image=d_image)
    heads = model.attention.heads
    attention = Attention(heads=heads, kv_heads=heads, head_dim=model.attention.head_dim)
    count = jnp.ceil(model.layers / every)
    return CrossAttention(blocks=count, attention=attention, d_image=d_image, d_ff=4.0 * model.d_model)


def added(model: Architecture, encoder: Encoder, resampler: Resampler, cross: CrossAttention) -> Added:
    """Parameters that vision adds to a language model."""
    return Added(encoder=encoder.parameters, resampler=resampler.parameters, blocks=cross.parameters(model.d_model))


def tuning_flop(
    model: Architecture,
    encoder: Encoder,
    resampler: Resampler,
    cross: CrossAttention,
    *,
    tokens: Scalar,
    images: Scalar,
    attended: Scalar,
    frozen: Scalar = 0.0,
) -> Tuning:
    """FLOP of training a language model that sees.

    What is trained costs its forward pass three times: forward, and twice as much backward. A frozen language
    model still carries gradients back to the blocks below, but needs none for its own weights: twice. A frozen
    encoder is at the bottom and needs no backward pass: once. (Layers below the first block need none either;
    that is left out.)

    Args:
        model: the language model.
        encoder: of patches.
        resampler: of patches to latents; always trained, as the blocks are.
        cross: blocks between the layers.
        tokens: of the language model, each of which attends to the latents of one image.
        images: that are encoded.
        attended: tokens that one attends to, as in `Architecture.flop_per_token`.
        frozen: 1 if language model and encoder are frozen, as in Flamingo; 0 if all is trained.

    Raises:
        TypeError, ValueError: tokens, images or attended are below 0, or frozen is not 0 to 1.
    """
    check_arguments("tuning_flop", AT_LEAST_ZERO, tokens=tokens, images=images, attended=attended)
    check_arguments("tuning_flop", SHARE | {"above": None, "allowed": "a number from 0 to 1"}, frozen=frozen)
    latents = resampler.latents
    blocks = tokens * cross.flop_per_token(model.d_model, latents) + images * cross.flop_per_image(latents)
    see = (3 - 2 * frozen) * encoder.flop_per_image + 3 * resampler.flop_per_image(encoder.patches)
    return Tuning(
        language=(3 - frozen) * tokens * model.flop_per_token(attended).total,
        blocks=3 * blocks,
        images=images * see,
    )


def data_rate(*, flop_per_token: Scalar, chips: Scalar, peak: Scalar, utilisation: Scalar) -> Scalar:
    """Tokens a second that chips consume in training: n P u over the FLOP of a token.

    Args:
        flop_per_token: forward and backward.
        chips: n.
        peak: P, FLOP/s of one.
        utilisation: u, above 0, at most 1.

    Raises:
        TypeError, ValueError: an argument is outside of what it can be.
    """
    check_arguments("data_rate", ABOVE_ZERO, flop_per_token=flop_per_token, chips=chips, peak=peak)
    check_arguments("data_rate", SHARE, utilisation=utilisation)
    return chips * peak * utilisation / flop_per_token


def storage_traffic(*, tokens_per_second: Scalar, bytes_per_token: Scalar, cluster: Cluster) -> Traffic:
    """Input that a training run reads, if every chip of the cluster takes an equal part and reads it once.

    Raises:
        TypeError, ValueError: an argument is below 0.
    """
    check_arguments(
        "storage_traffic", AT_LEAST_ZERO, tokens_per_second=tokens_per_second, bytes_per_token=bytes_per_token
    )
    whole = tokens_per_second * bytes_per_token
    chip = whole / (cluster.nodes * cluster.node.chips)
    return Traffic(cluster=whole, node=chip * cluster.node.chips, chip=chip, share=chip / cluster.inside.bandwidth)


def latent_bytes(*, patch: Scalar, downsampling: Scalar, channels: Scalar, bytes_per_value: Scalar = 2.0) -> Scalar:
    """Bytes of the latents of an autoencoder that a patch takes: (P / f)^2 positions of so many channels.

    Args:
        patch: P, pixels.
        downsampling: f, pixels of an image's side for each of the latents'.
        channels: values of a position.
        bytes_per_value: of each.

    Raises:
        TypeError, ValueError: an argument is not above 0.

    Source: rombach2022latent, section 3.1.
    """
    given = {"patch": patch, "downsampling": downsampling, "channels": channels, "bytes_per_value": bytes_per_value}
    check_arguments("latent_bytes", ABOVE_ZERO, **given)
    return (patch / downsampling) ** 2 * channels * bytes_per_value


def code_bytes(*, patch: Scalar, downsampling: Scalar, codes: Scalar) -> Scalar:
    """Bytes that a patch takes as indices into a codebook: log2(K) / 8 for each position.

    Args:
        patch: P, pixels.
        downsampling: pixels of an image's side for each index.
        codes: K, entries of the codebook.

    Raises:
        TypeError, ValueError: patch or downsampling is not above 0, or codes below 1.

    Source: chameleon2024, section 2.1.
    """
    check_arguments("code_bytes", AT_LEAST_ONE, codes=codes)
    return latent_bytes(patch=patch, downsampling=downsampling, channels=1.0, bytes_per_value=1.0) * jnp.log2(codes) / 8
