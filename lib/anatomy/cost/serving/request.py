"""What a user sees, and what it costs: a prompt is read, then an answer is written token by token."""

from typing import NamedTuple

from anatomy.cost.efficiency import Overheads
from anatomy.cost.serving.steps import Pass, decode, prefill
from anatomy.specs import Architecture, Cluster, Scalar, Serving
from anatomy.specs.base import AT_LEAST_ONE, check_arguments, finite


class Request(NamedTuple):
    """Sequences that are served together, from the prompt to the last token of the answer."""

    prompt: Pass
    step: Pass  # of decoding, half-way through the answer
    answer: Scalar  # tokens

    @property
    def time_to_first_token(self) -> Scalar:
        """Seconds until the first token of the answer is out, without waiting in a queue."""
        return self.prompt.seconds

    @property
    def time_per_output_token(self) -> Scalar:
        """Seconds for each token after it."""
        return self.step.seconds

    @property
    def seconds(self) -> Scalar:
        """Seconds of the whole: the first token comes from the prompt, the others from a step each."""
        return self.time_to_first_token + (self.answer - 1) * self.time_per_output_token

    @property
    def tokens_per_second(self) -> Scalar:
        """Tokens of all answers in a second, where the same chips read and write and take one batch after the other."""
        return self.step.sequences * self.answer / self.seconds

    @property
    def tokens_per_chip(self) -> Scalar:
        """The same for a chip."""
        return self.tokens_per_second / self.step.chips

    @property
    def tokens_per_user(self) -> Scalar:
        """Tokens in a second that one user sees written."""
        return 1 / self.time_per_output_token

    @property
    def mfu(self) -> Scalar:
        """Model FLOP utilisation of the whole, by the 16-bit peak."""
        flop = self.prompt.flop + (self.answer - 1) * self.step.flop
        return flop / (self.seconds * self.step.peak)

    def dollars_per_million(self, chip_hour: Scalar) -> tuple[Scalar, Scalar]:
        """Dollars for a million tokens in and out, at so many dollars for an hour of a chip."""
        return self.prompt.dollars_per_million(chip_hour), self.step.dollars_per_million(chip_hour)


def request(
    model: Architecture,
    plan: Serving,
    cluster: Cluster,
    constants: Overheads,
    *,
    batch: Scalar,
    prompt: Scalar,
    answer: Scalar,
) -> Request:
    """Prompts of some length that are read together, and answers that are written together.

    The time of a step grows in proportion to the context, so the step half-way stands for all of them.

    Args:
        model: that serves.
        plan: how it is laid out.
        cluster: on what.
        constants: what of the peaks is reached, and what it takes to start.
        batch: sequences in flight, of one replica.
        prompt: tokens of each that are read.
        answer: tokens of each that are written.

    Raises:
        TypeError, ValueError: sequences or prompt is not a finite number above 0, or answer none from 1 on.
    """
    check_arguments("request", finite(AT_LEAST_ONE), answer=answer)
    read = prefill(model, plan, cluster, constants, batch=batch, prompt=prompt)
    step = decode(model, plan, cluster, constants, batch=batch, context=prompt + answer / 2)
    return Request(read, step, answer)
