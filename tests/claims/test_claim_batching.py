"""The finding on continuous batching follows from the simulation, whatever the draws."""

import pytest
from anatomy.claims.article.serving import served
from anatomy.claims.checks import continuous_batching as article
from anatomy.cost.queueing import waiting
from anatomy.cost.queueing.simulation import Policy, simulate, static
from anatomy.cost.queueing.step_costs import Work


def test_requests_are_as_they_are_told():
    for seed in (0, 1):
        some = article.requests(2.0, 20_000, seed=seed)
        assert 20_000 / float(some.arrival[-1]) == pytest.approx(2.0, rel=0.05)
        assert float(some.prompt.mean()) == pytest.approx(article.PROMPT, rel=0.05)
        assert float(some.output.mean()) == pytest.approx(article.ANSWER, rel=0.1)
        assert float(some.output.max()) <= article.LONGEST


def test_continuous_batching_carries_more_whatever_the_draws():
    gains = []
    for seed in range(3):
        rush = article.requests(article.BUSY, 1000, seed=seed)
        ours, theirs = (
            simulate(rush, policy, article.cost(), width=64) for policy in (Policy(slots=64.0), static(64.0))
        )
        gains.append(float(ours.requests_per_second / theirs.requests_per_second))
        # No more than lengths and padded prompts together allow.
        lengths = float(waiting.longest(rush.output, batch=64.0) / rush.output.mean())
        assert 1.5 < gains[-1] < lengths * float(rush.prompt.max() / rush.prompt.mean())
    assert max(gains) / min(gains) < 1.5


def test_a_step_is_that_of_the_cost_model():
    made = served(512.0, context=1650.0)
    found = article.cost()(Work(512.0, 0.0, 512 * 1650.0, 512 * 1651.0))
    assert float(found) == pytest.approx(float(made.seconds), rel=1e-9)
