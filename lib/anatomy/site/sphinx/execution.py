"""Pages are executed when something that they depend on has changed, several at a time, and kept.

A page depends on its own cells, on what these reach in the library (`memo.closure`), and on the checks of the claims
that it shows. Executed pages lie in jupyter-cache, where myst-nb finds them when it builds the site; those whose
cells or closure have changed are executed first, and take the place of the older ones.

    python -m anatomy.site.sphinx.execution            executes the pages that need it
    python -m anatomy.site.sphinx.execution vision     executes one, if it needs it
"""

import argparse
import ast
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.read import read_myst_markdown_notebook
from nbformat import NotebookNode

from anatomy.memo.closure import Closure, Library, Node
from anatomy.memo.source import Module, called, taken_apart, written

CHECKS = "anatomy.claims.checks."  # where the checks of each section are
REGISTRY = ("anatomy.claims.ledger.registry", "check_of")  # imports them by a computed name
SHOW_ALL = {("anatomy.claims.ledger.show", "ledger"), ("anatomy.claims.ledger.show", "summary")}
TIMEOUT = 1800  # seconds; a page may be the first to ask for a model


def cache_path(root: Path) -> Path:
    """Where executed pages lie."""
    return root / "_build" / ".jupyter_cache"


def documents(root: Path) -> Iterator[Path]:
    """Files of the table of contents, in its order."""

    def entries(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            node = [value for key, value in node.items() if key not in ("root", "file")]
        if isinstance(node, list):
            for each in node:
                yield from entries(each)

    for name in entries(yaml.safe_load((root / "_toc.yml").read_text("utf-8"))):
        yield from (path for end in (".md", ".rst") if (path := root / (name + end)).exists())


def pages(root: Path) -> dict[str, Path]:
    """Documents with cells, by name."""
    found = (path for path in documents(root) if path.suffix == ".md")
    return {path.stem: path for path in found if "```{code-cell}" in path.read_text("utf-8")}


@cache
def read(text: str, path: Path) -> NotebookNode:
    """A page as a notebook, as myst-nb reads it."""
    return read_myst_markdown_notebook(text, add_source_map=True, path=str(path))


def code(text: str, path: Path) -> str:
    """The cells of a page as one module; lines that are for IPython are left out."""
    cells = (cell.source for cell in read(text, path).cells if cell.cell_type == "code")
    return "\n".join(line for cell in cells for line in cell.splitlines() if not line.lstrip().startswith(("%", "!")))


def library(root: Path) -> Library:
    """The library of a checkout as it lies on disk now."""
    return Library(root / "lib" / "anatomy")


def check_nodes(source: Library) -> dict[str, Node]:
    """The definition that checks each claim: a function marked `@check("id")`."""
    found = {}
    for name in source.below(CHECKS):
        module = source.module(name)
        for function in itertools.chain.from_iterable(module.definitions.values() if module else ()):
            if isinstance(function, ast.FunctionDef):
                for mark in function.decorator_list:
                    if isinstance(mark, ast.Call) and called(mark) == "check":
                        found[written(mark.args[0])] = (name, function.name)
    return found


def closure(source: Library, path: Path) -> Closure:
    """All that a page depends on, of its own cells and of a library."""
    page = taken_apart(f"page:{path.stem}", code(path.read_text("utf-8"), path))
    cut = [REGISTRY] if source.module(REGISTRY[0]) else []
    found = source.closure([], page, cut)
    if not any(node in found.code for node in cut):
        return found
    return source.closure(shown_checks(source, path.stem, page, found), page, cut)


def shown_checks(source: Library, name: str, page: Module, found: Closure) -> list[Node]:
    """The checks of all claims that a page may show: those of its section, those it names, or all."""
    checks = check_nodes(source)
    if SHOW_ALL & set(found.code):
        return list(checks.values())
    section = f"{CHECKS}{name.replace('-', '_')}."
    texts = {text for part in (*page.definitions, None) for said in page.does(part)[1] for text in said.strings}
    return [node for key, node in checks.items() if key in texts or f"{node[0]}.".startswith(section)]


def up_to_date(executed: JupyterCacheAbstract, notebook: NotebookNode, digest: str) -> bool:
    """Whether a page was executed with these cells and this closure."""
    with suppress(KeyError):
        return executed.match_cache_notebook(notebook).data.get("closure") == digest
    return False


def execute(root: Path, names: Iterable[str] = (), jobs: int | None = None) -> list[str]:
    """Execute the pages that have changed, or whose closure has; what was kept of older ones is replaced.

    Args:
        root: of the checkout.
        names: of pages; all by default.
        jobs: how many at a time; by default as many as there are cores.

    Returns:
        Names of the pages that were executed.

    Raises:
        KeyError: there is no such page.
        RuntimeError: a cell failed; the message names the page and shows what was raised.
    """
    known = pages(root)
    if unknown := [name for name in names if name not in known]:
        raise KeyError(f"page {unknown[0]!r}; allowed: {', '.join(known)}")
    executed = get_cache(str(cache_path(root)))
    executed.get_version(), executed.db  # made before threads ask for it
    todo, source = [], library(root)
    for name in names or known:
        notebook = deepcopy(read(known[name].read_text("utf-8"), known[name]))
        digest = closure(source, known[name]).digest()
        if not up_to_date(executed, notebook, digest):
            todo.append((name, known[name], notebook, digest))
    if todo:
        say(f"{len(todo)} of {len(known)} pages are executed: {', '.join(name for name, *_ in todo)}")
    began = time.monotonic()
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        running = [pool.submit(run, root, *each) for each in todo]
        try:
            for number, future in enumerate(as_completed(running), 1):
                name, seconds = future.result()
                say(f"{number} of {len(todo)}: {name}, {seconds:.0f} s; {time.monotonic() - began:.0f} s in all")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [name for name, *_ in todo]


def run(root: Path, name: str, path: Path, notebook: NotebookNode, digest: str) -> tuple[str, float]:
    """Execute one page in its folder, in a kernel of its own, and keep it; its name and the seconds that it took."""
    result = single_nb_execution(notebook, str(path.parent), TIMEOUT, allow_errors=False)
    if result.err is not None:
        raise RuntimeError(f"page {name!r} failed\n{result.exc_string}") from result.err
    kept = CacheBundleIn(notebook, str(path), data={"execution_seconds": result.time, "closure": digest})
    get_cache(str(cache_path(root))).cache_notebook_bundle(kept, check_validity=False, overwrite=True)
    return name, result.time


def say(text: str) -> None:
    """How far the work is."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Execute pages of the checkout in the current directory."""
    parser = argparse.ArgumentParser(prog="python -m anatomy.site.sphinx.execution", description=main.__doc__)
    parser.add_argument("pages", nargs="*", help="names such as vision; all by default")
    parser.add_argument("--jobs", type=int, help="how many at a time; by default as many as there are cores")
    given = parser.parse_args()
    root = Path.cwd()
    if unknown := sorted(set(given.pages) - set(pages(root))):
        parser.error(f"page is {unknown[0]!r}; allowed: {', '.join(pages(root))}")
    execute(root, given.pages, given.jobs)


if __name__ == "__main__":
    main()
