"""Frontiers that answer when touched: points that were computed where the page is made, of which a reader picks one.

What a point stands for is a function of its columns and of sliders, printed to JavaScript like that of a calculator;
so a slider such as a price moves all points. Without JavaScript the page shows a table of the points.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import jax
import numpy as np

from anatomy.site.interactive.calculator import only
from anatomy.site.interactive.controls import Choice, Live, Output, Slider, frame, plain, refuse, result_row
from anatomy.site.interactive.javascript import javascript
from anatomy.specs.units import quantity

Columns = Mapping[str, Sequence[float]]
ROWS = 10  # of the table that stands in for the chart
DIGITS = 4  # significant, of the columns: what a chart can show, and a page should carry


@dataclass(frozen=True)
class Frontier(Live):
    """A frontier that is ready to be shown; made by `frontier`.

    The specification has name, inputs, outputs, points, function.
    """

    def __repr__(self) -> str:
        """How much there is to see, without markup."""
        sets = self.specification["sets"].values()
        points = sum(len(rows) for series in sets for rows in series)
        return f"Frontier {self.specification['name']} ({points} points in {len(sets)} sets)"


def frontier(
    function: Callable[..., dict[str, Any]],
    points: Mapping[tuple[float, ...], Mapping[str, Columns]],
    *,
    choices: Sequence[Choice],
    sliders: Sequence[Slider],
    outputs: Sequence[Output],
    x: str,
    y: str,
    caption: str = "",
    walk: str = "Point",
) -> Frontier:
    """A chart of two outputs of each point, on logarithmic axes, in which a reader picks a point.

    Args:
        function: of a point's columns and of the sliders; returns a dict of scalars. Pure, with what
            `anatomy.site.interactive.javascript` supports.
        points: for each combination of the choices, in their order, series by name: the same in all of them, of which
            the first is the frontier. A series has columns of equal length, numbers only; they are kept to four
            digits, and put in order of x. It may be empty.
        choices: which set of points is shown.
        sliders: parameters of the function beside the columns.
        outputs: results that are shown of the picked point.
        x: name of the output on the horizontal axis.
        y: name of the output on the vertical axis.
        caption: what the chart shows and what to try.
        walk: what a point is, for the slider that walks along a series.

    Raises:
        ValueError: a combination is missing, series or columns differ, the frontier is empty at the start, or an axis
            is no output or not above 0.
        NotImplementedError: the function cannot be printed to JavaScript.
    """
    name = getattr(function, "__name__", type(function).__name__)
    shown = {output.name: output for output in outputs}
    for axis, wanted in (("x", x), ("y", y)):
        if wanted not in shown:
            refuse("frontier", axis, wanted, f"the name of an output: {', '.join(shown)}")
    series, columns = _same_everywhere(points, choices)
    chosen = only(function, name, outputs)
    source = javascript(chosen, [*columns, *(item.name for item in sliders)])
    settings = {item.name: np.float64(item.start) for item in sliders}

    def details(rows: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of rows of columns, with the sliders at their start."""
        with jax.enable_x64(True):
            each = jax.vmap(lambda row: chosen(**dict(zip(columns, row, strict=True)), **settings))
            return {key: np.asarray(value) for key, value in each(rows).items()}

    sets: dict[tuple[float, ...], list[np.ndarray]] = {}
    for key in itertools.product(*(item.options.values() for item in choices)):
        sets[key] = []
        for label in series:
            rows = _rows(points[key][label], columns, f"points[{key}][{label!r}]")
            found = details(rows) if len(rows) else {x: np.zeros(0), y: np.zeros(0)}
            for axis in (x, y):
                if not np.all(np.isfinite(found[axis]) & (found[axis] > 0)):
                    refuse(f"points[{key}][{label!r}]", axis, found[axis].min(), "finite numbers above 0")
            sets[key].append(rows[np.argsort(found[x], kind="stable")])
    first = sets[tuple(item.start for item in choices)][0]
    if not len(first):
        refuse("frontier", "points at the start", len(first), f"at least one of {series[0]!r}")
    pick = Choice("series", "Plans", start=0, options={label: i for i, label in enumerate(series)})
    inputs: list[Choice | Slider] = [*choices, pick, *sliders]
    specification = {
        "name": name,
        "walk": walk,
        "choices": [item.name for item in choices],
        "inputs": [item.specification for item in inputs],
        "outputs": [item.specification for item in outputs],
        "axes": [x, y],
        "columns": columns,
        "sets": {
            ",".join(str(plain(value)) for value in key): [
                [[plain(v) for v in row] for row in rows.tolist()] for rows in both
            ]
            for key, both in sets.items()
        },
        "function": source,
    }
    start = {key: value[len(first) // 2].item() for key, value in details(first).items()}

    def inside(key: str) -> list[str]:
        targets = " ".join(f"{key}-{item.name}" for item in inputs)
        return [
            '<div class="chart" hidden></div>',
            f'<div class="input walk" hidden><label for="{key}-walk">{escape(walk)}</label>'
            f'<output for="{key}-walk" aria-live="off"></output><input type="range" id="{key}-walk" data-walk min="0" '
            f'max="{len(first) - 1}" step="1" value="{len(first) // 2}" autocomplete="off"></div>',
            '<div class="panels">',
            '<div class="inputs" hidden>',
            *(item.html(f"{key}-{item.name}") for item in inputs),
            '<button type="button" hidden>Reset</button>',
            "</div>",
            '<div class="results" hidden>',
            "<table>",
            *(result_row(item, start[item.name], targets) for item in outputs),
            "</table>",
            "</div>",
            "</div>",
            _table(details(first), outputs, f"{series[0]}, {_chosen(choices)}"),
        ]

    scripts = ["calculator.js", "frontier.js"]
    html = frame("frontier", "Chart of points to pick", specification, caption, inside, scripts, ["frontier.css"])
    return Frontier(specification, caption, html)


def _same_everywhere(
    points: Mapping[tuple[float, ...], Mapping[str, Columns]], choices: Sequence[Choice]
) -> tuple[list[str], list[str]]:
    """Names of series and of columns, which must be those of all sets."""
    wanted = list(itertools.product(*(item.options.values() for item in choices)))
    for key in wanted:
        if key not in points:
            refuse("frontier", "points", list(points), f"with one for each combination of the choices, such as {key}")
    series = list(points[wanted[0]])
    columns = list(points[wanted[0]][series[0]]) if series else []
    if not columns:
        refuse("frontier", "points", points[wanted[0]], "series with columns")
    for key in wanted:
        if list(points[key]) != series:
            refuse("frontier", f"points[{key}]", list(points[key]), f"the series {series}")
        for label in series:
            if set(points[key][label]) != set(columns):
                refuse("frontier", f"points[{key}][{label!r}]", list(points[key][label]), f"the columns {columns}")
    return series, columns


def _rows(columns: Columns, names: Sequence[str], owner: str) -> np.ndarray:
    """Columns as rows of numbers with few digits."""
    lengths = {name: np.shape(columns[name]) for name in names}
    if len(set(lengths.values())) != 1 or len(lengths[names[0]]) != 1:
        refuse("frontier", owner, lengths, "columns of one dimension and equal length")
    rows = np.array([columns[name] for name in names], float).T.reshape(-1, len(names))
    if not np.all(np.isfinite(rows)):
        refuse("frontier", owner, "not finite", "finite numbers")
    # Counts keep all their figures.
    return np.array(
        [[v if v == round(v) else float(f"{v:.{DIGITS}g}") for v in row] for row in rows.tolist()], float
    ).reshape(rows.shape)


def _table(found: Mapping[str, np.ndarray], outputs: Sequence[Output], title: str) -> str:
    """A table of some points, for pages on which no script runs; a script that runs hides it."""
    count = len(found[outputs[0].name])
    rows = sorted({round(i) for i in np.linspace(0, count - 1, min(count, ROWS))})
    head = "".join(f'<th scope="col">{escape(item.label)}</th>' for item in outputs)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{escape(quantity(found[o.name][row].item(), o.unit, o.digits))}</td>" for o in outputs)
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="without-script"><table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _chosen(choices: Sequence[Choice]) -> str:
    """The options at the start, in words."""
    return ", ".join(
        f"{item.label.lower()}: {label}"
        for item in choices
        for label, value in item.options.items()
        if value == item.start
    )
