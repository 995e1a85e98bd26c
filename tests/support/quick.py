"""Programs that are compiled in half the time, for tests that run them on little."""

import contextlib
from collections.abc import Iterator
from types import ModuleType

import jax
import pytest


@contextlib.contextmanager
def compiled(module: ModuleType, name: str, **how: object) -> Iterator[None]:
    """A module's jitted function, compiled without optimisation; `how` as it was given to `jax.jit`."""
    with pytest.MonkeyPatch.context() as patch:
        quick = jax.jit(
            getattr(module, name).__wrapped__, compiler_options={"xla_backend_optimization_level": 0}, **how
        )
        patch.setattr(module, name, quick)
        yield
