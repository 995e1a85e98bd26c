"""Requests that arrive at a server: when, with how long a prompt, and for how long an answer; keyed and repeatable."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Real

from anatomy.specs.base import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    AT_LEAST_ZERO,
    AnyArray,
    Scalar,
    between,
    check_arguments,
    number,
    refuse_where,
    spec,
)

SOME = between(1.0, whole=True)


@spec
class Requests:
    """Requests in the order of their arrival; each number is an array over them."""

    arrival: Real[AnyArray, "requests"] = number("s", doc="when each arrives")
    prompt: Real[AnyArray, "requests"] = number("tokens", doc="to read before the answer; 0 leaves that out")
    output: Real[AnyArray, "requests"] = number("tokens", low=1, whole=True, doc="of the answer")

    def check(self) -> None:
        """Refuse requests that are no list, or not in order.

        Raises:
            ValueError: lengths differ, are 0 or are not one axis, or an arrival is before the one ahead of it or
                never comes.
        """
        shapes = {name: np.shape(getattr(self, name)) for name in ("arrival", "prompt", "output")}
        first = shapes["arrival"]
        for name, shape in shapes.items():
            if shape != first or len(shape) != 1 or not shape[0]:
                raise ValueError(f"Requests.{name} has shape {shape}; allowed: one axis, as long as arrival ({first})")
        arrival = np.asarray(self.arrival, float)
        refuse_where(~np.isfinite(arrival), "Requests.arrival", arrival, "a finite number")
        refuse_where(np.diff(arrival) < 0, "Requests.arrival", arrival[1:], "at least the arrival before it")


def poisson(key: PRNGKeyArray, *, count: int, rate: Scalar, burst_size: Scalar = 1.0) -> Float[Array, "count"]:
    """Arrivals by chance, seconds.

    Args:
        key: of the draws; the same key has the same pattern at every rate.
        count: of requests.
        rate: requests a second, on average.
        burst_size: requests that come on average at the same moment; 1 is a Poisson process.

    Raises:
        TypeError, ValueError: count is no whole number from 1 on, rate is not above 0, or burst below 1.
    """
    check_arguments("poisson", SOME, count=count)
    check_arguments("poisson", ABOVE_ZERO, rate=rate)
    check_arguments("poisson", AT_LEAST_ONE, burst_size=burst_size)
    gaps, alone = jax.random.split(key)
    apart = jax.random.uniform(alone, (count,), float) * burst_size < 1
    came = jnp.cumsum(jnp.where(apart, jax.random.exponential(gaps, (count,), float), 0.0))
    # A sum in parallel may round within a burst; all of it comes when its first does.
    return jax.lax.cummax(jnp.where(apart, came, 0.0)) * burst_size / rate


def lognormal_lengths(
    key: PRNGKeyArray, *, count: int, mean: Scalar, variation: Scalar, longest: Scalar = jnp.inf
) -> Float[Array, "count"]:
    """Whole tokens, at least 1, with a long tail.

    Args:
        key: of the draws.
        count: of requests.
        mean: tokens, before rounding up and cutting off.
        variation: coefficient of variation, before that too.
        longest: tokens at which an answer is cut off.

    Raises:
        TypeError, ValueError: count is no whole number from 1 on, mean is not above 0, variation below 0, or
            longest below 1.
    """
    check_arguments("lognormal_lengths", SOME, count=count)
    check_arguments("lognormal_lengths", ABOVE_ZERO, mean=mean)
    check_arguments("lognormal_lengths", AT_LEAST_ZERO, variation=variation)
    check_arguments("lognormal_lengths", AT_LEAST_ONE, longest=longest)
    variance = jnp.log1p(jnp.asarray(variation, float) ** 2)
    drawn = mean * jnp.exp(jnp.sqrt(variance) * jax.random.normal(key, (count,), float) - variance / 2)
    return jnp.clip(jnp.ceil(drawn), 1.0, longest)


def geometric_lengths(key: PRNGKeyArray, *, count: int, mean: Scalar) -> Float[Array, "count"]:
    """Whole tokens where every token is as likely to be the last: the exponential distribution of whole numbers.

    Raises:
        TypeError, ValueError: count is no whole number from 1 on, or mean is below 1.
    """
    check_arguments("geometric_lengths", SOME, count=count)
    check_arguments("geometric_lengths", AT_LEAST_ONE, mean=mean)
    stay = jnp.log1p(-1 / jnp.asarray(mean, float))
    return jnp.maximum(jnp.ceil(-jax.random.exponential(key, (count,), float) / stay), 1.0)


def uniform_lengths(key: PRNGKeyArray, *, count: int, low: int, high: int) -> Float[Array, "count"]:
    """Whole tokens from low to high, all as likely.

    Raises:
        TypeError, ValueError: a number is no whole number from 1 on, or low is above high.
    """
    check_arguments("uniform_lengths", SOME, count=count, low=low, high=high)
    refuse_where(low > high, "uniform_lengths.low", low, f"at most high ({high})")
    return jax.random.randint(key, (count,), low, high + 1).astype(float)
