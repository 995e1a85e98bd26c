"""Clocks of the engine: time as it passes, or as a cost model has it."""

import time
from collections.abc import Callable
from typing import Any

from anatomy.cost.queueing.step_costs import Work


class Clock:
    """Seconds as they pass."""

    def __init__(self) -> None:
        """It begins at 0."""
        self._zero = time.perf_counter()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._zero

    def worked(self, work: Work) -> None:
        """A step was computed; that took the time that it took."""

    def wait(self, until: float) -> None:
        """Sleep until then."""
        time.sleep(max(until - self.now(), 0.0))


class VirtualClock(Clock):
    """Seconds as a cost model has them: what is waited for comes at once."""

    def __init__(self, cost: Callable[[Work], Any]) -> None:
        """It begins at 0; `cost` gives the seconds of a step."""
        self._cost, self._now = cost, 0.0

    def now(self) -> float:
        """As the clock has it."""
        return self._now

    def worked(self, work: Work) -> None:
        """The step takes what the cost model says."""
        self._now += float(self._cost(work))

    def wait(self, until: float) -> None:
        """Be there."""
        self._now = max(self._now, until)
