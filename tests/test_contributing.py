"""CONTRIBUTING.md, carried out: what it says to add is added to a copy, and what it says then works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from anatomy.site.sphinx import execution

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
BLOCK = re.compile(r"^(?P<fence>`{3,})(?P<kind>\w+)(?: (?P<file>\S+))?\n(?P<code>.*?)^(?P=fence)$", re.M | re.S)
PARTS = {title: part for title, part in re.findall(r"^### … a (.*?)\n(.*?)(?=^### |\Z)", TEXT, re.M | re.S)}


def added(file: Path, code: str) -> None:
    """Put a block where it says: at the end, or in the table of contents after the last chapter."""
    if file.name == "_toc.yml":
        text = file.read_text("utf-8")
        last = "      - file: book/vision\n"
        assert last in text
        file.write_text(text.replace(last, last + code), "utf-8")
    else:
        file.write_text((file.read_text("utf-8") if file.exists() else "") + "\n" + code, "utf-8")


@pytest.mark.parametrize("title", [title for title in PARTS if title != "chapter"])
def test_what_it_says_works(title, tmp_path):
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    blocks = [match.groupdict() for match in BLOCK.finditer(PARTS[title])]
    runs = [block["code"] for block in blocks if block["file"] is None]
    assert runs and len(blocks) > len(runs)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "lib"), "ANATOMY_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", runs[0]]
    before = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert before.returncode != 0  # it is not there yet
    for block in blocks:
        if block["file"]:
            added(tmp_path / block["file"], block["code"])
    after = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert after.returncode == 0, after.stderr


def test_a_chapter_that_is_added_is_a_page(tmp_path):
    shutil.copy(ROOT / "_toc.yml", tmp_path / "_toc.yml")
    (tmp_path / "book").mkdir()
    for path in execution.pages(ROOT).values():
        (tmp_path / "book" / path.name).write_text(path.read_text("utf-8"), "utf-8")
    assert "example" not in execution.pages(tmp_path)
    for match in BLOCK.finditer(PARTS["chapter"]):
        added(tmp_path / match["file"], match["code"])
    page = execution.pages(tmp_path)["example"]
    found = execution.closure(execution.library(ROOT), page)
    assert "anatomy.specs.architecture" in found.modules


def test_its_commands_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", TEXT + (ROOT / "README.md").read_text("utf-8"), re.M))
    assert {"check", "page", "test", "book"} <= named
    assert {name for name in named if not re.search(rf"^{name}:", makefile, re.M)} == set()
