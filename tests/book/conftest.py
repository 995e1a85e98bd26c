"""The book as `make test` has built it here, and built again from a clean copy of the checkout."""

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
    """A clean build, and the build of the checkout, or a second clean build where there is none that is up to date.

    On a clean checkout, as in CI, both are clean.
    """
    first = copy_checkout(tmp_path_factory.mktemp("first"))
    build(first)
    second = ROOT
    if built_before_edits(ROOT):
        second = copy_checkout(tmp_path_factory.mktemp("second"))
        build(second)
    return Site(first, first / "_build" / "html"), Site(second, second / "_build" / "html")


@pytest.fixture(scope="session")
def site(sites: tuple[Site, Site]) -> Site:
    """A clean, strict build of the book."""
    return sites[0]
