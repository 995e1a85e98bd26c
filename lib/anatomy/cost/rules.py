"""Rules that a plan must keep: as a value, so that a sweep can mask it, and in words, for the one that asks why."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from anatomy.specs import Architecture, Cluster, Scalar


class Case(NamedTuple):
    """What a rule looks at."""

    model: Architecture
    plan: Any  # a Plan or a Serving, as the rules that it is held against
    cluster: Cluster
    batch: Scalar


Rules = tuple[tuple[Callable[[Case], Scalar], str], ...]  # what must hold, and what to say where it does not


def divides(part: Scalar, whole: Scalar) -> Scalar:
    """Whether the whole is a multiple of the part."""
    return jnp.mod(whole, part) == 0


def nests(one: Scalar, other: Scalar) -> Scalar:
    """Whether the larger is a multiple of the smaller."""
    return divides(jnp.minimum(one, other), jnp.maximum(one, other))


def hold(rules: Rules, case: Case) -> Bool[Array, ""]:
    """Whether all rules hold."""
    return jnp.asarray(functools.reduce(jnp.logical_and, (rule(case) for rule, _ in rules)))


def broken(rules: Rules, case: Case) -> list[str]:
    """What is said where rules do not hold."""
    return [words.format(**case._asdict()) for rule, words in rules if not bool(rule(case))]
