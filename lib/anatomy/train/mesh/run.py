"""A few steps of a training on a mesh of virtual devices, and the same steps on one device.

A process has as many devices as JAX was started with, so `in_subprocess` asks a process of its own, and
`in_processes` several that are joined by `jax.distributed`: `python -m anatomy.train.mesh.run` reads runs as JSON and
prints what came out. Virtual devices share the cores of one machine: they show order and bytes, and never speed.
"""

import argparse
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from anatomy.memo import remembered
from anatomy.model import Config, Weights, init
from anatomy.specs import Plan
from anatomy.train import loop
from anatomy.train import mesh as meshes
from anatomy.train.loop import Training

# Compiled in half the time; the arithmetic is the same.
QUICKLY = "--xla_backend_optimization_level=0"
RATE = 3e-4  # low: 120 layers begin without a warm-up


class Run(NamedTuple):
    """A short training, in which every expert has room for every token."""

    config: Config
    plan: Plan
    sequences: int  # of a step
    steps: int

    @property
    def devices(self) -> int:
        """Of its mesh."""
        return math.prod(meshes.ways(self.plan)[:4])

    @property
    def training(self) -> Training:
        """Losses and optimizer; on one device as many sequences pass at once as in a micro-batch of all replicas."""
        unit = meshes.ways(self.plan).replicas * meshes.ways(self.plan).micro_batch
        return Training(
            steps=self.steps, batch=self.sequences, micro_batch=unit, learning_rate=RATE, warm_up=0,
            dispatch="all_experts",
        )  # fmt: skip


class Made(NamedTuple):
    """What came out: measured at each step, by name, and the sum of the sizes of each array of weights at the end."""

    history: dict[str, list[float]]
    sizes: list[float]


class Repeated(NamedTuple):
    """The same tokens, drawn evenly, at every step: the loss falls as far as they are learnt by heart."""

    tokens: Int[np.ndarray, "sequences length+1"]

    def rows(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows from `start` on, as `loop.Data` has them, and a label that is 0."""
        return self.tokens[np.arange(start, start + count) % len(self.tokens)], np.zeros(count, np.int32)


def data(run: Run) -> Repeated:
    """The tokens of a run."""
    shape = (run.sequences, run.config.context + 1)
    return Repeated(np.random.default_rng(0).integers(0, run.config.vocabulary, shape).astype(np.int32))


def made_of(history: dict[str, Any], weights: Weights) -> Made:
    """Numbers that can be printed."""
    values = {
        name: [float(value) for value in history[name]] for name in ("loss", "balance", "z", "dropped", "gradient")
    }
    return Made(values, [float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(weights)])


def on_one_device(run: Run) -> Made:
    """The steps of a run by the plain loop, which knows no mesh; kept in the cache."""
    return Made(**remembered(trained_on_one_device, run))


def trained_on_one_device(run: Run) -> dict[str, Any]:
    """What `on_one_device` keeps."""
    with jax.enable_x64(False):
        _, weights, history = loop.train(run.config, run.training, data(run), progress=False)
        return made_of(history, weights)._asdict()


def on_mesh(run: Run) -> Made:
    """The steps of a run on the devices of this process, or of all that are joined with it.

    Raises:
        ValueError: the plan cannot be run; the message says why.
    """
    config, plan, tokens = run.config, run.plan, data(run).tokens
    room = config.experts / config.top_k  # places of an expert over its even share: nothing is dropped
    with jax.enable_x64(False):
        mesh = meshes.make_mesh(plan)
        made = meshes.make_step(config, run.training, plan, mesh, run.sequences, room)
        weights = meshes.place(config, plan, mesh, init(config, jax.random.key(run.training.seed)))
        state, history = made.start(weights), []
        for _ in range(run.steps):
            weights, state, measured = made.step(weights, state, tokens)
            history.append(measured)
        by_name = {name: [step[name] for step in history] for name in history[0]}
        return made_of(by_name, meshes.collect(config, plan, mesh, weights))


def in_subprocess(runs: Sequence[Run]) -> list[Made]:
    """What comes out of runs in a process that has as many devices as the largest needs; kept in the cache.

    Raises:
        RuntimeError: the process failed; the message is the last that it said.
    """
    return [Made(**one) for one in remembered(trained_in_subprocess, tuple(runs))]


def trained_in_subprocess(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What `in_subprocess` keeps."""
    return [one._asdict() for one in in_processes(runs, 1)[0]]


def in_processes(runs: Sequence[Run], count: int) -> list[list[Made]]:
    """What each of several processes says of runs, whose devices they share evenly.

    They find each other on the loopback interface and exchange through gloo.

    Raises:
        ValueError: there are no runs, or they have devices that do not split among so many processes.
        RuntimeError: a process failed; the message is the last that it said.
    """
    if not runs:
        raise ValueError("runs are empty; allowed: at least 1")
    sizes = {run.devices for run in runs}
    if count < 1 or (count > 1 and (len(sizes) > 1 or max(sizes) % count)):
        raise ValueError(f"devices are {sorted(sizes)}; allowed for {count} processes: one number that they divide")
    question = {
        "devices": max(sizes) // count,
        "runs": [
            run._asdict() | {"config": dataclasses.asdict(run.config), "plan": dataclasses.asdict(run.plan)}
            for run in runs
        ],
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY}"}
    processes = []
    for index in range(count):
        joined = {"address": address, "count": count, "index": index} if count > 1 else None
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "anatomy.train.mesh.run", json.dumps(question | {"process": joined})],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                text=True,
            )
        )
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(_answer, process) for process in processes]
        try:
            for done in as_completed(asked):  # the first that fails is heard, whichever it is
                done.result()
        finally:  # the others would wait for it
            for process in processes:
                process.kill()
    return [done.result() for done in asked]


def _answer(process: subprocess.Popen[str]) -> list[Made]:
    """What a process printed at its end."""
    printed, said = process.communicate()
    if process.returncode:
        last = said.strip().rpartition("\n")[2] or f"exit code {process.returncode}"
        raise RuntimeError(f"the runs did not end: {last}")
    return [Made(**made) for made in json.loads(printed.splitlines()[-1])]


def main() -> None:
    """Read runs from the first argument and print what came out of each."""
    parser = argparse.ArgumentParser(prog="python -m anatomy.train.mesh.run", description=main.__doc__)
    parser.add_argument("question", type=json.loads, help="JSON as `in_processes` writes it")
    question = parser.parse_args().question
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", question["devices"])
    if joined := question["process"]:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(joined["address"], joined["count"], joined["index"])
    answers = []
    for given in question["runs"]:
        answers.append(on_mesh(Run(**given | {"config": Config(**given["config"]), "plan": Plan(**given["plan"])})))
        jax.clear_caches()
    print(json.dumps([made._asdict() for made in answers]))


if __name__ == "__main__":
    main()
