"""What is fixed when the small model is compiled: its widths, and how its tokens find their experts."""

import dataclasses
from typing import Literal

from anatomy.specs import Architecture, Attention

Router = Literal["top_k", "expert_choice", "hash"]
MOST = 2**31 - 1  # of what is counted: XLA counts with 32 bits
ROUTERS = ("top_k", "expert_choice", "hash")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A decoder-only transformer in the article's manner, at any width. One expert makes it dense.

    Attributes:
        vocabulary: V, tokens.
        layers: L.
        d_model: D, width of the residual stream.
        heads: H, query heads.
        kv_heads: K, KV heads: H is multi-head, 1 multi-query, between them grouped-query attention.
        head_dim: C, width of a head; even, for rotary positions.
        d_ff: F, width of an expert.
        experts: E of a layer.
        top_k: experts that a token uses.
        router: how they are chosen.
        context: longest sequence, in tokens.
        rope_base: base of the rotary frequencies.
        rope_scale: positions are divided by this; above 1 where the context was extended (chen2023pi).
        norm_epsilon: added to the mean square of a norm.

    Raises:
        ValueError: a field is impossible; the message names it, its value and what is allowed.
    """

    vocabulary: int = 1024
    layers: int = 4
    d_model: int = 192
    heads: int = 3
    kv_heads: int = 1
    head_dim: int = 64
    d_ff: int = 256
    experts: int = 16
    top_k: int = 2
    router: Router = "top_k"
    context: int = 256
    rope_base: float = 10_000.0
    rope_scale: float = 1.0
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "router":
                self._refuse(value not in ROUTERS, field.name, f"one of {', '.join(ROUTERS)}")
            elif field.type is float:
                right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
                self._refuse(not right, field.name, "a finite number above 0")
            else:
                right = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST
                self._refuse(not right, field.name, f"a whole number at least 1 and at most {MOST:,}")
        self._refuse(self.heads % self.kv_heads, "kv_heads", f"a divisor of heads ({self.heads})")
        self._refuse(self.head_dim % 2, "head_dim", "an even number")
        self._refuse(self.top_k > self.experts, "top_k", f"at most experts ({self.experts})")

    def _refuse(self, wrong: object, name: str, allowed: str) -> None:
        """Refuse one field."""
        if wrong:
            raise ValueError(f"Config.{name} is {getattr(self, name)!r}; allowed: {allowed}")

    def replace(self, **changes: object) -> "Config":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def architecture(self) -> Architecture:
        """The same model as the cost models see it."""
        return Architecture(
            layers=self.layers,
            d_model=self.d_model,
            attention=Attention(heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim),
            d_ff=self.d_ff,
            experts=self.experts,
            top_k=self.top_k,
            mlp_matrices=3,
            vocabulary=self.vocabulary,
            tied_embeddings=0.0,
            context=self.context,
        )
