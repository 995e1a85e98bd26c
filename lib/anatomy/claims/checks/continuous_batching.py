"""Checks of continuous batching: what it does to latency and cost on the article's cluster."""

from functools import cache

import jax
import jax.numpy as jnp

from anatomy.claims.article.serving import SERVING, machine, model
from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.cost.efficiency import overheads
from anatomy.cost.queueing.answers import Answers
from anatomy.cost.queueing.simulation import Policy, simulate, static
from anatomy.cost.queueing.step_costs import Modelled
from anatomy.cost.queueing.traffic import Requests, lognormal_lengths, poisson
from anatomy.specs import Scalar

PROMPT, ANSWER, LONGEST = 1500.0, 300.0, 2000.0  # tokens; means of two wide laws, and where answers are cut
SLOTS = 512  # in flight
REQUESTS = 4000
CALM, BUSY = 0.2, 50.0  # requests a second: one that both ways can serve, and more than either can


def cost() -> Modelled:
    """Seconds of a step of the article's model on its cluster."""
    return Modelled(model=model(), plan=SERVING, cluster=machine(), constants=overheads("a100_sxm_40gb"))


def requests(rate: Scalar, count: int = REQUESTS, spread: Scalar = 1.0, seed: int = 0) -> Requests:
    """Requests of a chat: they come by chance, and their lengths have long tails.

    Args:
        rate: requests a second.
        count: how many.
        spread: standard deviation of the answers' lengths over their mean, before they are cut.
        seed: of the draws.
    """
    come, read, write = jax.random.split(jax.random.key(seed), 3)
    return Requests(
        arrival=poisson(come, count=count, rate=rate),
        prompt=lognormal_lengths(read, count=count, mean=PROMPT, variation=1.0, longest=4 * PROMPT),
        output=lognormal_lengths(write, count=count, mean=ANSWER, variation=spread, longest=LONGEST),
    )


@cache
def both_ways() -> tuple[Answers, Answers]:
    """Continuous and static batching, each at a calm rate and at one that saturates it."""

    def served(policy: Policy) -> Answers:
        return jax.vmap(lambda rate: simulate(requests(rate), policy, cost(), width=SLOTS))(jnp.array([CALM, BUSY]))

    return served(Policy(slots=SLOTS)), served(static(SLOTS))


@check("cb.used")
def used(claim: Claim) -> Finding:
    """What another firm's servers do is not on record."""
    return uncheckable(
        claim,
        "What OpenAI's servers ran is not on record. The technique was public: Orca published it in 2022, and vLLM and "
        "others served with it in 2023, so it would be odd had OpenAI not.",
        sources=("yu2022orca", "kwon2023vllm"),
    )


@check("cb.latency")
def latency(claim: Claim) -> Finding:
    """The slowest hundredth of users at a calm rate, and requests a second at saturation, both ways."""
    ours, theirs = both_ways()
    late, late_static = (float(jnp.percentile(a.settled().latency[0], 99)) for a in (ours, theirs))
    most, most_static = (float(a.requests_per_second[1]) for a in (ours, theirs))
    return decide(
        claim,
        min(late_static / late, most / most_static) > claim.verdict["least_ratio"],
        f"With answers of 300 tokens on average and some of {LONGEST:,.0f}, the article's cluster with {SLOTS} slots "
        f"serves {most:.2f} requests a second with continuous batching and {most_static:.2f} with static, so the same "
        f"rent serves {most / most_static:.1f} times as many. At {CALM:g} a second, which both can serve, the slowest "
        f"hundredth wait {late:,.0f} s for their whole answer and {late_static:,.0f} s. What is bounded is the wait "
        "for others; a long answer takes long either way, and above saturation the queue grows without bound.",
        value=most / most_static,
        unit="times the requests",
        evidence=Evidence.COST_MODEL,
        assumes=("lengths of answers are spread as widely as their mean",),
        sources=["yu2022orca"],
    )
