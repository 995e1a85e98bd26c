"""Cost models: pure functions from specs to estimates, for jit, vmap, grad and the page alike."""

from anatomy.cost import (
    collectives,
    explore,
    legality,
    memory,
    pipeline,
    reliability,
    routed,
    routing,
    run,
    scaling,
    search,
    training,
    vision,
)

__all__ = [
    "collectives",
    "explore",
    "legality",
    "memory",
    "pipeline",
    "reliability",
    "routed",
    "routing",
    "run",
    "scaling",
    "search",
    "training",
    "vision",
]
