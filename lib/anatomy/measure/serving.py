"""Serving on the clock of this machine, measured once and cached: the engine, and decode steps of attention variants.

The engine serves the trained target, with requests all at once, at random at a rate that both ways of batching carry,
and as recorded; beside it stands what the simulation predicts of the same requests.
"""

import csv
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import jax
import numpy as np

from anatomy.cost.queueing.answers import Answers
from anatomy.cost.queueing.simulation import Policy, simulate
from anatomy.cost.queueing.step_costs import Table, Work
from anatomy.cost.queueing.traffic import Requests, lognormal_lengths, poisson
from anatomy.decode import Limits, PlainDecoder, Request, ServedModel, measure
from anatomy.measure.cache import cached
from anatomy.train import recipes
from anatomy.train.data import tokens
from anatomy.train.data.sources import LENGTH, VOCABULARY

SLOTS, CHUNK, COUNT = 16, 64, 100
PROMPT = {"mean": 40.0, "variation": 0.7, "longest": 96.0}  # tokens
ANSWER = {"mean": 40.0, "variation": 1.0, "longest": 160.0}
SHORTER = 40.0, 4.0  # prompts and answers of the recording are made so many times shorter, to fit the context
LOAD = 0.7  # of what static batching carries, as the simulation has it
LIMITS = Limits(room=LENGTH, queue=COUNT)
# Static as generous as can be: prompts are not padded, and rows that are done are not computed on.
POLICIES = {
    "continuous": Policy(slots=SLOTS, chunk=CHUNK),
    "static": Policy(slots=SLOTS, chunk=CHUNK, continuous=0.0, held=1.0),
}
GRID = {"sequences": (0, 1, 4, SLOTS), "contexts": (32, 192), "prompts": (0, 16, CHUNK)}
ROWS, CONTEXTS = 32, (128, 1024, 2048, 3072, 4096)  # sequences of a decode step, and tokens of each in the cache


class ServedTraffic(NamedTuple):
    """One traffic, served by both policies: measured, and as predicted.

    Attributes:
        requests: that came.
        measured: by the clock.
        predicted: by the simulation, with costs of steps that were measured before and after.
        slowdown: how many times longer the steps took than the costs say.
        corrected: by the simulation with costs that are so many times higher.
    """

    requests: Requests
    measured: dict[str, Answers]
    predicted: dict[str, Answers]
    slowdown: dict[str, float]
    corrected: dict[str, Answers]


def random_requests(arrival: np.ndarray) -> Requests:
    """Requests with lengths that have long tails."""
    keys, laws = jax.random.split(jax.random.key(0), 2), (PROMPT, ANSWER)
    prompt, output = (lognormal_lengths(key, count=len(arrival), **law) for key, law in zip(keys, laws, strict=True))
    return Requests(arrival=arrival, prompt=prompt, output=output)


def recording() -> str:
    """The recorded conversations, as the file has them."""
    return (files("anatomy.measure") / "conversations.csv").read_text("utf-8")


def recorded_requests(rate: float) -> Requests:
    """A recording of conversations that Azure served (patel2024splitwise), shortened, at so many requests a second."""
    result = list(csv.DictReader(line for line in recording().splitlines() if not line.startswith("#")))[:COUNT]
    second, prompt, answer = (np.array([float(row[name]) for row in result]) for name in ("second", "prompt", "answer"))
    lengths = {"prompt": np.ceil(prompt / SHORTER[0]), "output": np.ceil(answer / SHORTER[1])}
    return Requests(arrival=second * len(result) / (rate * second[-1]), **lengths)


def held_out_texts() -> np.ndarray:
    """Rows of tokens that training has not seen, of prose and of code in turns."""
    bpe = tokens.tokenizer(VOCABULARY)
    rows = [tokens.packed(bpe, name, "held_out", LENGTH)[:COUNT, :LENGTH] for name in tokens.EPOCHS]
    return np.stack(rows, 1).reshape(-1, LENGTH)


def with_prompts(requests: Requests) -> list[Request]:
    """Prompts of these lengths from real texts; answers are drawn at temperature 1, up to their limit."""
    lengths = zip(held_out_texts(), np.asarray(requests.prompt), np.asarray(requests.output), strict=False)
    return [
        Request(name=f"{number}", prompt=text[: int(read)], limit=int(write), temperature=1.0, seed=number)
        for number, (text, read, write) in enumerate(lengths)
    ]


def decoder() -> PlainDecoder:
    """The trained target."""
    made = recipes.trained("target", progress=False)
    return PlainDecoder(ServedModel(made.weights, made.config))


def predict(requests: Requests, cost: Table, way: str) -> Answers:
    """What the simulation says of them with one of the policies."""
    return simulate(requests, POLICIES[way], cost, width=SLOTS, trace=4096)


def slowdown(made: Answers, cost: Table) -> float:
    """How many times longer an engine's steps took than a table says of the same work; all contexts are as the mean."""
    context = float(np.average(made.prompt + made.output / 2, weights=made.output))
    making, prompt = made.steps.making, made.steps.prompt
    predicted = jax.vmap(lambda n, read: cost(Work(n, read, n * context, n * (context + 1))))(making, prompt)
    return float(made.steps.seconds.sum() / predicted.sum())


@cache
def results() -> dict[str, ServedTraffic]:
    """Each traffic, measured and as predicted; measured once on this machine, in about a minute.

    The costs that a simulation is given are those before and after its traffic was served.
    """
    result = cached(["target"], measure_serving)
    with jax.enable_x64(True):
        traffic = traffics(result["rate"])
        costs = [measure.step_table(*result["costs"][i : i + 2]) for i in range(len(traffic))]
        return {
            name: beside_prediction(each, result["served"][name], cost)
            for cost, (name, each) in zip(costs, traffic.items(), strict=True)
        }


def beside_prediction(requests: Requests, measured: dict[str, Any], cost: Table) -> ServedTraffic:
    """What was measured, and what the simulation says with this cost of a step."""
    clock = {way: measure.answers_of(measured[way]) for way in POLICIES}
    longer = {way: slowdown(made, cost) for way, made in clock.items()}
    corrected = {way: predict(requests, Table(*cost.axes, cost.seconds * longer[way]), way) for way in POLICIES}
    return ServedTraffic(requests, clock, {way: predict(requests, cost, way) for way in POLICIES}, longer, corrected)


def traffics(rate: float) -> dict[str, Requests]:
    """The traffics."""
    return {
        "all at once": random_requests(np.zeros(COUNT)),
        "by chance": random_requests(poisson(jax.random.key(1), count=COUNT, rate=rate)),
        "as recorded": recorded_requests(rate),
    }


def measure_serving() -> dict[str, Any]:
    """Costs of steps before, between and after the traffics, and what became of these."""
    target = decoder()

    def costs() -> dict[str, Any]:
        with jax.enable_x64(False):
            return measure.step_seconds(target, POLICIES["continuous"], LIMITS, held_out_texts(), **GRID)

    found = {"costs": [costs()], "served": {}}
    with jax.enable_x64(True):
        slow = predict(random_requests(np.zeros(COUNT)), measure.step_table(*found["costs"]), "static")
        found["rate"] = LOAD * float(slow.requests_per_second)
        traffic = traffics(found["rate"])
    for name, requests in traffic.items():
        with jax.enable_x64(False):
            found["served"][name] = {
                way: measure.served(target, policy, LIMITS, np.asarray(requests.arrival), with_prompts(requests))
                for way, policy in POLICIES.items()
            }
        found["costs"].append(costs())
    return found


def measure_decode_steps() -> dict[str, list[float]]:
    """Seconds of a decode step of each variant of attention with `ROWS` sequences, against `CONTEXTS`."""
    with jax.enable_x64(False):
        made = {name: recipes.trained(f"attention_{name}", progress=False) for name in recipes.HEADS}
        models = {name: (each.config, each.weights) for name, each in made.items()}
        return measure.decode_seconds(models, ROWS, CONTEXTS)


@cache
def decode_steps() -> dict[str, list[float]]:
    """What `measure_decode_steps` found on this machine, once."""
    return cached([f"attention_{name}" for name in recipes.HEADS], measure_decode_steps)
