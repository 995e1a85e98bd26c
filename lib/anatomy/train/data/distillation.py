"""Distillation: a model learns what another thinks of each next token, not only which one came.

Source: hinton2015distilling; zhou2023distillspec for drafts that are taught by their target.
"""

import dataclasses
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from anatomy.model import Config, Weights, forward, moe
from anatomy.train.loop.batch import Batch, Data, batch_of
from anatomy.train.loop.objective import masked


@dataclasses.dataclass(frozen=True)
class Distilled:
    """Rows of some data, and a teacher's distribution of each next token; what the data masks stays masked.

    Attributes:
        data: whose rows they are.
        config: of the teacher.
        weights: of the teacher.
    """

    data: Data
    config: Config
    weights: Weights

    def rows(self, start: int, count: int) -> tuple[Int[np.ndarray, "count length+1"], Int[np.ndarray, "count"]]:
        """Tokens of rows from `start` on, and the domain that each came from."""
        return self.data.rows(start, count)

    def padding_mask(self, start: int, count: int) -> Bool[np.ndarray, "count length"] | None:
        """Which input tokens are real, as the data says."""
        return batch_of(self.data, start, count).padding_mask

    def loss_mask(self, start: int, count: int) -> Float[np.ndarray, "count length"] | None:
        """Which predicted tokens the loss counts, as the data says."""
        return batch_of(self.data, start, count).loss_mask

    def distributions(self, start: int, count: int) -> Float[Array, "count length V"]:
        """Probabilities of each next token in these rows, by the teacher, exactly dispatched."""
        return _distributions(self.config, self.weights, batch_of(self.data, start, count))


@partial(jax.jit, static_argnums=0)
def _distributions(config: Config, weights: Weights, batch: Batch) -> Float[Array, "count length V"]:
    mask = masked(batch.padding_mask)
    return jax.nn.softmax(forward(config, weights, batch.rows[:, :-1], dispatch=moe.with_overflow, **mask).logits)
