"""Live calculators: a function of the library on the page, with sliders.

The function is evaluated with JAX where the page is made, so that the page reads without JavaScript, and
printed to JavaScript (`anatomy.site.interactive.javascript`), so that the sliders move the very same formulas. What a
page needs is inside its HTML: nothing is fetched, and a notebook shows the same calculator as the site.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from anatomy.site.interactive.controls import Choice, Live, Output, Slider, frame, plain, refuse, result_row
from anatomy.site.interactive.javascript import javascript
from anatomy.specs.units import quantity


@dataclass(frozen=True)
class Curve:
    """A line chart of one output against one slider, over its range, with the current point marked.

    Attributes:
        x: name of a slider.
        y: name of an output.
        log: whether y is shown in powers of ten; x follows its slider.
    """

    x: str
    y: str
    log: bool = False


@dataclass(frozen=True)
class Calculator(Live):
    """A calculator that is ready to be shown; made by `calculator`.

    The specification has name, inputs, outputs with their start values, function.
    """

    @property
    def source(self) -> str:
        """The JavaScript of the function."""
        return self.specification["function"]

    @property
    def results(self) -> dict[str, Any]:
        """The outputs at the start."""
        return {output["name"]: output["start"] for output in self.specification["outputs"]}

    def __repr__(self) -> str:
        """The results at the start, without markup."""
        shown = (
            f"{output['label']}: {quantity(output['start'], output['unit'], output['digits'])}"
            for output in self.specification["outputs"]
        )
        return f"Calculator {self.specification['name']} ({'; '.join(shown)})"


def calculator(
    function: Callable[..., dict[str, Any]],
    *,
    inputs: Sequence[Slider | Choice],
    outputs: Sequence[Output],
    caption: str = "",
    curve: Curve | None = None,
) -> Calculator:
    """A live calculator of a function of keyword scalars that returns a dict of scalars.

    Everything is made here, and not when the notebook shows the result: there, errors are swallowed.

    Args:
        function: pure, with what `anatomy.site.interactive.javascript` supports; traced, so that specs do not check
            values: limits belong to the sliders.
        inputs: each named after a parameter of the function; parameters with a default may be left out.
        outputs: each named after a result of the function; other results are not printed.
        caption: what the calculator shows and what to try.
        curve: a chart of one output against one slider.

    Raises:
        ValueError: a name that does not exist or stands twice, or a start that gives no finite result.
        NotImplementedError: the function cannot be printed to JavaScript.
    """
    name = getattr(function, "__name__", type(function).__name__)
    _check_names(function, name, inputs, outputs, curve)
    chosen = only(function, name, outputs)
    source = javascript(chosen, [item.name for item in inputs])
    with jax.enable_x64(True):
        start = jax.jit(chosen)(**{item.name: np.float64(item.start) for item in inputs})
    results = {output: np.asarray(value).item() for output, value in start.items()}
    for output, value in results.items():
        if not math.isfinite(value):
            refuse(f"{name} at the start values", output, value, "a finite number, or true or false")
    specification = {
        "name": name,
        "inputs": [item.specification for item in inputs],
        "outputs": [item.specification | {"start": plain(results[item.name])} for item in outputs],
        "curve": curve and {"x": curve.x, "y": curve.y, "log": curve.log},
        "function": source,
    }
    return Calculator(specification, caption, _html(specification, inputs, outputs, results, caption))


def only(function: Callable[..., dict[str, Any]], name: str, outputs: Sequence[Output]) -> Callable[..., Any]:
    """The function with those results alone that are shown.

    Raises:
        ValueError: when it is called, if it does not return one of them.
    """
    wanted = [output.name for output in outputs]

    def chosen(**values: Any) -> dict[str, Any]:
        results = function(**values)
        if isinstance(results, dict):
            for missing in [output for output in wanted if output not in results]:
                refuse("Output", "name", missing, f"a result of {name}: {', '.join(map(str, results))}")
            return {output: results[output] for output in wanted}
        return results  # javascript says what is wrong

    chosen.__name__ = name
    return chosen


def _check_names(
    function: Callable[..., Any],
    name: str,
    inputs: Sequence[Slider | Choice],
    outputs: Sequence[Output],
    curve: Curve | None,
) -> None:
    """Refuse names that do not exist or stand twice."""
    parameters = inspect.signature(function).parameters.values()
    by_name = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    given, shown = [item.name for item in inputs], [item.name for item in outputs]
    for kind, names in (("inputs", given), ("outputs", shown)):
        if not names:
            refuse("calculator", kind, names, "at least one")
        for twice in [item for i, item in enumerate(names) if item in names[:i]]:
            refuse("calculator", kind, twice, "each name once")
    if not any(p.kind == p.VAR_KEYWORD for p in parameters):
        for unknown in [item for item in given if item not in by_name]:
            refuse("calculator", "inputs", unknown, f"a parameter of {name}: {', '.join(by_name)}")
    for p in parameters:
        if p.name in by_name and p.default is p.empty and p.name not in given:
            refuse("calculator", "inputs", given, f"with {p.name!r}, a parameter of {name} without a default")
    if curve is not None:
        sliders = [item.name for item in inputs if isinstance(item, Slider)]
        if curve.x not in sliders:
            refuse("Curve", "x", curve.x, f"the name of a slider: {', '.join(sliders)}")
        if curve.y not in shown:
            refuse("Curve", "y", curve.y, f"the name of an output: {', '.join(shown)}")


def _html(
    specification: dict[str, Any],
    inputs: Sequence[Slider | Choice],
    outputs: Sequence[Output],
    results: dict[str, Any],
    caption: str,
) -> str:
    """The calculator with its style, its data and its script."""

    def inside(key: str) -> list[str]:
        targets = " ".join(f"{key}-{item.name}" for item in inputs)
        return [
            '<div class="panels">',
            '<div class="inputs">',
            *(item.html(f"{key}-{item.name}") for item in inputs),
            '<button type="button" hidden>Reset</button>',
            "</div>",
            '<div class="results">',
            "<table>",
            *(result_row(item, results[item.name], targets) for item in outputs),
            "</table>",
            '<div class="curve"></div>' if specification["curve"] else "",
            "</div>",
            "</div>",
        ]

    return frame("calculator", "Calculator", specification, caption, inside, scripts=["calculator.js"])
