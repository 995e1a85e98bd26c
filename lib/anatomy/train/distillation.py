"""Distillation: a model learns what another thinks of each next token, not only which one came.

Source: hinton2015distilling; zhou2023distillspec for drafts that are taught by their target.
"""

import dataclasses
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from anatomy.model import Config, Weights, forward, moe
from anatomy.train.loop import Data


@dataclasses.dataclass(frozen=True)
class Distilled:
    """Rows of some data, and a teacher's law of each next token.

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

    def laws(self, start: int, count: int) -> Float[Array, "count length V"]:
        """Probabilities of each next token in these rows, by the teacher, exactly dispatched."""
        return _law(self.config, self.weights, self.data.rows(start, count)[0])


@partial(jax.jit, static_argnums=0)
def _law(config: Config, weights: Weights, rows: Int[Array, "count length+1"]) -> Float[Array, "count length V"]:
    return jax.nn.softmax(forward(config, weights, rows[:, :-1], dispatch=moe.with_overflow).logits)
