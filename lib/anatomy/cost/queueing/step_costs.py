"""Seconds of one step of a server that reads prompts and writes answers together.

A cost is a pytree that is called with the `Work` of a step and returns seconds: a few numbers (`Affine`), a table of
measurements (`Table`), or the cost model itself (`Modelled`). Any other function of that form does as well.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from anatomy.cost.efficiency import Overheads
from anatomy.cost.serving.steps import micro_batches, through_stages
from anatomy.specs import Architecture, Cluster, Scalar, Serving
from anatomy.specs.base import FINITE, AnyArray, check_arguments, number, spec


class Work(NamedTuple):
    """What a step has to do."""

    sequences: Scalar  # that get their next token, those computed only to fill a batch with them
    prompt: Scalar  # tokens of prompts that are read
    cached: Scalar  # tokens read from the cache, of all these sequences and prompts
    attended: Scalar  # tokens attended to, summed over the tokens that pass
    reading: Scalar = 0.0  # prompts that these tokens are of


@spec
class Affine:
    """A constant for every step and every unit of work in it."""

    step: Scalar = number("s", doc="a step, whatever is in it")
    sequence: Scalar = number("s", default=0.0, doc="a sequence")
    prompt: Scalar = number("s", default=0.0, doc="a token of a prompt")
    reading: Scalar = number("s", default=0.0, doc="a step that reads a prompt, more than one that does not")
    cached: Scalar = number("s", default=0.0, doc="a token read from the cache")
    attended: Scalar = number("s", default=0.0, doc="a token attended to")

    def __call__(self, work: Work) -> Scalar:
        """Seconds of a step."""
        each = self.sequence * work.sequences + self.prompt * work.prompt
        each = each + self.cached * work.cached + self.attended * work.attended
        return self.step + self.reading * (jnp.asarray(work.prompt) > 0) + each


class Table:
    """Seconds measured on a grid; linear between its points, and on beyond them.

    Where there is no prompt to read the work is looked up by sequences and by what is cached of each, tokens of the
    cache over sequences; the tokens of prompts are the third axis.
    """

    def __init__(
        self,
        sequences: Real[AnyArray, "sequences"],
        cached_each: Real[AnyArray, "cached"],
        prompt: Real[AnyArray, "prompt"],
        seconds: Real[AnyArray, "sequences cached prompt"],
    ) -> None:
        """A table from axes that rise, of two points or more, or of one where the time does not depend on it.

        Raises:
            ValueError: an axis does not rise or does not fit the seconds, or a number is not finite and above 0
                (of an axis: at least 0).
        """
        self.axes = tuple(jnp.asarray(axis, float) for axis in (sequences, cached_each, prompt))
        self.seconds = jnp.asarray(seconds, float)
        for name, axis in zip(("sequences", "cached_each", "prompt"), self.axes, strict=True):
            if axis.ndim != 1 or not np.isfinite(axis).all() or axis[0] < 0 or (np.diff(axis) <= 0).any():
                raise ValueError(f"Table.{name} is {np.asarray(axis)}; allowed: rising numbers from 0 on")
        shape = tuple(axis.size for axis in self.axes)
        if self.seconds.shape != shape:
            raise ValueError(f"Table.seconds has shape {self.seconds.shape}; allowed: that of its axes, {shape}")
        check_arguments("Table", FINITE, seconds=self.seconds)

    def __call__(self, work: Work) -> Scalar:
        """Seconds of a step."""
        place = (work.sequences, work.cached / jnp.maximum(work.sequences, 1.0), work.prompt)
        found = self.seconds
        for axis, at in zip(self.axes, place, strict=True):
            found = _between(axis, found, at)
        return found


def _between(axis: Float[Array, "points"], values: Float[Array, "points ..."], at: Scalar) -> Float[Array, "..."]:
    """Values at a place on their first axis: on the line through its two neighbours."""
    if axis.size == 1:
        return values[0]
    left = jnp.clip(jnp.sum(axis <= at) - 1, 0, axis.size - 2)
    share = (at - axis[left]) / (axis[left + 1] - axis[left])
    return values[left] + share * (values[left + 1] - values[left])


def _unflatten(_: None, leaves: tuple[Array, ...]) -> Table:
    """What jax rebuilds is not checked."""
    table = object.__new__(Table)
    *axes, table.seconds = leaves
    table.axes = tuple(axes)
    return table


jax.tree_util.register_pytree_node(Table, lambda table: ((*table.axes, table.seconds), None), _unflatten)


@spec
class Modelled:
    """The cost model's seconds of a model on a cluster, prompts and answers in one pass.

    Tokens of a step are spread evenly over the plan's micro-batches; fewer tokens than that make fewer. The step ends
    when all are through: after the sum of the stages, and after the turns of all micro-batches at the slowest.
    """

    model: Architecture
    plan: Serving
    cluster: Cluster
    constants: Overheads

    def __call__(self, work: Work) -> Scalar:
        """Seconds of a step; see `anatomy.cost.serving.steps.decode`."""
        tokens = jnp.maximum(work.sequences + work.prompt, 1.0)
        turns = micro_batches(self.plan, tokens)
        each = tokens / turns
        attended = work.attended / tokens
        rows = (work.sequences + work.reading) / turns
        parts, slowest = through_stages(
            self.model,
            self.plan,
            self.cluster,
            self.constants,
            n=each,
            attended=attended,
            cached=work.cached / turns,
            batch=rows,
            predicted=rows,
        )
        return jnp.maximum(sum(parts.values()), turns * slowest)
