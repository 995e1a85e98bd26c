"""Hardware: chips, the nodes they sit in, and the fabric that joins the nodes.

All rates are peaks of dense arithmetic, in SI units, one direction; the cost models say what share of
them a real program reaches.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from anatomy.specs.base import Scalar, label, number, refuse_where, shown, spec


@spec
class Chip:
    """One accelerator."""

    name: str = label(default="")
    flops_16bit: Scalar = number("FLOP/s", above=0, doc="bfloat16 and float16")
    flops_8bit: Scalar = number("FLOP/s", above=0, doc="int8 or fp8; the 16-bit rate where there is no unit")
    flops_4bit: Scalar = number("FLOP/s", above=0, doc="int4 or fp4; the 8-bit rate where there is no unit")
    memory: Scalar = number("bytes", above=0, doc="capacity")
    memory_bandwidth: Scalar = number("bytes/s", above=0, doc="of the memory next to the chip")
    power: Scalar = number("W", default=0.0, doc="of the board; 0 where not published")

    def flops(self, bits: Scalar) -> Scalar:
        """Peak rate for operands of so many bits, in FLOP/s."""
        narrow = jnp.where(jnp.asarray(bits) > 4, self.flops_8bit, self.flops_4bit)
        return jnp.where(jnp.asarray(bits) > 8, self.flops_16bit, narrow)

    def balance(self, bits: Scalar = 16) -> Scalar:
        """FLOP that the chip can do in the time it reads a byte (williams2009roofline)."""
        return self.flops(bits) / self.memory_bandwidth


@spec
class Link:
    """What one chip can send while it receives as much."""

    bandwidth: Scalar = number("bytes/s", above=0, doc="per chip and direction")
    latency: Scalar = number("s", default=0.0, doc="of one message")
    axes: Scalar = number("axes", whole=True, default=0.0, doc="of the torus that the links make; 0 is a switch")
    side: Scalar = number("chips", low=1, whole=True, default=1.0, doc="along each axis of that torus")

    def share(self, chips: Scalar) -> Scalar:
        """Share of the bandwidth that a group of neighbours has: on a torus, that of the axes it lies along.

        A group of n chips lies along ln n / ln side axes.

        Source: pope2023efficiently, appendix A.1.
        """
        along = jnp.log(1.0 * jnp.asarray(chips)) / jnp.log(jnp.maximum(self.side, 2.0))
        return jnp.where(jnp.asarray(self.axes) > 0, jnp.clip(along / jnp.maximum(self.axes, 1.0), 1e-9, 1.0), 1.0)

    def hops(self, chips: Scalar) -> Scalar:
        """Messages in a row until all of a group have heard from all: n - 1 in a ring, side - 1 for each axis.

        Source: thakur2005collectives for rings; austin2025scaling for a torus.
        """
        along = jnp.log(1.0 * jnp.asarray(chips)) / jnp.log(jnp.maximum(self.side, 2.0))
        return jnp.where(jnp.asarray(self.axes) > 0, (self.side - 1) * along, chips - 1.0)


@spec
class Node:
    """Chips that share a fast link."""

    chip: Chip
    chips: Scalar = number("chips", low=1, whole=True, doc="chips in the node")
    link: Link


@spec
class Cluster:
    """Nodes in segments: a fast network inside a segment, a slower one between segments."""

    node: Node
    nodes: Scalar = number("nodes", low=1, whole=True, doc="nodes in the cluster")
    inside: Link
    between: Link
    segment_nodes: Scalar = number("nodes", low=1, whole=True, doc="nodes in a segment")

    def check(self) -> None:
        """Refuse segments larger than the cluster, and a network that is faster between them.

        Raises:
            ValueError: segment_nodes is above nodes, or between is faster than inside.
        """
        wrong = np.greater(self.segment_nodes, self.nodes)
        refuse_where(wrong, "Cluster.segment_nodes", self.segment_nodes, f"at most nodes ({shown(self.nodes)})")
        rate, limit = self.between.bandwidth, self.inside.bandwidth
        allowed = f"at most that of inside ({shown(limit, 'bytes/s')})"
        refuse_where(np.greater(rate, limit), "Cluster.between.bandwidth", rate, allowed)

    @property
    def chips(self) -> Scalar:
        """Chips in the cluster."""
        return self.nodes * self.node.chips

    @property
    def flops_16bit(self) -> Scalar:
        """Peak rate of all chips, in FLOP/s."""
        return self.chips * self.node.chip.flops_16bit

    def slowest_link(self, span: Scalar) -> Link:
        """The slowest link that a group of `span` neighbouring chips has to cross.

        A ring is as fast as its slowest hop, so this is the link that sets the pace of a collective
        (thakur2005collectives).
        """
        in_node = jnp.asarray(span) <= self.node.chips
        in_segment = jnp.asarray(span) <= self.segment_nodes * self.node.chips

        def pick(field: str) -> Scalar:
            wide = jnp.where(in_segment, getattr(self.inside, field), getattr(self.between, field))
            return jnp.where(in_node, getattr(self.node.link, field), wide)

        return Link(**{field.name: pick(field.name) for field in dataclasses.fields(Link)})
