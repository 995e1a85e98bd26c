"""Ctrl-C between steps: a training stops where its state is whole, and says so."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Within, an interrupt is only noted; what this yields says whether there was one. A second one is raised at once.

    An exception that is raised while NumPy converts an array would come out as a ValueError of NumPy's. Where
    interrupts go elsewhere, outside the main thread or where they are ignored, nothing is changed.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield lambda: False
        return
    noted = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        if len(noted) > 1:
            raise KeyboardInterrupt("interrupted twice: the steps since the last checkpoint are lost")

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)
