"""How long the book takes to build, and what its first page weighs."""

import gzip
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anatomy.site.sphinx import execution
from anatomy.train import recipes
from support.browser import CHROMIUM, chromium, served
from support.checkout import ROOT, build, copy_checkout


def seconds(folder: Path) -> dict[str, Any]:
    """Wall time of a strict build."""
    start = time.perf_counter()
    build(folder)
    return {"value": round(time.perf_counter() - start, 1), "unit": "seconds"}


def pages_after(folder: Path, file: str, old: str, new: str) -> dict[str, Any]:
    """How many pages an edit of the library executes again; it is undone."""
    path = folder / "lib" / "anatomy" / file
    text = path.read_text("utf-8")
    if old not in text:
        raise ValueError(f"{file} has no {old!r}; name another edit")

    def digests() -> dict[str, str]:
        library = execution.library(folder)
        return {name: execution.closure(library, page).digest() for name, page in execution.pages(folder).items()}

    before = digests()
    path.write_text(text.replace(old, new, 1), "utf-8")
    after = digests()
    path.write_text(text, "utf-8")
    pages = sorted(name for name in before if after[name] != before[name])
    return {"value": len(pages), "unit": "pages", "pages": pages}


def check() -> dict[str, Any]:
    """Wall time of `make check`, from an environment that exists."""
    start = time.perf_counter()
    subprocess.run(["make", "check"], cwd=ROOT, check=True, capture_output=True)
    return {"value": round(time.perf_counter() - start, 1), "unit": "seconds"}


def cache() -> dict[str, Any]:
    """What the trained recipes take in the cache."""
    files = (file for name in recipes.RECIPES for file in recipes.directory(name).rglob("*") if file.is_file())
    return {"value": round(sum(file.stat().st_size for file in files) / 1e6, 1), "unit": "megabytes"}


def measure() -> Iterator[tuple[str, dict[str, Any]]]:
    """Builds in a clean copy of the checkout: cold, with nothing to do, and after two kinds of edit."""
    yield "check_seconds", check()
    yield "cache_megabytes", cache()
    with tempfile.TemporaryDirectory() as scratch:
        folder = copy_checkout(Path(scratch))
        yield "book_cold", seconds(folder)
        yield "book_noop", seconds(folder)
        chapter = folder / "book" / "dataset.md"
        chapter.write_text(chapter.read_text("utf-8").replace("draws=4000", "draws=4001"), "utf-8")
        yield "book_one_chapter", seconds(folder)
        with (folder / "lib" / "anatomy" / "cost" / "run.py").open("a") as module:
            module.write("# an edit\n")
        yield "book_library_edit", seconds(folder)
        yield (
            "edit_docstring_pages",
            pages_after(folder, "cost/training/step.py", '"""One training step of any', '"""A step of any'),
        )
        draft = "decode/speculation/step.py", "def draft_verify_step(", "@lambda edited: edited\ndef draft_verify_step("
        yield "edit_speculation_pages", pages_after(folder, *draft)
        if CHROMIUM:
            yield from first_page(folder / "_build" / "html")
        else:
            print("first_page: chromium is not installed, so it is not measured")


def first_page(html: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Bytes that a reader's browser loads for the first page, compressed as a server would, and its requests."""
    sizes = []
    with served(html) as address, chromium() as browser:
        page = browser.new_page()
        page.on("response", lambda response: sizes.append(len(gzip.compress(response.body()))))
        page.goto(f"{address}/book/index.html", wait_until="networkidle")
    yield "first_page", {"value": round(sum(sizes) / 1e3), "unit": "kilobytes, compressed"}
    yield "first_page_requests", {"value": len(sizes), "unit": "requests"}
