"""Which plans can be run at all, and if not, why not.

One table of rules serves both uses: `legal` is a value, so that a sweep over millions of plans can mask it; `problems`
says in words what is wrong with one.
"""

from jaxtyping import Array, Bool

from anatomy.cost.rules import Case, Rules, broken, divides, hold, nests
from anatomy.specs import Architecture, Cluster, Plan, Scalar

RULES: Rules = (
    (lambda c: c.plan.chips <= c.cluster.chips, "needs {plan.chips:g} chips; the cluster has {cluster.chips:g}"),
    (
        lambda c: divides(c.plan.tensor, c.model.attention.heads),
        "{model.attention.heads:g} heads do not split {plan.tensor:g} ways",
    ),
    (
        lambda c: nests(c.plan.tensor, c.cluster.node.chips),
        "{plan.tensor:g} tensor ways neither divide a node of {cluster.node.chips:g} chips nor fill several",
    ),
    (
        lambda c: divides(c.plan.tensor, c.model.d_ff),
        "d_ff of {model.d_ff:g} does not split {plan.tensor:g} ways",
    ),
    (
        lambda c: divides(c.plan.tensor, c.model.dense_d_ff),
        "dense_d_ff of {model.dense_d_ff:g} does not split {plan.tensor:g} ways",
    ),
    (
        lambda c: c.plan.pipeline <= c.model.layers,
        "{plan.pipeline:g} stages leave some without any of {model.layers:g} layers",
    ),
    (
        lambda c: divides(c.plan.chunks, c.plan.stage_layers(c.model)),
        "{plan.chunks:g} chunks do not divide the layers of a stage ({model.layers:g} on {plan.pipeline:g} stages)",
    ),
    (
        lambda c: (c.plan.chunks == 1) | (c.plan.pipeline > 1),
        "{plan.chunks:g} chunks need more than one stage",
    ),
    (
        lambda c: (c.plan.chunks == 1) | (c.plan.micro_batches(c.batch) >= c.plan.pipeline),
        "{plan.chunks:g} chunks need a micro-batch for each of {plan.pipeline:g} stages",
    ),
    (
        lambda c: divides(c.plan.expert, c.model.experts),
        "{model.experts:g} experts do not split {plan.expert:g} ways",
    ),
    (
        lambda c: divides(c.plan.expert, c.plan.data),
        "{plan.expert:g} expert ways do not divide {plan.data:g} replicas",
    ),
    (
        lambda c: c.batch >= c.plan.data * c.plan.micro_batch,
        "{batch:g} sequences are fewer than {plan.data:g} replicas with {plan.micro_batch:g} each",
    ),
    (
        lambda c: (c.plan.zero_ways == 0) | (c.plan.zero_ways > c.plan.data) | divides(c.plan.zero_ways, c.plan.data),
        "groups of {plan.zero_ways:g} for ZeRO do not divide {plan.data:g} replicas",
    ),
    (
        lambda c: divides(c.plan.zero_group(c.plan.expert_replicas), c.plan.expert_replicas),
        "groups of {plan.zero_ways:g} for ZeRO do not divide {plan.expert_replicas:g} replicas of an expert",
    ),
    (
        lambda c: c.plan.zero_ways <= c.plan.data,
        "ZeRO splits over {plan.zero_ways:g} replicas; there are {plan.data:g}",
    ),
    (
        lambda c: (c.plan.gpipe == 0) | (c.plan.chunks == 1),
        "{plan.chunks:g} chunks are for 1F1B; GPipe has one",
    ),
)


def legal(model: Architecture, plan: Plan, cluster: Cluster, *, batch: Scalar) -> Bool[Array, ""]:
    """Whether the plan can be run, memory aside (`Step.fits` says that)."""
    return hold(RULES, Case(model, plan, cluster, batch))


def problems(model: Architecture, plan: Plan, cluster: Cluster, *, batch: Scalar) -> list[str]:
    """What keeps a plan from being run; empty for a legal one."""
    return broken(RULES, Case(model, plan, cluster, batch))
