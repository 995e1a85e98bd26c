"""Replays of traffic: arrivals by chance or as they were recorded, and what became of each request."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from anatomy.cost.queueing.answers import Answers, Steps
from anatomy.cost.queueing.traffic import Requests
from anatomy.decode.engine.engine import Engine
from anatomy.decode.engine.requests import Answer, Refused, Request


def random_requests(
    traffic: Requests, vocabulary: int, temperature: float = 0.0, seed: int = 0, name: str = ""
) -> list[Request]:
    """Requests with prompts and limits as long as the traffic says, of tokens drawn at random.

    Args:
        traffic: lengths; its prompts are of at least one token.
        vocabulary: tokens that prompts are drawn from.
        temperature: of each.
        seed: of the prompts; each request has a seed of its own.
        name: in front of its number in each request's name.

    Raises:
        ValueError: a length is not allowed; the message names it.
    """
    random = np.random.default_rng(seed)
    lengths = zip(np.asarray(traffic.prompt).astype(int), np.asarray(traffic.output).astype(int), strict=True)
    return [
        Request(
            name=f"{name}{number}",
            prompt=random.integers(vocabulary, size=prompt),
            limit=int(output),
            temperature=temperature,
            seed=number,
        )
        for number, (prompt, output) in enumerate(lengths)
    ]


def replay(
    engine: Engine, arrival: Float[np.ndarray, "requests"], requests: Sequence[Request]
) -> tuple[list[Answer], list[Refused]]:
    """Submit requests when their time comes, by the engine's clock from now on, and serve until all are answered.

    Args:
        engine: without requests.
        arrival: of each request after the first moment, s, in order.
        requests: as many.

    Returns:
        Answers to those that were accepted, in this order, and the refusals.

    Raises:
        ValueError: the engine is busy, or there are not as many arrivals as requests.
    """
    if len(arrival) != len(requests):
        raise ValueError(f"replay.arrival has {len(arrival)} times; allowed: {len(requests)}, one for each request")
    if not engine.idle:
        raise ValueError("replay.engine has requests; allowed: an idle one; run it until they are answered first")
    answers, refused, zero = [], [], engine.clock.now()
    coming = list(zip((zero + np.asarray(arrival, float)).tolist(), requests, strict=True))[::-1]
    while coming or not engine.idle:
        while coming and coming[-1][0] <= engine.clock.now():
            came, request = coming.pop()
            try:
                answers.append(engine.submit(request, came))
            except Refused as error:
                refused.append(error)
        engine.closing = not coming
        waits = not any(engine.slots) and (not engine.queue or len(engine.queue) < engine.policy.fill)
        if coming and waits:
            engine.clock.wait(coming[-1][0])
        else:
            engine.step()
    return answers, refused


def recorded(answers: Sequence[Answer], engine: Engine | None = None) -> Answers:
    """What became of requests that were answered, as the simulation has it, with percentiles and rates.

    Args:
        answers: finished, at least one.
        engine: that kept its steps, or none.

    Raises:
        ValueError: an answer is not finished, or there is none.
    """
    if not answers:
        raise ValueError("recorded.answers is empty; allowed: at least one answer")
    if wrong := [a.request.name for a in answers if a.state != "finished"]:
        raise ValueError(
            f"recorded.answers has {wrong}, which are not finished; allowed: finished ones; run the engine"
        )
    steps = engine.steps if engine else ()
    columns = [[getattr(step, name) if name != "steps" else 1 for step in steps] for name in Steps._fields]
    row = {name: np.array([getattr(a, name) for a in answers], float) for name in (*Answers.ROW, "arrival")}
    prompt, output = np.array([(len(a.request.prompt), len(a.made)) for a in answers], float).T
    return Answers(**row, prompt=prompt, output=output, steps=Steps(*np.array(columns, float)))
