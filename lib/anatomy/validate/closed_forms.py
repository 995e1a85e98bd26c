"""What one training step of the small model must hold and do on a mesh, in closed form.

For each of the FLOP of matrix products, the bytes of arguments and the bytes of collectives there is a sum of terms.
Where a cost model speaks of the same thing the first term is the model's own number, and the others say what this
program does besides. `compiled` holds them against what XLA made.

Symbols: t tensor ways, p stages, r replicas, e expert ways, m micro-batches of a replica; T tokens of a micro-batch,
d = d_model, V vocabulary, E experts, k choices of a token, c places of an expert for the tokens of a device, L layers.
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from anatomy.cost.training.memory import state_parameters
from anatomy.cost.training.step import hardware_flop
from anatomy.model import Config
from anatomy.specs import Plan
from anatomy.train import mesh as meshes
from anatomy.train.mesh.layout import AXES, REPLICAS

BYTES = 4  # of a value: the small model is in single precision
MOMENTS, COUNTS = 2, 2  # of AdamW for each value, and of steps: its own and that of the learning rate


class Case(NamedTuple):
    """A step to be compiled."""

    name: str
    config: Config
    plan: Plan
    sequences: int
    factor: float = 1.25  # places of an expert over its even share

    @property
    def devices(self) -> int:
        """Of its mesh."""
        return math.prod(meshes.ways(self.plan)[:4])


class Shape(NamedTuple):
    """Whole numbers that the closed forms share."""

    way: meshes.Ways
    layers: int  # of a stage
    micro_batches: int
    tokens: int  # T
    table: int  # E c, rows of the table in which experts find their tokens


def shape(case: Case) -> Shape:
    """The numbers of a case."""
    config, way = case.config, meshes.ways(case.plan)
    tokens = way.micro_batch * config.context
    places = min(tokens, math.ceil(case.factor * tokens * config.top_k / config.experts))
    micro_batches = case.sequences // (way.replicas * way.micro_batch)
    return Shape(way, config.layers // way.pipeline, micro_batches, tokens, config.experts * places)


class Held(NamedTuple):
    """An array of the weights on one device, where replicas hold it whole."""

    size: int  # values of one layer
    layers: int  # 0 for an array of no layer
    summed_over: tuple[str, ...]  # axes other than replicas over which its gradient is summed
    replicas: tuple[str, ...]  # axes that hold the same array with other tokens

    @property
    def whole(self) -> int:
        """Values of all layers."""
        return self.size * max(self.layers, 1)


def arrays(case: Case) -> dict[str, Held]:
    """All arrays of the weights."""
    c, s = case.config, shape(case)
    t, e, d = s.way.tensor, s.way.expert, c.d_model
    heads, copied = c.kv_heads * c.head_dim, c.kv_heads % t != 0

    def layer(size: int, whole: bool, replicas: tuple[str, ...] = REPLICAS) -> Held:
        return Held(size // (1 if whole else t), s.layers, ("tensor",) if whole else (), replicas)

    width = c.heads * c.head_dim
    expert = partial(layer, c.experts // e * d * c.d_ff, False, ("data",))
    return {
        "attention_norm": layer(d, True),
        "query": layer(d * width, False),
        "key": layer(d * heads, copied),
        "value": layer(d * heads, copied),
        "output": layer(width * d, False),
        "experts_norm": layer(d, True),
        "router": layer(d * c.experts, True),
        "gate": expert(),
        "up": expert(),
        "down": expert(),
        "embedding": Held(c.vocabulary * d, 0, ("pipeline",), REPLICAS),
        "norm": Held(d, 0, ("pipeline", "tensor"), REPLICAS),
        "unembedding": Held(d * c.vocabulary // t, 0, ("pipeline",), REPLICAS),
    }


def expected_flop(case: Case) -> dict[str, float]:
    """FLOP of the matrix products of a device, as terms.

    Everything is computed once forward and, all but the logits, once more for the backward pass, which costs twice
    as much again: 4 forward passes of the layers, 3 of the logits.
    """
    c, s, model = case.config, shape(case), case.config.architecture
    t, p = s.way.tensor, s.way.pipeline
    forward = model.flop_per_token(c.context)
    tokens = s.micro_batches * s.tokens
    counted = hardware_flop(model, case.plan, batch=case.sequences, sequence_length=c.context)
    router = 2 * c.d_model * c.experts * s.layers - forward.router / (p * t)
    fill = s.table / (s.tokens * c.top_k)
    copies = 2 * s.layers * model.attention.copied_weights(c.d_model, t) * (c.kv_heads % t != 0)
    return {
        "cost.training.step.hardware_flop over chips": float(counted / case.plan.chips),
        "places of experts that stay empty or overflow": float(4 * tokens * forward.mlp / (t * p) * (fill - 1)),
        "routers on every tensor way": float(4 * tokens * router),
        "key and value heads on every tensor way": float(4 * tokens * copies),
        "logits on every stage": float(3 * tokens * forward.unembedding / t * (1 - 1 / p)),
        # Forward, and the gradient of the weights; a single choice needs no sum.
        "sum of what a token's experts made": 2 * tokens * 2 * c.top_k * c.d_model * s.layers * (c.top_k > 1),
    }


def expected_arguments(case: Case) -> dict[str, float]:
    """Bytes of the arguments of a device: weights, state of AdamW, and rows; as terms."""
    c, s, model = case.config, shape(case), case.config.architecture
    way, t, p, d = s.way, s.way.tensor, s.way.pipeline, c.d_model
    sharing = {stage: way.replicas if way.zero >= stage else 1 for stage in (1, 3)}

    def state(values: float) -> float:
        """Bytes of values that all replicas share."""
        return BYTES * (values / sharing[3] + MOMENTS * values / sharing[1])

    def padding(held: Held) -> float:
        ways = math.prod(getattr(way, axis) for axis in held.replicas)
        if way.zero == 3:
            return (1 + MOMENTS) * max(held.layers, 1) * (-(-held.size // ways) - held.size / ways)
        return MOMENTS * (-(-held.whole // ways) - held.whole / ways) if way.zero else 0.0

    tables = c.vocabulary * d * (1 if p > 1 else 1 - 1 / t)
    norms = 2 * d * s.layers * (1 - 1 / t) + d * (1 - 1 / (p * t))
    router = d * c.experts * s.layers - float(model.parameters.router) / (p * t)
    by_rules = [float(state_parameters(model, case.plan, stage=stage)) for stage in (3, 1)]
    return {
        "cost.training.memory.state_parameters, weights and two moments": BYTES * (by_rules[0] + MOMENTS * by_rules[1]),
        "both tables on every stage, the embedding on every tensor way": state(tables),
        "norms and routers on every tensor way": state(norms + router),
        "padding of what replicas share": BYTES * sum(map(padding, arrays(case).values())),
        "counts of steps": COUNTS * 4,
        "rows of all replicas": 4 * case.sequences * (c.context + 1),
    }


class Term(NamedTuple):
    """Bytes of some collectives of a device in a step."""

    kind: str
    axes: tuple[str, ...]
    what: str
    bytes: int


def expected_collectives(case: Case) -> list[Term]:
    """Every collective of a step over more than one device."""
    c, s = case.config, shape(case)
    way, m = s.way, s.micro_batches
    stream, passes = BYTES * s.tokens * c.d_model, m * s.layers
    everywhere = ("data", "pipeline", "expert")
    reduce = partial(Term, "all-reduce")
    found = [
        # A compiler drops the sum after recomputed experts: nothing reads it.
        reduce(("tensor",), "layers: 2 forward, 1 again, 2 backward", 5 * passes * stream),
        reduce(("tensor",), "logits: maximum, sum and target of each token", 3 * m * BYTES * s.tokens),
        reduce(("tensor",), "logits: gradient of the stream", m * stream),
        reduce(("tensor",), "losses and drops of routers", passes * 3 * BYTES),
        reduce(REPLICAS, "losses of routers: loads, probabilities, z, drops", passes * (2 * c.experts + 2) * BYTES),
        reduce(everywhere, "what is measured", 4 * BYTES),
        reduce(("tensor",), "what is measured", 4 * BYTES),
        reduce(AXES, "norm of the gradient", BYTES),
        Term("collective-permute", ("pipeline",), "streams, each way at every tick", 2 * meshes.ticks(way, m) * stream),
        Term(
            "all-to-all", ("expert",), "tokens there and back: 2 forward, 2 again, 2 backward",
            6 * passes * BYTES * s.table * c.d_model,
        ),
    ]  # fmt: skip
    for name, held in arrays(case).items():
        found += _of_gradients(case, name, held)
    used = ((term, tuple(axis for axis in term.axes if getattr(way, axis) > 1)) for term in found)
    return [term._replace(axes=axes) for term, axes in used if axes]


def _of_gradients(case: Case, name: str, held: Held) -> Iterable[Term]:
    """Collectives that sum the gradient of an array, and that gather it where replicas share it."""
    s = shape(case)
    way, ways = s.way, math.prod(getattr(s.way, axis) for axis in held.replicas)

    def padded(size: int) -> int:
        return -(-size // ways) * ways * BYTES

    in_parts = way.zero == 3 and held.layers > 0
    own = s.layers * padded(held.size) // ways if in_parts else BYTES * held.whole
    if held.summed_over:
        yield Term("all-reduce", held.summed_over, f"gradient of {name}", own)
    if way.zero == 0:
        yield Term("all-reduce", held.replicas, f"gradient of {name}", own)
        return
    whole = s.layers * padded(held.size) if in_parts else padded(held.whole)
    often = s.micro_batches if in_parts else 1
    yield Term("reduce-scatter", held.replicas, f"gradient of {name}", often * whole)
    yield Term("all-gather", held.replicas, f"weights of {name}", (2 * often if in_parts else 1) * whole)
