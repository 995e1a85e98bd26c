"""How a model is trained: numbers that are checked when they are given, and the optimizer that follows from them.

Source: loshchilov2019adamw for the optimizer; brown2020gpt3, appendix B, for the batch ramp; fedus2022switch and
zoph2022stmoe for the losses of the routers.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Int

from anatomy.model import Weights, moe
from anatomy.specs.base import FINITE, between, check_number

AT_LEAST_NONE = {**between(high=1e300), "allowed": "a finite number at least 0"}
MOST = 2**31 - 1  # of anything that is counted: more does not fit the integers that XLA counts with


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained.

    Attributes:
        steps: updates of the weights.
        batch: rows of a step, once the batch has grown.
        batch_start: rows of the first step; the batch grows in proportion to the rows seen. 0: no ramp.
        ramp: rows over which it grows.
        micro_batch: rows that pass at once; gradients add up over the batch. 0: the whole batch.
        learning_rate: the highest.
        warm_up: steps in which it is reached; fewer than `steps`. 0: from the first step on.
        last: share of it that a cosine leaves at the end.
        decay: weight decay of matrices.
        clip: norm to which gradients are clipped.
        balance: weight of the load-balancing loss of each layer.
        z: weight of the z loss of each layer.
        dispatch: name of one of `model.moe.TRAINABLE`.
        seed: of the weights.

    Raises:
        TypeError, ValueError: a field is impossible; the message names it, its value, what is allowed and what to do.
    """

    steps: int
    batch: int = 16
    batch_start: int = 0
    ramp: int = 0
    micro_batch: int = 0
    learning_rate: float = 2e-3
    warm_up: int = 0
    last: float = 0.1
    decay: float = 0.1
    clip: float = 1.0
    balance: float = 0.02
    z: float = 0.001
    dispatch: str = "by_capacity"
    seed: int = dataclasses.field(default=0, compare=False)  # one program for all seeds

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        for field in dataclasses.fields(self):
            value, low = getattr(self, field.name), 1 if field.name in ("steps", "batch") else 0
            if field.type is int:
                right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= MOST
                self._refuse(not right, field.name, f"a whole number from {low} to {MOST:,}")
            elif field.type is float:
                above = field.name in ("learning_rate", "clip")
                share = between(high=1) if field.name == "last" else AT_LEAST_NONE
                check_number("Training", field.name, value, FINITE if above else share)
        self._refuse(self.dispatch not in moe.TRAINABLE, "dispatch", ", ".join(sorted(moe.TRAINABLE)))
        self._refuse(
            self.warm_up >= self.steps,
            "warm_up",
            f"0 to {self.steps - 1}, fewer than steps ({self.steps}); lower warm_up, or train for more steps",
        )
        self._refuse(self.batch % self.unit, "batch", f"a multiple of micro_batch ({self.unit})")
        self._refuse(self.batch_start % self.unit, "batch_start", f"a multiple of micro_batch ({self.unit})")
        self._refuse(self.batch_start > self.batch, "batch_start", f"at most batch ({self.batch})")
        self._refuse(bool(self.batch_start) != bool(self.ramp), "ramp", "above 0 with batch_start, and 0 without")

    def _refuse(self, wrong: object, name: str, allowed: str) -> None:
        """Refuse one field."""
        if wrong:
            raise ValueError(f"Training.{name} is {getattr(self, name)!r}; allowed: {allowed}")

    @property
    def unit(self) -> int:
        """Rows that pass at once: the batch grows by as many."""
        return self.micro_batch or self.batch_start or self.batch

    def batches(self) -> Int[np.ndarray, "steps"]:
        """Rows of each step, in whole units."""
        sizes, seen = [], 0
        for _ in range(self.steps):
            grown = self.batch
            if self.ramp and seen < self.ramp:
                grown = self.batch_start + (self.batch - self.batch_start) * seen / self.ramp
            sizes.append(int(grown) // self.unit * self.unit)
            seen += sizes[-1]
        return np.array(sizes)

    def schedule(self) -> optax.Schedule:
        """Learning rate by step: up in a line, down in a cosine."""
        return optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, self.warm_up, self.steps, self.last * self.learning_rate
        )

    def adamw(self) -> optax.GradientTransformation:
        """AdamW; norms are not decayed."""

        def is_matrix(weights: Weights) -> Any:
            return jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in path[-1].name, weights)

        return optax.adamw(self.schedule(), b1=0.9, b2=0.95, weight_decay=self.decay, mask=is_matrix)

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW with clipped gradients."""
        return optax.chain(optax.clip_by_global_norm(self.clip), self.adamw())
