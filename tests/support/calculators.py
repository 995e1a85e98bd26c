"""The calculators of the chapters: their Python functions, beside the JavaScript that the pages carry."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anatomy.site
import jax
import jupytext
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anatomy.site.interactive.calculator import Calculator, Slider

from support.checkout import ROOT
from support.nodejs import run_javascript

CHAPTERS = sorted(path for path in (ROOT / "book").glob("*.md") if "calculator(" in path.read_text("utf-8"))
SPECIFICATION = re.compile(r'<script type="application/json" class="anatomy-calculator-spec">(.*?)</script>', re.S)


@dataclass(frozen=True)
class Recorded:
    """A calculator as its chapter makes it."""

    function: Callable[..., dict[str, Any]]
    inputs: list[Any]
    made: Calculator


def of_chapter(path: Path) -> list[Recorded]:
    """Run the cells of a chapter in this process, up to the last with a calculator, and keep what they make."""
    recorded = []

    def record(function: Callable[..., Any], *, inputs: list[Any], **options: Any) -> Calculator:
        recorded.append(Recorded(function, inputs, original(function, inputs=inputs, **options)))
        return recorded[-1].made

    original = anatomy.site.calculator
    names: dict[str, Any] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anatomy.site, "calculator", record)
        patch.setattr(anatomy.site, "glue", lambda **values: None)
        cells = [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "code"]
        last = max(index for index, source in enumerate(cells) if "calculator(" in source)
        for source in cells[: last + 1]:
            exec(compile(source, f"{path.name}", "exec"), names)
    plt.close("all")
    return recorded


def on_page(html: str) -> list[dict[str, Any]]:
    """The specifications of the calculators on a built page, with the JavaScript of their functions."""
    return [json.loads(found) for found in SPECIFICATION.findall(html)]


def random_inputs(inputs: list[Any], count: int, seed: int = 0) -> list[dict[str, float]]:
    """Values anywhere in the range of each slider, and any option of each choice."""
    generator = np.random.default_rng(seed)

    def draw(item: Any) -> float:
        if not isinstance(item, Slider):
            return float(generator.choice(list(item.options.values())))
        if item.log:
            return float(np.exp(generator.uniform(np.log(item.low), np.log(item.high))))
        return float(generator.uniform(item.low, item.high))

    return [{item.name: draw(item) for item in inputs} for _ in range(count)]


def largest_error(source: str, recorded: Recorded, count: int = 200) -> float:
    """The largest relative error of a page's JavaScript against JAX in double precision."""
    inputs = random_inputs(recorded.inputs, count)
    found = run_javascript(source, inputs)
    worst = 0.0
    with jax.enable_x64(True):
        batch = {name: np.array([row[name] for row in inputs]) for name in inputs[0]}
        expected = jax.jit(jax.vmap(lambda values: recorded.function(**values)))(batch)
    for name in found[0]:
        ours = np.array([float(row[name]) for row in found])
        theirs = np.asarray(expected[name], float)
        both = np.isfinite(ours) & np.isfinite(theirs)
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        assert np.all(both | same), f"{name}: not finite in one of the two"
        scale = np.maximum(np.abs(theirs), 1e-300)
        worst = max(worst, float(np.max(np.where(both & ~same, np.abs(ours - theirs) / scale, 0.0))))
    return worst
