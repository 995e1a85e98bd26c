"""One style for all figures: SVG, colour-blind safe, legible in light and dark mode.

The colours are those of Okabe and Ito, in an order whose first four differ in lightness too. Figures
are drawn for light pages; the SVG carries a style sheet that turns ink and paper when the page, or the
reader's system, is dark, so that one file serves both.
"""

import io
import re
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure

INK, MUTED, GRID = "#24292f", "#57606a", "#d8dee4"
IN_THE_DARK = {INK: "#e6edf3", MUTED: "#9da7b3", GRID: "#3d444d"}

BLUE, ORANGE, GREEN, PINK, SKY, GOLD = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
COLOURS = [BLUE, ORANGE, GREEN, PINK, SKY, GOLD]
LIFTED = {BLUE: "#4aa3df", ORANGE: "#ff8a3d", GREEN: "#2fc79a"}  # the same hues, legible on a dark page

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "figure.figsize": (5.8, 3.5),
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2,
    "savefig.facecolor": "none",
    "svg.fonttype": "path",  # the same shapes on every reader's machine
    "svg.hashsalt": "anatomy",  # the same bytes in every build
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def use_style() -> None:
    """Draw figures in the book's style, in this process, and show them as SVG in notebooks.

    Figures are shown once, as SVG; the PNG that IPython would add is left out.
    """
    matplotlib.rcParams.update(matplotlib.rcParamsDefault)
    matplotlib.use("agg")
    matplotlib.rcParams.update(STYLE)
    try:
        from IPython import get_ipython
    except ImportError:
        return  # a plain Python session draws to files
    if (shell := get_ipython()) is None:
        return
    from matplotlib_inline.backend_inline import configure_inline_support, set_matplotlib_formats

    configure_inline_support(shell, "inline")
    set_matplotlib_formats()
    shell.run_line_magic("matplotlib", "inline")
    matplotlib.rcParams.update(STYLE)
    set_matplotlib_formats("svg")
    shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, to_svg)


def to_svg(figure: Figure) -> str:
    """The figure as SVG that follows the colour scheme of where it stands; the same bytes every time."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return adapt(out.getvalue())


def adapt(svg: str) -> str:
    """Add the style sheet that turns ink, paper and lines for dark pages."""
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in (IN_THE_DARK | LIFTED).items()
        for kind in ("fill", "stroke")
    )
    sheet = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    return re.sub(r"(<svg[^>]*>)", rf"\1{sheet}", svg, count=1)


def mark(axes: plt.Axes, x: float, y: float, text: str, **options: Any) -> None:
    """A point with its name beside it, in ink."""
    axes.plot([x], [y], "o", color=options.pop("color", INK), markersize=5, zorder=3)
    place: dict[str, Any] = {"xytext": (6, 4), "textcoords": "offset points", "fontsize": 9} | options
    axes.annotate(text, (x, y), **place)
