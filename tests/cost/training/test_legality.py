"""Legal plans, and the reasons that are given for the others."""

import jax
import jax.numpy as jnp
import pytest
from anatomy import specs
from anatomy.cost.rules import Case
from anatomy.cost.training.legality import RULES, legal, problems

GPT4 = specs.architecture("gpt4")
CLUSTER = specs.cluster("a100_sxm_40gb", 3125)
SEQUENCES = 60e6 / 8192
ARTICLE = specs.Plan(tensor=8, pipeline=15, data=208)


def test_the_plan_of_the_article_is_legal():
    assert problems(GPT4, ARTICLE, CLUSTER, batch=SEQUENCES) == []
    assert bool(legal(GPT4, ARTICLE, CLUSTER, batch=SEQUENCES))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data": 209}, "needs 25080 chips; the cluster has 25000"),
        ({"tensor": 5}, "112 heads do not split 5 ways"),
        ({"tensor": 7}, "7 tensor ways neither divide a node of 8 chips nor fill several"),
        ({"tensor": 11}, "d_ff of 43008 does not split 11 ways"),
        ({"pipeline": 121}, "121 stages leave some without any of 120 layers"),
        ({"data": 208, "expert": 16, "zero_ways": 8}, "groups of 8 for ZeRO do not divide 13 replicas of an expert"),
        ({"chunks": 3}, "3 chunks do not divide the layers of a stage (120 on 15 stages)"),
        ({"chunks": 2, "micro_batch": 4}, "2 chunks need a micro-batch for each of 15 stages"),
        ({"pipeline": 1, "chunks": 2}, "2 chunks need more than one stage"),
        ({"data": 3, "expert": 3}, "16 experts do not split 3 ways"),
        ({"data": 48, "expert": 24}, "16 experts do not split 24 ways"),
        ({"data": 208, "micro_batch": 64}, "7324.22 sequences are fewer than 208 replicas with 64 each"),
        ({"zero_ways": 9}, "groups of 9 for ZeRO do not divide 208 replicas"),
        ({"gpipe": 1, "chunks": 2}, "2 chunks are for 1F1B; GPipe has one"),
        ({"zero_ways": 300}, "ZeRO splits over 300 replicas; there are 208"),
    ],
)
def test_what_is_wrong_is_said(changes, words):
    plan = ARTICLE.replace(**changes)
    assert words in problems(GPT4, plan, CLUSTER, batch=SEQUENCES)
    assert not bool(legal(GPT4, plan, CLUSTER, batch=SEQUENCES))


def test_dense_layers_must_split_too():
    deepseek = specs.architecture("deepseek_v3")
    wrong = deepseek.replace(dense_d_ff=18433.0)
    words = "dense_d_ff of 18433 does not split 2 ways"
    plan = specs.Plan(tensor=2, pipeline=1, data=64)
    assert words in problems(wrong, plan, CLUSTER, batch=64) and words not in problems(
        deepseek, plan, CLUSTER, batch=64
    )


def test_every_rule_is_tried_above():
    tried = [changes for changes, _ in test_what_is_wrong_is_said.pytestmark[0].args[1]]
    cases = [Case(GPT4, ARTICLE.replace(**changes), CLUSTER, SEQUENCES) for changes in tried]
    spared = [words for rule, words in RULES if all(bool(rule(case)) for case in cases)]
    # Expert ways that do not divide the replicas cannot be built at all: the spec refuses them.
    assert all(words.startswith(("{plan.expert:g} expert ways do not divide", "dense_d_ff")) for words in spared)


def test_legality_is_a_value_that_a_sweep_can_mask():
    tensor = jnp.array([1.0, 2.0, 3.0, 8.0])
    found = jax.vmap(lambda t: legal(GPT4, ARTICLE.replace(tensor=t, data=100.0), CLUSTER, batch=SEQUENCES))(tensor)
    assert found.tolist() == [True, True, False, True]
