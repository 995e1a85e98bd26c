"""The book as `make test` has built it here, and built again from a clean copy of the checkout."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock
from support.checkout import ROOT, build, built_before_edits, copy_checkout


class Site(NamedTuple):
    """A built site, and the folder it was built in."""

    folder: Path
    html: Path


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> tuple[Site, Site]:
    """A clean build of what the first build executed, and the first: the checkout's, as long as it is up to date.

    On a clean checkout, as in CI, the first is clean too. Executing is repeated by the tests of notebooks. The worker
    that comes first builds for all.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    first, again = shared / "first", shared / "again"
    with FileLock(shared / "book.lock"):
        if not (shared / "built").exists():
            if built_before_edits(ROOT):
                build(copy_checkout(first))
            again = copy_checkout(again)
            source = first if first.exists() else ROOT
            shutil.copytree(source / "_build" / ".jupyter_cache", again / "_build" / ".jupyter_cache")
            build(again)
            (shared / "built").touch()
    source = first if first.exists() else ROOT
    return Site(again, again / "_build" / "html"), Site(source, source / "_build" / "html")


@pytest.fixture(scope="session")
def site(sites: tuple[Site, Site]) -> Site:
    """A clean, strict build of the book."""
    return sites[0]
