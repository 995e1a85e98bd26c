"""A small training in a process of its own, killed or interrupted and started again, beside one that was not.

`python -m anatomy.train.crash_test DIRECTORY` trains a small model on a Markov source, with a checkpoint at each step,
or goes on where the last checkpoint in the directory ends; with `sight` behind the directory, eyes for such a model.
SIGKILL cannot be caught: whatever the process was about to write or to clean up is left as it is. SIGINT, as of
Ctrl-C, ends the process after its step with exit code 130.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from anatomy.model import Config, init
from anatomy.model.vision import Vision
from anatomy.train.data import tokens
from anatomy.train.data.markov import random_markov
from anatomy.train.data.sources import VOCABULARY
from anatomy.train.loop import Training, checkpoint, train
from anatomy.train.vision import training

CONFIG = Config(
    vocabulary=16, layers=2, d_model=32, heads=2, kv_heads=1, head_dim=16, d_ff=32, experts=4, top_k=2, context=32
)
TRAINING = Training(steps=60, batch=8, batch_start=4, ramp=100, warm_up=20)
EYES = Vision(d_image=16, heads=2, d_ff=16, latents=3, block_d_ff=16)
LOOK = 0.005  # seconds between two looks for a checkpoint
INTERRUPTED = 130  # exit code, as shells give it


def text(directory: Path) -> None:
    """Train the small model."""
    train(CONFIG, TRAINING, random_markov(CONFIG.context), directory, "crash_test", every=1, progress=False)


def sight(directory: Path) -> None:
    """Train eyes for a model of that size which nobody trained, and which stays as it is."""
    bpe, whole = tokens.tokenizer(VOCABULARY), dataclasses.replace(TRAINING, batch_start=0, ramp=0)
    config = CONFIG.replace(vocabulary=VOCABULARY)
    blind = init(config, jax.random.key(0))
    training.train(config, EYES, whole, bpe, blind, 0, directory, "crash_test", every=1, progress=False)


KINDS = {"text": text, "sight": sight}


def run(
    directory: Path, stops: Sequence[int] = (), kind: str = "text", by: signal.Signals = signal.SIGKILL
) -> list[int]:
    """Train to the end. The process gets a signal as soon as it has written the checkpoint of each of these steps.

    Args:
        directory: of the checkpoints.
        stops: steps, in rising order. Where in the step that follows the signal falls is left to chance.
        kind: what is trained, a key of `KINDS`.
        by: SIGKILL or SIGINT.

    Returns:
        For each signal the step of the newest checkpoint that it left.

    Raises:
        RuntimeError: the process failed, or ended before the signal.
    """
    left, expected = [], INTERRUPTED if by == signal.SIGINT else -by
    for step in stops:
        ended = (directory / checkpoint.FINAL).exists()  # then there is nothing to stop, and the process is let end
        process = _start(directory, kind)
        while process.poll() is None and (ended or _step(directory) < step):
            time.sleep(LOOK)
        process.send_signal(by)
        _, said = process.communicate()
        if process.returncode != expected:
            raise RuntimeError(f"the training was not stopped after step {step}: {_last(said)}")
        left.append(_step(directory))
    process = _start(directory, kind)
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the training failed: {_last(said)}")
    return left


def result(directory: Path) -> dict[str, np.ndarray]:
    """All that stayed of a training that has ended: weights and history, by name.

    Raises:
        ValueError: none has ended there.
    """
    if not (path := directory / checkpoint.FINAL).exists():
        raise ValueError(f"directory {directory} has no {path.name}; allowed: one in which a training ended; run it")
    return checkpoint.arrays_of(path)


def differing(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> int:
    """Values of which any bit differs.

    Raises:
        ValueError: the two have other arrays.
    """
    shapes = [{name: (a.shape, a.dtype) for name, a in arrays.items()} for arrays in (one, other)]
    if shapes[0] != shapes[1]:
        wrong = sorted(name for name in one | other if shapes[0].get(name) != shapes[1].get(name))
        raise ValueError(f"arrays {wrong} differ in shape or type, or are in one alone; allowed: the same arrays")
    bits = ((a.view(f"u{a.itemsize}"), other[name].view(f"u{a.itemsize}")) for name, a in one.items())
    return sum(int(np.count_nonzero(a != b)) for a, b in bits)


def _start(directory: Path, kind: str) -> subprocess.Popen[str]:
    """Start the training; programs that were compiled once are found again, beside the directory."""
    command = [sys.executable, "-m", "anatomy.train.crash_test", str(directory), kind]
    found = {
        "JAX_COMPILATION_CACHE_DIR": str(directory.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | found)


def _step(directory: Path) -> int:
    """Of the newest checkpoint; all where the training has ended, 0 if there is none."""
    if (directory / checkpoint.FINAL).exists():
        return TRAINING.steps
    found = checkpoint.newest_first(directory)
    return int(checkpoint.NAME.fullmatch(found[0].name)[1]) if found else 0


def _last(said: str) -> str:
    """The last line of what a process said."""
    return (said.strip().splitlines() or ["it ended and said nothing"])[-1]


def main() -> int:
    """Train, or go on where the last checkpoint ends; 0, or 130 where it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m anatomy.train.crash_test", description=main.__doc__)
    parser.add_argument("directory", type=Path, help="of the checkpoints")
    parser.add_argument("kind", nargs="?", choices=KINDS, default="text", help="what is trained")
    options = parser.parse_args()
    try:
        KINDS[options.kind](options.directory)
    except KeyboardInterrupt as stop:
        print(f"interrupted: {stop}", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
