"""Collectives: how long a group of chips takes to exchange bytes.

Symbols: n chips in the group, B bytes that each chip holds (of the whole result, for gathers), W bytes/s a
chip can send, a seconds of latency a message. Ring algorithms, which reach the lower bound in bytes.

Source: thakur2005collectives; patarasuk2009ring for all-reduce.
"""

import jax.numpy as jnp

from anatomy.specs import Cluster, Scalar
from anatomy.specs.base import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, check_arguments


def all_gather(size: Scalar, *, chips: Scalar, bandwidth: Scalar, latency: Scalar = 0.0) -> Scalar:
    """Seconds until each of n chips has all B bytes, of which it had B / n: (n - 1) (B / (n W) + a).

    Raises:
        TypeError, ValueError: size or latency is below 0, chips below 1, or bandwidth not above 0; so do the others.
    """
    check_arguments("collectives", AT_LEAST_ZERO, size=size, latency=latency)
    check_arguments("collectives", AT_LEAST_ONE, chips=chips)
    check_arguments("collectives", ABOVE_ZERO, bandwidth=bandwidth)
    return (chips - 1) * (size / (chips * bandwidth) + latency)


def reduce_scatter(size: Scalar, *, chips: Scalar, bandwidth: Scalar, latency: Scalar = 0.0) -> Scalar:
    """Seconds until each chip has its n-th of the sum of B bytes; the mirror image of all-gather."""
    return all_gather(size, chips=chips, bandwidth=bandwidth, latency=latency)


def all_reduce(size: Scalar, *, chips: Scalar, bandwidth: Scalar, latency: Scalar = 0.0) -> Scalar:
    """Seconds until each chip has the sum of B bytes: a reduce-scatter, then an all-gather."""
    return reduce_scatter(size, chips=chips, bandwidth=bandwidth, latency=latency) + all_gather(
        size, chips=chips, bandwidth=bandwidth, latency=latency
    )


def all_to_all(size: Scalar, *, chips: Scalar, bandwidth: Scalar, latency: Scalar = 0.0) -> Scalar:
    """Seconds until each chip has sent its B bytes in equal parts to all: (n - 1) (B / (n W) + a)."""
    return all_gather(size, chips=chips, bandwidth=bandwidth, latency=latency)


def point_to_point(size: Scalar, *, bandwidth: Scalar, latency: Scalar = 0.0) -> Scalar:
    """Seconds to send B bytes to one neighbour: B / W + a."""
    check_arguments("collectives", AT_LEAST_ZERO, size=size, latency=latency)
    check_arguments("collectives", ABOVE_ZERO, bandwidth=bandwidth)
    return size / bandwidth + latency


def hierarchical_reduction(
    size: Scalar, *, replicas: Scalar, neighbours: Scalar, cluster: Cluster, passes: Scalar = 2.0
) -> Scalar:
    """Seconds of a gather, a scatter, or both, among replicas that lie in nodes and segments.

    It goes level by level. Of the replicas, n1 share a node, n2 nodes a segment, n3 segments are left.
    Inside the node each pass moves (n1 - 1) / n1 of the bytes over the fast link; what is left for a chip
    after that, B / n1, goes on to the other nodes of the segment, and B / (n1 n2) between segments, each
    at the pace of that level.

    Args:
        size: B, bytes of the whole at each chip.
        replicas: of the group.
        neighbours: chips that lie between two replicas, 1 if they are next to each other.
        cluster: where they lie.
        passes: 1 for a gather or a scatter, 2 for an all-reduce.

    Source: thakur2005collectives for the levels; zhao2023fsdp for hybrid sharding, which stops at one.
    """
    in_node = jnp.clip(cluster.node.chips / neighbours, 1.0, replicas)
    in_segment = jnp.clip(cluster.segment_nodes * cluster.node.chips / neighbours, in_node, replicas)
    levels = (
        (in_node, size, cluster.node.link),
        (in_segment / in_node, size / in_node, cluster.inside),
        (replicas / in_segment, size / in_segment, cluster.between),
    )
    return sum(
        passes * all_gather(part, chips=n, bandwidth=link.bandwidth, latency=link.latency) for n, part, link in levels
    )
