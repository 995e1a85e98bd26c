"""A small training in a process of its own, killed and started again, beside one that was never killed.

`python -m anatomy.train.crash_test DIRECTORY` trains a small model on a Markov source, with a checkpoint at each step, or
goes on where the last checkpoint in the directory ends; with `sight` behind the directory, eyes for such a model.
SIGKILL cannot be caught: whatever the process was about to write or to clean up is left as it is.
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
from safetensors.numpy import load_file

from anatomy.model import Config, init
from anatomy.model.vision import Vision
from anatomy.train.data import tokens
from anatomy.train.loop import checkpoint
from anatomy.train.data.sources import VOCABULARY
from anatomy.train.loop import Training, train
from anatomy.train.data.markov import random_markov
from anatomy.train.vision import training

CONFIG = Config(
    vocabulary=16, layers=2, d_model=32, heads=2, kv_heads=1, head_dim=16, d_ff=32, experts=4, top_k=2, context=32
)
TRAINING = Training(steps=60, batch=8, batch_start=4, ramp=100)
EYES = Vision(d_image=16, heads=2, d_ff=16, latents=3, block_d_ff=16)
LOOK = 0.005  # seconds between two looks for a checkpoint


def text(directory: Path) -> None:
    """Train the small model."""
    train(CONFIG, TRAINING, random_markov(CONFIG.context), directory, "killed", every=1, progress=False)


def sight(directory: Path) -> None:
    """Train eyes for a model of that size which nobody trained, and which stays as it is."""
    bpe, whole = tokens.tokenizer(VOCABULARY), dataclasses.replace(TRAINING, batch_start=0, ramp=0)
    config = CONFIG.replace(vocabulary=VOCABULARY)
    blind = init(config, jax.random.key(0))
    training.train(config, EYES, whole, bpe, blind, 0, directory, "killed", every=1, progress=False)


KINDS = {"text": text, "sight": sight}


def run(directory: Path, kills: Sequence[int] = (), kind: str = "text") -> list[int]:
    """Train to the end. The process is killed as soon as it has written the checkpoint of each of these steps.

    Args:
        directory: of the checkpoints.
        kills: steps, in rising order. Where in the step that follows the kill falls is left to chance.
        kind: what is trained, a key of `KINDS`.

    Returns:
        For each kill the step of the newest checkpoint that it left.

    Raises:
        RuntimeError: the process failed, or ended before it was killed.
    """
    left = []
    for step in kills:
        process = _start(directory, kind)
        while process.poll() is None and _step(directory) < step:
            time.sleep(LOOK)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the training was not killed after step {step}: {_last(said)}")
        left.append(_step(directory))
    process = _start(directory, kind)
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the training failed: {_last(said)}")
    return left


def newest(directory: Path) -> dict[str, np.ndarray]:
    """All that the newest checkpoint holds: weights, state of the optimizer, and history, by name.

    Raises:
        ValueError: there is none.
    """
    if not (found := checkpoint.newest_first(directory)):
        raise ValueError(f"directory {directory} has no checkpoint; allowed: one in which a training ran")
    return load_file(found[0])


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
    """Of the newest checkpoint; 0 if there is none."""
    found = checkpoint.newest_first(directory)
    return int(checkpoint.NAME.fullmatch(found[0].name)[1]) if found else 0


def _last(said: str) -> str:
    """The last line of what a process said."""
    return (said.strip().splitlines() or ["it ended and said nothing"])[-1]


def main() -> None:
    """Train, or go on where the last checkpoint ends."""
    parser = argparse.ArgumentParser(prog="python -m anatomy.train.crash_test", description=main.__doc__)
    parser.add_argument("directory", type=Path, help="of the checkpoints")
    parser.add_argument("kind", nargs="?", choices=KINDS, default="text", help="what is trained")
    given = parser.parse_args()
    KINDS[given.kind](given.directory)


if __name__ == "__main__":
    main()
