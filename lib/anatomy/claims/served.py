"""Serving on the clock of this machine, measured once and kept: the engine, and decode steps of attention variants.

The engine serves the trained target, with requests all at once, by chance at a rate that both ways of batching carry,
and as recorded; beside it stands what the simulation makes of the same requests.
"""

import csv
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import jax
import numpy as np

from anatomy.cost.inference.answers import Answers
from anatomy.cost.inference.queueing import Policy, simulate
from anatomy.cost.inference.step_costs import Table, Work
from anatomy.cost.inference.traffic import Requests, lognormal_lengths, poisson
from anatomy.decode import Limits, PlainDecoder, Request, ServedModel, measure
from anatomy.train import recipes
from anatomy.train.cache import answered
from anatomy.train.data import tokens
from anatomy.train.data.sources import LENGTH, VOCABULARY

SLOTS, CHUNK, COUNT = 16, 64, 100
PROMPT, ANSWER = (40.0, 0.7, 96.0), (40.0, 1.0, 160.0)  # tokens: mean, spread, and where they are cut
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
ROOMS = ("specs", "cost", "model", "decode", "train")


class Served(NamedTuple):
    """One traffic, served by both policies: by the clock, and as foretold.

    Attributes:
        requests: that came.
        measured: by the clock.
        foretold: by the simulation, with costs of steps that were measured before and after.
        slower: how many times longer the steps took in the end.
        corrected: by the simulation with costs that are so many times higher.
    """

    requests: Requests
    measured: dict[str, Answers]
    foretold: dict[str, Answers]
    slower: dict[str, float]
    corrected: dict[str, Answers]


def drawn(arrival: np.ndarray) -> Requests:
    """Requests with lengths that have long tails."""
    keys, laws = jax.random.split(jax.random.key(0), 2), (PROMPT, ANSWER)
    prompt, output = (lognormal_lengths(key, len(arrival), *law) for key, law in zip(keys, laws, strict=True))
    return Requests(arrival=arrival, prompt=prompt, output=output)


def conversations(rate: float) -> Requests:
    """A recording of conversations that Azure served (patel2024splitwise), shortened, at so many requests a second."""
    lines = (files("anatomy.claims") / "conversations.csv").read_text("utf-8").splitlines()
    told = list(csv.DictReader(line for line in lines if not line.startswith("#")))[:COUNT]
    second, prompt, answer = (np.array([float(row[name]) for row in told]) for name in ("second", "prompt", "answer"))
    lengths = {"prompt": np.ceil(prompt / SHORTER[0]), "output": np.ceil(answer / SHORTER[1])}
    return Requests(arrival=second * len(told) / (rate * second[-1]), **lengths)


def texts() -> np.ndarray:
    """Rows of tokens that training has not seen, of prose and of code in turns."""
    bpe = tokens.tokenizer(VOCABULARY)
    rows = [tokens.packed(bpe, name, "held_out", LENGTH)[:COUNT, :LENGTH] for name in tokens.EPOCHS]
    return np.stack(rows, 1).reshape(-1, LENGTH)


def asked(requests: Requests) -> list[Request]:
    """Prompts of these lengths from real texts; answers are drawn at temperature 1, up to their limit."""
    lengths = zip(texts(), np.asarray(requests.prompt), np.asarray(requests.output), strict=False)
    return [
        Request(name=f"{number}", prompt=text[: int(read)], limit=int(write), temperature=1.0, seed=number)
        for number, (text, read, write) in enumerate(lengths)
    ]


def decoder() -> PlainDecoder:
    """The trained target."""
    made = recipes.trained("target", progress=False)
    return PlainDecoder(ServedModel(made.weights, made.config))


def foretell(requests: Requests, cost: Table, way: str) -> Answers:
    """What the simulation says of them with one of the policies."""
    return simulate(requests, POLICIES[way], cost, width=SLOTS, trace=4096)


def slower(made: Answers, cost: Table) -> float:
    """How many times longer an engine's steps took than a table says of the same work; all contexts are as the mean."""
    context = float(np.average(made.prompt + made.output / 2, weights=made.output))
    making, prompt = made.steps.making, made.steps.prompt
    told = jax.vmap(lambda n, read: cost(Work(n, read, n * context, n * (context + 1))))(making, prompt)
    return float(made.steps.seconds.sum() / told.sum())


@cache
def measured() -> dict[str, Served]:
    """What became of each traffic, by the clock and as foretold; measured once on this machine, in about a minute.

    The costs that a simulation is given are those before and after its traffic was served.
    """
    question = f"{recipes.digest('target')} {SLOTS} {CHUNK} {COUNT} {PROMPT} {ANSWER} {SHORTER} {LOAD} {LIMITS} {GRID}"
    told = answered(f"served {question}", ROOMS, _measure)
    with jax.enable_x64(True):
        traffic = come(told["rate"])
        costs = [measure.step_table(*told["costs"][i : i + 2]) for i in range(len(traffic))]
        return {
            name: _beside(each, told["made"][name], cost)
            for cost, (name, each) in zip(costs, traffic.items(), strict=True)
        }


def _beside(requests: Requests, kept: dict[str, Any], cost: Table) -> Served:
    """What was measured, and what the simulation says with this cost of a step."""
    clock = {way: measure.answers_of(kept[way]) for way in POLICIES}
    longer = {way: slower(made, cost) for way, made in clock.items()}
    corrected = {way: foretell(requests, Table(*cost.axes, cost.seconds * longer[way]), way) for way in POLICIES}
    return Served(requests, clock, {way: foretell(requests, cost, way) for way in POLICIES}, longer, corrected)


def come(rate: float) -> dict[str, Requests]:
    """The traffics."""
    return {
        "all at once": drawn(np.zeros(COUNT)),
        "by chance": drawn(poisson(jax.random.key(1), COUNT, rate)),
        "as recorded": conversations(rate),
    }


def _measure() -> dict[str, Any]:
    """Costs of steps before, between and after the traffics, and what became of these."""
    target = decoder()

    def costs() -> dict[str, Any]:
        with jax.enable_x64(False):
            return measure.step_seconds(target, POLICIES["continuous"], LIMITS, texts(), **GRID)

    found = {"costs": [costs()], "made": {}}
    with jax.enable_x64(True):
        slow = foretell(drawn(np.zeros(COUNT)), measure.step_table(*found["costs"]), "static")
        found["rate"] = LOAD * float(slow.requests_per_second)
        traffic = come(found["rate"])
    for name, requests in traffic.items():
        with jax.enable_x64(False):
            found["made"][name] = {
                way: measure.served(target, policy, LIMITS, np.asarray(requests.arrival), asked(requests))
                for way, policy in POLICIES.items()
            }
        found["costs"].append(costs())
    return found


@cache
def decode_steps() -> dict[str, list[float]]:
    """Seconds of a decode step of each variant of attention with `ROWS` sequences, against `CONTEXTS`."""

    def measured() -> dict[str, list[float]]:
        with jax.enable_x64(False):
            made = {name: recipes.trained(f"attention_{name}", progress=False) for name in recipes.HEADS}
            models = {name: (each.config, each.weights) for name, each in made.items()}
            return measure.decode_seconds(models, ROWS, CONTEXTS)

    digests = [recipes.digest(f"attention_{name}") for name in recipes.HEADS]
    return answered(f"decode steps {digests} {ROWS} {CONTEXTS}", ("specs", "model", "decode"), measured)
