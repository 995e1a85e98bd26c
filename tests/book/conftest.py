"""The book as `make test` has built it here, and built again from a clean copy of the checkout."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from support.checkout import ROOT, build, built_before_edits, copy_checkout


class Site(NamedTuple):
    """A built site, and the folder it was built in."""

    folder: Path
    html: Path


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Site]:
    """A clean build of what the first build executed, and the first: the checkout's, as long as it is up to date.

    On a clean checkout, as in CI, the first is clean too. Executing is repeated by the tests of notebooks.
    """
    first = ROOT
    if built_before_edits(ROOT):
        first = copy_checkout(tmp_path_factory.mktemp("first"))
        build(first)
    again = copy_checkout(tmp_path_factory.mktemp("again"))
    shutil.copytree(first / "_build" / ".jupyter_cache", again / "_build" / ".jupyter_cache")
    build(again)
    return Site(again, again / "_build" / "html"), Site(first, first / "_build" / "html")


@pytest.fixture(scope="session")
def site(sites: tuple[Site, Site]) -> Site:
    """A clean, strict build of the book."""
    return sites[0]
