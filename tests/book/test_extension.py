"""The Sphinx extension on small books: what makes a build fail, run again, or show launch buttons."""

import shutil
from pathlib import Path

import pytest
from support.checkout import ROOT, build

pytestmark = pytest.mark.slow

HEAD = """---
jupytext: {text_representation: {format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---

# The book

"""


def cell(source: str) -> str:
    return f"```{{code-cell}} ipython3\n{source}\n```\n"


@pytest.fixture
def small_book(tmp_path) -> Path:
    """A book of one page, with the real configuration and the real library."""
    for name in ("_config.yml", "CITATION.cff", "requirements.lock", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book" / "references.bib")
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "book" / "_static")
    if (made := ROOT / "_build" / "library").exists():  # the wheel and the ledger, by the state of the library
        shutil.copytree(made, tmp_path / "_build" / "library")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    return tmp_path


def write(book: Path, body: str) -> None:
    (book / "book" / "index.md").write_text(HEAD + body)


def test_an_edit_of_what_a_page_reaches_runs_it_again(small_book):
    count = "from pathlib import Path\nwith Path('runs').open('a') as f: f.write('x')\n"
    write(small_book, cell(count + "from anatomy.cost.training.run import training_flop\ntraining_flop"))
    runs, module = small_book / "book" / "runs", small_book / "lib" / "anatomy" / "cost" / "training" / "run.py"
    build(small_book)
    module.write_text(module.read_text() + "# an edit\n")
    build(small_book)
    assert runs.read_text() == "x"  # from the cache
    old = "def training_flop("
    assert old in module.read_text()
    module.write_text(module.read_text().replace(old, "LIMIT = 1\n\n\n@lambda function: LIMIT and function\n" + old))
    build(small_book)
    assert runs.read_text() == "xx"


def test_styles_are_those_of_now_in_pages_that_were_executed_before(small_book):
    write(small_book, cell("from anatomy import claims\nclaims.show('arch.layers')"))
    build(small_book)
    style = small_book / "lib" / "anatomy" / "claims" / "ledger" / "ledger.css"
    page = small_book / "_build" / "html" / "book" / "index.html"
    assert "data-asset" in page.read_text()
    # The library that is installed puts them in, so here the page is made to hold an old one.
    executed = next((small_book / "_build" / ".jupyter_cache" / "executed").glob("*/base.ipynb"))
    text, known = executed.read_text(), ".anatomy-claim"
    assert known in text and known in style.read_text()
    executed.write_text(text.replace(known, ".an-older-style"))
    build(small_book)
    assert ".an-older-style" not in page.read_text() and known in page.read_text()


def test_a_failing_cell_fails_the_build(small_book):
    write(small_book, cell("1 / 0"))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        build(small_book)


def test_an_unsupported_primitive_fails_the_build(small_book):
    write(
        small_book,
        cell(
            "import jax\nfrom anatomy.site import Output, Slider, calculator\n"
            "calculator(lambda x: {'y': jax.lax.erf_inv(x)},\n"
            "           inputs=[Slider('x', 'x', start=0, low=-0.5, high=0.5)], outputs=[Output('y', 'y')])"
        ),
    )
    with pytest.raises(RuntimeError, match="erf_inv"):
        build(small_book)


def test_a_warning_fails_the_build(small_book):
    write(small_book, "See {cite:p}`nobody1900nothing`.\n")
    with pytest.raises(RuntimeError, match="nobody1900nothing"):
        build(small_book)


def test_launch_buttons_appear_with_a_repository(small_book):
    write(small_book, cell("1 + 1"))
    build(small_book)
    page = small_book / "_build" / "html" / "book" / "index.html"
    assert "mybinder.org" not in page.read_text()
    cff = small_book / "CITATION.cff"
    address = "https://github.com/example/anatomy"
    cff.write_text(cff.read_text() + f"repository-code: {address}\nurl: https://example.org/anatomy\n")
    build(small_book)
    text = page.read_text()
    assert "mybinder.org/v2/gh/example/anatomy/main?urlpath=lab/tree/book/index.md" in text
    assert "https://example.org/anatomy" in text  # the citation carries the address


def test_the_library_that_runs_is_this_checkout():
    import anatomy

    assert Path(anatomy.__file__).is_relative_to(ROOT)
