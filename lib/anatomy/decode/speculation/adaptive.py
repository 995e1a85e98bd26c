"""Draft length that follows acceptance.

Axes as in `step`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from anatomy.cost.speculation.acceptance import independent_acceptance
from anatomy.cost.speculation.draft_length import best_draft_length
from anatomy.decode.speculation.drafts import Drafter
from anatomy.decode.speculation.step import Step
from anatomy.specs import Scalar
from anatomy.specs.base import AT_LEAST_ZERO, between, check_arguments


@dataclasses.dataclass(frozen=True)
class AdaptiveLength:
    """For each row the best length for its own acceptance rate so far.

    The rate of a row is the share of accepted tokens among those that were judged, older ones counting less. The length
    is that with the largest expected speed-up by the cost model of speculation.

    Attributes:
        draft: c, seconds of a step of the draft over one of the target.
        more: what each token that the target reads adds to its pass, over a step.
        memory: by which a judged token counts less with each later one.

    Raises:
        TypeError, ValueError: a cost is below 0 or memory not above 0 and below 1.
    """

    draft: float
    _: dataclasses.KW_ONLY
    more: float = 0.0
    memory: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_arguments("AdaptiveLength", AT_LEAST_ZERO, draft=self.draft, more=self.more)
        check_arguments("AdaptiveLength", between(above=0.0, high=1.0), memory=self.memory)

    def length(self, counts: Float[Array, "B 2"], most: int) -> Int[Array, "B"]:
        """Tokens to draft for each row, at least 1.

        Args:
            counts: accepted tokens and judged ones, as they count.
            most: longest draft.
        """
        block = 1 + self.more * jnp.arange(most + 1)

        def best(rate: Scalar) -> Int[Array, ""]:
            acceptance = independent_acceptance(acceptance_rate=rate, longest=most)
            return best_draft_length(acceptance, draft_cost=self.draft, verify_cost=block)

        return jnp.maximum(jax.vmap(best)(counts[:, 0] / counts[:, 1]), 1).astype(jnp.int32)

    @staticmethod
    def prior(batch: int) -> Float[Array, "B 2"]:
        """Counts before the first step: as if four of five were accepted."""
        return jnp.tile(jnp.array([1.0, 1.25], jnp.float32), (batch, 1))

    def observe(self, counts: Float[Array, "B 2"], step: Step) -> Float[Array, "B 2"]:
        """Counts after a step; of a row that took no part, as they were."""
        new = jnp.stack([step.accepted, step.judged], axis=1).astype(counts.dtype)
        return counts * (self.memory**step.judged)[:, None].astype(counts.dtype) + new


def check_adaptive(owner: str, adaptive: AdaptiveLength | None, drafter: Drafter) -> None:
    """Refuse to adapt the length of what has none.

    Raises:
        ValueError: the draft is a tree.
    """
    if adaptive is not None and not drafter.tree.is_chain:
        raise ValueError(f"{owner}.adaptive is for chains; allowed: None for a tree; or draft a chain")
