"""What all tests share: double precision, repeatable examples, and the keys of the bibliography."""

from pathlib import Path

import jax
import pytest
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


class ByFile(LoadScopeScheduling):
    """Keeps what shares costly fixtures on one worker: a file, or all that looks at the built book."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "book" if "book/" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """How tests are given to workers."""
    return ByFile(config, log)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiled programs hold memory maps, of which a process may have only so many."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def references() -> frozenset[str]:
    """Keys of book/references.bib."""
    return frozenset(parse_file(str(ROOT / "book" / "references.bib")).entries)
