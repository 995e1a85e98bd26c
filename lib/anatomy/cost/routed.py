"""Mixtures of experts: the loss that experts buy, and the price of serving them.

Symbols: N parameters of the dense model behind a mixture (what a token passes when it sees one expert a layer),
E experts, k of them for each token, b tokens decoded together. The law's logarithms are to base 10.
"""

import dataclasses

import jax.numpy as jnp

from anatomy.cost.efficiency import IDEAL, Overheads
from anatomy.cost.inference.steps import decode, layer_weights
from anatomy.cost.routing import active_experts
from anatomy.specs import Architecture, Cluster, Link, Node, Scalar, Serving, catalogue
from anatomy.specs.base import number, spec
from anatomy.specs.cluster import Chip


@spec
class RoutedLaw:
    """log L = a log N + b log Ehat + c log N log Ehat + d (clark2022unified, equation 1).

    Fitted to dense models of 15 million to 1.3 billion parameters, up to 512 experts, all trained on 130 billion
    tokens: it knows no other number of tokens.
    """

    a: Scalar = number("1", low=-1, high=0, doc="exponent of N")
    b: Scalar = number("1", low=-1, high=0, doc="exponent of E")
    c: Scalar = number("1", low=0, high=1, doc="what each takes from the other")
    d: Scalar = number("1", doc="log of the loss at N = Ehat = 1")
    E_start: Scalar = number("experts", above=0, doc="where the gain sets in")
    E_max: Scalar = number("experts", above=0, doc="where it ends")

    def saturating(self, experts: Scalar) -> Scalar:
        """Ehat, the experts that count: E_start for one expert, never more than E_max.

            1 / Ehat = 1 / (E - 1 + 1 / (1 / E_start - 1 / E_max)) + 1 / E_max

        Source: clark2022unified, equation 7.
        """
        start = 1 / (1 / self.E_start - 1 / self.E_max)
        return 1 / (1 / (experts - 1 + start) + 1 / self.E_max)

    def loss(self, parameters: Scalar, experts: Scalar = 1.0) -> Scalar:
        """L, in nats a token."""
        n, e = jnp.log10(parameters), jnp.log10(self.saturating(experts))
        return 10 ** (self.a * n + self.b * e + self.c * n * e + self.d)

    def gain(self, parameters: Scalar, experts: Scalar, than: Scalar = 1.0) -> Scalar:
        """Share of the loss that `experts` save against `than` experts; below 0 where more experts hurt."""
        return 1 - self.loss(parameters, experts) / self.loss(parameters, than)

    def effective_parameters(self, parameters: Scalar, experts: Scalar) -> Scalar:
        """Parameters of a dense model with the loss of the mixture; those of the mixture itself for one expert.

        Source: clark2022unified, section 5.1, the effective parameter count.
        """
        n, e = jnp.log10(parameters), jnp.log10(self.saturating(experts))
        first = jnp.log10(self.E_start)
        return 10 ** ((self.a * n + (self.b + self.c * n) * (e - first) + self.c * n * first) / self._slope)

    @property
    def cutoff(self) -> Scalar:
        """N from which more experts stop to help, 10^(-b / c)."""
        return 10 ** (-self.b / self.c)

    @property
    def _slope(self) -> Scalar:
        """Exponent of N in a dense model of this law: a + c log E_start."""
        return self.a + self.c * jnp.log10(self.E_start)


ROUTERS = ("s_base", "rl_r", "hash")  # balanced assignment, reinforcement learning, a hash of the token


def routed_law(router: str) -> RoutedLaw:
    """The published law of a router: one of `ROUTERS`.

    Raises:
        KeyError: there is no such router; the message lists those there are.
    """
    if router not in ROUTERS:
        raise KeyError(f"routed law {router!r}; allowed: {', '.join(ROUTERS)}")
    row = catalogue.entry("scaling", "routed")[router]
    return RoutedLaw(**{name: row[name] for name in ("a", "b", "c", "d", "E_start", "E_max")})


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
    """Bytes of weights that a step reads: what every token uses, and the experts that some token of it visits.

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
