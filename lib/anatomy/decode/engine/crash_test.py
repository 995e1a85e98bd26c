"""A small engine in a process of its own, killed while it serves and started again, beside one that never was.

`python -m anatomy.decode.engine.crash_test JOURNAL` serves some requests with sampled answers and writes a journal;
where the journal has promises already, it keeps them first, and accepts only what it has never heard of. SIGKILL cannot
be caught: whatever the process was about to write is left as it is.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from anatomy.cost.queueing.simulation import Policy
from anatomy.decode.engine.decoder import PlainDecoder
from anatomy.decode.engine.engine import Engine
from anatomy.decode.engine.journal import Journal
from anatomy.decode.engine.requests import Limits, Request
from anatomy.decode.forward import ServedModel
from anatomy.model import Config, init

CONFIG = Config(
    vocabulary=16, layers=1, d_model=8, heads=2, kv_heads=1, head_dim=4, d_ff=8, experts=2, top_k=1, context=64
)
COUNT, SLOTS = 24, 3
KEEP_ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # programs compiled once are found again


def requests() -> list[Request]:
    """What is asked: prompts and answers of mixed lengths."""
    return [
        Request(
            name=f"request {i}",
            prompt=[(3 * i + j) % CONFIG.vocabulary for j in range(1 + i % 7)],
            limit=5 + 7 * i % 40,
            temperature=1.0,
            seed=i,
        )
        for i in range(COUNT)
    ]


def engine(journal: Journal | None = None) -> Engine:
    """An engine whose answers do not depend on what it serves beside."""
    decoder = PlainDecoder(ServedModel(init(CONFIG, jax.random.key(0)), CONFIG, "all_experts"))
    return Engine(decoder, Policy(slots=SLOTS, chunk=4), Limits(room=CONFIG.context, page=8), journal=journal)


def run(path: Path, kills: Sequence[int] = ()) -> list[int]:
    """Serve all requests. The process is killed as soon as the journal has so many lines, for each of these.

    Args:
        path: of the journal.
        kills: numbers of lines, in rising order; how much more is written before the kill is left to chance.

    Returns:
        For each kill how many requests were accepted and not over.

    Raises:
        RuntimeError: the process failed, or ended before it was killed.
    """
    left = []
    for lines in (*kills, None):
        process = subprocess.Popen(
            [sys.executable, "-m", "anatomy.decode.engine.crash_test", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(path.parent / "programs")} | KEEP_ALL,
        )
        # It says a word for each line of the journal, beginning with those that are there.
        seen = 0
        while lines is not None and seen < lines and process.stdout.readline():
            seen += 1
        if lines is not None:
            process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        if process.returncode != (0 if lines is None else -signal.SIGKILL):
            raise RuntimeError(f"the engine ended with {process.returncode}: {(said.strip() or 'no word')[-300:]}")
        if lines is not None:
            with Journal(path) as journal:
                left.append(len(journal.unfinished))
    return left


def main() -> None:
    """Keep what the journal promises, accept what is new, and serve."""
    parser = argparse.ArgumentParser(prog="python -m anatomy.decode.engine.crash_test", description=main.__doc__)
    parser.add_argument("journal", type=Path, help="file of the journal")
    with Journal(parser.parse_args().journal) as journal:
        known = {*journal.unfinished, *journal.finished}
        for _ in range(len(known) + len(journal.finished)):
            os.write(1, b"line\n")
        serving = engine(journal)
        coming = [request for request in requests() if request.name not in known]
        while coming or not serving.idle:
            if coming:
                serving.submit(coming.pop(0))
                os.write(1, b"line\n")
            for answer in serving.step():
                if answer.over:
                    os.write(1, b"line\n")


if __name__ == "__main__":
    main()
