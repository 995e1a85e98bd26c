"""The serving engine: requests come and go at every step, and the programs on the device never change shape.

The host decides, step by step, who has a slot (a row of the cache), whose prompt is read and who makes tokens; the
device computes all rows at once. A request that is admitted has the memory for its whole answer reserved, so nothing
that was begun is ever put back. The policy is that of the simulation (`cost.queueing.simulation`), which foretells what
the engine does.

Source: yu2022orca for admitting and retiring at every step; kwon2023vllm for pages; agrawal2023sarathi for prompts
read in chunks beside answers.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array

from anatomy.cost.queueing.simulation import Policy
from anatomy.cost.queueing.step_costs import Work
from anatomy.decode.cache import Pool
from anatomy.decode.engine.clock import Clock
from anatomy.decode.engine.decoder import Decoder, page_layout
from anatomy.decode.engine.journal import Journal
from anatomy.decode.engine.requests import Answer, Limits, Refused, Request
from anatomy.decode.generate import check_prompt
from anatomy.decode.sampling import make_sampling
from anatomy.decode.sampling.draw import INVALID


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step did; names as in `cost.queueing.answers.Steps`."""

    start: float
    seconds: float
    making: int
    computed: int
    prompt: int
    reading: int
    taken: int


class Engine:
    """Serves requests with one decoder.

    Attributes:
        slots: an answer, or None, for each row.
        queue: answers that wait.
        closing: no request is about to come, so that a policy that waits for more need not.
        steps: what the newest steps did.
    """

    def __init__(
        self,
        decoder: Decoder,
        policy: Policy,
        limits: Limits,
        clock: Clock | None = None,
        journal: Journal | None = None,
        kept: int = 0,
    ) -> None:
        """An engine that is ready: its programs are compiled, and what the journal has promised is queued.

        Args:
            decoder: what is computed.
            policy: slots, continuous or static, tokens of a prompt that are read in a step (`chunk`, in the readers'
                shares). Where it is `padded`, rows that are done are computed on until their batch is done; prompts
                are not padded.
            limits: of lengths, queue and memory.
            clock: by default as time passes.
            journal: of what is promised.
            kept: steps that are remembered.

        Raises:
            ValueError: the room is above the model's context, there are more readers than slots, or chunk is no
                whole number or less than the readers.
            Refused: the journal has promised what this engine has no room for.
        """
        slots, most = int(policy.slots), decoder.config.context
        chunk = min(float(policy.chunk), limits.room * limits.readers)
        for name, value, wrong, allowed in (
            ("limits.room", limits.room, limits.room > most, f"at most the context ({most})"),
            ("limits.readers", limits.readers, limits.readers > slots, f"at most slots ({slots})"),
            (
                "policy.chunk",
                policy.chunk,
                chunk != int(chunk) or chunk < limits.readers,
                "whole, at least one for a reader",
            ),
        ):
            if wrong:
                raise ValueError(f"Engine.{name} is {value:g}; allowed: {allowed}")
        self.decoder, self.policy, self.limits = decoder, policy, limits
        self.clock, self.journal, self.closing = clock or Clock(), journal, False
        self.slots: list[Answer | None] = [None] * slots
        self.queue: deque[Answer] = deque()
        self.steps: deque[Step] = deque(maxlen=kept)
        self._live: dict[str, Answer] = {}
        self._chunk = int(chunk) // limits.readers
        self._pool = None
        # A pass may write past the end of an answer; that has room of its own.
        space = dataclasses.replace(limits, room=limits.room + decoder.ahead)
        if limits.page is not None:
            self._pool = Pool(**page_layout(slots, space))
        self._length, self._token = np.zeros((2, slots), np.int32)
        self._sampling = jax.tree.map(np.array, make_sampling(slots, temperature=0.0))
        self._state = decoder.empty(slots, space, self._chunk)
        self._make([])
        self._read([], [])
        for request in list(journal.unfinished.values()) if journal else ():
            self._check(request)  # the engine that promised it may have had more room
            self._enter(Answer(request, self.clock.now()))

    # Requests come, and may be taken back

    def submit(self, request: Request, arrival: float | None = None) -> Answer:
        """Accept a request.

        Args:
            request: what is asked.
            arrival: when it came; by default now.

        Returns:
            Its answer, which grows with the steps.

        Raises:
            Refused: the prompt is empty or has tokens that the model has not; prompt and limit are longer than a
                row or than all memory; the queue is full; or the name is in use.
        """
        self._check(request)
        if len(self.queue) >= self.limits.queue:
            allowed = f"fewer than {self.limits.queue} waiting requests, Limits.queue; submit it again after some steps"
            raise Refused("Engine.queue", len(self.queue), allowed)
        if self.journal:
            self.journal.accepted(request)
        return self._enter(Answer(request, self.clock.now() if arrival is None else arrival))

    def cancel(self, name: str) -> Answer:
        """Take a request back; its slot and memory are free for the next step.

        Raises:
            KeyError: no unfinished request has this name.
        """
        if name not in self._live:
            raise KeyError(f"cancel.name is {name!r}; allowed: the name of an unfinished request")
        answer = self._live[name]
        if answer.state == "waiting":
            self.queue.remove(answer)
        answer.state = "cancelled"
        self._retire([answer])
        return answer

    def stream(self, answer: Answer) -> Iterator[int]:
        """Tokens of an answer as they are handed out; runs steps, for all requests, while none is there."""
        given = 0
        while True:
            yield from answer.tokens[given:]
            given = len(answer.tokens)
            if answer.over and not answer.held:
                return
            if not self.step() and not any(self.slots):
                self.closing = True  # who waits for this answer sends no other request

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.queue and not any(self.slots)

    @property
    def pages_free(self) -> int | None:
        """Pages that nobody has; None where there are none."""
        return len(self._pool.free) if self._pool else None

    def run(self) -> None:
        """Step until nothing is left to do."""
        self.closing = True
        while not self.idle:
            self.step()

    # A step

    def step(self) -> list[Answer]:
        """Admit, read chunks of prompts, make tokens, retire.

        Returns:
            Answers that got tokens or ended.

        Raises:
            FloatingPointError: logits are not finite; the requests concerned are cancelled, the others go on.
        """
        start = self.clock.now()
        self._admit(start)
        mine = [a for a in self.slots if a is not None]
        making = [a for a in mine if a.state == "making" or (a.over and self.policy.padded)]
        reading = sorted((a for a in mine if a.state == "reading"), key=lambda a: a.start)[: self.limits.readers]
        if not making and not reading:
            return []
        count = [min(self._chunk, len(a.request.prompt) - a.read) for a in reading]
        work = self._work(making, reading, count)
        made, first = self._make(making) if making else (), self._read(reading, count) if reading else ()
        made, first = jax.device_get((made, first))  # not before both are under way
        self.clock.worked(work)
        now, changed = self.clock.now(), []
        going = sum(not a.over for a in making)
        self.steps.append(Step(start, now - start, going, len(making), sum(count), len(reading), len(mine)))
        for answer in making:
            if not answer.over:
                tokens = made[0][answer.slot, : made[1][answer.slot]]
                self._length[answer.slot] += len(tokens)
                self._hand_out(answer, tokens, now)
                changed.append(answer)
        for answer, read, token in zip(reading, count, first, strict=False):
            answer.read += read
            self._length[answer.slot] += read
            if answer.read == len(answer.request.prompt):
                answer.state = "making"
                self._hand_out(answer, [token], now)
                changed.append(answer)
        self._retire([a for a in changed if a.over])
        if failed := [a.request.name for a in changed if a.state == "cancelled"]:
            raise FloatingPointError(
                f"Engine.step: the logits of requests {failed} are not finite, and these are cancelled; "
                "allowed: finite numbers. Look for NaN or infinity in the weights"
            )
        return changed

    def _hand_out(self, answer: Answer, tokens: Sequence[int], now: float) -> None:
        """Add tokens to an answer, or cancel it where one could not be drawn."""
        if min(tokens) == INVALID:
            answer.state = "cancelled"
            return
        self._token[answer.slot] = tokens[-1]
        answer.add(tokens, now)

    @property
    def _vocabulary(self) -> int:
        return self.decoder.config.vocabulary

    def _check(self, request: Request) -> None:
        """Refuse what this engine could never serve, or has a name for."""
        for tokens in ("prompt", "end"):
            try:
                check_prompt(tokens, getattr(request, tokens) or ([0] if tokens == "end" else []), self._vocabulary)
            except (TypeError, ValueError) as error:
                ids = f"tokens from 0 to {self._vocabulary - 1}, at least one in a prompt"
                raise Refused(f"Request.{tokens}", getattr(request, tokens)[:8], ids) from error
        if request.tokens > self.limits.room:
            raise Refused("Request.prompt and limit", request.tokens, f"at most {self.limits.room} tokens, Limits.room")
        if self._pool and self._pool.pages_for(self._places(request)) > self._pool.count:
            most = self._pool.count * self._pool.size - self.decoder.ahead
            raise Refused(
                "Request.prompt and limit", request.tokens, f"at most {most} tokens, for which Limits.pages has room"
            )
        if request.name in self._live:
            raise Refused("Request.name", request.name, "a name that no unfinished request has")

    def _places(self, request: Request) -> int:
        """Of the cache, that a request may need."""
        return request.tokens + self.decoder.ahead

    def _enter(self, answer: Answer) -> Answer:
        self._live[answer.request.name] = answer
        self.queue.append(answer)
        self.closing = False
        return answer

    def _admit(self, now: float) -> None:
        """Give slots to those who wait longest, as long as there are slots and memory."""
        busy = any(self.slots)
        if busy and not self.policy.continuous:
            return
        if not busy and not self.closing and len(self.queue) < self.policy.fill:
            return
        for slot, taken in enumerate(self.slots):
            if taken or not self.queue:
                continue
            request = self.queue[0].request
            if self._pool:
                if self._pool.pages_for(self._places(request)) > len(self._pool.free):
                    return  # nobody overtakes
                self._pool.take(slot, self._places(request))
            answer = self.slots[slot] = self.queue.popleft()
            answer.slot, answer.start, answer.state = slot, now, "reading"
            answer.held = bool(self.policy.held)
            self._length[slot] = 0
            for old, new in zip(*map(jax.tree.leaves, (self._sampling, request.sampling())), strict=True):
                old[slot] = new

    def _retire(self, over: list[Answer]) -> None:
        """Note answers that are over, and free their slots: at once, or where batches are static with the last."""
        now = self.clock.now()
        for answer in over:
            answer.finish = now
            del self._live[answer.request.name]
        if self.journal and over:
            self.journal.over(over)
        if not self.policy.continuous:
            mine = [a for a in self.slots if a is not None]
            over = [a for a in over if a.slot < 0] + (mine if all(a.over for a in mine) else [])
        for answer in over:
            answer.released, answer.held = now, False
            if self.policy.held:
                answer.finish = now
            if answer.slot >= 0:
                self.slots[answer.slot] = None
                if self._pool:
                    self._pool.give_back(answer.slot)

    def _make(self, making: list[Answer]) -> tuple[Array, Array]:
        """Start to compute the next tokens of these: tokens of all rows, and how many."""
        going = np.zeros_like(self._token)
        going[[a.slot for a in making]] = 1
        table = self._pool and self._pool.table
        made, count, self._state = self.decoder.make(
            self._state, table, self._length, self._token, going, self._sampling
        )
        return made, count

    def _read(self, reading: list[Answer], count: list[int]) -> Array:
        """Start to read the next tokens of these prompts: the token after each."""
        mine, readers = [a.slot for a in reading], self.limits.readers
        rows = np.array((mine + [s for s in range(len(self.slots)) if s not in mine])[:readers], np.int32)
        tokens, counts = np.zeros((readers, self._chunk), np.int32), np.zeros(readers, np.int32)
        counts[: len(count)] = count
        for row, answer, number in zip(tokens, reading, count, strict=False):
            row[:number] = answer.request.prompt[answer.read : answer.read + number]
        table, sampling = self._pool and self._pool.table, jax.tree.map(lambda a: a[rows], self._sampling)
        first, self._state = self.decoder.read(self._state, table, self._length, rows, tokens, counts, sampling)
        return first

    def _work(self, making: list[Answer], reading: list[Answer], count: list[int]) -> Work:
        """What the step has to do, as the cost models count it."""
        cached = sum(int(self._length[a.slot]) for a in making)
        spans = [(a.read, a.read + n) for a, n in zip(reading, count, strict=True)]
        within = sum((end * (end + 1) - begin * (begin + 1)) // 2 for begin, end in spans)
        return Work(
            float(len(making)),
            float(sum(count)),
            float(cached + sum(begin for begin, _ in spans)),
            float(cached + len(making) + within),
            float(len(spans)),
        )
