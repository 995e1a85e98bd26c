"""Collectives against a ring that is really walked, and against their limits."""

import hypothesis.strategies as st
import pytest
from anatomy import specs
from anatomy.cost.collectives import (
    all_gather,
    all_reduce,
    all_to_all,
    hierarchical_reduction,
    point_to_point,
    reduce_scatter,
)
from anatomy.specs import Cluster, Link, Node
from hypothesis import given

groups = st.integers(1, 64)
sizes = st.floats(1.0, 1e12)


def walk_ring(chips: int, size: float, bandwidth: float, latency: float) -> float:
    """All-gather hop by hop: each chip passes on the newest part it has until everybody has all."""
    parts = [{chip} for chip in range(chips)]
    newest = list(range(chips))
    seconds = 0.0
    while any(len(part) < chips for part in parts):
        sent = [newest[chip - 1] for chip in range(chips)]
        for chip in range(chips):
            parts[chip].add(sent[chip])
        newest = sent
        seconds += size / chips / bandwidth + latency
    return seconds


@given(groups, sizes)
def test_all_gather_is_the_ring(chips, size):
    expected = walk_ring(chips, size, 300e9, 5e-6)
    assert all_gather(size, chips=chips, bandwidth=300e9, latency=5e-6) == pytest.approx(expected, rel=1e-9, abs=1e-18)
    assert reduce_scatter(size, chips=chips, bandwidth=300e9, latency=5e-6) == all_gather(
        size, chips=chips, bandwidth=300e9, latency=5e-6
    )
    assert all_reduce(size, chips=chips, bandwidth=300e9, latency=5e-6) == pytest.approx(
        2 * expected, rel=1e-9, abs=1e-18
    )


@given(groups, sizes)
def test_all_to_all_sends_everything_but_the_own_part(chips, size):
    assert all_to_all(size, chips=chips, bandwidth=1e9) == pytest.approx(
        size * (1 - 1 / chips) / 1e9, rel=1e-9, abs=1e-18
    )


def test_one_chip_has_nobody_to_talk_to():
    assert (
        all_gather(1e9, chips=1.0, bandwidth=1e9, latency=1.0)
        == all_reduce(1e9, chips=1.0, bandwidth=1e9, latency=1.0)
        == all_to_all(1e9, chips=1.0, bandwidth=1e9)
        == 0
    )


def test_point_to_point():
    assert point_to_point(1e9, bandwidth=2e9, latency=0.25) == 0.75


def cluster(nodes: float, segment: float, inside: float = 25e9, between: float = 5e9) -> Cluster:
    node = Node(chip=specs.chip("a100_sxm_80gb"), chips=8, link=Link(bandwidth=300e9))
    return Cluster(
        node=node, nodes=nodes, inside=Link(bandwidth=inside), between=Link(bandwidth=between), segment_nodes=segment
    )


def test_levels_by_hand():
    # 64 replicas, one a chip: 8 in a node, 4 nodes in a segment, 2 segments.
    size = 1e9
    by_hand = 2 * (7 / 8 * size / 300e9 + 3 / 4 * size / 8 / 25e9 + 1 / 2 * size / 32 / 5e9)
    assert float(hierarchical_reduction(size, replicas=64.0, neighbours=1.0, cluster=cluster(8, 4))) == pytest.approx(
        by_hand
    )
    # Eight tensor ranks lie between two replicas: none shares a node.
    by_hand = 2 * (3 / 4 * size / 25e9 + 1 / 2 * size / 4 / 5e9)
    assert float(hierarchical_reduction(size, replicas=8.0, neighbours=8.0, cluster=cluster(8, 4))) == pytest.approx(
        by_hand
    )


def test_inside_one_node_it_is_the_ring():
    assert float(hierarchical_reduction(1e9, replicas=8.0, neighbours=1.0, cluster=cluster(1, 1))) == pytest.approx(
        all_reduce(1e9, chips=8.0, bandwidth=300e9)
    )


@given(st.sampled_from([1, 2, 4, 8, 16, 64]), st.sampled_from([1, 2, 4, 8]), st.floats(1.0, 20.0))
def test_a_faster_network_is_never_slower(replicas, neighbours, factor):
    slow = hierarchical_reduction(1e9, replicas=float(replicas), neighbours=float(neighbours), cluster=cluster(64, 8))
    fast = hierarchical_reduction(
        1e9, replicas=float(replicas), neighbours=float(neighbours), cluster=cluster(64, 8, inside=25e9 * factor)
    )
    assert float(fast) <= float(slow) * (1 + 1e-12)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: all_reduce(-1.0, chips=8, bandwidth=1e9), "collectives.size is -1; allowed: a number at least 0"),
        (lambda: all_gather(1e9, chips=0, bandwidth=1e9), "collectives.chips is 0; allowed: a number at least 1"),
        (lambda: all_to_all(1e9, chips=8, bandwidth=0.0), "collectives.bandwidth is 0; allowed: a number above 0"),
        (
            lambda: point_to_point(1e9, bandwidth=1e9, latency=-1.0),
            "collectives.latency is -1; allowed: a number at least 0",
        ),
    ],
)
def test_absurd_input_is_an_error_that_names_it(call, words):
    with pytest.raises(ValueError, match=words):
        call()
