"""What executes which page again: edits in a copy of the checkout, by the closures that the build goes by."""

import shutil
from pathlib import Path

import pytest
from anatomy.memo.closure import Library
from anatomy.site.sphinx import execution
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from support.checkout import ROOT

PAGES = set(execution.pages(ROOT))
LIB = "lib/anatomy/"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("lib", "book"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "_toc.yml", folder / "_toc.yml")
    return folder


def digests(folder: Path) -> dict[str, str]:
    library = execution.library(folder)
    return {name: execution.closure(library, path).digest() for name, path in execution.pages(folder).items()}


@pytest.fixture(scope="module")
def before(checkout) -> dict[str, str]:
    return digests(checkout)


def executed_after(checkout: Path, before: dict[str, str], file: str, old: str, new: str) -> set[str]:
    """Pages that are executed again after an edit, which is then undone."""
    path = checkout / file
    text = path.read_text("utf-8")
    assert old in text, f"{file} has no {old!r}"
    try:
        path.write_text(text.replace(old, new, 1), "utf-8")
        after = digests(checkout)
    finally:
        path.write_text(text, "utf-8")
    return {name for name in before if after[name] != before[name]}


@pytest.mark.parametrize(
    "file, old, new",
    [
        (LIB + "cost/training/step.py", '"""One training step of any', '"""A training step of any'),
        (LIB + "decode/speculation/step.py", "import ", "# a comment\nimport "),
        (LIB + "site/interactive/static/calculator.css", "{", "{ color: red;"),
        (LIB + "site/interactive/static/calculator.js", "const ", "/* an edit */ const "),
        (LIB + "claims/ledger/ledger.js", "const ", "/* an edit */ const "),
        (LIB + "claims/record/claims.toml", "[[claim]]", "# an edit\n[[claim]]"),
        (LIB + "site/sphinx/extension.py", "NEVER_USED = (", 'NEVER_USED = ("nothing", '),
        ("book/replicability.md", "\n## ", "\nMore prose.\n\n## "),
        ("book/_static/anatomy.css", "{", "{ color: red;"),
    ],
)
def test_edits_that_execute_nothing(checkout, before, file, old, new):
    assert executed_after(checkout, before, file, old, new) == set()


SPECULATION = {"speculative-decoding"}
ALL_CLAIMS = {"index", "claims"}


@pytest.mark.parametrize(
    "file, old, new, pages",
    [
        # How requests are served is shown where batching and the cache are.
        (LIB + "decode/engine/engine.py", "class Engine", "EDITED = 1\n\n\nclass Engine", set()),
        (LIB + "measure/conversations.csv", "\n0", "\n1", {"continuous-batching"}),
        (LIB + "decode/speculation/step.py", "def draft_verify_step(", "def draft_verify_step(\n    *edited,", None),
        (LIB + "claims/checks/parallelism/layout.py", "def tp8(", "def tp8(*edited, ", ALL_CLAIMS | {"parallelism"}),
        (LIB + "claims/checks/intro.py", "def authors(", "def authors(*edited, ", ALL_CLAIMS),
        ("book/dataset.md", "draws=4000", "draws=4001", {"dataset"}),
        (
            LIB + "site/interactive/calculator.py",
            'frame("calculator", "Calculator"',
            'frame("calculator", "Edited"',
            None,
        ),
    ],
)
def test_edits_execute_the_pages_that_reach_them(checkout, before, file, old, new, pages):
    found = executed_after(checkout, before, file, old, new)
    if pages is not None:
        assert found == pages
    elif "speculation" in file:  # those that speculate, and those that measure the loop with it
        assert found >= SPECULATION and len(found) <= 3
    else:
        assert 8 <= len(found) < len(PAGES) and "claims" not in found


# Every file of figures is read by some page, and an edit of a figure executes it.
FIGURES = [path for end in ("toml", "csv") for path in sorted((ROOT / LIB).rglob(f"*.{end}"))]


@pytest.mark.parametrize("file", [path.relative_to(ROOT).as_posix() for path in FIGURES])
def test_every_figure_that_changes_executes_the_pages_that_read_it(checkout, before, file):
    text = (checkout / file).read_text("utf-8")
    line = next(line for line in text.splitlines() if line and not line.startswith(("#", "[")) and line[-1:].isdigit())
    assert executed_after(checkout, before, file, f"\n{line}\n", f"\n{line}1\n") != set()


def test_pages_find_the_checks_of_their_section_and_of_the_claims_they_show(checkout):
    library = execution.library(checkout)
    checks = execution.check_nodes(library)
    for name, path in execution.pages(checkout).items():
        reached = set(execution.closure(library, path).code)
        section = f"{execution.CHECKS}{name.replace('-', '_')}."
        own = {node for node in checks.values() if f"{node[0]}.".startswith(section)}
        assert own <= reached
        if name in ("index", "claims"):
            assert set(checks.values()) <= reached
    assert len(checks) == 187


def test_what_was_executed_is_kept_until_the_closure_changes(tmp_path):
    executed = get_cache(str(tmp_path))
    text = (ROOT / "book" / "reproducibility.md").read_text("utf-8")
    notebook = execution.read(text, Path("reproducibility.md"))
    assert not execution.up_to_date(executed, notebook, "one")
    kept = CacheBundleIn(notebook, "reproducibility.md", data={"closure": "one"})
    executed.cache_notebook_bundle(kept, check_validity=False)
    assert execution.up_to_date(executed, notebook, "one")
    assert not execution.up_to_date(executed, notebook, "two")


def test_an_unknown_page_is_refused():
    with pytest.raises(KeyError, match="page 'nothing'; allowed: index, replicability"):
        execution.execute(ROOT, ["nothing"])


def test_a_library_is_read_as_it_lies_on_disk(checkout):
    assert isinstance(execution.library(checkout), Library)
    assert execution.library(checkout).root == checkout / "lib" / "anatomy"
