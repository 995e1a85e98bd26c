"""The catalogues: chips, architectures, vision, fleets, runs and scaling laws, each figure with its source.

The data files lie in `catalogues/`. An entry has a default `source`; a figure from elsewhere is named
in its table `sources`; figures seen only in a secondary source are listed in `weak`.
"""

import tomllib
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from anatomy.specs.architecture import Architecture, Attention, LatentAttention
from anatomy.specs.cluster import Chip, Cluster, Link, Node
from anatomy.specs.vision import CrossAttention, Encoder, Resampler

CATALOGUES = files("anatomy.specs") / "catalogues"


@cache
def table(name: str) -> dict[str, Any]:
    """A whole catalogue, as it stands in its file: `chips`, `architectures`, `prices`, `fleets`, ...

    Raises:
        KeyError: there is no such catalogue; the message lists those there are.
    """
    known = sorted(path.name.removesuffix(".toml") for path in CATALOGUES.iterdir() if ".toml" in path.name)
    if name not in known:
        raise KeyError(f"catalogue {name!r}; allowed: {', '.join(known)}")
    return tomllib.loads((CATALOGUES / f"{name}.toml").read_text("utf-8"))


def entry(catalogue: str, key: str) -> dict[str, Any]:
    """One entry of a catalogue.

    Raises:
        KeyError: there is no such entry; the message names the nearest ones, or all.
    """
    entries = table(catalogue)
    if key not in entries:
        begins = [name for name in entries if name.startswith(str(key))]
        near = begins or get_close_matches(str(key), entries, n=3) or sorted(entries)
        raise KeyError(f"{catalogue} entry {key!r}; nearest: {', '.join(near)}")
    return entries[key]


def source_of(catalogue: str, key: str, figure: str) -> str:
    """The bibliography key that a figure rests on."""
    row = entry(catalogue, key)
    return row.get("sources", {}).get(figure, row["source"])


def is_weak(catalogue: str, key: str, figure: str) -> bool:
    """Whether a figure was seen only in a secondary source."""
    return figure in entry(catalogue, key).get("weak", ())


@cache
def chip(key: str) -> Chip:
    """A chip of the catalogue, e.g. `chip("a100_sxm_40gb")`."""
    row = entry("chips", key)
    flops_8bit = row.get("flops_8bit", row.get("flops_16bit"))
    defaults = {"flops_8bit": flops_8bit, "flops_4bit": row.get("flops_4bit", flops_8bit)}
    return _build(Chip, defaults | row)


@cache
def node(key: str) -> Node:
    """A node of that chip: the box it is sold in, with its fast link."""
    link = Link(bandwidth=_figure("chips", key, "link_bandwidth"))
    return Node(chip=chip(key), chips=_figure("chips", key, "node"), link=link)


def cluster(key: str, nodes: float, segment_nodes: float | None = None, between: float = 1.0) -> Cluster:
    """Nodes of that chip on their published network.

    Args:
        key: chip of the catalogue.
        nodes: how many nodes.
        segment_nodes: nodes in a segment; by default there is one segment.
        between: bandwidth between segments as a share of the one inside.
    """
    inside = Link(bandwidth=_figure("chips", key, "network_bandwidth"))
    return Cluster(
        node=node(key),
        nodes=nodes,
        inside=inside,
        between=Link(bandwidth=inside.bandwidth * between, latency=inside.latency),
        segment_nodes=nodes if segment_nodes is None else segment_nodes,
    )


def torus(key: str, chips: int) -> Cluster:
    """A slice of a TPU pod that is a torus with equal sides, as a node of its own.

    Raises:
        KeyError: there is no such chip, or its links make no torus.
        ValueError: so many chips make no torus of equal sides.
    """
    axes = int(_figure("chips", key, "axes"))
    side = round(chips ** (1 / axes))
    if side < 2 or side**axes != chips:
        raise ValueError(f"torus.chips is {chips}; allowed: a power of {axes} of a whole number from 2 on")
    link = Link(bandwidth=_figure("chips", key, "link_bandwidth"), axes=float(axes), side=float(side))
    return Cluster(
        node=Node(chip=chip(key), chips=float(chips), link=link),
        nodes=1.0,
        inside=link,
        between=link,
        segment_nodes=1.0,
    )


@cache
def architecture(key: str) -> Architecture:
    """An architecture of the catalogue, e.g. `architecture("gpt3_175b")`."""
    row = entry("architectures", key)
    kind = LatentAttention if "kv_rank" in row else Attention
    return _build(Architecture, row, attention=_build(kind, row))


@cache
def encoder(key: str) -> Encoder:
    """A vision encoder of the catalogue, e.g. `encoder("vit_h_14")`."""
    return _build(Encoder, entry("vision", key))


@cache
def resampler(key: str) -> Resampler:
    """A resampler of the catalogue, e.g. `resampler("flamingo_resampler")`."""
    return _build(Resampler, entry("vision", key))


@cache
def cross_attention(key: str) -> CrossAttention:
    """The blocks that a published model has between its layers, e.g. `cross_attention("flamingo_80b")`."""
    row = entry("vision", key)
    return _build(CrossAttention, row, attention=_build(Attention, row))


def _figure(catalogue: str, key: str, name: str) -> float:
    """One figure of an entry.

    Raises:
        KeyError: the entry has no such figure; a phone has no network between chips.
    """
    row = entry(catalogue, key)
    if name not in row:
        raise KeyError(f"{catalogue} entry {key!r} has no {name}; it has: {', '.join(row)}")
    return float(row[name])


def _build(kind: type, row: dict[str, Any], **given: Any) -> Any:
    """A spec from the fields of a catalogue entry; numbers become floats."""
    names = {field.name for field in fields(kind)}
    values = {k: v if isinstance(v, str) else float(v) for k, v in row.items() if k in names}
    return kind(**values, **given)
