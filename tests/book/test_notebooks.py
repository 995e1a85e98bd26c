"""The notebooks that readers download: readable, and able to run in an empty folder on a fresh machine."""

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import nbformat
import pytest
from anatomy.site.sphinx import execution
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.checkout import ROOT

pytestmark = pytest.mark.slow

RUN = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.fixture(scope="session")
def fresh_python(tmp_path_factory) -> Path:
    """A Python that has what `anatomy[notebook]` depends on and a runner, and neither `anatomy` nor the book's tools.

    The dependencies are those of this environment, linked one by one, so that nothing is fetched.
    """
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    packages = folder / "packages"
    packages.mkdir()
    needed = closure("anatomy-of-gpt4", {"notebook"}) | closure("nbclient", set())
    for name in needed - {"anatomy-of-gpt4"}:
        found = distribution(name)
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(found.locate_file(top)))
    python = folder / "venv" / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(where) / "packages.pth").write_text(f"{packages}\n")
    found = subprocess.run([python, "-c", "import anatomy"], capture_output=True, text=True, cwd=folder)
    assert "ModuleNotFoundError" in found.stderr
    absent = subprocess.run([python, "-c", "import sphinx"], capture_output=True, text=True, cwd=folder)
    assert "ModuleNotFoundError" in absent.stderr
    return python


def closure(name: str, extras: set[str]) -> set[str]:
    """Names of a distribution and of all that it requires here."""
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(name, frozenset(extras))]
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        for line in distribution(name).requires or ():
            needs = Requirement(line)
            if needs.marker is None or any(needs.marker.evaluate({"extra": extra}) for extra in wanted | {""}):
                todo.append((canonicalize_name(needs.name), frozenset(needs.extras)))
    return {name for name, _ in seen}


def notebooks(site) -> list[Path]:
    return sorted((site.html / "_sources" / "book").glob("*.ipynb"))


def test_every_notebook_page_offers_its_notebook(site):
    for path in notebooks(site):
        page = (site.html / "book" / f"{path.stem}.html").read_text("utf-8")
        assert f"_sources/book/{path.name}" in page
    assert {"index", "replicability", "architecture", "dataset", "claims"} <= {p.stem for p in notebooks(site)}


def test_nothing_of_myst_is_left_raw(site):
    for path in notebooks(site):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "markdown":
                assert not re.search(r"\{[\w:-]+\}`|^(`{3,}|:{3,})\{|^\([\w-]+\)=$", cell.source, re.M), cell.source


def test_notebooks_carry_their_results(site):
    for path in notebooks(site):
        code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        assert any(cell.outputs for cell in code), path.name


def results(notebook: nbformat.NotebookNode) -> list[tuple[str, list[dict]]]:
    """Each cell of code after the first, which brings the library, and what it shows.

    Values that cells hand to the text stand in the text already; only the site's tools pass them on.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"][1:]
    shown = [[dict(output) | {"execution_count": None, "metadata": {}} for output in cell.outputs] for cell in code]
    handed = "application/papermill.record/text/plain"
    return [
        (cell.source, [output for output in outputs if handed not in output.get("data", {})])
        for cell, outputs in zip(code, shown, strict=True)
    ]


@pytest.mark.parametrize("page", sorted(execution.pages(ROOT)))
def test_notebooks_run_in_an_empty_folder_and_say_the_same_again(page, site, fresh_python, tmp_path):
    path = site.html / "_sources" / "book" / f"{page}.ipynb"
    done = subprocess.run([fresh_python, "-c", RUN, path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{path.name}\n{done.stderr[-3000:]}"
    again = nbformat.read(tmp_path / "executed.ipynb", 4)
    assert again.cells[1].source.startswith("WHEEL")
    if page != "reproducibility":  # which lists the packages of where it runs
        assert results(again) == results(nbformat.read(path, 4))
    where = subprocess.run(
        [fresh_python, "-c", "import anatomy; print(anatomy.__file__)"], capture_output=True, text=True, cwd=tmp_path
    )
    assert str(fresh_python.parents[1]) in where.stdout  # it was the notebook that brought the library
