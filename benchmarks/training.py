"""How many plans the training model evaluates in a second, beside other ways to do it, and how accurate it is.

All ratios are measured in one process, one after the other, on the same plans.
"""

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import jax
import numpy as np
from anatomy import specs
from anatomy.cost import collectives, explore
from anatomy.cost.efficiency import efficiency
from anatomy.cost.training import memory, pipeline, step
from anatomy.cost.training.search import search
from anatomy.cost.training.step import training_step
from anatomy.specs import cluster as cluster_module
from anatomy.specs import plan as plan_module
from anatomy.validate import compare, mean_error, read

from benchmarks import peers

MODEL = specs.architecture("gpt4")
CLUSTER = specs.cluster("a100_sxm_40gb", 3125)
SHARE = efficiency("a100_sxm_80gb")
SEQUENCES, SEQUENCE = 60e6 / 8192, 8192.0
COUNT = 2**24  # plans
SOME = 2**18  # of them, for what is slower
NAMES = ("tensor", "pipeline", "data", "micro_batch", "chunks", "zero", "recompute", "expert")


def random_plans(count: int) -> dict[str, np.ndarray]:
    """Plans of all kinds, a column each."""
    draw = np.random.default_rng(0).choice
    options = (
        [1, 2, 4, 8],
        [1, 2, 4, 8, 15, 30],
        [16, 32, 104, 208],
        [1, 2, 4],
        [1, 2, 4],
        range(4),
        range(3),
        [1, 2, 4],
    )
    return {name: draw(np.array(values, float), count) for name, values in zip(NAMES, options, strict=True)}


def evaluate(**values: Any) -> dict[str, Any]:
    """Time and memory of a plan, every term included."""
    plan = specs.Plan(**values, sequence_parallel=1.0)
    made = training_step(MODEL, plan, CLUSTER, batch=SEQUENCES, sequence_length=SEQUENCE, efficiency=SHARE)
    return {"seconds": made.seconds, "memory": made.memory.total}


def per_second(run: Callable[[], Any], count: int, repeats: int = 5) -> float:
    """Evaluations a second: the median of a few runs, after one that warms up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return count / statistics.median(times)


@contextlib.contextmanager
def in_numpy() -> Iterator[None]:
    """The same formulas with NumPy in place of jax.numpy, for as long as the block runs."""
    with contextlib.ExitStack() as stack:
        for module in (collectives, memory, pipeline, step, cluster_module, plan_module):
            if hasattr(module, "jnp"):
                stack.enter_context(mock.patch.object(module, "jnp", np))
        yield


def both_cores(work: Callable[[int], Any]) -> list[Any]:
    """The work, done once by a thread on each core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, range(os.cpu_count() or 1)))


def memory_bandwidth() -> float:
    """Bytes a second that copies move, read and written, with all cores."""
    columns = [(np.ones(2**23), np.empty(2**23)) for _ in range(os.cpu_count() or 1)]
    moved = sum(16 * len(column) for column, _ in columns)
    return per_second(lambda: both_cores(lambda i: np.copyto(columns[i][1], columns[i][0])), moved)


def peak_flop() -> float:
    """FLOP a second of products of large 64-bit matrices, which is as near the peak as a program comes."""
    side = 1024
    matrix = np.random.default_rng(0).random((side, side))
    return per_second(lambda: matrix @ matrix, 2 * side**3)


def limit(flop: float) -> dict[str, float]:
    """Evaluations a second if nothing but the columns' bytes, or nothing but the FLOP, took time."""
    by_bytes, by_flop = memory_bandwidth() / (8 * (len(NAMES) + 2)), peak_flop() / flop
    return {"peer": min(by_bytes, by_flop), "by_bytes": by_bytes, "by_flop": by_flop}


def measure() -> Iterator[tuple[str, dict[str, Any]]]:
    """Speed, then accuracy."""
    with jax.enable_x64(True):
        columns = random_plans(COUNT)
        some = {name: column[:SOME] for name, column in columns.items()}
        all_of_them, few_of_them = (
            COUNT / per_second(lambda points=points: explore.sweep(evaluate, points=points, progress=False), COUNT)
            for points in (columns, some)
        )
        ours = (COUNT - SOME) / (all_of_them - few_of_them)  # what does not grow with the rows cancels
        compiling = {"with_compilation": COUNT / all_of_them, "plans": COUNT}
        yield "plans", {"value": ours, "unit": "evaluations/s", "ours": ours} | compiling

        compiled = jax.jit(jax.vmap(lambda values: evaluate(**values))).lower(some).compile()
        flop = compiled.cost_analysis()["flops"] / SOME
        most = limit(flop)
        share = {"value": ours / most["peer"], "unit": "of the nearer limit", "ours": ours, "flop_per_plan": flop}
        yield "plans_share_of_limit", share | most

        with in_numpy(), np.errstate(all="ignore"):
            numpy_rate = per_second(lambda: evaluate(**some), SOME, repeats=3)
            few = [
                dict(zip(some, row, strict=True))
                for row in zip(*(c[:300].tolist() for c in some.values()), strict=True)
            ]
            loop_rate = per_second(lambda: [evaluate(**row) for row in few], len(few), repeats=3)
        yield "plans_vs_numpy", {"value": ours / numpy_rate, "unit": "times", "ours": ours, "peer": numpy_rate}
        yield "plans_vs_loop", {"value": ours / loop_rate, "unit": "times", "ours": ours, "peer": loop_rate}

    question = {
        "layers": 80, "heads": 96, "d_model": 12288, "vocabulary": 51200, "sequence_length": 2048, "tensor": 8,
        "pipeline": 8, "data": 24, "micro_batch": 2, "batch": 2304, "matmul": SHARE.matmul, "memory": SHARE.memory,
    }  # fmt: skip
    try:
        peer = peers.run(
            "llm-analysis", ["llm-analysis==0.2.2", "fire==0.5.0", "termcolor", "six"], "llm_analysis_step.py", question
        )
    except subprocess.CalledProcessError as error:
        print(f"plans_vs_llm_analysis is not measured: {error}")
    else:
        published = next(run for run in read()[0] if run.name == "Megatron-LM 145.6B")
        rate = peer["answers_per_second"]
        yield (
            "plans_vs_llm_analysis",
            {
                "value": ours / rate,
                "unit": "times",
                "ours": ours,
                "peer": rate,
                "step_seconds_ours": float(published.predict().seconds),
                "step_seconds_peer": peer["seconds"],
                "step_seconds_published": 96
                * 2304
                * 2048
                * 80
                * 12288**2
                * (1 + 2048 / 6 / 12288 + 51200 / 16 / 80 / 12288)
                / (148e12 * 1536),
            },
        )

    jax.clear_caches()
    start = time.perf_counter()
    found = search(
        MODEL,
        CLUSTER,
        batch=SEQUENCES,
        sequence_length=SEQUENCE,
        efficiency=SHARE,
        like=specs.Plan(fused_attention=1.0),
    )
    yield "plan_search", {"value": time.perf_counter() - start, "unit": "seconds", "plans": len(found.seconds)}

    rows = compare(read()[0])
    groups = {
        "megatron_fitted": [r for r in rows if r.run.fitted and r.run.generation == "ampere"],
        "megatron_unfitted": [r for r in rows if not r.run.fitted and r.run.generation == "ampere"],
        "h100_unfitted": [r for r in rows if not r.run.fitted and r.run.generation == "hopper"],
    }
    for name, chosen in groups.items():
        yield name, {"value": 100 * mean_error(chosen), "unit": "% mean absolute error", "runs": len(chosen)}
