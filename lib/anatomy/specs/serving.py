"""Serving plans: how the work of generating tokens is laid over the chips."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from anatomy.specs.architecture import Architecture
from anatomy.specs.base import Scalar, number, refuse_where, shown, spec, switch


@spec
class Serving:
    """Ways of parallelism, precision, and where the cache lies.

    A replica is t p chips that hold the model once; its sequences in flight go through the stages in m
    micro-batches. Expert ways split the experts over replicas, as in training, and every replica still has
    the attention of its own sequences.
    """

    tensor: Scalar = number("ways", low=1, whole=True, default=1.0, doc="t, a layer's matrices are split")
    rows: Scalar = number("ways", low=1, whole=True, default=1.0, doc="X, of these that split d_model; 1 is Megatron")
    pipeline: Scalar = number("stages", low=1, whole=True, default=1.0, doc="p, layers are split")
    first_stage_share: Scalar = number(
        "1", high=1, default=1.0, doc="layers of the first stage as a share of the others'; below 1 it has both tables"
    )
    data: Scalar = number("replicas", low=1, whole=True, default=1.0, doc="d, sequences are split")
    expert: Scalar = number("ways", low=1, whole=True, default=1.0, doc="e, experts are split among replicas")
    micro_batches: Scalar = number("micro-batches", low=1, whole=True, default=1.0, doc="m, of a replica, in flight")
    weight_bytes: Scalar = number("bytes", above=0, default=2.0, doc="of a weight")
    activation_bytes: Scalar = number("bytes", above=0, default=2.0, doc="of a value that is multiplied or sent")
    cache_bytes: Scalar = number("bytes", above=0, default=2.0, doc="of a cached value")
    cache_by_sequence: Scalar = switch(default=False, doc="tensor ways split the cache by sequences, not by heads")
    gathered: Scalar = switch(default=False, doc="tensor ways gather weights and split tokens")
    fused_attention: Scalar = switch(default=True, doc="scores stay on the chip and the causal half is skipped")

    def check(self) -> None:
        """Refuse expert ways that the replicas cannot hold, and rows that are more than tensor ways.

        Raises:
            ValueError: expert does not divide data, or rows does not divide tensor.
        """
        for part, whole in (("expert", "data"), ("rows", "tensor")):
            value, limit = getattr(self, part), getattr(self, whole)
            refuse_where(np.mod(limit, value) != 0, f"Serving.{part}", value, f"a divisor of {whole} ({shown(limit)})")

    def replace(self, **changes: Scalar) -> "Serving":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def chips(self) -> Scalar:
        """Chips the plan uses: t p d."""
        return self.tensor * self.pipeline * self.data

    @property
    def columns(self) -> Scalar:
        """Tensor ways that split heads and d_ff: t / X."""
        return self.tensor / self.rows

    @property
    def has_small_first_stage(self) -> Scalar:
        """1 where the first stage is a head stage: it has fewer layers than the others, and both tables."""
        return (self.pipeline > 1) * (self.first_stage_share < 1) * 1.0

    def first_stage_layers(self, architecture: Architecture) -> Scalar:
        """Layers of the first of several stages: its share of them, rounded down."""
        shares = jnp.maximum(self.pipeline - 1 + self.first_stage_share, 1.0)
        return (self.pipeline > 1) * jnp.floor(architecture.layers * self.first_stage_share / shares)

    def stage_layers(self, architecture: Architecture) -> Scalar:
        """Layers of the fullest stage: what the first leaves, split as evenly as whole layers allow."""
        return jnp.ceil(
            (architecture.layers - self.first_stage_layers(architecture)) / jnp.maximum(self.pipeline - 1, 1.0)
        )

    def last_layers(self, architecture: Architecture) -> Scalar:
        """Layers of the last stage, which has the logits to do as well: the fewest that an even split gives."""
        return jnp.floor(
            (architecture.layers - self.first_stage_layers(architecture)) / jnp.maximum(self.pipeline - 1, 1.0)
        )

    def sequence_ways(self, sequences: Scalar) -> Scalar:
        """Ways in which so many sequences can be split: t, or as many as they are."""
        return jnp.clip(sequences, 1.0, self.tensor)
