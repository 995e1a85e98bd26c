"""Plans: how the work of one training step is laid over the chips."""

import dataclasses
from enum import IntEnum

import jax.numpy as jnp
import numpy as np

from anatomy.specs.architecture import Architecture
from anatomy.specs.base import Scalar, number, refuse_where, shown, spec, switch


class Recompute(IntEnum):
    """Activation recomputation in the backward pass (korthikanti2023reducing)."""

    NONE = 0
    SELECTIVE = 1  # the attention scores only
    FULL = 2  # every layer, from its input


@spec
class Plan:
    """Ways of parallelism and what goes with them.

    Chips are numbered with tensor innermost, then data, then pipeline outermost, as in
    narayanan2021megatron, so that the ranks that communicate most are neighbours.
    """

    tensor: Scalar = number("ways", low=1, whole=True, default=1.0, doc="a layer's matrices are split")
    pipeline: Scalar = number("stages", low=1, whole=True, default=1.0, doc="layers are split")
    data: Scalar = number("replicas", low=1, whole=True, default=1.0, doc="the batch is split")
    expert: Scalar = number("ways", low=1, whole=True, default=1.0, doc="experts are split among replicas")
    micro_batch: Scalar = number("sequences", low=1, whole=True, default=1.0, doc="that pass at once")
    chunks: Scalar = number("chunks", low=1, whole=True, default=1.0, doc="v, model chunks of a stage")
    zero: Scalar = number(
        "stage", high=3, whole=True, default=0.0, doc="ZeRO: 1 splits optimizer state, 2 gradients, 3 weights"
    )
    recompute: Scalar = number("Recompute", high=2, whole=True, default=float(Recompute.NONE), doc="level")
    zero_ways: Scalar = number(
        "replicas", whole=True, default=0.0, doc="that share the ZeRO split, as in hybrid sharding; 0 is all of them"
    )
    sequence_parallel: Scalar = switch(default=False, doc="norms and dropouts are split by tokens")
    gpipe: Scalar = switch(default=False, doc="all forwards before all backwards, instead of 1F1B")
    fused_attention: Scalar = switch(default=False, doc="scores stay on the chip and the causal half is skipped")
    overlap: Scalar = number("1", high=1, default=0.0, doc="share of the exchange between replicas to hide in compute")
    overlap_layers: Scalar = number(
        "1", high=1, default=0.0, doc="share of the traffic of tensor ways, experts and stages to hide in compute"
    )

    def check(self) -> None:
        """Refuse expert ways that the replicas cannot hold; they come on top of tensor ways.

        Raises:
            ValueError: expert does not divide data.
        """
        wrong = np.mod(self.data, self.expert) != 0
        refuse_where(wrong, "Plan.expert", self.expert, f"a divisor of data ({shown(self.data)})")

    def replace(self, **changes: Scalar) -> "Plan":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def chips(self) -> Scalar:
        """Chips the plan uses: t p d. Experts are split inside the replicas and need no more."""
        return self.tensor * self.pipeline * self.data

    @property
    def model_chips(self) -> Scalar:
        """Chips that hold one copy of the model: t p."""
        return self.tensor * self.pipeline

    def micro_batches(self, sequences: Scalar) -> Scalar:
        """m, micro-batches that a replica passes in one step of so many sequences."""
        return sequences / (self.data * self.micro_batch)

    def stage_layers(self, architecture: Architecture) -> Scalar:
        """Layers of the fullest stage: L / p, rounded up."""
        return jnp.ceil(architecture.layers / self.pipeline)

    @property
    def token_ways(self) -> Scalar:
        """Ways in which norms, dropouts and the inputs of layers are split: t with sequence parallelism, or 1."""
        return jnp.where(jnp.asarray(self.sequence_parallel) > 0, self.tensor, 1.0)

    def zero_group(self, replicas: Scalar) -> Scalar:
        """Replicas, of so many, that share a ZeRO split: all of them, or a hybrid group."""
        return jnp.where(jnp.asarray(self.zero_ways) > 0, jnp.minimum(self.zero_ways, replicas), replicas)

    @property
    def expert_replicas(self) -> Scalar:
        """Replicas of one expert: d / e, because the other replicas hold other experts."""
        return self.data / self.expert
