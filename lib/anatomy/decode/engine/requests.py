"""What is asked of the engine, what it refuses, and what became of each request."""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from anatomy.decode.sampling import Sampling, make_sampling
from anatomy.decode.sampling.draw import ALL, check_sampling
from anatomy.specs.base import COUNT, check_arguments

NUMBERS = {"limit": int, "temperature": float, "top_k": int, "top_p": float, "seed": int}


class Refused(ValueError):
    """A request that the engine cannot or will not take; the message says why, and what is allowed.

    Attributes:
        name: what is in the way: a field of the request, or a limit of the engine, with its owner.
        value: of it.
        allowed: what it may be.
    """

    def __init__(self, name: str, value: Any, allowed: str) -> None:
        """Say what is in the way, its value and what is allowed."""
        super().__init__(f"{name} is {value!r}; allowed: {allowed}")
        self.name, self.value, self.allowed = name, value, allowed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how to go on from it.

    Attributes:
        name: of the request, by which it is cancelled and found again.
        prompt: tokens.
        limit: tokens to add at most.
        end: tokens that end the answer.
        temperature: as `make_sampling`; 0 is greedy.
        top_k: as `make_sampling`.
        top_p: as `make_sampling`.
        seed: as `make_sampling`; the answer is the same whenever it is asked for again. None makes it from the name, so
            that requests have seeds of their own, and the same after a restart.

    Raises:
        TypeError, ValueError: the name is no string, prompt or end is no row, or a number is not allowed; the message
            names it.
    """

    name: str
    prompt: Sequence[int]
    limit: int
    end: Sequence[int] = ()
    temperature: float = 0.0
    top_k: int = ALL
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check all but the tokens, which the engine knows, and keep Python's own types, which a journal can write."""
        if not isinstance(self.name, str):
            raise TypeError(f"Request.name is {self.name!r}; allowed: a string")
        check_arguments("Request", COUNT, limit=self.limit)
        if self.seed is None:
            object.__setattr__(self, "seed", zlib.crc32(self.name.encode()))
        check_sampling("Request", self.temperature, self.top_k, self.top_p, self.seed)
        for number, kind in NUMBERS.items():
            object.__setattr__(self, number, kind(getattr(self, number)))
        for tokens in ("prompt", "end"):
            ids = np.asarray(getattr(self, tokens), object)
            if ids.ndim != 1:
                raise TypeError(f"Request.{tokens} is {getattr(self, tokens)!r}; allowed: tokens in one row")
            object.__setattr__(self, tokens, tuple(i.item() if hasattr(i, "item") else i for i in ids.tolist()))

    @property
    def tokens(self) -> int:
        """Of prompt and answer, at most."""
        return len(self.prompt) + self.limit

    def sampling(self) -> Sampling:
        """Settings of one sequence."""
        return make_sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the engine takes at once.

    Attributes:
        room: tokens of prompt and answer of one request.
        queue: requests that wait for a slot.
        page: tokens of a page of the cache; None reserves a row of `room` tokens for each slot instead.
        pages: of the cache; by default enough for all slots.
        readers: prompts that are read at once.

    Raises:
        TypeError, ValueError: a number is below 1 or not whole, or pages are given without the size of a page.
    """

    room: int
    queue: int = 1024
    page: int | None = None
    pages: int | None = None
    readers: int = 1

    def __post_init__(self) -> None:
        """Refuse what is impossible."""
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) is not None:
                check_arguments("Limits", COUNT, **{field.name: value})
                object.__setattr__(self, field.name, int(value))
        if self.page is None and self.pages is not None:
            raise ValueError(f"Limits.pages is {self.pages}; allowed: None, where page is None")


State = Literal["waiting", "reading", "making", "finished", "cancelled"]


@dataclasses.dataclass(eq=False)
class Answer:
    """What has become of a request so far; the engine writes, everybody reads.

    Attributes:
        request: what was asked.
        arrival: when it came, s.
        state: waiting for a slot, reading the prompt, making tokens, finished or cancelled.
        made: tokens of the answer.
        read: tokens of the prompt that were read.
        slot: that it has or had.
        start: when it got a slot, s.
        first: when its first token was made.
        finish: when its answer was handed out whole.
        released: when its slot was free again.
        gap: longest time between two of its tokens.
        held: whether its tokens are kept back until its batch is done.
    """

    request: Request
    arrival: float
    state: State = "waiting"
    made: list[int] = dataclasses.field(default_factory=list)
    read: int = 0
    slot: int = -1
    start: float = np.nan
    first: float = np.nan
    finish: float = np.nan
    released: float = np.nan
    gap: float = 0.0
    held: bool = False
    _last: float = np.nan

    @property
    def over(self) -> bool:
        """Whether no token will be added."""
        return self.state in ("finished", "cancelled")

    @property
    def tokens(self) -> list[int]:
        """Tokens that are handed out."""
        return [] if self.held else self.made

    def add(self, tokens: Sequence[int], now: float) -> None:
        """Add tokens that were made by now, as far as the answer goes."""
        for token in tokens:
            self.made.append(int(token))
            if token in self.request.end or len(self.made) == self.request.limit:
                self.state = "finished"
                break
        if np.isnan(self.first):
            self.first = now
        else:
            self.gap = max(self.gap, now - self._last)
        self._last = now
