"""Closed forms of queues: how long requests wait, where the distribution is known.

Symbols: lambda requests arrive in a second, by chance (Poisson), and each holds a server for E[S] seconds; c servers;
rho = lambda E[S] / c, their load; C^2 = Var[S] / E[S]^2. A queue with a load of 1 or more has no steady state: its
waits are infinite.

Source: kleinrock1975queueing; each function names its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaincc, gammaln
from jaxtyping import Real

from anatomy.specs.base import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    AT_LEAST_ZERO,
    SHARE,
    AnyArray,
    Scalar,
    between,
    check_arguments,
    is_concrete,
    refuse_where,
)


def mg1_wait(*, rate: Scalar, service: Scalar, variation: Scalar) -> Scalar:
    """Mean seconds until service begins, one server, any distribution of service times (Pollaczek-Khinchine).

        W = rho / (1 - rho) * (1 + C^2) / 2 * E[S]

    Args:
        rate: lambda, requests a second.
        service: E[S], seconds.
        variation: C, standard deviation of the service over its mean: 0 for M/D/1, 1 for M/M/1.

    Raises:
        TypeError, ValueError: rate or variation is below 0, or service not above 0.

    Source: kleinrock1975queueing, section 5.6.
    """
    check_arguments("mg1_wait", AT_LEAST_ZERO, rate=rate, variation=variation)
    check_arguments("mg1_wait", ABOVE_ZERO, service=service)
    load = rate * service
    return jnp.where(load < 1, load / _idle(load) * (1 + variation**2) / 2 * service, jnp.inf)


def mm1_wait(*, rate: Scalar, service: Scalar) -> Scalar:
    """Mean seconds until service begins, one server, exponential service: rho E[S] / (1 - rho); as `mg1_wait`."""
    return mg1_wait(rate=rate, service=service, variation=1.0)


def md1_wait(*, rate: Scalar, service: Scalar) -> Scalar:
    """Mean seconds until service begins, one server, services of equal length: half of M/M/1's; as `mg1_wait`."""
    return mg1_wait(rate=rate, service=service, variation=0.0)


def mm1_latency(*, rate: Scalar, service: Scalar, share: Scalar) -> Scalar:
    """Seconds from arrival to end that this share of requests stays within, M/M/1, first come first served.

    The time in the system is exponential with mean E[S] / (1 - rho), so its quantile is -ln(1 - share) times that.

    Raises:
        TypeError, ValueError: rate is below 0, service not above 0, or share not between 0 and 1.

    Source: kleinrock1975queueing, section 5.
    """
    check_arguments("mm1_latency", AT_LEAST_ZERO, rate=rate)
    check_arguments("mm1_latency", ABOVE_ZERO, service=service)
    check_arguments("mm1_latency", SHARE, share=share)
    load = rate * service
    return jnp.where(load < 1, -jnp.log1p(-share) * service / _idle(load), jnp.inf)


def erlang_c(*, servers: Scalar, offered_load: Scalar) -> Scalar:
    """Share of requests that find all c servers busy and wait; exponential service, M/M/c.

    With a = lambda E[S] busy servers on average, and Erlang's loss formula B written with gamma functions:

        B = (a^c e^-a / c!) / Q(c + 1, a),    C = B / (1 - rho (1 - B))

    Args:
        servers: c.
        offered_load: a, erlangs.

    Returns:
        Between 0 and 1; 1 from a load of 1 on.

    Raises:
        TypeError, ValueError: servers is no whole number of at least 1, or offered is below 0.

    Source: kleinrock1975queueing, section 3.5.
    """
    check_arguments("erlang_c", between(1.0, whole=True), servers=servers)
    check_arguments("erlang_c", AT_LEAST_ZERO, offered_load=offered_load)
    load = offered_load / servers
    a = jnp.minimum(jnp.maximum(offered_load, 1e-300), servers)
    blocked = jnp.exp(servers * jnp.log(a) - a - gammaln(servers + 1.0)) / gammaincc(servers + 1.0, a)
    return jnp.where(load < 1, blocked / (1 - load * (1 - blocked)), 1.0)


def mmc_wait(*, servers: Scalar, rate: Scalar, service: Scalar) -> Scalar:
    """Mean seconds until service begins, c servers, exponential service: C E[S] / (c (1 - rho)).

    Raises:
        TypeError, ValueError: as `erlang_c`, or service is not above 0.

    Source: kleinrock1975queueing, section 3.5.
    """
    check_arguments("mmc_wait", AT_LEAST_ZERO, rate=rate)
    check_arguments("mmc_wait", ABOVE_ZERO, service=service)
    load = rate * service / servers
    wait = erlang_c(servers=servers, offered_load=rate * service) * service / (servers * _idle(load))
    return jnp.where(load < 1, wait, jnp.inf)


def mgc_wait(*, servers: Scalar, rate: Scalar, service: Scalar, variation: Scalar) -> Scalar:
    """Mean seconds until service begins, c servers, any distribution of service times: an approximation.

        W = (1 + C^2) / 2 * rho^(sqrt(2 (c + 1)) - 1) / (c (1 - rho)) * E[S]

    Exact for one server, and as the load goes to 1.

    Args:
        servers: c, any number from 1 on.
        rate: lambda, requests a second.
        service: E[S], seconds.
        variation: C, coefficient of variation of service times.

    Raises:
        TypeError, ValueError: servers is below 1, rate or variation below 0, or service not above 0.

    Source: sakasegawa1977approximation.
    """
    check_arguments("mgc_wait", AT_LEAST_ONE, servers=servers)
    check_arguments("mgc_wait", AT_LEAST_ZERO, rate=rate, variation=variation)
    check_arguments("mgc_wait", ABOVE_ZERO, service=service)
    load = rate * service / servers
    wait = (1 + variation**2) / 2 * load ** (jnp.sqrt(2 * (servers + 1)) - 1) / (servers * _idle(load)) * service
    return jnp.where(load < 1, wait, jnp.inf)


def largest_load(*, servers: Scalar, service: Scalar, wait: Scalar) -> Scalar:
    """Load at which requests wait so long on average, M/M/c: the inverse of `mmc_wait`, by bisection.

    Args:
        servers: c.
        service: E[S], seconds; exponential.
        wait: seconds that are allowed.

    Returns:
        Between 0 and 1.

    Raises:
        TypeError, ValueError: as `mmc_wait`, or wait is below 0.
    """
    check_arguments("largest_load", AT_LEAST_ZERO, wait=wait)

    def halve(_: Scalar, ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = ends
        middle = (low + high) / 2
        late = mmc_wait(servers=servers, rate=middle * servers / service, service=service) > wait
        return jnp.where(late, low, middle), jnp.where(late, middle, high)

    zero = jnp.zeros(jnp.broadcast_shapes(*(jnp.shape(x) for x in (servers, service, wait))))
    return jax.lax.fori_loop(0, 60, halve, (zero, zero + 1.0))[0]


def _idle(load: Scalar) -> Scalar:
    """Share of idle time; 1 where there is none, for a branch that is not taken must still be finite."""
    return jnp.where(load < 1, 1 - load, 1.0)


def longest(lengths: Real[AnyArray, "draws"], *, batch: Scalar) -> Scalar:
    """Mean of the longest of `batch` answers, drawn from these lengths with replacement: exact for that distribution.

    Of n draws in order the i-th is the largest of a batch with probability (i / n)^batch - ((i - 1) / n)^batch.

    Args:
        lengths: a sample, or a distribution written as equally likely values; tokens.
        batch: S, answers that end together.

    Raises:
        TypeError, ValueError: there is no length, one is below 0, or batch is below 1.
    """
    if not np.size(lengths):
        raise ValueError("longest.lengths is empty; allowed: one length or more")
    check_arguments("longest", AT_LEAST_ZERO, lengths=lengths)
    check_arguments("longest", AT_LEAST_ONE, batch=batch)
    n = np.shape(lengths)[-1]
    below = (jnp.arange(n + 1) / n) ** jnp.asarray(batch, float)[..., None]
    return jnp.sum(jnp.sort(jnp.asarray(lengths, float)) * jnp.diff(below), axis=-1)


def longest_of_two(*, short: Scalar, long: Scalar, share: Scalar, batch: Scalar) -> Scalar:
    """The same where answers have two lengths: long - (long - short) (1 - share)^S.

    Args:
        short: tokens of most.
        long: tokens of the others, at least as many.
        share: of the long ones.
        batch: S.

    Raises:
        TypeError, ValueError: a length is not above 0, long is below short, share is not between 0 and 1, or batch is
            below 1.
    """
    check_arguments("longest_of_two", ABOVE_ZERO, short=short, long=long)
    if is_concrete((short, long)):
        refuse_where(np.asarray(long) < short, "longest_of_two.long", long, "at least short")
    check_arguments("longest_of_two", between(high=1.0), share=share)
    check_arguments("longest_of_two", AT_LEAST_ONE, batch=batch)
    return long - (long - short) * (1 - share) ** batch
