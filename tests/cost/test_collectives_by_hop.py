"""Collectives: data that really goes round a ring, and replicas level by level."""

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from anatomy.cost import collectives
from anatomy.specs import Cluster, Link, Node, chip
from hypothesis import given

A100 = chip("a100_sxm_80gb")
sizes = st.floats(1.0, 1e12)
groups = st.integers(1, 12)
bandwidths = st.floats(1e6, 1e12)
latencies = st.floats(0, 1e-3)
RING = (collectives.all_gather, collectives.reduce_scatter, collectives.all_reduce, collectives.all_to_all)
ring = pytest.mark.parametrize("collective", RING, ids=lambda f: f.__name__)


# Chip i sends to chip i + 1 only; in one hop all chips send at once.


def gather_hops(start: list[np.ndarray]) -> tuple[list[list[np.ndarray]], list[float]]:
    """Every chip passes on what it received last; returns what each ends with and the bytes of each hop."""
    n = len(start)
    held: list[dict[int, np.ndarray]] = [{i: part} for i, part in enumerate(start)]
    hops = []
    for hop in range(n - 1):
        parcels = [(i, (i - hop) % n, held[i][(i - hop) % n]) for i in range(n)]
        for i, which, part in parcels:
            held[(i + 1) % n][which] = part
        hops.append(max(part.nbytes for _, _, part in parcels))
    return [[own[which] for which in sorted(own)] for own in held], hops


def scatter_hops(start: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
    """Partial sums travel round: chip i ends with the sum of part i + 1; start is (chips, parts, values)."""
    n = len(start)
    held, hops = start.copy(), []
    for hop in range(n - 1):
        parcels = [(i, (i - hop) % n, held[i, (i - hop) % n].copy()) for i in range(n)]
        for i, which, part in parcels:
            held[(i + 1) % n, which] += part
        hops.append(max(part.nbytes for _, _, part in parcels))
    return [held[i, (i + 1) % n] for i in range(n)], hops


def clock(hops: list[float], bandwidth: float, latency: float) -> float:
    return sum(size / bandwidth + latency for size in hops)


@given(groups, st.integers(1, 8), bandwidths, latencies)
def test_gather_is_the_ring(n, values, bandwidth, latency):
    parts = np.random.default_rng(n).integers(0, 100, (n, values)).astype(float)
    ends, hops = gather_hops(list(parts))
    assert all(np.array_equal(end, parts) for end in ends)
    assert (len(hops), sum(hops)) == (n - 1, parts.nbytes * (n - 1) / n)
    formula = collectives.all_gather(parts.nbytes, chips=n, bandwidth=bandwidth, latency=latency)
    assert formula == pytest.approx(clock(hops, bandwidth, latency), rel=1e-12)


@given(groups, st.integers(1, 8), bandwidths, latencies)
def test_reduce_is_a_scatter_and_a_gather_on_the_ring(n, values, bandwidth, latency):
    start = np.random.default_rng(n).integers(0, 100, (n, n, values)).astype(float)
    sums, scattered = scatter_hops(start)
    assert all(np.array_equal(sums[i], start.sum(0)[(i + 1) % n]) for i in range(n))
    size = start[0].nbytes
    formula = collectives.reduce_scatter(size, chips=n, bandwidth=bandwidth, latency=latency)
    assert formula == pytest.approx(clock(scattered, bandwidth, latency), rel=1e-12)
    ends, gathered = gather_hops(sums)
    assert all(np.array_equal(np.roll(end, 1, 0), start.sum(0)) for end in ends)
    assert len(scattered + gathered) == 2 * (n - 1)
    formula = collectives.all_reduce(size, chips=n, bandwidth=bandwidth, latency=latency)
    assert formula == pytest.approx(clock(scattered + gathered, bandwidth, latency), rel=1e-12)


@given(groups, st.integers(1, 8), bandwidths, latencies)
def test_all_to_all_is_a_round_of_exchanges(n, values, bandwidth, latency):
    """In round r chip i sends the part for chip i + r straight there, as a switch allows."""
    start = np.random.default_rng(n).integers(0, 100, (n, n, values)).astype(float)
    held, hops = np.full_like(start, np.nan), []
    held[np.arange(n), np.arange(n)] = start[np.arange(n), np.arange(n)]
    for r in range(1, n):
        for i in range(n):
            held[(i + r) % n, i] = start[i, (i + r) % n]
        hops.append(start[0, 0].nbytes)
    assert np.array_equal(held, start.swapaxes(0, 1))
    formula = collectives.all_to_all(start[0].nbytes, chips=n, bandwidth=bandwidth, latency=latency)
    assert formula == pytest.approx(clock(hops, bandwidth, latency), rel=1e-12)


@ring
@given(sizes, bandwidths, latencies)
def test_one_chip_has_nobody_to_send_to(collective, size, bandwidth, latency):
    assert collective(size, chips=1, bandwidth=bandwidth, latency=latency) == 0


@ring
@given(sizes, st.integers(2, 10_000), bandwidths, latencies, st.floats(1.01, 100))
def test_more_to_send_takes_longer_and_more_bandwidth_is_faster(collective, size, n, bandwidth, latency, factor):
    seconds = collective(size, chips=n, bandwidth=bandwidth, latency=latency)
    assert collective(factor * size, chips=n, bandwidth=bandwidth, latency=latency) >= seconds
    assert collective(size, chips=n, bandwidth=factor * bandwidth, latency=latency) <= seconds
    assert collective(factor * size, chips=n, bandwidth=bandwidth) > collective(
        size, chips=n, bandwidth=bandwidth
    )  # not drowned in latency
    assert collective(size, chips=n, bandwidth=factor * bandwidth) < collective(size, chips=n, bandwidth=bandwidth)
    assert collective(size, chips=n, bandwidth=bandwidth, latency=latency + 1e-3) > seconds
    assert collective(size, chips=n + 1, bandwidth=bandwidth, latency=latency) >= seconds


@given(sizes, st.integers(1, 10_000), bandwidths)
def test_no_chip_sends_more_than_twice_its_bytes(size, n, bandwidth):
    assert collectives.all_reduce(size, chips=n, bandwidth=bandwidth) <= 2 * size / bandwidth  # patarasuk2009ring


# Replicas in nodes and segments.


def make(node_chips=8, segment_nodes=4, segments=2, link=300e9, inside=25e9, between=10e9, latency=0.0) -> Cluster:
    return Cluster(
        node=Node(chip=A100, chips=float(node_chips), link=Link(bandwidth=link, latency=latency)),
        nodes=float(segment_nodes * segments),
        inside=Link(bandwidth=inside, latency=5 * latency),
        between=Link(bandwidth=between, latency=20 * latency),
        segment_nodes=float(segment_nodes),
    )


@jax.jit
def exchange(size, replicas, neighbours, cluster, passes=2.0):
    return collectives.hierarchical_reduction(
        size, replicas=replicas, neighbours=neighbours, cluster=cluster, passes=passes
    )


def test_two_segments_of_four_nodes_of_eight_by_hand():
    made, size = make(latency=1e-6), 64e9
    # Neighbours. In the node 7 hops of 8 GB at 300 GB/s; then 8 GB among 4 nodes, 3 hops of 2 GB at 25 GB/s;
    # then 2 GB between 2 segments, 1 hop of 1 GB at 10 GB/s. There and back.
    once = 7 * (8 / 300 + 1e-6) + 3 * (2 / 25 + 5e-6) + 1 * (1 / 10 + 20e-6)
    assert float(exchange(size, 64.0, 1.0, made)) == pytest.approx(2 * once, rel=1e-12)
    assert float(exchange(size, 64.0, 1.0, made, 1.0)) == pytest.approx(once, rel=1e-12)
    # Two chips apart: 4 in a node, 4 nodes, 2 segments.
    once = 3 * (16 / 300 + 1e-6) + 3 * (4 / 25 + 5e-6) + 1 * (2 / 10 + 20e-6)
    assert float(exchange(size, 32.0, 2.0, made)) == pytest.approx(2 * once, rel=1e-12)
    # With 8-way tensor parallelism every replica is a node: 8 of them, 4 in a segment, nothing in a node.
    once = 3 * (16 / 25 + 5e-6) + 1 * (8 / 10 + 20e-6)
    assert float(exchange(size, 8.0, 8.0, made)) == pytest.approx(2 * once, rel=1e-12)
    # A whole segment apart: only the link between is left.
    assert float(exchange(size, 2.0, 32.0, made)) == pytest.approx(2 * (32 / 10 + 20e-6), rel=1e-12)


def test_each_level_is_one_addend():
    """A level's part is what is left when the other links are infinitely fast."""
    fast = 1e30

    def seconds(link, inside, between):
        return float(exchange(64e9, 64.0, 1.0, make(link=link, inside=inside, between=between)))

    node, between = seconds(300e9, fast, fast), seconds(fast, fast, 10e9)
    inside = seconds(fast, 25e9, 10e9) - between
    assert [node, inside, between] == pytest.approx([2 * 7 * 8 / 300, 2 * 3 * 2 / 25, 2 * 1 / 10], rel=1e-12)
    assert seconds(300e9, 25e9, 10e9) == pytest.approx(node + inside + between, rel=1e-12)


@given(sizes, st.integers(1, 8), latencies)
def test_in_one_node_it_is_the_plain_ring(size, replicas, latency):
    plain = collectives.all_reduce(size, chips=replicas, bandwidth=300e9, latency=latency)
    assert float(exchange(size, float(replicas), 1.0, make(latency=latency))) == pytest.approx(plain, rel=1e-12)
    # So it is where a node is the whole cluster.
    alone = make(node_chips=64, segment_nodes=1, segments=1, latency=latency)
    plain = collectives.all_reduce(size, chips=8 * replicas, bandwidth=300e9, latency=latency)
    assert float(exchange(size, 8.0 * replicas, 1.0, alone)) == pytest.approx(plain, rel=1e-12)


@given(sizes, st.integers(1, 4), latencies)
def test_nodes_of_one_segment_never_use_the_link_between(size, nodes, latency):
    slow = exchange(size, 8.0 * nodes, 1.0, make(between=1.0, latency=latency))
    assert slow == exchange(size, 8.0 * nodes, 1.0, make(latency=latency))


@given(sizes, st.sampled_from([1, 2, 4, 8]), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_one_speed_everywhere_is_one_ring(size, node_chips, segment_nodes, segments, tensor):
    """Level by level moves the same bytes as one ring through all: the lower bound (n - 1) / n."""
    replicas = node_chips * segment_nodes * segments
    plain = collectives.all_reduce(size, chips=replicas, bandwidth=1e9)
    wide = make(node_chips * tensor, segment_nodes, segments, 1e9, 1e9, 1e9)
    assert float(exchange(size, float(replicas), float(tensor), wide)) == pytest.approx(plain, rel=1e-12)


@given(sizes, groups, st.sampled_from([1, 2, 3, 4, 8, 16, 100]), st.floats(1, 100))
def test_more_bandwidth_at_any_level_is_never_slower(size, replicas, neighbours, factor):
    before = float(exchange(size, float(replicas), float(neighbours), make(latency=1e-6)))
    faster = [
        make(link=300e9 * factor, latency=1e-6),
        make(inside=25e9 * factor, latency=1e-6),
        make(inside=1e12, between=10e9 * factor, latency=1e-6),
    ]
    for other in faster:
        assert float(exchange(size, float(replicas), float(neighbours), other)) <= before * (1 + 1e-12)


@given(sizes, st.integers(1, 64), st.sampled_from([1, 2, 4, 8, 16]), st.floats(1.01, 100))
def test_more_bytes_or_more_replicas_take_longer(size, replicas, neighbours, factor):
    made, n, apart = make(latency=1e-9), float(replicas), float(neighbours)
    before = float(exchange(size, n, apart, made))
    assert (before == 0) == (replicas == 1)
    assert float(exchange(size, n + 1, apart, made)) > before
    assert float(exchange(factor * size, n, apart, made)) >= before
