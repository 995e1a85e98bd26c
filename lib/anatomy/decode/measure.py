"""What serving takes on this machine, by the clock: decode steps against context, steps of the engine, and replays.

What is compared is measured in turns, so that whatever else the machine does falls on all equally. What is measured can
be kept as JSON. Seconds mean nothing elsewhere; their ratios do.
"""

import dataclasses
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from anatomy.cost.queueing.answers import Answers, Steps
from anatomy.cost.queueing.simulation import Policy
from anatomy.cost.queueing.step_costs import Table
from anatomy.decode.cache import Cache
from anatomy.decode.engine.decoder import Decoder
from anatomy.decode.engine.engine import Engine
from anatomy.decode.engine.replay import recorded, replay
from anatomy.decode.engine.requests import Limits, Request
from anatomy.decode.forward import ServedModel, extend, logits
from anatomy.decode.sampling import make_sampling
from anatomy.model import Config, Weights, empty_cache
from anatomy.specs.base import COUNT, between, check_arguments

FASTEST = 0.25  # share of the repeats that count where the machine's own speed is asked for


def in_turns(work: Mapping[Hashable, Callable[[], None]], repeats: int, fastest: float = 1.0) -> dict[Hashable, float]:
    """Seconds of each of several works, after a first time that does not count.

    Args:
        work: by name.
        repeats: of each.
        fastest: share of the repeats of which the mean is taken: other programs add time and never take any away.

    Raises:
        ValueError: repeats are below 1 or not whole, or the share is not between 0 and 1.
    """
    check_arguments("in_turns", COUNT, repeats=repeats)
    check_arguments("in_turns", between(high=1.0), fastest=fastest)
    taken = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, do in work.items():
            start = time.perf_counter()
            do()
            if turn:
                taken[name].append(time.perf_counter() - start)
    count = max(1, round(fastest * repeats))
    return {name: float(np.mean(sorted(each)[:count])) for name, each in taken.items()}


def decode_seconds(
    models: Mapping[str, tuple[Config, Weights]],
    batch: int,
    contexts: Sequence[int],
    *,
    passes: int = 4,
    repeats: int = 12,
) -> dict[str, list[float]]:
    """Seconds of a decode step of each model, of so many sequences that all have so many tokens in the cache.

    Speed depends on shapes and not on what was trained, so contexts may be longer than those of the training.

    Args:
        models: by name.
        batch: sequences.
        contexts: tokens of each in the cache.
        passes: steps of one program.
        repeats: of each measurement.

    Raises:
        ValueError: a number is below 1 or not whole.
    """
    check_arguments("decode_seconds", COUNT, batch=batch, passes=passes)
    check_arguments("decode_seconds", COUNT, contexts=np.asarray(contexts))
    states, work = {}, {}
    for name, (config, weights) in models.items():
        room = max(contexts) + passes
        model = ServedModel(weights, config.replace(context=room))
        states[name] = jnp.zeros(batch, jnp.int32), empty_cache(model.config, batch, room=room)

        def do(length: int, name: str = name, model: ServedModel = model) -> None:
            token, cache = states[name]
            cache = dataclasses.replace(cache, length=jnp.full(batch, length, jnp.int32))
            states[name] = jax.block_until_ready(_decode(passes, model, token, cache))

        work |= {(name, length): partial(do, length) for length in contexts}
    taken = in_turns(work, repeats, FASTEST)
    return {name: [taken[name, length] / passes for length in contexts] for name in models}


@partial(jax.jit, static_argnums=0, donate_argnums=3)
def _decode(passes: int, model: ServedModel, token: Int[Array, "B"], cache: Cache) -> tuple[Int[Array, "B"], Cache]:
    """Some greedy steps, which no host interrupts."""

    def step(_: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
        token, cache = carry
        x, cache = extend(model, cache, token[:, None], jnp.ones_like(token))
        return jnp.argmax(logits(model, x[:, 0]), -1).astype(jnp.int32), cache

    return jax.lax.fori_loop(0, passes, step, (token, cache))


def step_seconds(
    decoder: Decoder,
    policy: Policy,
    limits: Limits,
    tokens: Int[np.ndarray, "rows tokens"],
    *,
    sequences: Sequence[int],
    contexts: Sequence[int],
    prompts: Sequence[int],
    repeats: int = 8,
) -> dict[str, Any]:
    """Seconds of the engine's two programs on a grid, as a `Table` of step costs has it; means of all repeats.

    Args:
        decoder: of the engine.
        policy: slots, and tokens of a prompt that are read in a step.
        limits: without pages, and one prompt read at once.
        tokens: what the rows hold, as many as there are slots; real ones, for experts are chosen by them.
        sequences: numbers of rows that get a token, from 0 on.
        contexts: tokens of each in the cache.
        prompts: tokens of a prompt that are read, from 0 on.
        repeats: of each measurement.

    Returns:
        The arguments of `Table`, as lists.

    Raises:
        ValueError: the limits have pages or several readers, the tokens are too few, or sequences or prompts do not
            begin with 0.
    """
    slots, chunk = int(policy.slots), int(min(float(policy.chunk), limits.room))
    for name, value, wrong, allowed in (
        ("limits.page", limits.page, limits.page is not None, "None"),
        ("limits.readers", limits.readers, limits.readers != 1, "1"),
        ("tokens", np.shape(tokens), len(tokens) < slots or np.shape(tokens)[1] < chunk, f"{slots} rows of {chunk}"),
        ("sequences", sequences, sequences[0] != 0 or max(sequences) > slots, f"numbers from 0 to {slots}"),
        ("contexts", contexts, not 0 < min(contexts) <= max(contexts) < limits.room, f"below {limits.room}"),
        ("prompts", prompts, prompts[0] != 0 or max(prompts) > chunk, f"numbers from 0 to {chunk}"),
    ):
        if wrong:
            raise ValueError(f"step_seconds.{name} is {value!r}; allowed: {allowed}")
    sampling = make_sampling(slots, temperature=1.0)
    first = jax.tree.map(lambda a: a[:1], sampling)
    tokens = np.asarray(tokens, np.int32)
    state = decoder.empty(slots, limits, chunk)
    for begin in range(0, min(tokens.shape[1], limits.room - 1) - chunk + 1, chunk):
        for row in range(slots):
            length = np.full(slots, begin, np.int32)
            part, count = tokens[row : row + 1, begin : begin + chunk], np.array([chunk], np.int32)
            _, state = decoder.read(state, None, length, np.array([row], np.int32), part, count, sampling=first)

    def step(going: int, length: int, read: int) -> None:
        nonlocal state
        made, lengths = (), np.full(slots, length, np.int32)
        if going:
            on = (np.arange(slots) < going).astype(np.int32)
            made = decoder.make(state, None, lengths, tokens[:slots, length % tokens.shape[1]], on, sampling)
            state, made = made[-1], made[:-1]
        if read:
            # As the engine does: into a row of its own, or the last where all have one.
            row, count = np.array([slots - 1], np.int32), np.array([read], np.int32)
            got, state = decoder.read(state, None, 0 * lengths, row, tokens[:1, :chunk], count, sampling=first)
            made = made, got
        jax.device_get(made)

    grid = [
        (n, at, read) for n in sequences for at in contexts for read in prompts if n or (read and at == contexts[0])
    ]
    taken = in_turns({point: partial(step, *point) for point in grid}, repeats)
    least = min(taken.values())
    cost = [
        [[taken.get((n, at if n else contexts[0], read), least) for read in prompts] for at in contexts]
        for n in sequences
    ]
    return {"sequences": list(sequences), "cached_each": list(contexts), "prompt": list(prompts), "seconds": cost}


def step_table(*measured: Mapping[str, Any]) -> Table:
    """The mean of step costs that were measured on one grid at several times."""
    return Table(**{name: jnp.mean(jnp.asarray([m[name] for m in measured], float), axis=0) for name in measured[0]})


def served(
    decoder: Decoder, policy: Policy, limits: Limits, arrival: Float[np.ndarray, "requests"], requests: list[Request]
) -> dict[str, Any]:
    """Serve requests on a real clock: the columns of `Answers` and of its steps, which JSON can keep.

    Raises:
        ValueError: a request was refused; the message is why.
    """
    engine = Engine(decoder, policy, limits, kept=100_000)
    answers, refused = replay(engine, arrival, requests)
    if refused:
        raise ValueError(f"served.requests: {len(refused)} were refused, the first since {refused[0]}")
    made = recorded(answers, engine)
    columns = {f.name: getattr(made, f.name) for f in dataclasses.fields(made) if f.name != "steps"}
    zero = float(made.arrival[0] - np.asarray(arrival)[0])
    for name in ("arrival", "start", "first", "finish", "released"):
        columns[name] = columns[name] - zero
    steps = made.steps._replace(start=made.steps.start - zero)
    plain = lambda a: np.asarray(a, float).round(7).tolist()  # noqa: E731
    return {name: plain(a) for name, a in columns.items()} | {"steps": [plain(a) for a in steps]}


def answers_of(kept: Mapping[str, Any]) -> Answers:
    """What `served` gave, as the simulation has it."""
    columns = {name: np.array(value, float) for name, value in kept.items() if name != "steps"}
    return Answers(**columns, steps=Steps(*np.array(kept["steps"], float)))


class Span(NamedTuple):
    """What a slot did for a request in a step, or in all steps that made its tokens."""

    request: int
    slot: int
    begin: float  # s
    end: float
    prompt: bool  # read; otherwise tokens were made


def spans(made: Answers, chunk: int) -> list[Span]:
    """What slots did: each chunk of each prompt, and the tokens of each answer; what is between and after is idle.

    Args:
        made: by an engine with `PlainDecoder` that reads one prompt at once, with all its steps.
        chunk: tokens of a prompt that it reads in a step.

    Raises:
        ValueError: the steps do not read these prompts.
    """
    begin, end = made.steps.start, made.steps.start + made.steps.seconds
    reads = np.flatnonzero(made.steps.prompt > 0)
    turns = -(-made.prompt // chunk).astype(int)
    order = np.lexsort((made.slot, made.start))  # prompts are read one after the other
    if len(reads) != turns.sum():
        raise ValueError(f"spans.made has {len(reads)} steps that read; allowed: {turns.sum()}, as its prompts need")
    found, at = [], 0
    for number in order.tolist():
        slot, mine = int(made.slot[number]), reads[at : at + turns[number]]
        found += [Span(number, slot, float(begin[step]), float(end[step]), True) for step in mine]
        at += turns[number]
        if made.output[number] > 1:
            last = mine[-1] + int(made.output[number]) - 1  # the first token came with the prompt
            found.append(Span(number, slot, float(end[mine[-1]]), float(end[last]), False))
    return found
