"""What is fixed when sight is compiled: the size of images and patches, and the widths of what reads them."""

import dataclasses

from anatomy.model.config import MOST, Config
from anatomy.specs import Attention, CrossAttention, Encoder, Resampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vision:
    """An encoder of grey images, a resampler, and gated cross-attention in front of layers of a text model.

    Attributes:
        height: of an image, in pixels.
        width: of an image, in pixels.
        patch: P, side of a patch in pixels; divides both.
        d_image: D, width of encoder and resampler.
        heads: of both; divides `d_image`.
        layers: of the encoder.
        d_ff: F, inner width of their MLPs.
        latents: r, what an image becomes for the text model.
        resampler_layers: layers of the resampler.
        every: one block of cross-attention in front of each `every` layers of the text model, the first included.
        block_d_ff: inner width of the MLP of such a block.

    Raises:
        ValueError: a field is impossible; the message names it, its value and what is allowed.
    """

    height: int = 12
    width: int = 36
    patch: int = 4
    d_image: int = 64
    heads: int = 4
    layers: int = 1
    d_ff: int = 128
    latents: int = 9
    resampler_layers: int = 1
    every: int = 1
    block_d_ff: int = 192

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            right = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
            self._refuse(not right, field.name, f"a whole number at least 1 and at most {MOST:,}")
        self._refuse(self.height % self.patch, "height", f"a multiple of patch ({self.patch})")
        self._refuse(self.width % self.patch, "width", f"a multiple of patch ({self.patch})")
        self._refuse(self.d_image % self.heads, "heads", f"a divisor of d_image ({self.d_image})")

    def _refuse(self, wrong: object, name: str, allowed: str) -> None:
        """Refuse one field."""
        if wrong:
            raise ValueError(f"Vision.{name} is {getattr(self, name)!r}; allowed: {allowed}")

    def replace(self, **changes: object) -> "Vision":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.height // self.patch, self.width // self.patch

    @property
    def patches(self) -> int:
        """n, patches of an image."""
        return self.grid[0] * self.grid[1]

    def blocks(self, config: Config) -> int:
        """Blocks of cross-attention in a text model."""
        return -(-config.layers // self.every)

    @property
    def encoder(self) -> Encoder:
        """The encoder as the cost models see it: grey images, and patches alone."""
        return Encoder(
            layers=self.layers,
            d_model=self.d_image,
            d_ff=self.d_ff,
            side=self.height,
            width=self.width,
            patch=self.patch,
            channels=1.0,
            extra=0.0,
        )

    @property
    def resampler(self) -> Resampler:
        """The resampler as the cost models see it; its latents look at patches alone."""
        return Resampler(
            latents=self.latents,
            layers=self.resampler_layers,
            d_model=self.d_image,
            heads=self.heads,
            head_dim=self.d_image // self.heads,
            d_ff=self.d_ff,
            among=0.0,
        )

    def cross_attention(self, config: Config) -> CrossAttention:
        """The blocks as the cost models see them; their heads are those of the text model."""
        return CrossAttention(
            blocks=self.blocks(config),
            attention=Attention(heads=config.heads, kv_heads=config.kv_heads, head_dim=config.head_dim),
            d_image=self.d_image,
            d_ff=self.block_d_ff,
        )
