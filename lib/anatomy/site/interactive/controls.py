"""Controls of live figures: sliders, choices and outputs, as HTML that reads without JavaScript.

Calculators and frontiers share them, with one style and one script (`static/calculator.css`, `static/calculator.js`).
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from anatomy.claims.ledger.html import embedded
from anatomy.specs.units import quantity

LONG_UNIT = 14  # characters; a longer one may break, or a phone would scroll sideways
TICKS_PER_DECADE = 100  # of a logarithmic slider


def refuse(owner: str, field: str, value: Any, allowed: str) -> None:
    """Say which field has which value, and what it may be."""
    raise ValueError(f"{owner}.{field} is {value!r}; allowed: {allowed}")


@dataclass(frozen=True)
class Live:
    """A live figure that is ready to be shown.

    Attributes:
        specification: what the page says of it, which its script reads.
        caption: what it shows and what to try.
        html: of the figure, with everything it needs.
    """

    specification: dict[str, Any]
    caption: str
    html: str

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Slider:
    """An input that is moved from low to high.

    Attributes:
        name: of the function's parameter.
        label: what the reader sees.
        start: value at first, on the grid of steps.
        low: least value.
        high: greatest value.
        step: distance of values, counted from low; by default a hundredth of the range. A logarithmic slider
            rounds to multiples of it.
        log: whether the slider moves in powers of ten; values have three significant digits.
        unit: as in `quantity`; a share is shown in "%" and handed over as it is.
    """

    name: str
    label: str
    start: float
    low: float
    high: float
    step: float | None = None
    log: bool = False
    unit: str = ""

    def __post_init__(self) -> None:
        """Refuse what the slider cannot show.

        Raises:
            ValueError: the range is empty, or the start is not in it or not on the grid.
        """
        owner = f"Slider({self.name!r})"
        for field in ("start", "low", "high", "step"):
            value = getattr(self, field)
            if field == "step" and value is None:
                continue
            if not math.isfinite(value):
                refuse(owner, field, value, "a finite number")
            object.__setattr__(self, field, float(value))
        if self.low >= self.high:
            refuse(owner, "low", self.low, f"a number below high ({self.high:g})")
        if not self.low <= self.start <= self.high:
            refuse(owner, "start", self.start, f"{self.low:g} to {self.high:g}")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            refuse(owner, "step", self.step, f"above 0 and at most high - low ({self.high - self.low:g})")
        if self.log and self.low <= 0:
            refuse(owner, "low", self.low, "above 0, since the slider is logarithmic")
        if not self.log:
            step = float(f"{(self.high - self.low) / 100:.12g}") if self.step is None else self.step
            object.__setattr__(self, "step", step)
            steps = (self.start - self.low) / step
            if abs(steps - round(steps)) > 1e-6:  # a range input would snap elsewhere
                below = self.low + math.floor(steps) * step
                near = f"such as {below:g} or {below + step:g}"
                refuse(owner, "start", self.start, f"{self.low:g} plus whole steps of {step:g}, {near}")

    @property
    def digits(self) -> int:
        """Significant digits of the readout: all that the slider can set."""
        return 3 if self.log and self.step is None else 6

    @property
    def specification(self) -> dict[str, Any]:
        """What the script needs to know."""
        fields = ("name", "label", "start", "low", "high", "step", "log", "unit", "digits")
        return {field: plain(getattr(self, field)) for field in fields}

    def html(self, key: str) -> str:
        """Label, readout and range input."""
        shown = escape(quantity(self.start, self.unit, self.digits, trim=True))
        if self.log:  # moves in ticks: the start needs no place on a grid
            decades = math.log10(self.high / self.low)
            high = math.ceil(TICKS_PER_DECADE * decades)
            low, step, start = 0, 1, round(high * math.log10(self.start / self.low) / decades)
        else:
            low, high, step, start = map(plain, (self.low, self.high, self.step, self.start))
        filled = 100 * (start - low) / (high - low)
        return (
            f'<div class="input"><label for="{key}">{escape(self.label)}</label>'
            f'<output for="{key}" aria-live="off">{shown}</output>'
            f'<input type="range" id="{key}" data-input="{escape(self.name)}" min="{low}" max="{high}" '
            f'step="{step}" value="{start}" aria-valuetext="{shown}" autocomplete="off" '
            f'style="--filled: {filled:.4g}%"></div>'
        )


@dataclass(frozen=True)
class Choice:
    """An input that is chosen from a few: `options` holds the number behind each name."""

    name: str
    label: str
    start: float
    options: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse a start that is no option.

        Raises:
            ValueError: so it is.
        """
        options = {str(name): float(value) for name, value in self.options.items()}
        object.__setattr__(self, "options", options)
        if float(self.start) not in options.values():
            allowed = "one of " + ", ".join(f"{value:g} ({name})" for name, value in options.items())
            refuse(f"Choice({self.name!r})", "start", self.start, allowed)
        object.__setattr__(self, "start", float(self.start))

    @property
    def specification(self) -> dict[str, Any]:
        """What the script needs to know."""
        # A list: JavaScript would sort the keys of an object that look like numbers.
        options = [{"label": name, "value": plain(value)} for name, value in self.options.items()]
        return {"name": self.name, "label": self.label, "start": plain(self.start), "options": options}

    def html(self, key: str) -> str:
        """Label and select element."""
        first = next(name for name, value in self.options.items() if value == self.start)
        options = "".join(
            f"<option{' selected' if name == first else ''}>{escape(name)}</option>" for name in self.options
        )
        return (
            f'<div class="input"><label for="{key}">{escape(self.label)}</label>'
            f'<select id="{key}" data-input="{escape(self.name)}" autocomplete="off">{options}</select></div>'
        )


@dataclass(frozen=True)
class Output:
    """A result: one of the names that the function returns, and how it is shown (see `quantity`)."""

    name: str
    label: str
    unit: str = ""
    digits: int = 3

    def __post_init__(self) -> None:
        """Refuse digits that a double does not have.

        Raises:
            ValueError: so it is.
        """
        if self.digits not in range(1, 16):
            refuse(f"Output({self.name!r})", "digits", self.digits, "a whole number from 1 to 15")

    @property
    def specification(self) -> dict[str, Any]:
        """What the script needs to know, besides the value at the start."""
        return {"name": self.name, "label": self.label, "unit": self.unit, "digits": self.digits}


def result_row(output: Output, value: Any, targets: str) -> str:
    """A result as a row of the table; `targets` are the ids of the inputs that it follows from."""
    shown = quantity(value, output.unit, output.digits)
    breaks = ' class="long"' if len(output.unit) > LONG_UNIT else ""
    return (
        f'<tr><th scope="row">{escape(output.label)}</th><td{breaks}><output for="{targets}" '
        f'aria-live="polite" data-output="{escape(output.name)}">{escape(shown)}</output></td></tr>'
    )


def frame(
    kind: str,
    label: str,
    specification: Mapping[str, Any],
    caption: str,
    inside: Callable[[str], Iterable[str]],
    scripts: Sequence[str],
    styles: Sequence[str] = (),
) -> str:
    """A live figure with its style, its data and its scripts.

    Args:
        kind: of figure; its element has the class `anatomy-<kind>`, and its data `anatomy-<kind>-spec`.
        label: of the figure, for those who do not see it.
        specification: data for the scripts, with the name of what is shown.
        caption: what it shows and what to try.
        inside: lines of HTML between caption and scripts, given the figure's id.
        scripts: static files, in the order in which they are run.
        styles: static files beside the common one.
    """
    # No text in the data can close the script element.
    data = json.dumps(specification, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")
    slug = re.sub(r"[^a-z0-9]+", "-", specification["name"].lower()).strip("-") or "function"
    key = f"{kind}-{slug}-{hashlib.sha256((data + caption).encode()).hexdigest()[:8]}"
    described = f' aria-describedby="{key}-caption"' if caption else ""
    return "\n".join(
        [
            f'<div class="anatomy-live anatomy-{kind}" id="{key}" role="group" aria-label="{label}"{described}>',
            *(embedded(f"site/interactive/static/{name}") for name in ("calculator.css", *styles)),
            f'<p class="caption" id="{key}-caption">{escape(caption)}</p>' if caption else "",
            *inside(key),
            f'<script type="application/json" class="anatomy-{kind}-spec">{data}</script>',
            *(embedded(f"site/interactive/static/{name}") for name in scripts),
            "</div>",
        ]
    )


def plain(value: Any) -> Any:
    """A whole float as an int, so that the page does not say 120.0."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value
