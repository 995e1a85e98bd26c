"""The notebook of a chapter as a reader downloads it: executed, readable, and able to run by itself.

MyST's roles and directives are for the site; in a plain notebook they would stay raw, so here they become
ordinary Markdown. The library travels inside the notebook as a wheel: an empty folder on a fresh machine
is enough to run it again.
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import indent

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

SETUP = """\
# The library that this chapter runs on travels with the notebook. Where it is missing, install it.
import base64, importlib, importlib.metadata, pathlib, subprocess, sys, tempfile

try:
    installed = importlib.metadata.version("anatomy-of-gpt4")
except importlib.metadata.PackageNotFoundError:
    installed = None
if installed != "{version}":
    with tempfile.TemporaryDirectory() as folder:
        wheel = pathlib.Path(folder) / "{name}"
        wheel.write_bytes(base64.b64decode(WHEEL))
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", f"{{wheel}}[notebook]"], check=True)
    importlib.invalidate_caches()

import anatomy

if not hasattr(anatomy, "__version__"):
    where = list(anatomy.__path__)[0]
    raise ImportError(f"the folder {{where}} hides the library anatomy; rename it, or run the notebook elsewhere")
"""


@dataclass(frozen=True)
class Page:
    """What the text of a chapter refers to outside itself.

    Attributes:
        name: of the document, for ids that are the same in every build.
        citation: how the chapter is cited.
        labels: of bibliography entries, "Narayanan et al., 2021" by key.
        numbers: of figures and equations, by label.
        titles: of documents and sections, by the target of a link.
        values: that cells glued, as text by name.
    """

    name: str
    citation: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)


def build_wheel(root: Path, folder: Path) -> Path:
    """Build the library's wheel into a folder, the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        clean = Path(scratch) / "source"  # setuptools leaves files behind where it builds
        clean.mkdir()
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(root / "lib", clean / "lib", ignore=ignore)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(root / name, clean / name)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        environment = os.environ | {"SOURCE_DATE_EPOCH": "315532800"}  # the first date that zip can hold
        subprocess.run([*command, "--wheel-dir", str(folder), str(clean)], check=True, env=environment)
    return next(folder.glob("*.whl"))


def portable(notebook: NotebookNode, page: Page, wheel: Path) -> NotebookNode:
    """The notebook that a reader downloads.

    Args:
        notebook: executed, as myst-nb leaves it.
        page: what its text refers to.
        wheel: of the library.
    """
    cells = []
    for index, cell in enumerate(notebook.cells):
        if index == 1:  # after the title
            cells.append(setup_cell(wheel))
        if cell.cell_type == "markdown":
            cells.append(new_markdown_cell(plain_markdown(cell.source, page)))
            continue
        cells.append(new_code_cell(cell.source, outputs=cell.outputs, execution_count=cell.execution_count))
        cells[-1].metadata.tags = cell.metadata.get("tags", [])
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            number = page.numbers.get(figure.get("name", ""), "")
            caption = plain_markdown(figure.get("caption", ""), page)
            cells.append(new_markdown_cell(f"**Figure {number}.** {caption}".replace(" .", ".")))
    for index, cell in enumerate(cells):
        cell.id = hashlib.sha256(f"{page.name}/{index}".encode()).hexdigest()[:8]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made.metadata.language_info = {"name": "python"}
    nbformat.validate(made)
    return made


def setup_cell(wheel: Path) -> NotebookNode:
    """The first cell: it installs the library where it is missing."""
    packed = base64.b64encode(wheel.read_bytes()).decode()
    cell = new_code_cell(f'WHEEL = "{packed}"\n\n{SETUP.format(name=wheel.name, version=wheel.name.split("-")[1])}')
    cell.metadata.update({"jupyter": {"source_hidden": True}, "tags": ["hide-input"]})
    return cell


def plain_markdown(text: str, page: Page) -> str:
    """Markdown without MyST's roles, directives and targets.

    Raises:
        KeyError: the text uses a value, reference or role that is not known; nothing is left raw.
    """

    def directive(match: re.Match[str]) -> str:
        name, title, body = match["name"], match["title"].strip(), match["body"]
        body = re.sub(r"\A(:[\w-]+:.*\n)+\n?", "", body).strip("\n")
        if name == "cite-chapter":
            return page.citation
        if name == "execution-table":
            return "*The table of all pages stands on the site.*"
        if name == "math":
            return f"$$\n{body}\n$$"
        if name in ("admonition", "dropdown", "note", "tip", "important", "warning"):
            heading = f"**{title or name.capitalize()}**\n\n" if title or body else ""
            return indent(f"{heading}{body}", "> ", lambda line: True)
        raise KeyError(f"directive {name!r} has no form in a plain notebook")

    pattern = r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\}(?P<title>.*)\n(?P<body>(?:.*\n)*?)(?P=fence)[ ]*$"
    text = re.sub(pattern, directive, text, flags=re.MULTILINE)
    text = re.sub(r"^\([\w:-]+\)=\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"(\$\$) \([\w:-]+\)$", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"\{([\w:-]+)\}`([^`]+)`", lambda m: ROLES[m[1]](m[2], page), text)
    return re.sub(r"\[([^\]]*)\]\(([\w./-]+\.(?:md|rst))?(#[\w.-]+)?\)", lambda m: _link(m, page), text)


def _glue(content: str, page: Page) -> str:
    """A glued value, formatted as on the site."""
    name, _, form = content.partition(":")
    value = page.values[name].strip("'\"")
    return f"{float(value):{form}}" if form else value


def _labels(content: str, page: Page) -> list[str]:
    return [page.labels[key.strip()] for key in content.split(",")]


def _textual(content: str, page: Page) -> str:
    """ "Narayanan et al. (2021)" of "Narayanan et al., 2021"."""
    parts = (label.rpartition(", ") for label in _labels(content, page))
    return ", ".join(f"{who} ({year})" for who, _, year in parts)


def _number(kind: str) -> Callable[[str, Page], str]:
    def render(content: str, page: Page) -> str:
        label = re.search(r"<(.+)>$", content)
        number = page.numbers[label[1] if label else content]
        return f"({number})" if kind == "equation" else f"Figure {number}"

    return render


def _title(content: str, page: Page) -> str:
    """The text of a cross-reference, its own or that of its target."""
    own = re.match(r"(.+?)\s*<(.+)>$", content)
    return own[1] if own else page.titles[content]


def _link(match: re.Match[str], page: Page) -> str:
    """A link between pages of the book: its text, for the notebook stands alone."""
    return match[1] or page.titles[match[2] or match[3]]


ROLES: dict[str, Callable[[str, Page], str]] = {
    "cite:p": lambda content, page: f"({'; '.join(_labels(content, page))})",
    "cite:t": _textual,
    "doc": _title,
    "eq": _number("equation"),
    "glue:text": _glue,
    "math": lambda content, page: f"${content}$",
    "numref": _number("figure"),
    "ref": _title,
    "sub": lambda content, page: f"<sub>{content}</sub>",
    "sup": lambda content, page: f"<sup>{content}</sup>",
}
