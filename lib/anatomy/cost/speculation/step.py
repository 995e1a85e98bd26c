"""A speculation step of a real deployment: the draft's passes, and the pass in which the target verifies.

Symbols as in `acceptance`; b sequences, m = g + 1 tokens of each that the target reads at once, E experts, k of them
for each token, p = k / E.
"""

from typing import ClassVar

import jax.numpy as jnp

from anatomy.cost.efficiency import Overheads
from anatomy.cost.routing.active_experts import copying_group
from anatomy.cost.routing.expert_load import check_routing
from anatomy.cost.serving.steps import decode, micro_batches
from anatomy.cost.speculation.acceptance import expected_tokens
from anatomy.specs import Architecture, Cluster, Scalar, Serving
from anatomy.specs.base import AT_LEAST_ONE, AT_LEAST_ZERO, UP_TO_ONE, check_arguments, number, spec


def active_experts_of_blocks(
    *, blocks: Scalar, block_tokens: Scalar, experts: Scalar, top_k: Scalar, correlation: Scalar = 0.0
) -> Scalar:
    """Active experts of a layer, expected, where the consecutive tokens of a block are routed with correlation.

    A token goes where a hidden leader of its block goes with chance sqrt(rho) and chooses for itself otherwise, so
    rho is the correlation of two tokens of a block. A block of m tokens misses an expert with chance

        miss = p ((1 - f) (1 - p))^m + (1 - p) (f + (1 - f) (1 - p))^m,    f = sqrt(rho)

    and E (1 - miss^b) are active. Independent tokens (rho = 0) activate E (1 - (1 - p)^(b m)), wholly correlated ones
    as many as b tokens.

    Args:
        blocks: b, independent of each other.
        block_tokens: m.
        experts: E.
        top_k: k.
        correlation: rho, from 0 to 1.

    Raises:
        TypeError, ValueError: correlation is not from 0 to 1; and as `expert_load.check_routing`.
    """
    check_routing("active_experts_of_blocks", experts=experts, top_k=top_k, blocks=blocks, block_tokens=block_tokens)
    check_arguments("active_experts_of_blocks", UP_TO_ONE, correlation=correlation)
    return experts * (
        1 - copying_group(1 - top_k / experts, correlation=correlation, group_size=block_tokens) ** blocks
    )


@spec
class SpeculationStep:
    """A speculation step of all sequences in flight; the parts add up to `seconds`."""

    sums: ClassVar = ("seconds",)

    draft: Scalar = number("s", doc="steps of the draft, one after the other")
    verify: Scalar = number("s", doc="the target reads the block, through all stages")
    waiting: Scalar = number("s", doc="for the other micro-batches to pass the slowest stage")
    plain: Scalar = number("s", doc="of a step without speculation, for comparison")
    tokens: Scalar = number("tokens", doc="that a step yields each sequence, expected")
    active_experts: Scalar = number("experts", doc="of a layer, that a micro-batch reads")
    sequences: Scalar = number("sequences", doc="in flight, of all replicas")
    chips: Scalar = number("chips", doc="of the target's plan")

    @property
    def seconds(self) -> Scalar:
        """All parts: from one speculation step to the next."""
        return self.draft + self.verify + self.waiting

    @property
    def speed_up(self) -> Scalar:
        """Times as many tokens in the same time, of a user and of the cluster alike."""
        return self.tokens * self.plain / self.seconds

    @property
    def verify_cost(self) -> Scalar:
        """v: seconds in which the target reads the block, waiting included, over those of a plain step."""
        return (self.verify + self.waiting) / self.plain

    @property
    def tokens_per_second(self) -> Scalar:
        """Of one user."""
        return self.tokens / self.seconds


def speculate(
    model: Architecture,
    draft: Architecture,
    plan: Serving,
    draft_plan: Serving,
    cluster: Cluster,
    constants: Overheads,
    *,
    batch: Scalar,
    context: Scalar,
    draft_length: Scalar,
    acceptance_rate: Scalar,
    correlation: Scalar = 0.0,
    tokens: Scalar | None = None,
) -> SpeculationStep:
    """A speculation step beside a plain step, by the cost model of serving.

    The draft's g passes and the stages of the target follow each other. With several micro-batches the draft runs on
    chips of its own, such as a head node without layers, and is one stage more: another micro-batch drafts meanwhile.

    Args:
        model: the target.
        draft: the small model.
        plan: of the target.
        draft_plan: of the draft, for the sequences of one replica of the target.
        cluster: on what both run.
        constants: what of the peaks is reached, and what it takes to start.
        batch: sequences in flight, of one replica.
        context: tokens that each holds in the cache.
        draft_length: g; 0 is plain decoding.
        acceptance_rate: a.
        correlation: rho, between the routing of two tokens of a block.
        tokens: of a speculation step, where acceptance is not the same for all tokens; else `expected_tokens`.

    Raises:
        TypeError, ValueError: length is below 0, or a share is not from 0 to 1, and as `decode`.
    """
    check_arguments("speculate", AT_LEAST_ZERO, draft_length=draft_length)
    check_arguments("speculate", UP_TO_ONE, acceptance_rate=acceptance_rate, correlation=correlation)
    check_arguments("speculate", AT_LEAST_ONE, batch=batch)
    turns = micro_batches(plan, batch)
    each = batch / turns
    active = active_experts_of_blocks(
        blocks=each * plan.expert,
        block_tokens=draft_length + 1.0,
        experts=model.experts,
        top_k=model.top_k,
        correlation=correlation,
    )
    plain = decode(model, plan, cluster, constants, batch=batch, context=context)
    read = decode(
        model, plan, cluster, constants, batch=batch, context=context, tokens=draft_length + 1.0, active_experts=active
    )
    step = decode(draft, draft_plan, cluster, constants, batch=each, context=context)
    drafting = draft_length * step.seconds
    through = read.seconds - read.waiting
    behind = jnp.maximum(read.waiting - drafting, (turns - 1) * drafting - through)
    return SpeculationStep(
        draft=drafting,
        verify=through,
        waiting=jnp.maximum(behind, 0.0),
        plain=plain.seconds,
        tokens=expected_tokens(acceptance_rate=acceptance_rate, draft_length=draft_length)
        if tokens is None
        else tokens,
        active_experts=active,
        sequences=plan.data * batch,
        chips=plan.chips,
    )
