"""Vision: an encoder of image patches, a resampler to a fixed number of latents, and cross-attention to them.

Symbols: P patch side in pixels, c channels, n patches of an image, d_v width of the encoder, r latents of an image,
d width of the language model. As in `architecture`, counts are plain arithmetic.
"""

import numpy as np

from anatomy.specs.architecture import Attention
from anatomy.specs.base import Scalar, label, number, refuse_where, shown, spec, switch


@spec
class Encoder:
    """A vision transformer: patches of P x P pixels are projected, get a position, and pass L layers.

    Source: dosovitskiy2021vit, section 3.1.
    """

    name: str = label(default="")
    layers: Scalar = number("layers", low=1, whole=True, doc="L")
    d_model: Scalar = number("values", low=1, whole=True, doc="d_v")
    d_ff: Scalar = number("values", low=1, whole=True, doc="inner width of an MLP")
    side: Scalar = number("pixels", low=1, whole=True, doc="of an image; its height, if it is not square")
    patch: Scalar = number("pixels", low=1, whole=True, doc="P, side of a patch")
    channels: Scalar = number("channels", low=1, whole=True, default=3.0, doc="c")
    extra: Scalar = number("tokens", whole=True, default=1.0, doc="beside the patches: one for the class")
    width: Scalar = number("pixels", whole=True, default=0.0, doc="of an image that is not square; 0 if it is")
    tables: Scalar = number("tables", whole=True, default=1.0, doc="of positions, a row for each token")

    def check(self) -> None:
        """Refuse an image that is no whole number of patches.

        Raises:
            ValueError: patch does not divide side and width.
        """
        for name in ("side", "width"):
            value = getattr(self, name)
            wrong = np.mod(value, self.patch) != 0
            refuse_where(wrong, "Encoder.patch", self.patch, f"a divisor of {name} ({shown(value)})")

    @property
    def patches(self) -> Scalar:
        """Patches of an image: n = (side / P)^2, or height times width over P^2."""
        width = self.width + (self.width == 0) * self.side
        return self.side * width / self.patch**2

    @property
    def patch_bytes(self) -> Scalar:
        """Bytes of a patch before any compression, 8 bits a channel: P^2 c."""
        return self.patch**2 * self.channels

    @property
    def layer_weights(self) -> Scalar:
        """Matrix parameters of a layer: 4 d_v^2 + 2 d_v f."""
        return 4 * self.d_model**2 + 2 * self.d_model * self.d_ff

    @property
    def parameters(self) -> Scalar:
        """Everything that is stored: matrices, biases, norms, positions, and the extra tokens."""
        small = 9 * self.d_model + self.d_ff  # biases 4 d + f + d, norms 4 d
        embed = (self.patch_bytes + 1) * self.d_model
        rows = self.tables * (self.patches + self.extra) + self.extra
        return embed + rows * self.d_model + self.layers * (self.layer_weights + small) + 2 * self.d_model

    @property
    def flop_per_image(self) -> Scalar:
        """FLOP of a forward pass: 2 a weight and token, and 4 d_v for each pair of tokens in each layer."""
        tokens = self.patches + self.extra
        layer = 2 * tokens * self.layer_weights + 4 * tokens**2 * self.d_model
        return self.layers * layer + 2 * self.patches * self.patch_bytes * self.d_model


@spec
class Resampler:
    """Latents that read the patches in a few layers, so that an image of any size becomes r of them.

    In each layer the latents attend to the patches, in Flamingo to patches and latents together, then pass an MLP.

    Source: alayrac2022flamingo, section 2.1 and appendix A.1.1.
    """

    latents: Scalar = number("latents", low=1, whole=True, doc="r")
    layers: Scalar = number("layers", low=1, whole=True, doc="of the resampler")
    d_model: Scalar = number("values", low=1, whole=True, doc="width of a latent, and of the patches that it reads")
    heads: Scalar = number("heads", low=1, whole=True, doc="of its attention")
    head_dim: Scalar = number("values", low=1, whole=True, doc="width of a head")
    d_ff: Scalar = number("values", low=1, whole=True, doc="inner width of an MLP")
    among: Scalar = switch(default=True, doc="latents attend to each other too")

    @property
    def parameters(self) -> Scalar:
        """Matrices and latents; norms are left out."""
        width = self.heads * self.head_dim
        layer = 4 * self.d_model * width + 2 * self.d_model * self.d_ff
        return self.layers * layer + self.latents * self.d_model

    def flop_per_image(self, patches: Scalar) -> Scalar:
        """FLOP of a forward pass over so many patches."""
        width, d, r = self.heads * self.head_dim, self.d_model, self.latents
        read = patches + self.among * r
        products = 2 * r * (2 * d * width + 2 * d * self.d_ff) + 2 * read * 2 * d * width
        return self.layers * (products + 4 * r * read * width)


@spec
class CrossAttention:
    """Blocks between the layers of a language model, in which its tokens attend to an image, then pass an MLP.

    A block has gates of one number each, which begin at 0 and are left out of the counts, as are norms.

    Source: alayrac2022flamingo, section 2.2; dubey2024llama3, section 7.1, for blocks without a resampler.
    """

    blocks: Scalar = number("blocks", whole=True, doc="of the whole model")
    attention: Attention
    d_image: Scalar = number("values", low=1, whole=True, doc="width of what keys and values are made from")
    d_ff: Scalar = number("values", whole=True, doc="inner width of the MLP of a block; 0 for none")
    mlp_matrices: Scalar = number("matrices", low=2, high=3, whole=True, default=2.0, doc="g, 3 with a gate")

    def block_weights(self, d_model: Scalar) -> Scalar:
        """Matrix parameters of a block that a token of the language model passes: queries, output, MLP."""
        return d_model * (2 * self.attention.width + self.mlp_matrices * self.d_ff)

    @property
    def image_weights(self) -> Scalar:
        """Matrix parameters of a block that a latent of the image passes: keys and values."""
        return self.d_image * self.attention.cached_values()

    def parameters(self, d_model: Scalar) -> Scalar:
        """Matrix parameters of all blocks, in a language model of that width."""
        return self.blocks * (self.block_weights(d_model) + self.image_weights)

    def flop_per_token(self, d_model: Scalar, latents: Scalar) -> Scalar:
        """FLOP of a forward pass for a token of the language model that attends to so many latents."""
        return self.blocks * (2 * self.block_weights(d_model) + self.attention.score_flop() * latents)

    def flop_per_image(self, latents: Scalar) -> Scalar:
        """FLOP that keys and values of so many latents need, once for an image."""
        return self.blocks * 2 * latents * self.image_weights

    def cache_bytes(self, latents: Scalar, bytes_per_value: Scalar = 2.0) -> Scalar:
        """Bytes of keys and values of an image, kept while its sequence is decoded."""
        return self.blocks * latents * self.attention.cached_values() * bytes_per_value
