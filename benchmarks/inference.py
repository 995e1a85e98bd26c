"""How many decode steps the serving model evaluates in a second, beside other programs, and how accurate it is."""

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from anatomy import specs
from anatomy.cost import explore
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.search import every_plan, search
from anatomy.cost.serving.steps import decode
from anatomy.specs import Serving
from anatomy.validate import read

from benchmarks import peers
from benchmarks.training import per_second

MODEL = specs.architecture("gpt4_mqa")
CLUSTER = specs.cluster("a100_sxm_40gb", 32)
CONSTANTS = overheads("a100_sxm_80gb")
COUNT, SOME = 2**24, 2**18  # steps; what does not grow with their number cancels between the two
# A question that all programs answer: Llama 2 70B on eight A100 of 80 GB.
QUESTION = {
    "layers": 80, "heads": 64, "kv_heads": 8, "d_model": 8192, "vocabulary": 32000, "d_ff": 28672, "context": 2048,
    "batch": 32, "tensor": 8, "matmul": CONSTANTS.efficiency.matmul, "memory": CONSTANTS.efficiency.memory,
}  # fmt: skip
PEERS = {
    "serving_vs_llm_analysis": (
        "llm-analysis",
        ["llm-analysis==0.2.2", "fire==0.5.0", "termcolor", "six"],
        "llm_analysis_decode.py",
    ),
    "serving_vs_genz": (
        "genz",
        [
            "genz-llm==0.0.16", "numpy", "pandas", "python-dateutil", "six", "tqdm", "paretoset", "psutil",
            "seaborn", "matplotlib", "contourpy", "cycler", "fonttools", "kiwisolver", "packaging", "pillow",
            "pyparsing", "plotly", "narwhals", "plotnine", "mizani", "patsy", "scipy", "statsmodels",
            "ipywidgets", "comm", "ipython", "traitlets", "decorator", "jedi", "parso", "prompt_toolkit",
            "wcwidth", "pygments", "stack_data", "executing", "asttokens", "pure_eval", "pexpect",
            "ptyprocess", "matplotlib-inline", "jupyterlab_widgets", "widgetsnbextension", "simplejson",
            "kaleido", "ipython_pygments_lexers", "typing_extensions",
        ],
        "genz_decode.py",
    ),
}  # fmt: skip


def random_steps(count: int) -> dict[str, np.ndarray]:
    """Decode steps of all kinds, a column each."""
    draw = np.random.default_rng(0)
    return {
        "batch": np.exp(draw.uniform(0, 11, count)),
        "context": draw.uniform(1, 32768, count),
        "tensor": draw.choice([1.0, 2.0, 4.0, 8.0], count),
        "pipeline": draw.choice(np.arange(1.0, 17.0), count),
        "weight_bytes": draw.choice([1.0, 2.0], count),
    }


def evaluate(batch: Any, context: Any, **fields: Any) -> Any:
    """Seconds of a decode step, every term included."""
    plan = Serving(micro_batches=fields["pipeline"], cache_by_sequence=1.0, **fields)
    return decode(MODEL, plan, CLUSTER, CONSTANTS, batch=batch, context=context).seconds


def measure() -> Iterator[tuple[str, dict[str, Any]]]:
    """Speed, then accuracy."""
    with jax.enable_x64(True):
        columns = random_steps(COUNT)
        some = {name: column[:SOME] for name, column in columns.items()}
        whole, part = (
            COUNT / per_second(lambda points=points: explore.sweep(evaluate, points=points, progress=False), COUNT)
            for points in (columns, some)
        )
        ours = (COUNT - SOME) / (whole - part)
        yield "decode_steps", {"value": ours, "unit": "evaluations/s", "with_compilation": COUNT / whole}

        llama, box = specs.architecture("llama2_70b"), specs.cluster("a100_sxm_80gb", 1)
        made = decode(llama, Serving(tensor=8.0), box, CONSTANTS, batch=32.0, context=2048.0)
        seconds = {
            "step_seconds_ours": float(made.seconds),
            "step_seconds_ours_without_starts": float(made.seconds - made.starts),
        }
        for name, (peer, requirements, script) in PEERS.items():
            try:
                answer = peers.run(peer, requirements, script, QUESTION)
            except subprocess.CalledProcessError as error:
                print(f"{name} is not measured: {error}")
                continue
            rate = answer["answers_per_second"]
            ratio = {"value": ours / rate, "unit": "times the answers/s", "ours": ours, "peer": rate}
            yield name, ratio | seconds | {"step_seconds_peer": answer["seconds"]}

        jax.clear_caches()
        plans = every_plan(MODEL, CLUSTER, batch=2 ** np.arange(0, 16, 0.1))
        start = time.perf_counter()
        found = search(MODEL, CLUSTER, CONSTANTS, context=4096.0, like=Serving(), plans=plans)
        front = found.frontier()
        took = {"value": time.perf_counter() - start, "unit": "seconds"}
        yield "frontier_search", took | {"plans": len(found.seconds), "front": len(front)}

    rows = [run for run in read("serving")[0] if run.source == "pope2023efficiently"]
    errors = {run.name: 100 * run.error() for run in rows}
    unfitted = [abs(errors[run.name]) for run in rows if not run.fitted]
    mean = float(np.mean(np.abs(list(errors.values()))))
    each = {"each": errors, "unfitted": float(np.mean(unfitted))}
    yield "pope_error", {"value": mean, "unit": "% mean absolute error"} | each
