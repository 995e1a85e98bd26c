"""The article's serving cluster: its model, layout and chips as inputs of the cost model, and a decode step on them."""

from anatomy.claims.record.article import printed
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.memory import largest_batch
from anatomy.cost.serving.steps import Pass, decode
from anatomy.specs import Architecture, Cluster, Scalar, Serving, architecture, chip, cluster, node

CONTEXT = 8192.0
# The article's layout: fifteen nodes with eight layers each, and a head node without any.
SERVING = Serving(tensor=8.0, pipeline=16.0, first_stage_share=0.0, micro_batches=16.0, cache_by_sequence=1.0)
# As many chips with experts over nodes: four stages, each over four nodes with four experts of every layer.
OVER_NODES = SERVING.replace(pipeline=4.0, first_stage_share=1.0, micro_batches=4.0, data=4.0, expert=4.0)


def model() -> Architecture:
    """The article's model with one KV head, as it says."""
    return architecture("gpt4_mqa")


def machine(key: str = "a100_sxm_40gb") -> Cluster:
    """The article's 128 chips of a kind, in nodes of eight."""
    return cluster(key, printed("g4i.128") / node(key).chips)


def served(
    sequences: Scalar, key: str = "a100_sxm_40gb", context: Scalar = CONTEXT, plan: Serving = SERVING, **how: Scalar
) -> Pass:
    """A decode step of the article's model on its cluster.

    Args:
        sequences: in flight.
        key: of the chip.
        context: tokens of each in the cache.
        plan: the layout.
        how: further arguments of `decode`.
    """
    return decode(model(), plan, machine(key), overheads(key), batch=sequences, context=context, **how)


def room(model: Architecture, plan: Serving, key: str = "a100_sxm_40gb", context: float = CONTEXT) -> float:
    """Sequences in flight for which there is memory."""
    return float(largest_batch(model, plan, chip_memory=chip(key).memory, context=context))


def as_billions(value: float) -> str:
    """Parameters in billions."""
    return f"{value / 1e9:.0f} billion"
