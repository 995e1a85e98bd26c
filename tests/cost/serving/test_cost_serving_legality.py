"""What can serve, and what is said where something cannot."""

import jax
import numpy as np
import pytest
from anatomy.cost.serving.legality import RULES, fits, legal, problems
from anatomy.specs import Serving, architecture, catalogue

GPT4 = architecture("gpt4")
DEEPSEEK = architecture("deepseek_v3")
CLUSTER = catalogue.cluster("a100_sxm_80gb", 16.0)
GOOD = Serving(tensor=8.0, pipeline=16.0, first_stage_share=0.0, micro_batches=16.0, cache_by_sequence=1.0)


def test_the_article_s_plan_can_serve():
    assert problems(GPT4, GOOD, CLUSTER, batch=256.0, context=1000.0) == []
    assert bool(legal(GPT4, GOOD, CLUSTER, batch=256.0)) and bool(
        fits(GPT4, GOOD, CLUSTER, batch=256.0, context=1000.0)
    )


@pytest.mark.parametrize(
    "model, changes, sequences, words",
    [
        (GPT4, {"data": 2.0}, 256.0, "needs 256 chips; the cluster has 128"),
        (GPT4, {"tensor": 3.0}, 256.0, "3 tensor ways neither divide a node of 8 chips nor fill several"),
        (GPT4.replace(heads=10.0, kv_heads=10.0), {}, 256.0, "10 heads do not split 8 ways"),
        (GPT4.replace(d_ff=100.0), {}, 256.0, "d_ff of 100 does not split 8 ways"),
        (
            DEEPSEEK.replace(dense_d_ff=100.0),
            {"pipeline": 1.0, "first_stage_share": 1.0},
            256.0,
            "dense_d_ff of 100 does not split",
        ),
        (GPT4.replace(d_model=10242.0), {"rows": 4.0}, 256.0, "d_model of 10,242 does not split 4 ways"),
        (GPT4, {"gathered": 1.0, "rows": 2.0}, 256.0, "gathered weights are not split over 2 rows as well"),
        (GPT4.replace(layers=15.0), {"first_stage_share": 1.0}, 256.0, "16 stages leave some without any of 15 layers"),
        (
            GPT4,
            {"pipeline": 1.0, "first_stage_share": 1.0, "data": 12.0, "expert": 12.0},
            256.0,
            "16 experts do not split 12 ways",
        ),
        (GPT4, {"cache_by_sequence": 0.0}, 15.0, "15 sequences are fewer than 16 micro-batches"),
        (GPT4, {}, 127.0, "127 sequences in 16 micro-batches leave some of 8 tensor ways without one"),
    ],
)
def test_a_broken_rule_is_said_and_masked(model, changes, sequences, words):
    plan = GOOD.replace(**changes)
    assert not bool(legal(model, plan, CLUSTER, batch=sequences))
    said = problems(model, plan, CLUSTER, batch=sequences)
    assert any(words.replace(",", "") in one.replace(",", "") for one in said), said


def test_stages_may_be_uneven_but_not_empty():
    even = GOOD.replace(first_stage_share=1.0)  # 120 layers on 16 stages: eight of eight layers, eight of seven
    assert problems(GPT4, even, CLUSTER, batch=256.0, context=1000.0) == []
    half = GPT4.replace(layers=20.0)
    assert bool(legal(half, GOOD.replace(first_stage_share=1.0), CLUSTER, batch=256.0))
    assert not bool(
        legal(half, GOOD.replace(first_stage_share=0.5), CLUSTER, batch=256.0)
    )  # its share of 20 layers is 0.6 of one
    assert bool(legal(GPT4.replace(layers=15.0), GOOD, CLUSTER, batch=256.0))  # a head stage without any is meant so


def test_every_rule_has_a_case():
    (cases,) = (mark.args[1] for mark in test_a_broken_rule_is_said_and_masked.pytestmark if mark.name == "parametrize")
    assert len(cases) == len(RULES)


def test_lack_of_memory_is_said_too():
    assert problems(GPT4, Serving(), CLUSTER, batch=1.0) == ["needs 3.67 TB a chip; it has 80 GB"]
    assert bool(legal(GPT4, Serving(), CLUSTER, batch=1.0)) and not bool(
        fits(GPT4, Serving(), CLUSTER, batch=1.0, context=0.0)
    )


def test_legality_and_fit_are_values():
    tensor = np.array([1.0, 3.0, 8.0, 16.0])

    def both(t):
        plan = Serving(tensor=t, pipeline=8.0)
        return legal(GPT4, plan, CLUSTER, batch=8.0), fits(GPT4, plan, CLUSTER, batch=8.0, context=100.0)

    can, has_room = jax.jit(jax.vmap(both))(tensor)
    assert can.tolist() == [True, False, True, True]
    assert has_room.tolist() == [
        bool(fits(GPT4, Serving(tensor=t, pipeline=8.0), CLUSTER, batch=8.0, context=100.0)) for t in tensor
    ]
