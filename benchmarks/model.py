"""How fast the small model trains, beside transformers' Mixtral and the machine's peak, and what trust costs.

Steps of both, and the product of matrices that stands for the peak, take turns, so that whatever else the machine
does falls on all of them alike.
"""

import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from anatomy.decode import select_dispatch
from anatomy.memo import cache_directory
from anatomy.model import Weights, empty_cache, forward, init, moe, unstack
from anatomy.model.mixtral import save
from anatomy.train import crash_test, loop, recipes
from anatomy.train.data.sources import DATA
from anatomy.train.loop import Batch, State, Training, checkpoint
from anatomy.validate import compiled
from support.mixtral_peer import Unavailable, peer_python

from benchmarks import peers

CONFIG = recipes.GPT
TARGET = recipes.RECIPES["target"].training
# It goes on where the recipe ends, at its last rate; transformers has no z loss.
TRAINING = dataclasses.replace(TARGET, learning_rate=TARGET.last * TARGET.learning_rate, z=0.0)
EXACT = dataclasses.replace(TRAINING, dispatch="with_overflow")
TOKENS = TRAINING.batch * CONFIG.context  # of a step
EVERY = 50  # steps between checkpoints, as in training
TRIALS, ROUNDS = 2, 15
SIDE = 2048  # of the matrices whose product is the peak
THREADS = os.cpu_count() or 1


def trained_target() -> Weights | None:
    """The target's weights where it is trained, for its tokens are spread over experts as in most of a training."""
    return recipes.trained("target").weights if recipes.seconds("target") else None


class Ours:
    """Our training, a step at a time.

    Attributes:
        compile_seconds: of the two programs of a step, traced and compiled.
    """

    def __init__(self, training: Training, weights: Weights, rows: np.ndarray) -> None:
        state = loop.fresh(CONFIG, training, weights)
        self.weights, self.optimizer = jax.tree.map(jnp.array, (state.weights, state.optimizer))  # they are given away
        self.history = state.history
        start = time.perf_counter()
        self.gradients = loop.gradients.lower(CONFIG, training, self.weights, Batch(rows)).compile()
        self.update = loop.update.lower(training, self.weights, self.optimizer, self.weights).compile()
        self.compile_seconds = time.perf_counter() - start

    def step(self, rows: np.ndarray) -> dict[str, float]:
        """One step, timed from the tokens to the new weights."""
        start = time.perf_counter()
        gradient, measured = self.gradients(self.weights, Batch(rows))
        self.weights, self.optimizer, _ = jax.block_until_ready(self.update(self.weights, self.optimizer, gradient))
        return {"seconds": time.perf_counter() - start} | {n: float(measured[n]) for n in ("loss", "dropped")}


@contextlib.contextmanager
def transformers(weights: Weights) -> Iterator[tuple[list[Any], Callable[..., dict[str, float]]]]:
    """Their training of the same weights in a process of its own: ways to compute it, and a step.

    Raises:
        Unavailable: torch or transformers cannot be installed.
    """
    python = peer_python()
    with tempfile.TemporaryDirectory() as folder:
        save(CONFIG, weights, folder)
        with peers.conversation(python, "mixtral_step.py") as ask:
            how = {"decay": TRAINING.decay, "clip": TRAINING.clip, "balance": TRAINING.balance, "betas": [0.9, 0.95]}
            yield ask(weights=folder, threads=THREADS, **how), ask


def product_seconds(repeats: int = 5) -> float:
    """Least time of a product of large matrices in NumPy or XLA: as near the peak as a program comes."""
    matrix = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
    seconds = []
    for multiply, given in ((np.matmul, matrix), (jax.jit(jnp.matmul), jnp.asarray(matrix))):
        jax.block_until_ready(multiply(given, given))
        for _ in range(repeats):
            begin = time.perf_counter()
            jax.block_until_ready(multiply(given, given))
            seconds.append(time.perf_counter() - begin)
    return min(seconds)


def side_by_side(ours: dict[str, Ours], weights: Weights, data: loop.Data) -> dict[str, list[dict[str, float]]]:
    """What each step of everything took, in turns on the same rows; without the peer where it is not available.

    The peer's steps are of its fastest way; `peer_loop` are those of its trials that went expert by expert.
    """
    rate, made = TRAINING.schedule(), {name: [] for name in (*ours, "peak")}
    with contextlib.ExitStack() as stack:
        ways, best = [None], None
        try:
            ways, ask = stack.enter_context(transformers(weights))
            made["peer"] = []
        except Unavailable as error:
            print(f"training_vs_transformers is not measured: {error}")
        trials = TRIALS * ways  # the fastest way is kept; all of them train the same
        for index in range(len(trials) + ROUNDS):
            rows, _ = data.rows(TRAINING.batch * index, TRAINING.batch)
            for name, one in ours.items():
                made[name].append(one.step(rows))
            made["peak"].append({"seconds": product_seconds()})
            if "peer" in made:
                way = trials[index] if index < len(trials) else best
                made["peer"].append(ask(rows=rows.tolist(), rate=float(rate(index)), way=way) | {"way": way})
                best = min(made["peer"], key=lambda step: step["seconds"])["way"] if index < len(trials) else best
    loops = [step for step in made.get("peer", ())[: len(trials)] if step["way"][0] == "eager"]
    return {name: steps[-ROUNDS:] for name, steps in made.items()} | ({"peer_loop": loops} if loops else {})


def speed() -> Iterator[tuple[str, dict[str, Any]]]:
    """Tokens a second against transformers and against the peak; compilation; checkpoints."""
    data = DATA["mixture"]()
    rows, _ = data.rows(0, TRAINING.batch)
    trained = trained_target()
    weights = init(CONFIG, jax.random.key(TRAINING.seed)) if trained is None else trained
    ours = {name: Ours(training, weights, rows) for name, training in {"ours": TRAINING, "exact": EXACT}.items()}
    steps = side_by_side(ours, weights, data)
    load = {"load_average": os.getloadavg()[0], "start": "fresh weights" if trained is None else "target"}
    seconds = {name: statistics.median(step["seconds"] for step in made) for name, made in steps.items()}
    tokens = {name: TOKENS / seconds[name] for name in seconds if name != "peak"}
    if "peer" in tokens:
        yield (
            "training_vs_transformers",
            {
                "value": tokens["ours"] / tokens["peer"],
                "unit": "times the tokens/s",
                **tokens,
                "exact_vs_peer": tokens["exact"] / tokens["peer"],
                "vs_peer_loop": tokens["ours"] / tokens["peer_loop"],
                "peer_way": " experts, ".join(steps["peer"][-1]["way"]) + " attention",
                "dropped": statistics.mean(step["dropped"] for step in steps["ours"]),
                "loss_difference": max(
                    abs(one["loss"] - other["loss"]) for one, other in zip(steps["exact"], steps["peer"], strict=True)
                ),
                **load,
            },
        )

    attended = (CONFIG.context + 1) / 2
    flop = float(CONFIG.architecture.flop_per_token(attended, backward=True).total)
    # The least disturbed of each: a short product feels what else the machine does more than a long step.
    fastest = {name: min(step["seconds"] for step in made) for name, made in steps.items()}
    made, peak = flop * TOKENS / fastest["ours"], 2 * SIDE**3 / fastest["peak"]
    share = {"value": made / peak, "unit": "of the peak", "ours": made, "peer": peak}
    yield "training_mfu", share | {"flop_per_token": flop} | load
    yield "training_compile", {"value": ours["ours"].compile_seconds, "unit": "seconds"} | load
    yield "checkpoint_share", checkpoint_share(ours["ours"], data) | load
    yield "dispatch_default", dispatches(weights, data) | load


def checkpoint_share(ours: Ours, data: loop.Data) -> dict[str, Any]:
    """Share of the time of training that goes into a checkpoint every so many steps; they take turns with steps."""
    steps, saves = [], []
    with tempfile.TemporaryDirectory(dir=cache_directory()) as folder:  # on the disk on which they lie
        for index in range(7):
            rows, _ = data.rows(TRAINING.batch * index, TRAINING.batch)
            steps.append(ours.step(rows)["seconds"])
            start = time.perf_counter()
            path = checkpoint.save(Path(folder), index, State(ours.weights, ours.optimizer, ours.history), "benchmark")
            saves.append(time.perf_counter() - start)
        size = path.stat().st_size
    cost = statistics.median(saves) / statistics.median(steps)
    parts = {"steps": cost, "seconds": statistics.median(saves), "megabytes": size / 1e6}
    return {"value": cost / (cost + EVERY), "unit": f"of training, every {EVERY} steps"} | parts


PHASES = {"training": (16, 256), "prefill": (1, 256), "decode_1": (1, 1), "decode_8": (8, 1), "decode_32": (32, 1)}


def dispatches(weights: Weights, data: loop.Data, rounds: int = 5) -> dict[str, Any]:
    """How the dispatch that is the default of a phase stands beside the fastest that may be used there.

    All may train; those that drop may not serve. They take turns.
    """
    separate, shares, every = unstack(weights), {}, {}
    for phase, (sequences, length) in PHASES.items():
        kind = phase.split("_")[0]
        rows, _ = data.rows(0, sequences)
        tokens, programs = rows[:, :length], {}
        for name, dispatch in moe.DISPATCHES.items():
            one_by_one = dispatch is moe.one_by_one and tokens.size > 64
            if one_by_one or (kind != "training" and name not in moe.EXACT):
                continue
            if kind == "training":
                if name in ("one_by_one", "in_buckets", "in_tiles"):
                    continue  # their loops over experts are made for unstacked weights, or have no gradients
                how, batch = dataclasses.replace(TRAINING, dispatch=name), Batch(rows)
                programs[name] = (loop.gradients.lower(CONFIG, how, weights, batch).compile(), (weights, batch))
            else:
                read = jax.jit(lambda w, t, c, dispatch=dispatch: forward(CONFIG, w, t, c, dispatch).logits)
                programs[name] = (read, (separate, tokens, empty_cache(CONFIG, sequences)))
        seconds = {name: [] for name in programs}
        for _ in range(rounds):
            for name, (program, given) in programs.items():
                start = time.perf_counter()
                jax.block_until_ready(program(*given))
                seconds[name].append(time.perf_counter() - start)
        every[phase] = {name: min(times) for name, times in seconds.items()}
        used = TRAINING.dispatch
        if kind != "training":
            used = select_dispatch(None, tokens.size).__name__
        shares[phase] = every[phase][used] / min(every[phase].values())
        jax.clear_caches()
    return {"value": max(shares.values()), "unit": "times the fastest", "shares": shares, "seconds": every}


def kill_resume_difference(kills: int = 3) -> dict[str, Any]:
    """Values in the end of a run that was killed at random steps, of which a bit is another."""
    steps = np.sort(np.random.default_rng().choice(np.arange(1, 50), kills, replace=False))
    with tempfile.TemporaryDirectory() as scratch:
        never, again = Path(scratch) / "never", Path(scratch) / "killed"
        crash_test.run(never)
        left = crash_test.run(again, steps.tolist())
        one, other = crash_test.result(never), crash_test.result(again)
    of = sum(array.size for array in one.values())
    return {"value": crash_test.differing(one, other), "unit": "values", "of": of, "killed_after_steps": left}


def models_total() -> dict[str, Any]:
    """Seconds that the trainings of all recipes took on this machine, and which of them are yet to be trained."""
    seconds = {name: recipes.seconds(name) for name in recipes.RECIPES}
    missing = [name for name, spent in seconds.items() if not spent]
    if missing:
        print(f"models_total: {len(missing)} of {len(seconds)} recipes are not trained and not counted")
    return {"value": sum(seconds.values()), "unit": "seconds", "missing": len(missing), "each": seconds}


def measure() -> Iterator[tuple[str, dict[str, Any]]]:
    """Speed, then exactness, then what all trainings took."""
    with jax.enable_x64(False):
        yield from speed()
    yield "kill_resume_difference", kill_resume_difference()
    mismatch = compiled.mismatch(compiled.in_subprocess())
    yield "collectives_mismatch", {"value": mismatch, "unit": "bytes", "meshes": len(compiled.CASES)}
    yield "models_total", models_total()
