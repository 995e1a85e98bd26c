"""What all tests share: double precision, repeatable examples, and the keys of the bibliography."""

import sys
from pathlib import Path
from typing import Any

import annotations
import jax
import pytest
from anatomy.train.recipes import NotTrained
from hypothesis import settings
from pybtex.database import parse_file
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]

# The same examples on every machine and at every run: a red build is never a matter of luck.
settings.register_profile("anatomy", deadline=None, derandomize=True)
settings.load_profile("anatomy")

# Counts of GPT-4's size need more than the 24 bits of single precision to be compared exactly.
jax.config.update("jax_enable_x64", True)


def pytest_configure(config: pytest.Config) -> None:
    """Where annotations are checked, leave out what is wrong on purpose."""
    if config.getoption("--jaxtyping-packages"):
        pytest.raises = annotations.raises


class ByFile(LoadScopeScheduling):
    """Keeps a file on one worker, since its tests share costly fixtures; notebooks are run one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if "test_notebooks_run_" in nodeid else nodeid.split("::", 1)[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """How tests are given to workers."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the built book, and put what takes longest first, so that no worker is left with it alone."""
    for item in items:
        if {"site", "sites"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("book")
    ranks = {"book": 0, "slow": 1}
    items.sort(key=lambda item: min([ranks[m.name] for m in item.iter_markers() if m.name in ranks], default=2))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    """Skip what needs a trained model where none may be trained, as in `make check`."""
    if call.excinfo is not None and call.excinfo.errisinstance(NotTrained):
        call.excinfo = pytest.ExceptionInfo.from_exc_info(_skipped(str(call.excinfo.value)))
    return (yield)


def _skipped(reason: str) -> Any:
    """A skip with this reason, as an exception that was raised."""
    try:
        pytest.skip(reason)
    except pytest.skip.Exception:
        return sys.exc_info()


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiled programs hold memory maps, of which a process may have only so many."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def references() -> frozenset[str]:
    """Keys of book/references.bib."""
    return frozenset(parse_file(str(ROOT / "book" / "references.bib")).entries)
