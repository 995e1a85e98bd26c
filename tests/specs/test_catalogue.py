"""The catalogues: every figure has a source that exists, and agrees with what its maker publishes."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from anatomy.specs import Architecture, Chip, architecture, catalogue, chip, node

NAMES = ("architectures", "chips", "efficiency", "failures", "fleets", "prices", "runs", "scaling", "serving", "vision")
CHIPS = catalogue.table("chips")
PHONES = {"iphone_14", "iphone_14_pro"}


def rows(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries that stand for themselves: tables, and the elements of lists of tables."""
    for key, value in catalogue.table(name).items():
        yield from ((f"{key}[{i}]", row) for i, row in enumerate(value)) if isinstance(value, list) else [(key, value)]


ROWS = [pytest.param(row, id=f"{name}.{key}") for name in NAMES for key, row in rows(name)]


def test_all_catalogues_are_looked_at():
    assert sorted(path.name for path in catalogue.CATALOGUES.iterdir()) == [f"{name}.toml" for name in NAMES]
    assert len(ROWS) > 100


@pytest.mark.parametrize("row", ROWS)
def test_sources_are_works_of_the_bibliography(row, references):
    named = {row["source"], *row.get("sources", {}).values()}
    assert named <= references
    # Notes name works in brackets; a hyphen or space in them is prose.
    assert set(re.findall(r"\[([a-z]+\d{4}\w+)\]", row.get("note", ""))) <= references


@pytest.mark.parametrize("row", ROWS)
def test_what_is_said_of_figures_is_said_of_figures_that_exist(row):
    for about in ("sources", "weak", "derived"):
        assert set(row.get(about, ())) <= set(row), about


def test_sources_and_weakness_by_figure():
    assert catalogue.source_of("chips", "a100_sxm_80gb", "memory") == "nvidia2021a100datasheet"
    assert catalogue.source_of("chips", "a100_sxm_80gb", "flops_16bit") == "nvidia2020a100"
    assert catalogue.is_weak("chips", "v100_sxm_32gb", "flops_16bit")
    assert not catalogue.is_weak("chips", "v100_sxm_32gb", "memory")


@pytest.mark.parametrize("key", CHIPS)
def test_chips_are_positive_and_build(key):
    figures = {name: value for name, value in CHIPS[key].items() if isinstance(value, (int, float))}
    assert {"year", "flops_16bit", "memory", "memory_bandwidth", "node"} <= set(figures)
    assert all(value > 0 for value in figures.values())
    made = chip(key)
    assert isinstance(made, Chip) and made.name == CHIPS[key]["name"]
    assert (made.flops_16bit, made.memory, made.memory_bandwidth) == (
        figures["flops_16bit"],
        figures["memory"],
        figures["memory_bandwidth"],
    )
    # Narrower operands are never slower, and reading is faster than sending.
    assert made.flops_16bit <= made.flops_8bit <= made.flops_4bit
    if key not in PHONES:
        assert node(key).link.bandwidth < made.memory_bandwidth
        assert node(key).chips == figures["node"]


# Data sheets: dense 16-bit peak, memory and its bandwidth; None where it is not asked.
SHEETS = {
    "v100_sxm_32gb": (125e12, 32e9, 900e9),
    "a100_sxm_40gb": (312e12, 40e9, 1555e9),
    "a100_sxm_80gb": (312e12, 80e9, 2039e9),
    "h100_sxm": (989.4e12, 80e9, 3350e9),
    "h200_sxm": (989.4e12, 141e9, 4800e9),
    "b200": (2250e12, None, 8000e9),
    "tpu_v4": (275e12, 32e9, 1200e9),
    "tpu_v5e": (197e12, 16e9, 819e9),
    "tpu_v5p": (459e12, 95e9, 2765e9),
}


@pytest.mark.parametrize("key", SHEETS)
def test_chips_are_what_their_data_sheets_say(key):
    made = chip(key)
    for figure, published in zip((made.flops_16bit, made.memory, made.memory_bandwidth), SHEETS[key], strict=True):
        if published is not None:
            assert figure == pytest.approx(published, rel=2e-3)  # sheets round to three or four digits


@pytest.mark.parametrize("key", catalogue.table("architectures"))
def test_every_architecture_builds(key):
    made = architecture(key)
    assert isinstance(made, Architecture)
    row = catalogue.entry("architectures", key)
    assert made.name == row["name"] and made.layers == row["layers"]
    assert all(getattr(made, name) == row[name] for name in ("experts", "top_k") if name in row)


@pytest.mark.parametrize("name", ["fleets", "prices"])
def test_chips_named_elsewhere_are_in_the_catalogue(name):
    named = {row["chip"] for _, row in rows(name) if "chip" in row}
    assert len(named) > 1 and named <= set(CHIPS)


def test_derived_flop_are_6_n_d():
    derived = [row for _, row in rows("runs") if "flop" in row.get("derived", ())]
    assert len(derived) >= 3
    for row in derived:
        assert row["flop"] == pytest.approx(6 * row["active_parameters"] * row["tokens"], rel=5e-3)


def test_every_builds_a_whole_catalogue():
    made = {key: chip(key) for key in catalogue.table("chips")}
    assert list(made) == list(CHIPS) and all(isinstance(value, Chip) for value in made.values())


def test_unknown_catalogues_and_entries_say_what_there_is():
    with pytest.raises(KeyError, match=f"catalogue 'chip'; allowed: {', '.join(NAMES)}"):
        catalogue.table("chip")
    with pytest.raises(KeyError, match="architectures entry 'lama2_70b'; nearest: llama2_70b"):
        architecture("lama2_70b")
    with pytest.raises(KeyError, match="scaling entry 'qqqq'; nearest: besiroglu, chinchilla,"):
        catalogue.entry("scaling", "qqqq")
