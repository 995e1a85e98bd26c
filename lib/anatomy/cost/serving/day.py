"""A fleet over a day: load that follows the hours, deployments that idle, and what they may earn meanwhile.

A fleet is a number of equal deployments. As many are on as the load asks for, each filled no further than latency
allows; the others are free, for training say, less the time that it takes to turn them over and back.
"""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from anatomy.specs import Scalar
from anatomy.specs.base import (
    ABOVE_ZERO,
    AT_LEAST_ZERO,
    SHARE,
    AnyArray,
    between,
    check_arguments,
    finite,
    is_concrete,
    number,
    refuse_where,
    spec,
)

HOURS = 24.0


def daily_load(hours: Real[AnyArray, "hours"], *, swing: Scalar, peak: Scalar = 15.0) -> Float[Array, "hours"]:
    """Load at these hours over its mean: 1 + swing cos(2 pi (h - peak) / 24).

    Args:
        hours: of the day.
        swing: half of peak less valley, over the mean; at 1 the valley is empty.
        peak: hour of the most load.

    Raises:
        TypeError, ValueError: swing is not between 0 and 1.
    """
    check_arguments("daily_load", between(high=1.0), swing=swing)
    return jnp.asarray(1 + swing * jnp.cos(2 * jnp.pi * (jnp.asarray(hours) - peak) / HOURS))


@spec
class Day:
    """What the chip-hours of a fleet are spent on, as shares; they add up to `total`, which is 1."""

    sums: ClassVar = ("total",)

    busy: Scalar = number("1", high=1, doc="serving, counted as if deployments were full")
    spare: Scalar = number("1", high=1, doc="on and not full: for latency, and because deployments come whole")
    turning: Scalar = number("1", high=1, doc="being turned over")
    free: Scalar = number("1", high=1, doc="off, and free for other work")
    unserved: Scalar = number("1", high=1, doc="of the load: what was more than the fleet may carry")

    @property
    def total(self) -> Scalar:
        """All chip-hours."""
        return self.busy + self.spare + self.turning + self.free

    def price(self, earns: Scalar = 0.0) -> Scalar:
        """What a token costs, over what it would on a fleet that is always full.

        Args:
            earns: what a free chip-hour brings in, over what it costs.

        Raises:
            TypeError, ValueError: earns is below 0.
        """
        check_arguments("price", AT_LEAST_ZERO, earns=earns)
        return (1 - earns * self.free) / self.busy


def day(
    load: Real[AnyArray, "hours"],
    *,
    capacity: Scalar,
    usable: Scalar = 1.0,
    deployments: Scalar = 1000.0,
    turning: Scalar = 0.0,
) -> Day:
    """A day of a fleet.

    Args:
        load: in equal parts of a day, one after the other; tokens or requests a second.
        capacity: of all deployments when full, in the same unit.
        usable: share of it that latency allows; see `waiting.largest_load`.
        deployments: equal parts of the fleet, each on or off as a whole.
        turning: hours to turn a deployment from serving to other work, or back.

    Raises:
        TypeError, ValueError: the load is no list, has a number below 0 or none above, the hours are below 0, capacity
            is not above 0, usable is not between 0 and 1, or deployments is no whole number from 1 on.
    """
    check_arguments("day", finite(AT_LEAST_ZERO), load=load, turning=turning)
    if np.ndim(load) != 1 or not np.size(load):
        raise ValueError(f"day.load has shape {np.shape(load)}; allowed: one axis, of one number or more")
    if is_concrete(load):
        highest = np.asarray(load).max()
        refuse_where(highest <= 0, "day.load, at its highest,", highest, "a number above 0")
    check_arguments("day", ABOVE_ZERO, capacity=capacity)
    check_arguments("day", SHARE, usable=usable)
    check_arguments("day", between(1.0, whole=True), deployments=deployments)
    load = jnp.asarray(load, float)
    served = jnp.minimum(load, usable * capacity)
    on = jnp.ceil(served / (usable * capacity) * deployments * (1 - 1e-12)) / deployments  # of the fleet
    turned = jnp.mean(jnp.abs(on - jnp.roll(on, 1))) * turning * load.size / HOURS
    off, busy = jnp.mean(1 - on), jnp.mean(served) / capacity
    turned = jnp.minimum(turned, off)  # who would lose more in turning than is free does not turn
    return Day(
        busy=busy,
        spare=jnp.mean(on) - busy,
        turning=turned,
        free=off - turned,
        unserved=1 - jnp.sum(served) / jnp.sum(load),
    )
