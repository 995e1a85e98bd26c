"""Trains a tiny model on meshes of virtual devices and prints what it measured as JSON; run as a script.

The number of devices must be set before JAX starts, so tests run this in a process of its own.
"""

import json
import os
import sys
from typing import Any


def run(question: dict[str, Any]) -> list[dict[str, Any]]:
    """Losses of a few steps under each plan, and the sum of the weights' sizes afterwards."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from anatomy.model import Config, init
    from anatomy.specs import Plan
    from anatomy.train import mesh as meshes
    from anatomy.train.loop import Training

    config = Config(**question["config"])
    training = Training(steps=10, batch=question["sequences"], warm_up=1)
    shape = (question["sequences"], config.context + 1)
    rows = np.random.default_rng(0).integers(0, config.vocabulary, shape).astype(np.int32)
    answers = []
    for given in question["plans"]:
        plan = Plan(**given)
        mesh = meshes.make_mesh(plan)
        made = meshes.make_step(config, training, plan, mesh, len(rows), question["factor"])
        weights = meshes.place(config, plan, mesh, init(config, jax.random.key(0)))
        state, history = made.start(weights), []
        for _ in range(question["steps"]):
            weights, state, measured = made.step(weights, state, rows)
            history.append({name: float(value) for name, value in measured.items()})
        whole = meshes.collect(config, plan, mesh, weights)
        sizes = [float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(whole)]
        answers.append({"history": history, "sizes": sizes})
        jax.clear_caches()
    return answers


def main() -> None:
    """Read the question from the first argument."""
    question = json.loads(sys.argv[1])
    # Compiled in half the time; the arithmetic is the same.
    flags = (f"--xla_force_host_platform_device_count={question['devices']}", "--xla_backend_optimization_level=0")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    import jax

    if process := question.get("process"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(process["address"], process["count"], process["index"])
    print(json.dumps(run(question)))


if __name__ == "__main__":
    main()
