"""What share of the published peaks programs reach, and how long small things take to begin.

These are the only constants of the cost models that are fitted, one set for each generation of chips.
"""

import dataclasses

from anatomy.specs import Cluster, Link, Scalar, catalogue
from anatomy.specs.base import number, spec


@spec
class Efficiency:
    """What share of the published peaks programs reach."""

    matmul: Scalar = number("1", above=0, high=1, doc="of peak FLOP/s, for matrices much larger than half_size")
    half_size: Scalar = number("values", doc="a side of which halves the rate of a matrix product")
    memory: Scalar = number("1", above=0, high=1, doc="of memory bandwidth, for work that is bound by it")
    link: Scalar = number("1", above=0, high=1, doc="of the bandwidth inside a node")
    network: Scalar = number("1", above=0, high=1, doc="of the bandwidth between nodes")


@spec
class Overheads:
    """What a serving step takes beyond bytes and FLOP: the time that small things need to begin."""

    efficiency: Efficiency
    hop: Scalar = number("s", doc="until a neighbour in the node has a short message")
    network_hop: Scalar = number("s", doc="until another node has one")
    kernel: Scalar = number("s", doc="to start a kernel after the one before it")
    overlap: Scalar = number("1", high=1, doc="of the shorter of reading and computing, hidden behind the longer")


IDEAL = Efficiency(matmul=1.0, half_size=0.0, memory=1.0, link=1.0, network=1.0)  # the peaks themselves


def generation_of(chip: str, constants: str = "efficiency") -> str:
    """The generation whose constants a chip has: its own, or the neighbour's that the catalogue of chips names.

    Args:
        chip: key of the catalogue of chips.
        constants: catalogue that holds them, `efficiency` for training or `serving`.

    Raises:
        KeyError: there is no such chip; the message names the nearest.
        ValueError: the chip's generation has no constants.
    """
    entry = catalogue.entry("chips", chip)
    generation = entry.get("constants", entry.get("generation"))
    known = catalogue.table(constants)
    if generation not in known:
        raise ValueError(
            f"chip {chip!r} is of generation {generation!r}; allowed: {', '.join(known)}; "
            f"add its constants to {constants}.toml, or a neighbour that it borrows from to chips.toml"
        )
    return str(generation)


def efficiency(chip: str) -> Efficiency:
    """What a chip's generation reaches in training.

    Args:
        chip: key of the catalogue of chips.

    Raises:
        KeyError, ValueError: as `generation_of`.
    """
    return _read("efficiency", generation_of(chip))


def overheads(chip: str) -> Overheads:
    """What a chip's generation reaches in serving, and how long small things take to begin there.

    Args:
        chip: key of the catalogue of chips.

    Raises:
        KeyError, ValueError: as `generation_of`.
    """
    generation = generation_of(chip, "serving")
    row = catalogue.entry("serving", generation)
    starts = {name: row[name] for name in ("hop", "network_hop", "kernel", "overlap")}
    return Overheads(efficiency=_read("serving", generation), **starts)


def _read(name: str, generation: str) -> Efficiency:
    row = catalogue.entry(name, generation)
    return Efficiency(**{field.name: row[field.name] for field in dataclasses.fields(Efficiency)})


def derate(cluster: Cluster, share: Efficiency) -> Cluster:
    """The cluster with the bandwidth that programs reach in place of the published one."""

    def scale(link: Link, by: Scalar) -> Link:
        return dataclasses.replace(link, bandwidth=link.bandwidth * by)

    node = dataclasses.replace(cluster.node, link=scale(cluster.node.link, share.link))
    inside, between = (scale(link, share.network) for link in (cluster.inside, cluster.between))
    return dataclasses.replace(cluster, node=node, inside=inside, between=between)
