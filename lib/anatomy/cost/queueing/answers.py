"""What became of requests at a server: waits, latencies, throughput, and how full it was."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from anatomy.specs.base import AnyArray, Scalar, between, check_arguments, is_concrete, refuse_where, register

BETWEEN_STEPS = 0.1  # of the time of slots, that a clock may see pass between steps


class Steps(NamedTuple):
    """Steps in the order of time, those between which nothing changed taken together; zeros after the last."""

    start: Real[AnyArray, "... steps"]  # s
    seconds: Real[AnyArray, "... steps"]  # of all that are taken together
    steps: Real[AnyArray, "... steps"]  # how many
    making: Real[AnyArray, "... steps"]  # sequences that get a token in each
    computed: Real[AnyArray, "... steps"]  # these and those that fill a batch
    prompt: Real[AnyArray, "... steps"]  # tokens of prompts read
    reading: Real[AnyArray, "... steps"]  # sequences whose prompt is read, in part or whole
    taken: Real[AnyArray, "... steps"]  # slots


@dataclasses.dataclass(frozen=True)
class Answers:
    """What became of each request; arrays over requests, with an axis in front for all that was run at once.

    Attributes:
        arrival: when it came, s.
        prompt: tokens read.
        output: tokens of the answer.
        start: when it got a slot, s.
        first: when its first token was made.
        finish: when its answer was handed out whole.
        released: when its slot was free again.
        gap: longest time between two of its tokens, s; 0 where there is one token.
        slot: that it had.
        steps: of the server, as far as they were kept.
    """

    ROW: ClassVar = ("start", "first", "finish", "released", "gap", "slot")

    arrival: Real[AnyArray, "... requests"]
    prompt: Real[AnyArray, "... requests"]
    output: Real[AnyArray, "... requests"]
    start: Real[AnyArray, "... requests"]
    first: Real[AnyArray, "... requests"]
    finish: Real[AnyArray, "... requests"]
    released: Real[AnyArray, "... requests"]
    gap: Real[AnyArray, "... requests"]
    slot: Real[AnyArray, "... requests"]
    steps: Steps

    @property
    def wait(self) -> Real[AnyArray, "... requests"]:
        """Seconds until each got a slot."""
        return self.start - self.arrival

    @property
    def time_to_first_token(self) -> Real[AnyArray, "... requests"]:
        """TTFT, seconds until the first token: the wait, and reading the prompt."""
        return self.first - self.arrival

    @property
    def latency(self) -> Real[AnyArray, "... requests"]:
        """Seconds until the whole answer."""
        return self.finish - self.arrival

    @property
    def time_per_output_token(self) -> Float[Array, "... requests"]:
        """TPOT, seconds between tokens, mean of each answer; NaN where there is one token."""
        return jnp.where(self.output > 1, (self.finish - self.first) / jnp.maximum(self.output - 1, 1.0), jnp.nan)

    @property
    def normalised(self) -> Real[AnyArray, "... requests"]:
        """Latency over tokens of the answer, s: the measure of yu2022orca."""
        return self.latency / self.output

    @property
    def span(self) -> Float[Array, "..."]:
        """Seconds from the first arrival to the last answer."""
        return jnp.max(self.finish, axis=-1) - self.arrival[..., 0]

    @property
    def requests_per_second(self) -> Float[Array, "..."]:
        """Answers a second over the whole span."""
        return self.arrival.shape[-1] / self.span

    @property
    def tokens_per_second(self) -> Float[Array, "..."]:
        """Tokens of answers a second over the whole span."""
        return jnp.sum(self.output, axis=-1) / self.span

    def in_system(self, times: Real[AnyArray, "times"]) -> Float[Array, "times"]:
        """Requests that have come and are not answered, at these times; of one run.

        Raises:
            ValueError: this is more than one run.
        """
        return self._present(self.arrival, self.finish, times)

    def in_flight(self, times: Real[AnyArray, "times"]) -> Float[Array, "times"]:
        """Slots that are taken, at these times; of one run.

        Raises:
            ValueError: this is more than one run.
        """
        return self._present(self.start, self.released, times)

    def _present(self, begin: AnyArray, end: AnyArray, times: AnyArray) -> Array:
        if begin.ndim != 1:
            raise ValueError(f"Answers.arrival has shape {begin.shape}; allowed: one run, one axis")
        came = jnp.searchsorted(jnp.sort(begin), times, side="right")
        return came - jnp.searchsorted(jnp.sort(end), times, side="right")

    def slot_use(self, slots: Scalar) -> Float[Array, "..."]:
        """Share of so many slots' time, over the whole span, in which a request was read or got tokens.

        Raises:
            ValueError: the steps that were kept are not those of these requests: they hold slots for another time.
        """
        held = jnp.sum(self.steps.seconds * self.steps.taken, axis=-1)
        asked = jnp.sum(self.released - self.start, axis=-1)
        if is_concrete((held, asked)):
            wrong = ~(np.abs(np.asarray(held / asked) - 1) <= BETWEEN_STEPS)
            allowed = "about the time for which the requests had slots: keep all steps, and all requests"
            refuse_where(wrong, "slot_use.steps, in seconds of slots,", held, allowed)
        useful = self.steps.seconds * (self.steps.making + self.steps.reading)
        return jnp.sum(useful, axis=-1) / (slots * self.span)

    def settled(self, skip: float = 0.1) -> "Answers":
        """Without the first and the last requests, that found the server emptier than it stays, or left it so.

        Args:
            skip: share of the requests, at each end.

        Raises:
            ValueError: skip is not between 0 and a half.
        """
        check_arguments("settled", between(high=0.49), skip=skip)
        count = self.arrival.shape[-1]
        kept = slice(int(skip * count), count - int(skip * count))
        rest = {f.name: getattr(self, f.name)[..., kept] for f in dataclasses.fields(self) if f.name != "steps"}
        return dataclasses.replace(self, **rest)


def between_tokens(steps: Steps, shares: Float[np.ndarray, "shares"]) -> Float[np.ndarray, "shares"]:
    """Quantiles of the time between two tokens of a sequence, over all tokens made in these steps of one run, s.

    Raises:
        ValueError: a share is not between 0 and 1, or no token was made.
    """
    check_arguments("between_tokens", between(high=1.0), shares=shares)
    weight = np.asarray(steps.steps * steps.making)
    if weight.ndim != 1 or weight.sum() <= 0:
        raise ValueError(f"between_tokens.steps made {weight.sum():g} tokens, shape {weight.shape}; allowed: one run")
    seconds = np.asarray(steps.seconds)[weight > 0] / np.asarray(steps.steps)[weight > 0]
    order = np.argsort(seconds)
    below = np.cumsum(weight[weight > 0][order]) / weight.sum()
    return seconds[order][np.minimum(np.searchsorted(below, shares), len(order) - 1)]


register(Answers)
