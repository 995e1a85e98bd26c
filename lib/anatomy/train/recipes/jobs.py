"""Many recipes trained: one after the other, or several at once in processes that have a core each."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.queues import Queue

from anatomy.train.loop.progress import duration
from anatomy.train.recipes import registry
from anatomy.train.vision import reading


def with_needed(names: Sequence[str]) -> list[str]:
    """Recipes and all that they need, each once, behind what it needs.

    Raises:
        ValueError: there is no such recipe, or one is named twice.
    """
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(f"recipe {twice[0]!r} is named twice; allowed: each once; leave one of them out")
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        for needed in registry.known(name).needs:
            add(needed)
        ordered[name] = None

    for name in names:
        add(name)
    return list(ordered)


def prepare(name: str, progress: bool = True) -> str:
    """Train a recipe where it is missing, and measure what pages say of it; its name."""
    registry.trained(name, progress)
    registry.held_out(name)
    if name in reading.recipes.VISION:
        reading.scored(name)
    return name


class Forecast:
    """How long all will take, by the work that is done: tokens times the parameters that they pass."""

    def __init__(self, names: Sequence[str]) -> None:
        """Of recipes, of which some are trained."""
        self.work = {name: registry.known(name).work for name in names if not registry.is_trained(name)}
        self.left, self.count, self.begun = dict(self.work), len(self.work), 0
        # Until something is done here, those count that were trained on this machine before.
        made = (name for name in registry.RECIPES if registry.is_trained(name))
        before = [(registry.known(name).work, registry.seconds(name)) for name in made]
        self.earlier = tuple(map(sum, zip(*before, strict=True))) if before else (0.0, 0.0)
        self.start = time.monotonic()

    def done(self, name: str) -> None:
        """A recipe has been trained."""
        self.left.pop(name, None)

    def announce(self, name: str) -> str:
        """Which of how many is trained next, and how long all will take, as far as can be said."""
        self.begun += 1
        return f"training {self.begun} of {self.count}: {name}; {self.remaining()}"

    def remaining(self) -> str:
        """How long all that is left will take."""
        elapsed = time.monotonic() - self.start
        done = sum(self.work.values()) - sum(self.left.values())
        work, seconds = (done, elapsed) if done else self.earlier
        if not work or not seconds:
            return "how long all will take is known after the first"
        return f"about {duration(sum(self.left.values()) / work * seconds)} for all that is left"


def one_by_one(names: Sequence[str], say: Callable[[str], None]) -> Iterator[str]:
    """Train recipes in this process, in their order; each name when it is done."""
    forecast = Forecast(names)
    for name in names:
        if not registry.is_trained(name):
            say(forecast.announce(name))
        prepare(name)
        forecast.done(name)
        yield name


def at_once(names: Sequence[str], jobs: int, say: Callable[[str], None]) -> Iterator[str]:
    """Train recipes in so many processes, each after those that it needs; each name when it is done.

    Every process has one core, so that they do not wait for each other; a training ends with the bits that it has
    alone. An interrupt is handed on: each process stops after its step, with a whole checkpoint.
    """
    forecast, waiting, done = Forecast(names), list(names), set[str]()
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for job in range(jobs):
        cores.put(job)
    with ProcessPoolExecutor(jobs, context, initializer=settle, initargs=(cores,)) as pool:
        running: set[Future[str]] = set()
        try:
            while waiting or running:
                for name in [n for n in waiting if done.issuperset(registry.known(n).needs)][: jobs - len(running)]:
                    waiting.remove(name)
                    if not registry.is_trained(name):
                        say(forecast.announce(name))
                    running.add(pool.submit(prepare, name))
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for each in ended:
                    name = each.result()
                    done.add(name)
                    forecast.done(name)
                    yield name
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGINT)
            raise


def settle(cores: "Queue[int]") -> None:
    """Give a worker a core of its own; interrupts come from its parent alone.

    XLA goes on to have as many threads as it would have for all cores: how it splits sums among them decides their last
    bits, which are to be those of a training in a single process.
    """
    core = cores.get()
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.environ.setdefault("NPROC", str(len(allowed)))  # read when XLA starts, which it has not
        os.sched_setaffinity(0, {allowed[core % len(allowed)]})
    os.setpgrp()
    signal.signal(signal.SIGINT, lambda number, frame: None)
