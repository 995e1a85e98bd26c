"""Requests in a batch: a simulation of a server, step by step, with static or continuous batching.

In each step the server admits requests in the order of their arrival, reads some tokens of prompts, and gives one
token to each sequence whose prompt is read; the step that ends a prompt gives the first token of its answer. What a
step costs is a function of its `Work`. The program has fixed shapes and no branch, so it runs under `jit`, and `vmap`
runs many loads, seeds and policies at once.

Source: yu2022orca for continuous batching, agrawal2023sarathi for prompts read in chunks beside answers.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from anatomy.cost.queueing.answers import Answers, Steps
from anatomy.cost.queueing.step_costs import Work
from anatomy.cost.queueing.traffic import Requests
from anatomy.specs import Scalar
from anatomy.specs.base import is_concrete, number, refuse_where, spec, switch

SEGMENT = 512  # iterations between two looks at whether all is done


@spec
class Policy:
    """How a server fills its slots."""

    slots: Scalar = number("sequences", low=1, whole=True, doc="that can be in flight")
    continuous: Scalar = switch(default=True, doc="a free slot is filled at the next step, not when all are free")
    chunk: Scalar = number("tokens", above=0, default=np.inf, doc="of prompts read in a step, in order; inf: all of it")
    padded: Scalar = switch(
        default=False, doc="all of a batch are computed until its longest is done, with its longest prompt"
    )
    held: Scalar = switch(default=False, doc="the answers of a batch are handed out together")
    fill: Scalar = number(
        "requests", low=1, whole=True, default=1.0, doc="that an idle server waits for, or all that still come"
    )

    def check(self) -> None:
        """Refuse to wait for more requests than there are slots, and to pad or hold what is no batch.

        Raises:
            ValueError: fill is above slots, or padded or held goes with continuous.
        """
        refuse_where(np.asarray(self.fill) > self.slots, "Policy.fill", self.fill, "at most slots")
        for name in ("padded", "held"):
            wrong = (np.asarray(getattr(self, name)) > 0) & (np.asarray(self.continuous) > 0)
            refuse_where(wrong, f"Policy.{name}", getattr(self, name), "0 where continuous is 1")


def static(slots: Scalar, fill: Scalar = 1.0) -> Policy:
    """Static batching as it was: an idle server takes what waits, reads all prompts padded to the longest of them,
    computes all sequences until the longest answer is done, and hands the answers out together.

    Raises:
        TypeError, ValueError: as `Policy`.

    Source: yu2022orca, section 2, on what FasterTransformer did.
    """
    return Policy(slots=slots, continuous=0.0, padded=1.0, held=1.0, fill=fill)


class _Slots(NamedTuple):
    """One entry for each slot."""

    request: Int[Array, "slots"]  # its place in the order of arrival; as many as there are requests where it is free
    prompt: Float[Array, "slots"]
    output: Float[Array, "slots"]
    end: Float[Array, "slots"]  # of its prompt, in the row of all prompts' tokens
    made: Float[Array, "slots"]  # tokens of the answer
    start: Float[Array, "slots"]
    first: Float[Array, "slots"]
    last: Float[Array, "slots"]
    gap: Float[Array, "slots"]


class _State(NamedTuple):
    clock: Float[Array, ""]
    next: Int[Array, ""]  # request to be admitted
    promised: Float[Array, ""]  # tokens of the prompts of all requests admitted
    read: Float[Array, ""]  # of these
    done: Int[Array, ""]
    slots: _Slots
    rows: Float[Array, "requests columns"]
    impossible: Float[Array, ""]  # cost of a step, the last below 0 or not finite; 0 where there was none


def simulate(
    requests: Requests, policy: Policy, cost: Callable[[Work], Scalar], *, width: int | None = None, trace: int = 0
) -> Answers:
    """Serve these requests, from an empty server until the last is answered.

    Steps that only make tokens, between which nobody comes or goes, are taken together; that changes nothing where
    the cost is linear in the tokens cached, and rises with them. Double precision is advised: a clock in single
    precision loses the milliseconds after a few hours.

    Args:
        requests: by arrival.
        policy: how slots are filled.
        cost: seconds of a step from its `Work`; a pytree that can be called, as those in `step_costs`, or a function,
            for each of which the program is compiled anew.
        width: slots of the program, at least those of the policy; needed only where the policy is traced.
        trace: iterations, from the first, whose steps are kept.

    Returns:
        What became of each request, and the steps that were kept.

    Raises:
        ValueError: width is no whole number of at least the policy's slots, or trace none of at least 0; a step
            of one sequence with one token costs no finite number above 0 seconds, or another no finite one from 0 on,
            where it is not traced.
        TypeError: cost cannot be called.
    """
    traced = isinstance(policy.slots, jax.core.Tracer)
    if width is None and traced:
        raise ValueError("simulate.width is None; allowed: a number of slots, since those of the policy are traced")
    least = 1 if traced else int(np.max(policy.slots))
    width = least if width is None else width
    for name, value, low in (("width", width, least), ("trace", trace, 0)):
        if not isinstance(value, (int, np.integer)) or value < low:
            raise ValueError(f"simulate.{name} is {value!r}; allowed: a whole number of at least {low}")
    if not callable(cost):
        raise TypeError(f"simulate.cost is {cost!r}; allowed: a function from Work to seconds")
    if jax.tree_util.all_leaves([cost]):  # a plain function
        cost = jax.tree_util.Partial(cost)
    once = jax.jit(lambda cost, work: cost(work))(cost, Work(1.0, 0.0, 1.0, 2.0))
    if is_concrete(once):
        wrong = ~(np.isfinite(once) & (np.asarray(once) > 0))
        refuse_where(wrong, "simulate.cost", once, "a finite number above 0 (s) for a step of one sequence")
    made, impossible = _simulate(requests, policy, cost, int(width), int(trace))
    if is_concrete(impossible):
        wrong = np.asarray(impossible) != 0
        refuse_where(wrong, "simulate.cost", impossible, "a finite number at least 0 (s) for every step that comes")
    return made


@partial(jax.jit, static_argnames=("width", "trace"))
def _simulate(
    requests: Requests, policy: Policy, cost: Callable[[Work], Scalar], width: int, trace: int
) -> tuple[Answers, Float[Array, ""]]:
    """All of it, compiled; and the cost of a step that cannot be, or 0."""
    arrival, prompt, output = (jnp.asarray(x, float) for x in (requests.arrival, requests.prompt, requests.output))
    count = arrival.shape[0]
    coming = jnp.append(arrival, jnp.inf), jnp.append(prompt, 0.0), jnp.append(output, 1.0)
    turn = partial(_turn, coming, policy, cost)
    zero, none = jnp.zeros(width, float), jnp.zeros((), float)
    state = _State(
        clock=none, next=jnp.array(0), promised=none, read=none, done=jnp.array(0),
        slots=_Slots(jnp.full(width, count), *[zero] * 8), rows=jnp.full((count, len(Answers.ROW)), jnp.nan),
        impossible=none,
    )  # fmt: skip
    kept = jnp.zeros((-(-trace // SEGMENT) * SEGMENT, len(Steps._fields)))

    def unfinished(carry: tuple[_State, Array, Array]) -> Array:
        state, _, _ = carry
        return (state.done < count) & jnp.isfinite(state.clock)

    def segment(carry: tuple[_State, Array, Array]) -> tuple[_State, Array, Array]:
        state, kept, at = carry
        state, steps = jax.lax.scan(lambda s, _: turn(s), state, length=SEGMENT)
        if trace:
            within = at + SEGMENT <= kept.shape[0]
            place = jnp.minimum(at, kept.shape[0] - SEGMENT)
            old = jax.lax.dynamic_slice_in_dim(kept, place, SEGMENT)
            kept = jax.lax.dynamic_update_slice_in_dim(kept, jnp.where(within, steps, old), place, 0)
        return state, kept, at + SEGMENT

    state, kept, _ = jax.lax.while_loop(unfinished, segment, (state, kept, jnp.array(0)))
    columns = dict(zip(Answers.ROW, state.rows.T, strict=True))
    made = Answers(arrival=arrival, prompt=prompt, output=output, **columns, steps=Steps(*kept[:trace].T))
    return made, state.impossible


def _turn(
    coming: tuple[Array, Array, Array], policy: Policy, cost: Callable[[Work], Scalar], state: _State
) -> tuple[_State, Array]:
    """One iteration: admit, read, make tokens, let go; where nobody is left to serve, nothing happens."""
    state = _admit(coming, policy, state)
    arrival, count, s = coming[0], coming[0].shape[0] - 1, state.slots
    taken = s.request < count

    # Prompts are read in the order of arrival, so what is read of all is what is read of each.
    reading = taken & (s.prompt > 0) & (s.end > state.read)
    left = state.promised - state.read
    read = jnp.where(left <= policy.chunk, state.promised, state.read + policy.chunk)
    before, after = (jnp.clip(r - (s.end - s.prompt), 0.0, s.prompt) for r in (state.read, read))
    now = jnp.where(reading, after - before, 0.0)
    behind = jnp.where(now > 0, before, 0.0)

    making = taken & ~reading & (s.made < s.output)  # gets a token that counts
    computed = making | (taken & ~reading & (policy.padded > 0))
    n = jnp.sum(computed, dtype=float)
    context = jnp.sum(jnp.where(computed, jnp.maximum(s.prompt + s.made - (s.prompt > 0), 0.0), 0.0))
    scores = context + n + jnp.sum(jnp.where(reading, (after * (after + 1) - before * (before + 1)) / 2, 0.0))
    cached = context + jnp.sum(behind)
    read_of = jnp.sum(now > 0, dtype=float)

    # Steps taken together: until the next answer ends, or the next request could be admitted.
    ends = jnp.min(jnp.where(making, s.output - s.made, jnp.inf))
    alone = jnp.any(reading) | jnp.any(making & (s.made < 1)) | ~jnp.any(making)
    most = jnp.where(alone, 1.0, ends)
    grown = n * jnp.stack([jnp.zeros_like(n), most - 1])  # of the cache, until the first and the last of them
    begin, end = jax.vmap(lambda more: jnp.asarray(cost(Work(n, jnp.sum(now), cached + more, scores + more, read_of))))(
        grown
    )
    slope = (end - begin) / jnp.maximum(most - 1, 1.0)
    gap = arrival[state.next] - state.clock
    free = (policy.continuous > 0) & jnp.any(~taken & (jnp.arange(taken.size) < policy.slots))
    steps = jnp.where(free, jnp.clip(jnp.floor(gap / end), 1.0, most), most)
    busy = jnp.any(taken)
    duration = jnp.where(busy, steps * (begin + slope * (steps - 1) / 2), 0.0)
    worst = jnp.where((begin >= 0) & jnp.isfinite(begin), end, begin)
    possible = ~busy | ((worst >= 0) & jnp.isfinite(worst))
    clock = state.clock + duration

    came = reading & (s.end <= read)  # its first token
    made = s.made + jnp.where(computed, steps, 0.0) + came
    done = taken & (made >= s.output)
    last = jnp.where(done & (s.made < s.output), clock, s.last)
    out = done & ((policy.continuous > 0) | jnp.all(done | ~taken))
    first = jnp.where(came | (making & (s.made < 1)), clock, s.first)
    slowest = jnp.where(making & (s.made > 0), jnp.maximum(s.gap, begin + slope * (steps - 1)), s.gap)
    finish = jnp.where(policy.held > 0, clock, last)
    released = jnp.broadcast_to(clock, last.shape)
    row = jnp.stack([s.start, first, finish, released, slowest, jnp.arange(taken.size, dtype=float)], axis=1)
    rows = state.rows.at[jnp.where(out, s.request, count)].set(row, mode="drop")
    slots = s._replace(request=jnp.where(out, count, s.request), made=made, first=first, last=last, gap=slowest)
    step = Steps(
        start=state.clock, seconds=duration, steps=jnp.where(busy, steps, 0.0), making=jnp.sum(making, dtype=float),
        computed=n, prompt=jnp.sum(now), reading=read_of, taken=jnp.sum(taken, dtype=float),
    )  # fmt: skip
    after_turn = state._replace(
        clock=clock, read=read, done=state.done + jnp.sum(out), slots=slots, rows=rows,
        impossible=jnp.where(possible, state.impossible, worst),
    )  # fmt: skip
    return after_turn, jnp.stack(step)


def _admit(coming: tuple[Array, Array, Array], policy: Policy, state: _State) -> _State:
    """Give free slots to those who wait; an idle server first lets time pass until enough are there."""
    arrival, prompt, output = coming
    count, s = arrival.shape[0] - 1, state.slots
    place = jnp.arange(s.request.size)
    idle = jnp.all(s.request == count)
    enough = jnp.minimum(jnp.asarray(policy.fill, state.next.dtype), count - state.next)
    opens = arrival[jnp.maximum(state.next + enough - 1, 0)]
    clock = jnp.where(idle & (state.next < count), jnp.maximum(state.clock, opens), state.clock)
    waiting = jnp.sum(arrival[jnp.minimum(state.next + place, count)] <= clock)
    free = (s.request == count) & (place < policy.slots) & (idle | (policy.continuous > 0))
    rank = jnp.cumsum(free) - 1
    given = free & (rank < waiting)
    index = jnp.where(given, state.next + rank, count)
    new = jnp.where(given, prompt[index], 0.0)
    new = jnp.where(given & (policy.padded > 0), jnp.max(new), new)
    end = state.promised + jnp.cumsum(new)

    def fresh(value: Scalar, old: Array) -> Array:
        return jnp.where(given, value, old)

    slots = _Slots(
        request=fresh(index, s.request), prompt=fresh(new, s.prompt), output=fresh(output[index], s.output),
        end=fresh(end, s.end), made=fresh(0.0, s.made), start=fresh(clock, s.start), first=fresh(0.0, s.first),
        last=fresh(0.0, s.last), gap=fresh(0.0, s.gap),
    )  # fmt: skip
    return state._replace(clock=clock, next=state.next + jnp.sum(given), promised=end[-1], slots=slots)
