"""Failures of a long run: how often to write checkpoints, and how much of the wall time advances the run.

Any node that fails stops the run, which then restarts from the last checkpoint. Symbols: r failures of a node
in a second, n nodes, M = 1 / (r n) mean seconds between failures of the run; tau seconds of training between
two checkpoints, delta seconds to write one, R seconds to restart.
"""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from anatomy.specs import Scalar, catalogue
from anatomy.specs.base import ABOVE_ZERO, AT_LEAST_ZERO, check_arguments, number, refuse_where, spec
from anatomy.specs.units import DAY

SMALL = 0.05  # below it, a series is more exact than the formula
LONGEST = 1e30  # seconds: where nothing fails, the best interval is infinite, and 0 times infinity is no number
MOST_FAILURES = 1e6  # of a simulated run


@spec
class Failures:
    """What a node does to a run: how often it fails, and what checkpoints and restarts cost."""

    rate: Scalar = number("1/s", doc="failures of one node in a second, exponential")
    write: Scalar = number("s", doc="training stalls while a checkpoint is written")
    restart: Scalar = number("s", doc="to detect a failure, find another node and load the last checkpoint")


@spec
class WallTime:
    """Wall time by what it went into, in seconds or in shares of the whole; the parts add up to `total`."""

    sums: ClassVar = ("total",)

    useful: Scalar = number("1", doc="training that lasts")
    writing: Scalar = number("1", doc="checkpoints that were completed")
    rework: Scalar = number("1", doc="training and writing lost to a failure")
    restart: Scalar = number("1", doc="down, with what failures during a restart add")

    @property
    def total(self) -> Scalar:
        """All parts."""
        return self.useful + self.writing + self.rework + self.restart


def published_failures(key: str, *, write: Scalar, restart: Scalar) -> Failures:
    """Failures at a rate that was counted: `rsc1`, `llama3` or `opt_175b`.

    Args:
        key: an entry of the catalogue `failures`.
        write: delta, seconds; nobody published it with the counts.
        restart: R, seconds; likewise.

    Raises:
        KeyError: there is no such entry.
    """
    row = catalogue.entry("failures", key)
    rate = row["failures"] / (row["nodes"] * row["days"] * DAY)
    return Failures(rate=rate, write=write, restart=restart)


def mean_time_between_failures(failures: Failures, nodes: Scalar) -> Scalar:
    """M, mean seconds between two failures of a run: 1 / (r n).

    Raises:
        TypeError, ValueError: nodes are not above 0; so do the others.
    """
    check_arguments("reliability", ABOVE_ZERO, nodes=nodes)
    return 1 / (jnp.asarray(failures.rate) * nodes)


def goodput(failures: Failures, *, nodes: Scalar, interval: Scalar) -> Scalar:
    """Share of the wall time that advances the run, expected.

    Seconds to get one interval done for good, where failures also strike writes and restarts:

        M e^(R/M) (e^((tau + delta)/M) - 1),    so    goodput = tau / that

    Args:
        failures: r, delta and R.
        nodes: n.
        interval: tau, seconds of training between two checkpoints, above 0.

    Returns:
        Between 0 and 1; tau / (tau + delta) where nothing fails. An interval of hundreds of M underflows to 0.

    Source: daly2006checkpoint, the complete model. Exact for exponential failures.
    """
    return wall_time_shares(failures, nodes=nodes, interval=interval).useful


def wall_time_shares(failures: Failures, *, nodes: Scalar, interval: Scalar) -> WallTime:
    """Where the wall time goes: shares that add up to 1.

    With L = tau + delta, of which e^(L/M) - 1 attempts fail before one holds, and restarts that take
    M (e^(R/M) - 1) on average, the expectation of daly2006checkpoint comes apart into

        restart = 1 - e^(-R/M),    rework = e^(-R/M) (1 - b),    b = (L/M) / (e^(L/M) - 1),

    and what is left, e^(-R/M) b, is shared by training and writing as tau to delta.

    Args:
        failures: r, delta and R.
        nodes: n.
        interval: tau, seconds, above 0.

    Raises:
        TypeError, ValueError: nodes are not above 0, or the interval is below 0.
    """
    check_arguments("reliability", ABOVE_ZERO, nodes=nodes)
    check_arguments("reliability", AT_LEAST_ZERO, interval=interval)
    rate = jnp.asarray(failures.rate) * nodes
    interval = jnp.minimum(interval, LONGEST)
    attempt = interval + failures.write
    held = _held(rate * attempt)
    up = jnp.exp(-rate * failures.restart)
    divisor = jnp.where(attempt > 0, attempt, 1.0)  # checkpoints that are free may be written all the time
    return WallTime(
        useful=up * held * jnp.where(attempt > 0, interval / divisor, 1.0),
        writing=up * held * failures.write / divisor,
        rework=up * (1 - held),
        restart=-jnp.expm1(-rate * failures.restart),
    )


def _held(attempt: Scalar) -> Scalar:
    """Share of the time of all attempts that goes into the one that holds: y / (e^y - 1) for attempts of y M.

    Below `SMALL` by its series, whose coefficients are Bernoulli's numbers, so that no failures and the slope
    there are exact too.
    """
    small = attempt < SMALL
    y = jnp.where(small, attempt, 0.0)
    series = 1 - y / 2 + y**2 / 12 - y**4 / 720 + y**6 / 30240
    y = jnp.where(small, 1.0, attempt)
    return jnp.where(small, series, y * jnp.exp(-y) / -jnp.expm1(-y))


def young_interval(failures: Failures, nodes: Scalar) -> Scalar:
    """Seconds between checkpoints that waste least, to first order: sqrt(2 delta M).

    Infinite where nothing fails, and otherwise 0 where checkpoints are free.

    Source: young1974checkpoint.
    """
    check_arguments("reliability", ABOVE_ZERO, nodes=nodes)
    rate = jnp.asarray(failures.rate) * nodes
    return jnp.where(rate > 0, _root(2 * failures.write / jnp.where(rate > 0, rate, 1.0)), jnp.inf)


def daly_interval(failures: Failures, nodes: Scalar) -> Scalar:
    """Seconds between checkpoints that waste least, to higher order; M where delta is 2 M or more:

        sqrt(2 delta M) (1 + (1/3) sqrt(delta / 2M) + (1/9) (delta / 2M)) - delta

    Source: daly2006checkpoint.
    """
    root = _root(failures.write * jnp.asarray(failures.rate) * nodes / 2)
    estimate = young_interval(failures, nodes=nodes) * (1 + root / 3 + root**2 / 9) - failures.write
    return jnp.where(root < 1, estimate, mean_time_between_failures(failures, nodes=nodes))


def best_interval(failures: Failures, nodes: Scalar) -> Scalar:
    """Seconds between checkpoints at which `goodput` is highest; the restart has no part in it.

    With u = tau / M and s = sqrt(2 delta / M), the slope of goodput vanishes where

        u = 1 - e^(-u - s^2/2),    that is    u = 1 + W(-e^(-1 - s^2/2))

    for Lambert's W; goodput is e^(-(R + tau + delta)/M) there. For small s by the series of W about its branch
    point, of which `young_interval` is the first term and `daly_interval` the first three; then by Newton steps.

    Returns:
        To a relative error of 1e-14. Infinite where nothing fails, and otherwise 0 where checkpoints are free.

    Source: daly2006checkpoint for the equation.
    """
    s = _root(2 * failures.write * jnp.asarray(failures.rate) * nodes)
    small = s < SMALL
    far = jnp.where(small, 1.0, s)
    u = far * _branch_series(jnp.minimum(far, 2.0))
    for _ in range(4):
        u = u - (u + jnp.expm1(-u - far**2 / 2)) / -jnp.expm1(-u - far**2 / 2)
    corrected = jnp.where(small, _branch_series(jnp.where(small, s, 0.0)), u / far)
    return young_interval(failures, nodes=nodes) * corrected


def _root(x: Scalar) -> Scalar:
    """Square root whose slope at 0 is 0 instead of infinite, so that gradients pass there."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def _branch_series(s: Scalar) -> Scalar:
    """(1 + W(-e^(-1 - s^2/2))) / s to the sixth power of s."""
    coefficients = (-139 / 5443200, -1 / 17010, 1 / 4320, 1 / 270, 1 / 36, -1 / 3)
    total = 0.0 * s
    for coefficient in coefficients:
        total = (total + coefficient) * s
    return 1 + total


def simulate_failures(
    failures: Failures, *, nodes: float, interval: float, work: float, seed: int = 0, runs: int = 1000
) -> WallTime:
    """Seconds by part of runs that are played through, failure by failure: what `lost` says on average.

    Args:
        failures: r, delta and R.
        nodes: n.
        interval: tau, seconds of training between two checkpoints.
        work: seconds of training to be done; rounded up to whole intervals, each of which ends in a checkpoint.
        seed: of the failures.
        runs: how many runs.

    Returns:
        Vectors of `runs` seconds.

    Raises:
        ValueError: the interval or the work is not above 0, or the run would hardly ever end.
    """
    rate, write, down = (float(value) for value in (failures.rate * nodes, failures.write, failures.restart))
    for name, value in (("interval", interval), ("work", work)):
        refuse_where(not 0 < value < np.inf, f"simulate.{name}", value, "a finite number above 0 (s)")
    intervals = np.ceil(work / interval)
    with np.errstate(over="ignore"):
        expected = intervals * np.expm1(rate * (interval + write)) * np.exp(rate * down)
    refuse_where(expected > MOST_FAILURES, "failures expected in a run", expected, f"at most {MOST_FAILURES:g}")

    random = np.random.default_rng(seed)

    def draw() -> np.ndarray:
        with np.errstate(divide="ignore"):
            return random.standard_exponential(runs) / np.float64(rate)

    left, rework, restart = np.full(runs, intervals), np.zeros(runs), np.zeros(runs)
    until_failure = draw()
    while np.any(left > 0):
        done = np.minimum(np.floor(until_failure / (interval + write)), left)
        left -= done
        failed = left > 0
        rework[failed] += (until_failure - done * (interval + write))[failed]
        until_failure = np.where(failed, draw(), until_failure)
        while np.any(failed):
            again = failed & (until_failure < down)  # it fails while it restarts
            restart[failed] += np.minimum(until_failure, down)[failed]
            until_failure = np.where(again, draw(), until_failure - np.where(failed, down, 0.0))
            failed = again
    return WallTime(
        useful=np.full(runs, intervals * interval),
        writing=np.full(runs, intervals * write),
        rework=rework,
        restart=restart,
    )
