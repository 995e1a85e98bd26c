"""Claims on multi-query attention: rooms and caches against closed forms and published figures."""

import dataclasses

import jax
import numpy as np
import pytest
from anatomy.claims import Verdict, finding, get
from anatomy.claims.article.serving import SERVING, model, room
from anatomy.claims.checks import multi_query_attention as article
from anatomy.claims.ledger.registry import check_of
from anatomy.claims.record import record
from anatomy.cost.serving.memory import held_weights, memory, sequence_cache
from anatomy.model import Config, empty_cache
from anatomy.specs import Serving, architecture, chip
from anatomy.train.recipes import HEADS, RECIPES
from hypothesis import given
from hypothesis import strategies as st

KEY_HEADS = (1.0, 2.0, 4.0, 7.0, 8.0, 14.0, 16.0, 28.0, 56.0, 112.0)


def recheck(key, **changes):
    with jax.enable_x64(True):
        return check_of(key)(dataclasses.replace(get(key), **changes))


def test_one_head_is_a_slip_of_the_retelling(monkeypatch):
    assert finding("mqa.one_head").verdict is Verdict.LOST
    assert recheck("mqa.one_head", translation=False).verdict is Verdict.OFF
    # Had the article said a billion parameters of attention, one head would have been meant.
    monkeypatch.setattr(article, "printed", lambda key: 1e9)
    assert recheck("mqa.one_head").verdict is Verdict.HOLDS


def test_long_contexts_that_did_not_fit_would_settle_the_claim(monkeypatch):
    assert finding("mqa.32k_no").verdict is Verdict.OFF
    monkeypatch.setattr(article, "room", lambda *_, context=article.SHORT: 0.0 if context > article.SHORT else 2000.0)
    assert recheck("mqa.32k_no").verdict is Verdict.HOLDS


def test_a_batch_that_is_not_capped_would_refute_the_cap(monkeypatch):
    assert finding("mqa.8k_cap").verdict is Verdict.HOLDS
    monkeypatch.setattr(article, "room", lambda *_, **__: get("mqa.8k_cap").verdict["unbound"])
    assert recheck("mqa.8k_cap").verdict is Verdict.OFF


@given(st.sampled_from(KEY_HEADS), st.sampled_from([512.0, 8192.0, 32768.0]), st.sampled_from([1.0, 2.0]))
def test_the_room_is_that_of_the_equation(kv_heads, context, width):
    shape = article.with_key_heads(kv_heads)
    for plan in (SERVING.replace(weight_bytes=width), article.BY_HEADS.replace(weight_bytes=width)):
        # Eight of 120 layers on a stage; 96 values of a key and of a value, in 16 bits.
        ways = 8 if float(plan.cache_by_sequence) else min(8, kv_heads)
        each = 8 * 2 * kv_heads * 96 * 2 * context / ways
        left = chip(article.A100).memory - width * float(held_weights(shape, plan))
        told = left / each
        found = room(shape, plan, context=context)
        # Working memory takes a little; split by sequences there is room for eight or for none.
        assert found <= told and (found >= 0.9 * told - 1 or told < 9)
        if found:
            assert float(memory(shape, plan, batch=found, context=context).total) <= chip(article.A100).memory


@given(st.sampled_from(KEY_HEADS))
def test_key_heads_up_to_the_tensor_ways_take_no_more_room_split_by_heads(kv_heads):
    one, several = (
        float(sequence_cache(article.with_key_heads(n), article.BY_HEADS, context=1.0)) for n in (1.0, kv_heads)
    )
    assert several == pytest.approx(one * max(1.0, kv_heads / 8))
    whole = float(sequence_cache(article.with_key_heads(kv_heads), SERVING, context=1.0))
    assert whole == pytest.approx(several * min(8.0, kv_heads) / 8)


def test_the_context_of_palm_is_as_published():
    told = record("palm_context")
    palm, plan = architecture("palm_540b"), Serving(tensor=float(told["chips"]))
    shapes = {
        "multi_head": (palm.replace(kv_heads=palm.attention.heads, head_dim=float(told["head_dim"])), plan),
        "by_heads": (palm, plan),
        "by_sequences": (palm, plan.replace(cache_by_sequence=1.0)),
    }
    for name, (shape, layout) in shapes.items():
        each = np.array(told["sequences"]) * float(sequence_cache(shape, layout, context=1.0))
        assert told["share"] * told["memory"] / each == pytest.approx(np.array(told[name]), rel=0.02)


def test_a_longer_context_or_wider_weights_make_tokens_dearer():
    prices = [
        [article.price(room(model(), plan, context=context), context, plan) for context in (8192.0, 32768.0)]
        for plan in (article.INT8, SERVING, article.BY_HEADS)
    ]
    assert np.all(np.diff(prices, axis=0) > 0) and np.all(np.diff(prices, axis=1) > 0)


def test_more_nodes_leave_more_room():
    rooms = [room(model(), article.stages(n)) for n in (15.0, 20.0, 30.0, 60.0)]
    assert rooms == sorted(rooms) and rooms[0] == room(model(), SERVING)


@given(
    st.sampled_from([(1, 1), (3, 1), (4, 2), (6, 6)]), st.sampled_from([8, 24]), st.integers(1, 3), st.integers(1, 5)
)
def test_caches_have_the_bytes_of_the_formula(heads, width, layers, sequences):
    config = Config(layers=layers, heads=heads[0], kv_heads=heads[1], head_dim=width, context=32)
    cache = empty_cache(config, sequences)
    told = float(config.architecture.cache_bytes_per_token(4.0)) * sequences * config.context
    assert sum(array.nbytes for array in cache.key + cache.value) == told


def test_the_small_models_differ_in_their_heads_alone():
    plain = {"heads": 1, "kv_heads": 1, "head_dim": 2}
    recipes = [RECIPES[f"attention_{name}"] for name in HEADS]
    assert len({recipe.config.replace(**plain) for recipe in recipes}) == 1
    assert len({recipe.training for recipe in recipes}) == 1
    assert len({recipe.config.heads * recipe.config.head_dim for recipe in recipes}) == 1
