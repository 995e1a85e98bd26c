"""Caches, the step and generation: as without a cache, and whatever the neighbours do."""

import dataclasses
import functools
import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.decode import (
    OutOfPages,
    Pool,
    ServedModel,
    bytes_per_token,
    empty_pages,
    extend,
    generate,
    logits,
    make_sampling,
    select_dispatch,
)
from anatomy.decode.batch_dependence import together
from anatomy.decode.cache.reading import BLOCK
from anatomy.decode.generate import prefill
from anatomy.model import Config, empty_cache, forward, init, unstack
from anatomy.model.moe import DISPATCHES, EXACT, Choices, Experts, all_experts
from hypothesis import given, settings

CONFIG = Config(
    vocabulary=40, layers=2, d_model=16, heads=4, kv_heads=2, head_dim=6, d_ff=20, experts=3, context=2 * BLOCK + 64
)
BIT_FOR_BIT = ("one_by_one", "all_experts")
PROMPTS = [[1, 2, 3], [5] * 70, [7, 8]]
sampled = functools.partial(make_sampling, 3, temperature=0.8, top_p=0.9)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time


@functools.cache
def weights_of(config=CONFIG):
    """Weights larger than those that training begins with, so that positions and routing matter."""
    return unstack(jax.tree.map(lambda a: 2 * a, init(config, jax.random.key(0))))


@functools.cache
def program(config=CONFIG, name="all_experts"):
    """Logits for new tokens, and the cache."""

    def read(weights, cache, tokens, count, which=None):
        model = ServedModel(weights, config, name)
        x, cache = extend(model, cache, tokens, count, which)
        return logits(model, x), cache

    return jit(read)


@functools.partial(jit, static_argnums=0)
def whole(config, weights, tokens):
    """Logits without a cache, every expert computed."""
    return forward(config, weights, tokens, dispatch=all_experts).logits


def random_tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(CONFIG.vocabulary, size=shape).astype(np.int32)


def an_empty(kind, config=CONFIG, sequences=2, room=None, size=16):
    """A cache of this kind; pages are dealt out of order, and belong to their rows already."""
    room = config.context if room is None else room
    if kind == "rows":
        return empty_cache(config, sequences, room=room)
    cache = empty_pages(config, batch=sequences, room=room, count=sequences * room // size, size=size)
    order = np.random.default_rng(0).permutation(sequences * room // size)
    return type(cache)(cache.key, cache.value, jnp.asarray(order.reshape(sequences, -1), jnp.int32), cache.length)


def garbage(cache, lengths, seed=0):
    """A cache full of whatever was there before, of which `lengths` counts."""
    random = np.random.default_rng(seed)
    noise = lambda arrays: tuple(jnp.asarray(random.normal(size=a.shape), a.dtype) for a in arrays)  # noqa: E731
    tables = (cache.table,) if hasattr(cache, "table") else ()
    return type(cache)(noise(cache.key), noise(cache.value), *tables, jnp.asarray(lengths, jnp.int32))


def close(one, two):
    np.testing.assert_allclose(one, two, rtol=2e-4, atol=2e-4)


# As without a cache


@pytest.mark.parametrize("kind", ["rows", "pages"])
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_tokens_read_in_pieces_get_the_logits_of_the_whole(kind, heads):
    config = CONFIG.replace(kv_heads=heads)
    length, weights = [BLOCK + 40, 37], weights_of(config)
    tokens = random_tokens(2, length[0])
    wanted, cache, at = whole(config, weights, tokens), garbage(an_empty(kind, config), [0, 0]), [0, 0]
    random = np.random.default_rng(1)
    while at != length:
        count = [min(int(random.integers(0, 33)), most - done) for most, done in zip(length, at, strict=True)]
        piece = np.zeros((2, 32), np.int32)
        for row in range(2):
            piece[row, : count[row]] = tokens[row, at[row] : at[row] + count[row]]
        made, cache = program(config)(weights, cache, piece, jnp.asarray(count, jnp.int32))
        for row in range(2):
            close(made[row, : count[row]], wanted[row, at[row] : at[row] + count[row]])
            at[row] += count[row]
        assert cache.length.tolist() == at


@pytest.mark.parametrize("kind", ["rows", "pages"])
def test_a_pass_may_be_about_some_rows_only_and_leaves_the_others_as_they_are(kind):
    before, tokens = garbage(an_empty(kind, sequences=3), [5, 9, 0]), random_tokens(2, 4)
    which, count = jnp.array([2, 0], jnp.int32), jnp.array([4, 3], jnp.int32)
    made, after = program()(weights_of(), before, tokens, count, which)
    assert after.length.tolist() == [8, 9, 4]
    close(made[0], whole(CONFIG, weights_of(), tokens[:1])[0])
    mine = np.asarray(before.table)[1] if kind == "pages" else 1
    for one, two in zip(before.key + before.value, after.key + after.value, strict=True):
        assert (one[mine] == two[mine]).all()
        assert (one != two).any()


def test_what_a_refused_draft_left_is_never_looked_at():
    tokens = random_tokens(1, 12)
    read, cache = program(), empty_cache(CONFIG, 1, room=64)
    made, cache = read(weights_of(), cache, tokens, jnp.array([8], jnp.int32))
    cache = type(cache)(cache.key, cache.value, jnp.array([3], jnp.int32))  # five are taken back
    again, _ = read(weights_of(), cache, np.roll(tokens, -3, axis=1), jnp.array([5], jnp.int32))
    close(again[:, :5], made[:, 3:8])


@pytest.mark.parametrize("name", sorted(EXACT))
def test_every_exact_dispatch_serves_alike_and_ignores_padding(name):
    tokens, count = random_tokens(2, 4), jnp.array([3, 0], jnp.int32)
    made, cache = program(name=name)(weights_of(), empty_cache(CONFIG, 2, room=64), tokens, count)
    close(made[0, :3], whole(CONFIG, weights_of(), tokens[:1, :3])[0])
    assert np.isfinite(made).all()
    assert cache.length.tolist() == [3, 0]
    assert not any(a[1].any() for a in cache.key + cache.value)


@pytest.mark.parametrize("router", ["top_k", "hash"])
def test_prefill_gives_the_last_token_of_each_prompt(router):
    config = CONFIG.replace(router=router)
    tokens, length = random_tokens(3, 24), jnp.array([1, 8, 21], jnp.int32)
    model = ServedModel(weights_of(config), config, "all_experts")
    read = jit(lambda c, t, n: prefill(model, c, t, n, 8))
    last, cache = read(empty_cache(config, 3, room=64), tokens, length)
    assert cache.length.tolist() == [1, 8, 21]
    wanted = whole(config, weights_of(config), tokens)
    close(logits(model, last), wanted[np.arange(3), length - 1])


# Neighbours


@functools.cache
def alone(kind, name):
    """Logits of some tokens in row 0 of 4, in a cache of 320 places, while the others wait."""
    return answers(kind, name, 0, [0, 0, 0])


def answers(kind, name, seed, lengths, steps=4, busy=False):
    cache, random = garbage(an_empty(kind, sequences=4), [0, *lengths], seed), np.random.default_rng(seed)
    made = []
    for own in random_tokens(steps, seed=5):
        tokens, count = random.integers(CONFIG.vocabulary, size=(4, 1)).astype(np.int32), np.ones(4, np.int32)
        tokens[0] = own
        count[1:] = random.integers(0, 2, 3) if busy else 0
        found, cache = program(name=name)(weights_of(), cache, tokens, jnp.asarray(count))
        made.append(np.asarray(found[0, 0]))
    return np.array(made)


@settings(max_examples=6)
@given(seed=st.integers(1, 1000), lengths=st.lists(st.integers(0, CONFIG.context - 4), min_size=3, max_size=3))
@pytest.mark.parametrize("kind", ["rows", "pages"])
@pytest.mark.parametrize("name", ["one_by_one", "all_experts", "in_tiles"])
def test_a_sequence_does_not_depend_on_its_neighbours(kind, name, seed, lengths):
    made = answers(kind, name, seed, lengths, busy=True)
    if name in BIT_FOR_BIT:
        assert (made == alone(kind, name)).all()
    else:
        close(made, alone(kind, name))


def test_a_dispatch_that_drops_gives_another_answer_beside_other_neighbours():
    """Why serving by capacity is not deterministic: the experts' places are shared with strangers."""
    prompt = random_tokens(1, 8)
    crowd = np.full((3, 8), prompt[0, -1], np.int32)  # all want what the last token wants

    def last(others, name):
        answers, dropped = together(CONFIG, weights_of(), np.vstack([others, prompt]), 12, DISPATCHES[name])
        return answers[-1].tolist(), float(dropped.max())

    alike, others = (last(some, "all_experts") for some in (crowd, random_tokens(3, 8, seed=1)))
    assert alike == others
    wanted = generate(CONFIG, weights_of(), prompt, 12, dispatch="all_experts").of(0)
    assert alike == (wanted, 0.0)
    (alike, lost), (others, _) = (last(some, "by_capacity") for some in (crowd, random_tokens(3, 8, seed=1)))
    assert alike != others
    assert lost > 0


@pytest.mark.parametrize(("limit", "match"), [(0, "limit"), (CONFIG.context, "at most")])
def test_answers_beside_others_need_a_limit_and_room(limit, match):
    with pytest.raises(ValueError, match=match):
        together(CONFIG, weights_of(), random_tokens(2, 8), limit, all_experts)


def test_rows_that_wait_read_no_expert():
    poison = Experts(*(jnp.full_like(a, jnp.nan) for a in jax.tree.leaves(weights_of().blocks[0].experts[0])))
    for name in ("one_by_one", "in_buckets", "in_tiles"):
        choices = Choices(jnp.array([[0, 1], [3, 3]]), jnp.array([[0.5, 0.5], [0.0, 0.0]]))
        experts = (*weights_of().blocks[0].experts[:2], poison)  # whoever reads the last one is not a number
        x = jnp.ones((2, CONFIG.d_model), jnp.float32)
        mixed, _ = DISPATCHES[name](x, choices, experts)
        assert np.isfinite(mixed).all(), name
        assert (mixed[1] == 0).all(), name


# Generation


def greedily(prompt, count):
    """Token by token without a cache."""
    tokens = np.zeros((1, len(prompt) + count), np.int32)
    tokens[0, : len(prompt)] = prompt
    for at in range(len(prompt), tokens.shape[1]):
        tokens[0, at] = whole(CONFIG, weights_of(), tokens)[0, at - 1].argmax()
    return tokens[0, len(prompt) :].tolist()


def generated(prompts=PROMPTS, sampling=None, end=(39,)):
    """One program for all of these tests."""
    return generate(CONFIG, weights_of(), prompts, 12, sampling, end, dispatch="all_experts", chunk=32)


def test_greedy_generation_is_the_most_likely_token_each_time():
    made = generated()
    assert [made.of(row) for row in range(3)] == [greedily(prompt, 12) for prompt in PROMPTS]
    assert made.count.tolist() == [12] * 3
    assert not made.ended.any()


def test_a_sequence_ends_at_an_end_token_and_the_others_go_on():
    free = generated()
    end = free.of(0)[3]
    made = generated(end=[end])
    for row in range(3):
        wanted = free.of(row)
        stop = wanted.index(end) + 1 if end in wanted else 12
        assert made.of(row) == wanted[:stop]
        assert made.ended[row] == (end in wanted)
        assert (made.tokens[row, stop:] == -1).all()
    assert made.ended[0] and made.count[0] <= 4


def test_sampled_generation_is_repeated_whatever_stands_beside_it():
    one = generated(sampling=sampled(seed=[7, 8, 9]))
    two = generated([PROMPTS[0], [9] * 80, [30]], sampled(seed=[7, 1, 2]))
    assert one.of(0) == generated(sampling=sampled(seed=[7, 8, 9])).of(0) == two.of(0)
    assert one.of(1) != two.of(1)
    assert one.of(0) != generated(sampling=sampled(seed=[8, 8, 9])).of(0)


def poisoned(field="unembedding", weights=None):
    """Weights of which one number is none."""
    weights = weights_of() if weights is None else weights
    return dataclasses.replace(weights, **{field: getattr(weights, field).at[0, 0].set(jnp.nan)})


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.9}], ids=str)
def test_logits_that_are_not_finite_are_told(settings):
    with pytest.raises(FloatingPointError, match="generate: the logits of sequence 0 are not finite at new token 0"):
        generate(CONFIG, poisoned(), PROMPTS, 12, make_sampling(3, **settings), chunk=32, dispatch="all_experts")
    with pytest.raises(FloatingPointError, match="together"):
        together(CONFIG, poisoned(), random_tokens(2, 8), 3, all_experts)


def test_only_the_sequence_that_meets_what_is_not_finite_is_named():
    prompts = [[1, 2], [0, 3], [5, 6]]
    with pytest.raises(FloatingPointError, match=r"sequence 1 .* new token 0"):
        generate(CONFIG, poisoned("embedding"), prompts, 1, chunk=32, dispatch="all_experts")  # of token 0


def test_equal_prompts_get_answers_of_their_own():
    made = generated([[1, 2, 3]] * 3, make_sampling(3))
    assert made.of(0) != made.of(1) != made.of(2)
    alike = generated([[1, 2, 3]] * 3, make_sampling(3, seed=[0] * 3))
    assert alike.of(0) == alike.of(1) == alike.of(2) == made.of(0)


# Pages and errors


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 70)), max_size=30))
def test_no_page_has_two_owners_and_none_is_lost(asked):
    pool = Pool(batch=4, room=64, count=9, size=16)
    for row, tokens in asked:
        if row in pool.held:
            pool.give_back(row)
            assert not pool.table[row].any()
        else:
            try:
                pool.take(row, tokens)
                assert len(pool.held[row]) == pool.pages_for(tokens)
                assert pool.table[row, : len(pool.held[row])].tolist() == pool.held[row]
            except OutOfPages as error:
                assert str(len(pool.free)) in str(error)
                assert pool.pages_for(tokens) > len(pool.free)
            except ValueError:
                assert tokens > 64
        assert sorted([*pool.free, *itertools.chain(*pool.held.values())]) == list(range(9))


def test_bytes_of_a_cache_are_those_of_its_tokens():
    cache = empty_cache(CONFIG, 3, room=50)
    assert sum(a.nbytes for a in cache.key + cache.value) == 3 * 50 * bytes_per_token(CONFIG)
    cache = empty_pages(CONFIG, batch=3, room=64, count=7, size=16)
    assert sum(a.nbytes for a in cache.key + cache.value) == 7 * 16 * bytes_per_token(CONFIG)
    assert cache.room == 64


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: empty_cache(CONFIG, 0), r"empty_cache.batch is 0; allowed: a whole number at least 1"),
        (lambda: empty_cache(CONFIG, 1, room=2.5), r"empty_cache.room is 2.5; allowed: a whole number at least 1"),
        (lambda: empty_pages(CONFIG, batch=1, room=64, count=0, size=16), r"empty_pages.count is 0; allowed"),
        (
            lambda: empty_pages(CONFIG, batch=1, room=65, count=9, size=16),
            r"empty_pages.room is 65; allowed: a multiple of size \(16\)",
        ),
        (
            lambda: Pool(batch=2, room=64, count=8, size=16).give_back(0),
            r"Pool.give_back.row is 0; allowed: a row with pages",
        ),
        (lambda: Pool(batch=2, room=64, count=8, size=16).take(0, 65), r"Pool.take.tokens is 65; allowed: 1 to 64"),
        (lambda: Pool(batch=2, room=64, count=8, size=16).take(0, 0), r"Pool.take.tokens is 0; allowed: 1 to 64"),
        (lambda: select_dispatch("by_capacity", 1), r"dispatch is 'by_capacity'; allowed: .*which drop no token"),
        (lambda: select_dispatch("fast", 1), r"dispatch is 'fast'; allowed: all_experts, "),
        (lambda: generate(CONFIG, weights_of(), [], 5), r"generate.prompts is empty; allowed: at least one"),
        (lambda: generate(CONFIG, weights_of(), [[1], []], 5), r"prompts\[1\] has shape \(0,\); allowed"),
        (lambda: generate(CONFIG, weights_of(), [[[1]]], 5), r"prompts\[0\] has shape \(1, 1\)"),
        (lambda: generate(CONFIG, weights_of(), [[40]], 5), r"prompts\[0\] has token 40; allowed: 0 to 39"),
        (lambda: generate(CONFIG, weights_of(), [[1]], 0), r"generate.limit is 0"),
        (lambda: generate(CONFIG, weights_of(), [[1]], 5, chunk=0), r"generate.chunk is 0"),
        (lambda: generate(CONFIG, weights_of(), [[1]], 320), r"generate.prompts and limit need 321 tokens; .* \(320\)"),
        (lambda: generate(CONFIG, weights_of(), [[1]], 9, room=9), r"generate.room is 9; allowed: at least 10"),
        (
            lambda: generate(CONFIG, weights_of(), [[1]], 5, sampling=make_sampling(2)),
            r"generate.sampling has settings of shape \(2,\)",
        ),
        (lambda: generate(CONFIG, weights_of(), [[1]], 5, end=[-1]), r"generate.end has token -1"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_tokens_are_whole_numbers():
    with pytest.raises(TypeError, match=r"prompts\[0\] has float64 tokens; allowed: whole numbers"):
        generate(CONFIG, weights_of(), [[1.5]], 5)


def test_a_row_has_pages_once():
    pool = Pool(batch=2, room=64, count=8, size=16)
    pool.take(1, 20)
    with pytest.raises(ValueError, match=r"Pool.take.row is 1; allowed: a row without pages"):
        pool.take(1, 20)
    with pytest.raises(OutOfPages, match=r"Pool.take.tokens is 64, of 4 pages; allowed: the 0 pages free"):
        small = Pool(batch=2, room=64, count=4, size=16)
        small.take(0, 50)
        small.take(1, 64)
