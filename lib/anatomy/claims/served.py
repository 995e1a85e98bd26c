"""The engine with the trained target on the clock of this machine, and what the simulation makes of the same requests.

Measured once and kept: requests by chance at a rate that both ways of batching carry, in bursts, and all at once.
"""

from functools import cache
from typing import NamedTuple

import jax
import numpy as np

from anatomy.cost.inference.answers import Answers
from anatomy.cost.inference.queueing import Policy, simulate
from anatomy.cost.inference.step_costs import Table
from anatomy.cost.inference.traffic import Requests, lognormal_lengths, poisson
from anatomy.decode import Limits, Plain, Request, measure
from anatomy.train import recipes, tokens
from anatomy.train.cache import answered
from anatomy.train.data import LENGTH, VOCABULARY

SLOTS, CHUNK, COUNT = 16, 64, 160
PROMPT, ANSWER = (40.0, 0.7, 96.0), (40.0, 1.0, 160.0)  # tokens: mean, spread, and where they are cut
LIMITS = Limits(room=LENGTH, queue=COUNT)
# Static as generous as can be: prompts are not padded, and rows that are done are not computed on.
POLICIES = {
    "continuous": Policy(slots=SLOTS, chunk=CHUNK),
    "static": Policy(slots=SLOTS, chunk=CHUNK, continuous=0.0, held=1.0),
}
LOAD = 0.5  # of what static batching carries, as the simulation has it
BURST = 8.0  # requests that come together
ROOMS = ("specs", "cost", "model", "decode", "train")


class Served(NamedTuple):
    """One traffic, served by both policies: by the clock, and as foretold."""

    requests: Requests
    measured: dict[str, Answers]
    foretold: dict[str, Answers]


def lengths(count: int = COUNT, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of prompts and of answers, both with long tails."""
    keys = jax.random.split(jax.random.key(seed), 2)
    return tuple(
        np.asarray(lognormal_lengths(key, count, *law)) for key, law in zip(keys, (PROMPT, ANSWER), strict=True)
    )


def texts(domain: str | None = None) -> np.ndarray:
    """Rows of tokens that training has not seen, of prose and of code in turns, or of one of them."""
    bpe = tokens.tokenizer(VOCABULARY)
    rows = [tokens.packed(bpe, name, "held_out", LENGTH)[:COUNT, :LENGTH] for name in ([domain] if domain else tokens.EPOCHS)]
    return np.stack(rows, 1).reshape(-1, LENGTH)


def ask(seed: int = 0) -> list[Request]:
    """Prompts of these lengths from real texts; answers are drawn at temperature 1, up to their limit."""
    return [
        Request(name=f"{number}", prompt=text[: int(read)], limit=int(write), temperature=1.0, seed=number)
        for number, (text, read, write) in enumerate(zip(texts(), *lengths(seed=seed), strict=False))
    ]


def decoder() -> Plain:
    """The trained target."""
    made = recipes.trained("target", progress=False)
    return Plain(made.config, made.weights)


def traffic(arrival: np.ndarray) -> Requests:
    """These arrivals with the lengths of `ask`."""
    prompt, output = lengths()
    return Requests(arrival=arrival, prompt=prompt, output=output)


def foretell(requests: Requests, cost: Table) -> dict[str, Answers]:
    """What the simulation says of them with either policy."""
    return {name: simulate(requests, policy, cost, width=SLOTS, trace=4096) for name, policy in POLICIES.items()}


@cache
def measured() -> tuple[Table, dict[str, Served]]:
    """Costs of a step, and what became of each traffic; measured once on this machine, in about a minute."""

    def take() -> dict:
        ours, requests = decoder(), ask()
        grid = dict(sequences=(0, 1, 2, 4, 8, 16), contexts=(32, 96, 192), prompts=(0, 1, 16, 64))
        with jax.enable_x64(False):
            costs = measure.step_seconds(ours, POLICIES["continuous"], LIMITS, texts(), **grid)
        with jax.enable_x64(True):
            table = measure.step_table(costs)
            slow = foretell(traffic(np.zeros(COUNT)), table)["static"]
            rate = LOAD * float(slow.requests_per_second)
            come = {
                "all at once": np.zeros(COUNT),
                "by chance": np.asarray(poisson(jax.random.key(1), COUNT, rate)),
                "in bursts": np.asarray(poisson(jax.random.key(2), COUNT, rate, BURST)),
            }
        with jax.enable_x64(False):
            made = {
                name: {way: measure.served(ours, policy, LIMITS, arrival, requests) for way, policy in POLICIES.items()}
                for name, arrival in come.items()
            }
        return {"costs": costs, "arrival": {name: a.tolist() for name, a in come.items()}, "made": made}

    question = f"served {recipes.digest('target')} {SLOTS} {CHUNK} {COUNT} {PROMPT} {ANSWER} {LIMITS} {LOAD} {BURST}"
    told = answered(question, ROOMS, take)
    with jax.enable_x64(True):
        cost = measure.step_table(told["costs"])
        found = {}
        for name, arrival in told["arrival"].items():
            requests = traffic(np.array(arrival))
            clock = {way: measure.answers_of(kept) for way, kept in told["made"][name].items()}
            found[name] = Served(requests, clock, foretell(requests, cost))
    return cost, found
