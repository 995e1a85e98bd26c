"""Claims on the serving cluster and its trade-offs: the plans that they compare can be run."""

import jax
import pytest
from anatomy.claims import Verdict, claims, finding
from anatomy.claims.article import serving as article
from anatomy.claims.checks import inference_tradeoffs as tradeoffs
from anatomy.claims.ledger.registry import check_of
from anatomy.cost.serving.legality import problems
from anatomy.cost.serving.steps import decode

# Of these the batch that does not fit is the finding.
TOO_MANY = {"g4i.4k"}
COMPARED = [
    key
    for key, claim in claims().items()
    if claim.section in ("inference-infrastructure", "inference-tradeoffs") and key not in TOO_MANY
]


@pytest.mark.parametrize("key", COMPARED)
def test_steps_that_a_check_compares_have_room(key, monkeypatch):
    steps = []

    def recorded(model, plan, there, constants, **size):
        steps.append(((model, plan, there), {name: size[name] for name in ("batch", "context")}))
        return decode(model, plan, there, constants, **size)

    for module in (article, tradeoffs):
        monkeypatch.setattr(module, "decode", recorded)
    with jax.enable_x64(True):
        check_of(key)(claims()[key])
        for where, size in steps:
            assert problems(*where, **size) == []


def test_experts_over_all_nodes_would_fit_in_int8_alone():
    whole = article.SERVING.replace(pipeline=1.0, first_stage_share=1.0, micro_batches=1.0, data=16.0, expert=16.0)
    for width, fits in ((2.0, False), (1.0, True)):
        plan = whole.replace(weight_bytes=width)
        assert (problems(article.model(), plan, article.machine(), batch=128.0, context=article.CONTEXT) == []) is fits


def test_both_layouts_are_of_the_same_chips_and_sequences():
    assert article.OVER_NODES.chips == article.SERVING.chips
    for plan in (article.SERVING, article.OVER_NODES):
        assert (
            problems(article.model(), plan, article.machine(), batch=2048.0 / float(plan.data), context=article.CONTEXT)
            == []
        )


def test_130_billion_a_node_is_neither_over_fifteen_nor_over_sixteen():
    assert finding("g4i.130B").verdict is Verdict.OFF
