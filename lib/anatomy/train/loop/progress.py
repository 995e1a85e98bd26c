"""What a long training says while it runs: a bar on a terminal, elsewhere a line every tenth of the way."""

import multiprocessing
import sys
import time
from types import TracebackType

from tqdm import tqdm

TENTHS = 10


class Progress:
    """Says on standard error how far something has come."""

    def __init__(self, title: str, steps: int, done: int = 0, shown: bool = True) -> None:
        """Begin.

        Args:
            title: what is going on.
            steps: of all of it.
            done: of these, before this process took it up.
            shown: whether anything is said.
        """
        self.title, self.steps, self.done, self.first, self.shown = title, steps, done, done, shown
        self.began = time.monotonic()
        # Workers share a terminal, on which there is room for one bar.
        on_terminal = shown and sys.stderr.isatty() and multiprocessing.parent_process() is None
        self.bar = tqdm(total=steps, initial=done, desc=title, unit="step") if on_terminal else None

    def __enter__(self) -> "Progress":
        """As it is."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()

    @property
    def seconds(self) -> float:
        """Since this process took it up."""
        return time.monotonic() - self.began

    def step(self, remark: str) -> None:
        """One step more, with what there is to say of it."""
        self.done += 1
        if self.bar is not None:
            self.bar.set_postfix_str(remark, refresh=False)
            self.bar.update()
        elif self.shown and self.done * TENTHS // self.steps > (self.done - 1) * TENTHS // self.steps:
            left = self.seconds / (self.done - self.first) * (self.steps - self.done)
            share = f"{self.done / self.steps:4.0%} of {self.steps:,} steps"
            print(f"{self.title}: {share}, {remark}, {duration(left)} left", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as they are said: with minutes and hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
