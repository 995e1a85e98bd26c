"""The least that a decode step takes, by what it reads and what it computes, and what a token costs then.

Symbols: E experts, k of them for each token, b tokens decoded together.
"""

import dataclasses

import jax.numpy as jnp

from anatomy.cost.efficiency import IDEAL, Overheads
from anatomy.cost.routing.expert_load import active_experts
from anatomy.cost.serving.steps import decode, layer_weights
from anatomy.specs import Architecture, Cluster, Link, Node, Scalar, Serving
from anatomy.specs.base import number, spec
from anatomy.specs.cluster import Chip


@spec
class DecodeRoofline:
    """One step that decodes a token of each sequence in a batch: a roofline of weights and arithmetic."""

    read: Scalar = number("s", doc="to read the weights once")
    compute: Scalar = number("s", doc="arithmetic at the 16-bit peak")

    @property
    def seconds(self) -> Scalar:
        """Whichever is longer, as if the other were hidden behind it."""
        return jnp.maximum(self.read, self.compute)

    @property
    def utilisation(self) -> Scalar:
        """Share of the peak that is used."""
        return self.compute / self.seconds


def bytes_read(model: Architecture, *, tokens: Scalar, bytes_per_parameter: Scalar = 2.0) -> Scalar:
    """Bytes of weights that a step reads: what every token uses, and the active experts.

    Of the tables of tokens and positions that go in, a token reads a row; that is left out.
    """
    active = active_experts(tokens=tokens, experts=model.experts, top_k=model.top_k)
    layers = model.layers * layer_weights(model, Serving(), active_experts=active)
    return bytes_per_parameter * (layers + model.vocabulary * model.d_model)


def decode_roofline(
    model: Architecture, *, batch: Scalar, chip: Chip, chips: Scalar = 1.0, bytes_per_parameter: Scalar = 2.0
) -> DecodeRoofline:
    """Roofline of a decode step, with tokens spread over experts by chance and nothing lost to links.

    It is `decode` on one chip as large as all of them that reaches its peaks. Caches of keys and values are left out:
    they are a matter of attention and cost the same for any number of experts. A floor, not a forecast.

    Args:
        model: with its experts.
        batch: b, sequences that get a token in this step.
        chip: bandwidth of its memory, and its 16-bit peak.
        chips: that share weights and arithmetic evenly.
        bytes_per_parameter: 2, or less for narrow weights that are widened for the arithmetic.

    Source: williams2009roofline; pope2023efficiently, section 2, for the two costs.
    """
    merged = dataclasses.replace(
        chip, memory_bandwidth=chips * chip.memory_bandwidth, flops_16bit=chips * chip.flops_16bit
    )
    alone = Link(bandwidth=1.0)  # over which nothing goes
    cluster = Cluster(
        node=Node(chip=merged, chips=1.0, link=alone), nodes=1.0, inside=alone, between=alone, segment_nodes=1.0
    )
    nothing_hidden = Overheads(efficiency=IDEAL, hop=0.0, network_hop=0.0, kernel=0.0, overlap=0.0)
    step = decode(model, Serving(weight_bytes=bytes_per_parameter), cluster, nothing_hidden, batch=batch, context=0.0)
    return DecodeRoofline(read=step.weights, compute=step.compute)


def balanced_batch(*, experts: Scalar, top_k: Scalar, chip: Chip, bytes_per_parameter: Scalar = 2.0) -> Scalar:
    """Batch at which an expert's arithmetic takes as long as reading its weights: (E / k) F B / (2 W).

    Args:
        experts: E; for E = k the batch of a dense model.
        top_k: k.
        chip: F FLOP/s in 16 bits, W bytes/s of memory.
        bytes_per_parameter: B.

    Source: chen2022arithmetic for dense models; an expert sees k / E of the batch.
    """
    return experts / top_k * chip.flops_16bit * bytes_per_parameter / (2 * chip.memory_bandwidth)


def dollars_per_token(step: DecodeRoofline, *, batch: Scalar, chips: Scalar, dollars_per_hour: Scalar) -> Scalar:
    """Dollars of rent for each token of a decode step; the number of chips cancels where they share evenly."""
    return step.seconds * chips * dollars_per_hour / 3600 / batch


def chips_to_hold(
    model: Architecture, chip: Chip, *, bytes_per_parameter: Scalar = 2.0, share: Scalar = 1.0, boxes_of: Scalar = 8.0
) -> Scalar:
    """Chips whose memory holds the weights, in whole boxes.

    Args:
        model: with its experts.
        chip: its memory.
        bytes_per_parameter: of the weights.
        share: of the memory that weights may take.
        boxes_of: chips that come together.
    """
    needed = model.parameters.total * bytes_per_parameter / (share * chip.memory)
    return boxes_of * jnp.ceil(needed / boxes_of)
