"""A training run as a whole: FLOP, time and money tied together by one identity, and the bill step by step.

Symbols: N parameters that a token uses, D tokens, C = FLOP, n chips of peak rate P, u utilisation
(MFU: the share of peak that goes into the model's own FLOP); B sequences of a step, s tokens of one.
"""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from anatomy.cost.efficiency import Efficiency
from anatomy.cost.training.reliability import Failures, best_interval, wall_time_shares
from anatomy.cost.training.step import training_step
from anatomy.specs import Architecture, Cluster, Plan, Scalar
from anatomy.specs.base import (
    ABOVE_ZERO,
    AT_LEAST_ZERO,
    SHARE,
    check_arguments,
    is_concrete,
    number,
    refuse_where,
    shown,
    spec,
    switch,
)
from anatomy.specs.units import DAY, HOUR, YEAR

SMALL = 1e-6  # a ramp that grows by less is none


def training_flop(*, parameters: Scalar, tokens: Scalar) -> Scalar:
    """FLOP of training: 2 a parameter and token forward, 4 backward; C = 6 N D.

    Attention scores are left out; at d_model above 10,000 and a context of 8k they add a few per cent
    (`Architecture.flop_per_token` counts them).

    Raises:
        TypeError, ValueError: an argument is below 0.

    Source: kaplan2020scaling, section 2.1.
    """
    check_arguments("training_flop", AT_LEAST_ZERO, parameters=parameters, tokens=tokens)
    return 6.0 * parameters * tokens


def training_days(*, flop: Scalar, chips: Scalar, peak: Scalar, utilisation: Scalar) -> Scalar:
    """Days that n chips need: C / (n P u), over the seconds of a day.

    Args:
        flop: C, of the whole run.
        chips: n.
        peak: P, FLOP/s of one chip.
        utilisation: u, above 0, at most 1.

    Raises:
        TypeError, ValueError: an argument is outside of what it can be.
    """
    check_arguments("training_days", AT_LEAST_ZERO, flop=flop)
    check_arguments("training_days", ABOVE_ZERO, chips=chips, peak=peak)
    check_arguments("training_days", SHARE, utilisation=utilisation)
    return flop / (chips * peak * utilisation) / DAY


def utilisation(*, flop: Scalar, chips: Scalar, peak: Scalar, days: Scalar) -> Scalar:
    """Share of peak that a run of so many days reached: C / (n P t).

    More than 1 says that the numbers cannot belong together.

    Raises:
        TypeError, ValueError: flop is below 0, or another argument not above it.

    Source: chowdhery2023palm, appendix B, where it is named model FLOPs utilisation.
    """
    check_arguments("utilisation", AT_LEAST_ZERO, flop=flop)
    check_arguments("utilisation", ABOVE_ZERO, chips=chips, peak=peak, days=days)
    return flop / (chips * peak * days * DAY)


def rented_dollars(*, chips: Scalar, days: Scalar, dollars_per_hour: Scalar) -> Scalar:
    """Rent of n chips for so many days at a price for each chip and hour.

    Raises:
        TypeError, ValueError: an argument is below 0.
    """
    check_arguments("rented_dollars", AT_LEAST_ZERO, chips=chips, days=days, dollars_per_hour=dollars_per_hour)
    return chips * days * 24.0 * dollars_per_hour


@spec
class Prices:
    """What a chip costs, with its share of everything around it."""

    rent: Scalar = number("dollars/h", doc="for a rented chip")
    purchase: Scalar = number("dollars", default=0.0, doc="for a bought one, with server and network")
    years: Scalar = number("years", above=0, default=4.0, doc="in which a bought chip is written off")
    watts: Scalar = number("W", default=0.0, doc="drawn for a chip, host, network, cooling and losses included")
    energy: Scalar = number("dollars/kWh", default=0.0, doc="for power, where it is not in the rent")


@spec
class Run:
    """Wall time of a run by what it went into, in seconds that add up, and what it costs."""

    sums: ClassVar = ("seconds",)

    training: Scalar = number("s", doc="steps that last")
    writing: Scalar = number("s", doc="checkpoints")
    rework: Scalar = number("s", doc="lost to failures and done again")
    restart: Scalar = number("s", doc="down after failures")
    steps: Scalar = number("steps")
    flop: Scalar = number("FLOP", doc="that the model needs")
    peak: Scalar = number("FLOP/s", doc="of all chips")
    chips: Scalar = number("chips")
    prices: Prices
    legal: Scalar = switch(default=True, doc="whether the plan can be run, memory aside")
    fits: Scalar = switch(default=True, doc="whether its memory suffices")

    @property
    def seconds(self) -> Scalar:
        """From the first step to the last."""
        return self.training + self.writing + self.rework + self.restart

    @property
    def days(self) -> Scalar:
        """The same in days."""
        return self.seconds / DAY

    @property
    def goodput(self) -> Scalar:
        """Share of the time that lasts."""
        return self.training / self.seconds

    @property
    def mfu(self) -> Scalar:
        """Utilisation over the whole time, failures included."""
        return self.flop / (self.peak * self.seconds)

    @property
    def chip_hours(self) -> Scalar:
        """Chips times hours."""
        return self.chips * self.seconds / HOUR

    @property
    def joules(self) -> Scalar:
        """Energy, everything around the chips included."""
        return self.chips * self.seconds * self.prices.watts

    @property
    def rented(self) -> Scalar:
        """Dollars, if the chips are rented."""
        return self.chip_hours * self.prices.rent

    @property
    def owned(self) -> Scalar:
        """Dollars, if they are bought: what is written off in that time, and power.

        Source: cottier2024rising, section 3, without staff, interest and resale.
        """
        written_off = self.chips * self.prices.purchase * self.seconds / (self.prices.years * YEAR)
        return written_off + self.joules / 3.6e6 * self.prices.energy


def ramp_steps(*, tokens: Scalar, start: Scalar, end: Scalar, sequence_length: Scalar) -> Scalar:
    """Steps of a ramp: the batch grows in proportion to the tokens seen, from B0 to B1 over R tokens.

    A step at batch B passes B s tokens, so there are R / s times the mean of 1 / B:

        steps = R / (s (B1 - B0)) ln(B1 / B0)

    Args:
        tokens: R.
        start: B0, sequences.
        end: B1, sequences; at least B0.
        sequence_length: s.

    Raises:
        TypeError, ValueError: an argument is outside of what it can be.

    Source: brown2020gpt3, table 2.1 and appendix B, whose batch grows linearly over the first tokens.
    """
    check_arguments("ramp_steps", AT_LEAST_ZERO, tokens=tokens)
    check_arguments("ramp_steps", ABOVE_ZERO, start=start, end=end, sequence_length=sequence_length)
    growth = end / start - 1
    if is_concrete(growth):
        refuse_where(np.asarray(growth) < 0, "ramp_steps.end", end, f"at least start ({shown(start)})")
    grows = jnp.where(growth > SMALL, growth, 1.0)
    return tokens / (sequence_length * start) * jnp.where(growth > SMALL, jnp.log1p(grows) / grows, 1.0)


def training_run(
    model: Architecture,
    plan: Plan,
    cluster: Cluster,
    *,
    batch: Scalar,
    sequence_length: Scalar,
    efficiency: Efficiency,
    tokens: Scalar,
    failures: Failures,
    prices: Prices,
    ramp_tokens: Scalar = 0.0,
    ramp_start: Scalar = 1.0,
    imbalance: Scalar = 1.0,
) -> Run:
    """A whole run: steps, with smaller batches first, failures, checkpoints at the best interval, and the bill.

    Seconds of a step are affine in the batch: work in proportion, and bubble, exchange and update once a step. So
    the time of a run is that of its sequences, plus what comes once, times its steps. Early batches are smaller
    and the steps more. A plan that cannot be run, or does not fit, has a cost all the same and is marked.

    Args:
        model: what is trained.
        plan: how it is laid out; the chips it uses are those that are paid.
        cluster: on what.
        batch: B, of a step, once the batch has grown.
        sequence_length: s, tokens of a sequence.
        efficiency: what share of the peaks programs reach.
        tokens: D, of the run.
        failures: of a node; any that fails stops the run.
        prices: of a chip.
        ramp_tokens: over which the batch grows, out of D; 0 for none.
        ramp_start: batch at the start, in sequences. At least a micro-batch for each replica is used; with
            interleaved chunks one for each of its stages.
        imbalance: tokens of the fullest expert over the mean.

    Raises:
        TypeError, ValueError: an argument is outside of what it can be.

    Source: `training.step` and `reliability.lost` for the parts.
    """
    check_arguments("training_run", ABOVE_ZERO, tokens=tokens, ramp_start=ramp_start)
    check_arguments("training_run", AT_LEAST_ZERO, ramp_tokens=ramp_tokens)
    one, two = (
        training_step(
            model,
            plan,
            cluster,
            batch=batch * by,
            sequence_length=sequence_length,
            efficiency=efficiency,
            imbalance=imbalance,
        )
        for by in (1.0, 2.0)
    )
    for_sequences = (two.seconds - one.seconds) / batch  # of each
    once = one.seconds - for_sequences * batch
    least = plan.data * plan.micro_batch * jnp.where(plan.chunks > 1, plan.pipeline, 1.0)  # as `legality` asks
    if is_concrete((ramp_start, batch)):
        refuse_where(ramp_start > batch, "training_run.ramp_start", ramp_start, f"at most sequences ({batch:g})")
    start = jnp.minimum(jnp.maximum(ramp_start, least), batch)
    ramp = jnp.minimum(ramp_tokens, tokens)
    steps = ramp_steps(tokens=ramp, start=start, end=batch, sequence_length=sequence_length) + (tokens - ramp) / (
        batch * sequence_length
    )
    training = tokens / sequence_length * for_sequences + steps * once
    nodes = plan.chips / cluster.node.chips
    parts = wall_time_shares(failures, nodes=nodes, interval=best_interval(failures, nodes=nodes))
    return Run(
        training=training,
        writing=training * parts.writing / parts.useful,
        rework=training * parts.rework / parts.useful,
        restart=training * parts.restart / parts.useful,
        steps=steps,
        flop=tokens * model.flop_per_token(sequence_length, backward=True).total,
        peak=one.peak,
        chips=plan.chips,
        prices=prices,
        legal=one.legal,
        fits=one.fits,
    )
