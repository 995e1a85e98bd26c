"""The small model: shapes, gradients, causality, the cache, positions and routers."""

import dataclasses
import functools
import inspect
import itertools
import re
from collections import Counter

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from anatomy.model import Config, attention, empty_cache, forward, init, moe, transformer, unstack
from anatomy.model.attention import rotate
from anatomy.model.config import ROUTERS
from anatomy.model.moe import DISPATCHES, EXACT, TRAINABLE, Choices, Experts, capacity, dense, grouped, routing, tiles
from anatomy.model.moe import experts as expert_weights
from beartype import beartype
from hypothesis import given, settings

SMALL = Config(vocabulary=40, layers=2, d_model=16, heads=4, kv_heads=2, head_dim=6, d_ff=20, experts=3, context=8)
CAUSAL = ("top_k", "hash")
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time
run = jit(forward, static_argnames=("config", "dispatch"))


@functools.cache
def weights_of(config):
    """Weights larger than those that training begins with, so that positions and routing matter."""
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(0.5 * random.normal(size=a.shape) + (a.ndim < 2), a.dtype), shapes)


def some_tokens(sequences=2, length=8, seed=0):
    return np.random.default_rng(seed).integers(SMALL.vocabulary, size=(sequences, length)).astype(np.int32)


def some_choices(tokens, experts, k, seed=0, empty=0.0):
    """Different experts for each token, some of weight 0."""
    random = np.random.default_rng(seed)
    chosen = np.stack([random.permutation(experts)[:k] for _ in range(tokens)])
    weight = random.uniform(0.1, 1, (tokens, k)) * (random.random((tokens, k)) >= empty)
    return Choices(jnp.asarray(chosen, jnp.int32), jnp.asarray(weight, jnp.float32))


def some_experts(experts, d_model=6, d_ff=10, seed=0):
    random = np.random.default_rng(seed)
    shapes = (experts, d_model, d_ff), (experts, d_model, d_ff), (experts, d_ff, d_model)
    return Experts(*(jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes))


def close(one, two, tolerance=2e-5):
    np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)


def all_float32(tree):
    return {a.dtype.name for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.floating)} == {"float32"}


# Shapes


def test_weights_have_the_axes_that_they_are_annotated_with():
    sizes = {"V": 40, "L": 2, "D": 16, "HC": 24, "KC": 12, "E": 3, "F": 20}

    def check(tree):
        for field in dataclasses.fields(tree):
            value = getattr(tree, field.name)
            if dataclasses.is_dataclass(value):
                check(value)
            else:
                assert isinstance(value, field.type), (field.name, value.shape, field.type)

    with jaxtyping.jaxtyped("context"):
        for name, size in sizes.items():  # binds the names
            assert isinstance(np.zeros(size), jaxtyping.Float[np.ndarray, name])
        weights = weights_of(SMALL)
        check(dataclasses.replace(weights, blocks=jax.tree.map(lambda a: a[0], weights.blocks)))
        assert isinstance(weights.blocks.experts.down, jaxtyping.Float[jax.Array, "L E F D"])
        assert not isinstance(weights.blocks.experts.up, jaxtyping.Float[jax.Array, "L E F D"])


@pytest.fixture
def checked(monkeypatch):
    """Check the annotations of every function of the model while a test runs."""
    check = jaxtyping.jaxtyped(typechecker=beartype)
    for module in (transformer, attention, capacity, dense, grouped, tiles, routing, expert_weights):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__:
                monkeypatch.setattr(module, name, check(function))
    for name in DISPATCHES:
        module = next(m for m in (dense, capacity, grouped, tiles) if getattr(m, name, None) is not None)
        monkeypatch.setitem(DISPATCHES, name, getattr(module, name))


@pytest.mark.parametrize(
    ("router", "kv_heads", "experts", "send"),
    [
        ("top_k", 2, 3, "all_experts"),
        ("top_k", 1, 3, "in_buckets"),
        ("top_k", 4, 1, "one_by_one"),
        ("hash", 2, 3, "with_overflow"),
        ("hash", 2, 3, "ragged"),
        ("expert_choice", 2, 3, "by_capacity"),
    ],
)
def test_every_function_keeps_to_its_annotations(checked, router, kv_heads, experts, send):
    config = SMALL.replace(router=router, kv_heads=kv_heads, experts=experts, top_k=min(2, experts))
    weights, tokens = weights_of(config), some_tokens(3, 4)
    cache = attention.empty_cache(config, 3, room=7)

    for held in (None, cache):
        made = jax.eval_shape(
            lambda w, t, c: transformer.forward(config, w, t, c, DISPATCHES[send]), weights, tokens, held
        )
        assert made.logits.shape == (3, 4, 40)
        assert made.load.shape == (2, experts)
        assert made.balance.shape == made.z.shape == made.dropped.shape == ()
        assert all_float32(made)
    assert [a.shape for a in made.cache.key + made.cache.value] == [(3, 7, kv_heads, 6)] * 4
    assert made.cache.length.shape == (3,)


def test_a_wrong_axis_is_found(checked):
    with pytest.raises(jaxtyping.TypeCheckError):
        transformer.rms_norm(jnp.zeros((2, 3)), jnp.zeros(4), 1e-5)
    with pytest.raises(jaxtyping.TypeCheckError):
        transformer.forward(SMALL, weights_of(SMALL), jnp.zeros((2, 3), jnp.float32))


@settings(max_examples=20)
@given(st.lists(st.integers(1, 6), min_size=8, max_size=8), st.integers(1, 6))
def test_parameters_are_those_that_the_cost_models_count(widths, top_k):
    vocabulary, layers, d_model, group, kv_heads, half, d_ff, more = widths
    config = Config(
        vocabulary=vocabulary,
        layers=layers,
        d_model=d_model,
        heads=group * kv_heads,
        kv_heads=kv_heads,
        head_dim=2 * half,
        d_ff=d_ff,
        experts=top_k + more - 1,
        top_k=top_k,
    )
    leaves = jax.tree.leaves(jax.eval_shape(lambda: init(config, jax.random.key(0))))
    parameters = config.architecture.parameters
    unused = layers * d_model if config.experts == 1 else 0  # a router that has nothing to choose
    assert sum(leaf.size for leaf in leaves) == parameters.total + unused
    assert config.experts == 1 or parameters.active_share == config.top_k / config.experts


@pytest.mark.parametrize(
    ("router", "send"),
    [*(("top_k", name) for name in sorted(TRAINABLE)), *((name, "all_experts") for name in ROUTERS[1:])],
)
def test_everything_is_single_precision(router, send):
    config = SMALL.replace(router=router)

    def loss(weights):
        made = forward(config, weights, some_tokens(), empty_cache(config, 2), DISPATCHES[send])
        return made.logits.mean() + made.balance + made.z, made

    assert jax.config.jax_enable_x64  # what is given no dtype is double
    weights = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    assert all_float32(weights) and all_float32(empty_cache(config, 2))
    assert all_float32(jax.eval_shape(jax.grad(loss, has_aux=True), weights))


def test_training_begins_near_the_loss_of_a_guess():
    logits = run(SMALL, jit(init, static_argnums=0)(SMALL, jax.random.key(0)), some_tokens()).logits
    surprise = -jnp.take_along_axis(jax.nn.log_softmax(logits), some_tokens(seed=1)[..., None], -1).mean()
    assert surprise == pytest.approx(np.log(SMALL.vocabulary), rel=0.25)


# Experts


def plain(x, expert, weight, experts):
    """The weighted sum over chosen experts, in double precision, from the weights of each choice's own expert."""
    x, weight, experts = jax.tree.map(lambda a: a.astype(jnp.float64), (x, weight, experts))
    inner = jnp.einsum("td,tkdf->tkf", x, experts.gate[expert])
    inner = inner / (1 + jnp.exp(-inner)) * jnp.einsum("td,tkdf->tkf", x, experts.up[expert])
    return jnp.einsum("tk,tkf,tkfd->td", weight, inner, experts.down[expert])


@pytest.mark.parametrize(("tokens", "count", "k", "empty"), [(1, 4, 2, 0.0), (6, 3, 2, 0.3), (4, 1, 1, 0.0)])
@pytest.mark.parametrize("name", sorted(TRAINABLE))
def test_dispatches_and_their_gradients_are_those_of_the_formula(name, tokens, count, k, empty):
    choices, experts = some_choices(tokens, count, k, empty=empty), some_experts(count)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(tokens, 6)), jnp.float32)
    pull = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    roomy = {"by_capacity": {"factor": float(count)}}  # a place for every token at every expert
    send = functools.partial(DISPATCHES[name], **roomy.get(name, {}))

    def ours(x, weight, experts):
        made, dropped = send(x, Choices(choices.expert, weight), experts)
        return (made * pull).sum(), (made, dropped)

    def theirs(x, weight, experts):
        made = plain(x, np.asarray(choices.expert), weight, experts)
        return (made * pull).sum(), made

    arguments = (x, choices.weight, experts)
    gradient, (made, dropped) = jit(jax.grad(ours, (0, 1, 2), has_aux=True))(*arguments)
    expected_gradient, expected = jit(jax.grad(theirs, (0, 1, 2), has_aux=True))(*arguments)
    close(made, expected)
    assert dropped == 0
    taken = choices.weight > 0  # what is no choice has no gradient
    close(gradient[0], expected_gradient[0], 2e-4)
    close(jnp.where(taken, gradient[1], 0), jnp.where(taken, expected_gradient[1], 0), 2e-4)
    jax.tree.map(lambda a, b: close(a, b, 2e-4), gradient[2], expected_gradient[2])


def test_one_expert_is_a_dense_model():
    config = SMALL.replace(experts=1, top_k=1)
    weights, tokens = weights_of(config), some_tokens()

    def dense(x, choices, experts):
        one = jax.tree.map(lambda a: a[0], experts)
        return moe.expert(x, one), jnp.zeros((), x.dtype)

    def loss(weights, send):
        made = forward(config, weights, tokens, dispatch=send)
        return jnp.square(made.logits).mean(), made

    expected, there = jit(jax.grad(functools.partial(loss, send=dense), has_aux=True))(weights)
    for name in ("all_experts", "by_capacity"):
        gradient, here = jit(jax.grad(functools.partial(loss, send=DISPATCHES[name]), has_aux=True))(weights)
        close(here.logits, there.logits)
        assert here.balance == pytest.approx(1) and np.all(here.load == 1)
        jax.tree.map(close, gradient, expected)
        assert not np.any(gradient.blocks.router)  # a softmax over one score is always 1


limited = jit(moe.by_capacity, static_argnames="factor")


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 1.0, 1.25, 2.0]), st.sampled_from([0.0, 0.4]))
def test_capacity_drops_what_does_not_find_a_place(seed, factor, empty):
    tokens, count, k = 10, 4, 2
    choices, experts = some_choices(tokens, count, k, seed, empty), some_experts(count)
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(tokens, 6)), jnp.float32)
    places = min(tokens, int(np.ceil(factor * tokens * k / count)))
    queue, kept = Counter(), np.zeros((tokens, k), bool)
    for token, choice in itertools.product(range(tokens), range(k)):
        if choices.weight[token, choice] > 0:
            expert = int(choices.expert[token, choice])
            kept[token, choice] = queue[expert] < places
            queue[expert] += 1
    wanted = sum(queue.values())
    made, dropped = limited(x, choices, experts, factor=factor)
    close(made, moe.all_experts(x, Choices(choices.expert, jnp.where(kept, choices.weight, 0)), experts)[0])
    assert dropped == pytest.approx(1 - kept.sum() / max(wanted, 1), abs=1e-6)


def test_with_overflow_is_exact_on_both_of_its_paths():
    experts, x = some_experts(4), jnp.asarray(np.random.default_rng(1).normal(size=(12, 6)), jnp.float32)
    crowd = Choices(jnp.zeros((12, 1), jnp.int32), jnp.ones((12, 1), jnp.float32))
    spread = Choices(jnp.arange(12, dtype=jnp.int32)[:, None] % 4, jnp.ones((12, 1), jnp.float32))
    assert limited(x, crowd, experts, factor=2.0)[1] == 0.5
    assert limited(x, spread, experts, factor=2.0)[1] == 0
    for choices in (crowd, spread):
        made, dropped = jit(moe.with_overflow)(x, choices, experts)
        close(made, moe.all_experts(x, choices, experts)[0])
        assert dropped == 0


def test_only_a_dispatch_that_drops_lets_a_sequence_depend_on_its_neighbours():
    one, two = some_tokens(2), some_tokens(2, seed=5)
    two[1] = one[1]
    tight = functools.partial(moe.by_capacity, factor=0.5)
    for send in (*(DISPATCHES[name] for name in sorted(EXACT)), tight):
        here, there = (run(SMALL, weights_of(SMALL), tokens, dispatch=send).logits[1] for tokens in (one, two))
        if send is tight:
            assert np.abs(here - there).max() > 0.1
        else:
            close(here, there)


def test_all_but_one_have_gradients_and_all_but_one_are_exact():
    assert set(DISPATCHES) - set(TRAINABLE) == {"in_tiles"} and set(DISPATCHES) - EXACT == {"by_capacity"}


# Causality and the cache


@settings(max_examples=25)
@given(st.sampled_from(CAUSAL), st.integers(1, 7), st.integers(1, 39), st.booleans())
def test_a_later_token_never_changes_earlier_logits(router, position, step, stacked):
    config = SMALL.replace(router=router)
    weights = weights_of(config) if stacked else unstack(weights_of(config))
    tokens, changed = some_tokens(), some_tokens()
    changed[0, position] = (changed[0, position] + step) % SMALL.vocabulary
    before, after = (run(config, weights, each).logits for each in (tokens, changed))
    close(before[0, :position], after[0, :position], 1e-6)
    close(before[1], after[1], 1e-6)
    assert np.abs(before[0, position] - after[0, position]).max() > 1e-3


def test_expert_choice_looks_ahead():
    config = SMALL.replace(router="expert_choice")
    tokens, changed = some_tokens(), some_tokens()
    changed[0, -1] = (changed[0, -1] + 7) % SMALL.vocabulary
    before, after = (run(config, weights_of(config), each).logits for each in (tokens, changed))
    assert np.abs(before[0, :-1] - after[0, :-1]).max() > 1e-3


@settings(max_examples=25)
@given(st.sampled_from(CAUSAL), st.sets(st.integers(1, 7)))
def test_a_cache_changes_nothing_in_any_split(router, cuts):
    config = SMALL.replace(router=router)
    tokens, cache, made = some_tokens(), empty_cache(config, 2, room=10), []
    for first, last in itertools.pairwise([0, *sorted(cuts), 8]):
        output = run(config, weights_of(config), tokens[:, first:last], cache)
        made.append(np.asarray(output.logits))
        cache = output.cache
        assert cache.length.tolist() == [last, last]
    close(np.concatenate(made, axis=1), run(config, weights_of(config), tokens).logits)


@pytest.mark.parametrize("send", ["all_experts", "in_buckets", "one_by_one"])
def test_sequences_of_different_lengths_share_a_batch(send):
    lengths, tokens = np.array([2, 5, 3], np.int32), some_tokens(3, 8)
    weights = unstack(weights_of(SMALL))
    expected = run(SMALL, weights, tokens).logits
    padded = np.where(np.arange(5) < lengths[:, None], tokens[:, :5], 0)
    output = run(SMALL, weights, padded, empty_cache(SMALL, 3), DISPATCHES[send])
    for row, length in enumerate(lengths):
        close(output.logits[row, :length], expected[row, :length])
    cache = dataclasses.replace(output.cache, length=jnp.asarray(lengths))  # the padding is forgotten
    for size in (1, 2):
        positions = np.asarray(cache.length)[:, None] + np.arange(size)
        rows = np.arange(3)[:, None]
        output = run(SMALL, weights, tokens[rows, positions], cache, DISPATCHES[send])
        close(output.logits, expected[rows, positions])
        cache = output.cache
    assert cache.length.tolist() == (lengths + 3).tolist()


@pytest.mark.parametrize("router", ROUTERS)
def test_unstacked_weights_give_the_same(router):
    config = SMALL.replace(router=router)
    weights, tokens = weights_of(config), some_tokens()
    for cache in (None, empty_cache(config, 2)):
        one, two = (run(config, w, tokens, cache) for w in (weights, unstack(weights)))
        jax.tree.map(close, one, two)
    separate = unstack(weights)
    assert unstack(separate) is separate and isinstance(separate.blocks[0].experts, tuple)


# Attention and positions


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_shared_heads_are_copies_of_a_head(kv_heads):
    config, full = SMALL.replace(kv_heads=kv_heads), SMALL.replace(kv_heads=SMALL.heads)
    weights, tokens = weights_of(config), some_tokens()

    def copied(a):  # each key and value head once for each query head of its group
        each = a.reshape(*a.shape[:-1], kv_heads, config.head_dim)
        return jnp.repeat(each, config.heads // kv_heads, axis=-2).reshape(*a.shape[:-1], -1)

    blocks = dataclasses.replace(weights.blocks, key=copied(weights.blocks.key), value=copied(weights.blocks.value))
    close(run(config, weights, tokens).logits, run(full, dataclasses.replace(weights, blocks=blocks), tokens).logits)


def vectors(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(1, 1, 1, SMALL.head_dim)), jnp.float32)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.sampled_from([1.0, 4.0]))
def test_scores_depend_on_the_distance_alone(one, two, shift, scale):
    config = SMALL.replace(rope_scale=scale)
    query, key = vectors(0), vectors(1)

    def score(first, second):
        return float((rotate(query, jnp.array([[first]]), config) * rotate(key, jnp.array([[second]]), config)).sum())

    assert score(one, two) == pytest.approx(score(one + shift, two + shift), abs=1e-4)
    assert one == two or abs(score(one, two) - score(two, two)) > 1e-6


@given(st.integers(0, 50), st.sampled_from([1.0, 4.0]))
def test_positions_turn_pairs_as_complex_numbers(position, scale):
    config, x = SMALL.replace(rope_scale=scale, rope_base=100.0), vectors(2)
    half = config.head_dim // 2
    pairs = np.asarray(x[..., :half], np.float64) + 1j * np.asarray(x[..., half:], np.float64)
    turned = pairs * np.exp(1j * position / scale * 100.0 ** (-2 * np.arange(half) / config.head_dim))
    close(rotate(x, jnp.array([[position]]), config), np.concatenate([turned.real, turned.imag], -1), 1e-5)


def test_a_longer_context_is_squeezed_into_the_old_one():
    x, positions = jnp.repeat(vectors(3), 5, axis=1), jnp.arange(5)[None]
    close(rotate(x, 4 * positions, SMALL.replace(rope_scale=4.0)), rotate(x, positions, SMALL), 1e-6)


# Routers


FIVE = SMALL.replace(experts=5)


def route(config, scores):
    tokens = np.arange(len(scores))
    return jit(routing.route, static_argnums=0)(config, scores.astype(np.float32), tokens.astype(np.int32))


def test_balance_is_one_when_even_and_more_when_not():
    base = np.array([3.0, 1.0, 0.5, -1.0, -2.0])
    even = np.stack([np.roll(base, shift) for shift in range(5)])
    made = route(FIVE, even)
    assert made.balance == pytest.approx(1)
    close(made.load, np.full(5, 0.2))

    one = route(FIVE.replace(top_k=1), np.tile([50.0, 0, 0, 0, 0], (7, 1)))
    assert one.balance == pytest.approx(5)
    assert one.load.tolist() == [1, 0, 0, 0, 0]


def test_losses_by_hand():
    scores = np.array([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0]])
    config = SMALL.replace(experts=3, top_k=1)
    made = route(config, scores)
    total = np.exp(scores).sum(-1, keepdims=True)
    assert made.z == pytest.approx(np.mean(np.log(total) ** 2))
    probability = (np.exp(scores) / total).mean(0)
    assert made.balance == pytest.approx(3 * (0.5 * probability[1] + 0.5 * probability[2]))


def test_the_best_are_chosen_and_weighed_among_themselves():
    scores = np.random.default_rng(0).normal(size=(8, 5))
    choices = route(FIVE, scores).choices
    best = np.argsort(-scores, axis=1)[:, :2]
    assert np.array_equal(choices.expert, best)
    weight = np.exp(np.take_along_axis(scores, best, 1))
    close(choices.weight, weight / weight.sum(1, keepdims=True))


def test_each_expert_takes_its_best_tokens():
    config = FIVE.replace(router="expert_choice", top_k=2)
    scores = np.random.default_rng(1).normal(size=(10, 5))
    made = route(config, scores)
    probability = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    taken = np.zeros((10, 5))
    for expert in range(5):
        taken[np.argsort(-probability[:, expert])[:4], expert] = 1  # 10 tokens, 2 of 5 experts each
    assert 1 < taken.sum(1).max() <= 4  # none is cut off at 2 k
    found = np.zeros((10, 5))
    np.add.at(found, (np.arange(10)[:, None], np.asarray(made.choices.expert)), np.asarray(made.choices.weight))
    close(found, probability * taken)
    close(made.load, np.full(5, 0.2))


def test_a_hash_goes_by_the_token_alone_and_spreads_the_vocabulary():
    config = SMALL.replace(router="hash", experts=8)
    one, two = (route(config, np.random.default_rng(seed).normal(size=(1024, 8))) for seed in (0, 1))
    assert np.array_equal(one.choices.expert, two.choices.expert)
    assert np.all(one.choices.weight == 0.5)
    assert np.all(one.choices.expert[:, 0] != one.choices.expert[:, 1])
    close(one.load, np.full(8, 1 / 8), 0.02)


# Configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 0}, "Config.vocabulary is 0; allowed: a whole number at least 1"),
        ({"layers": 2.0}, "Config.layers is 2.0; allowed: a whole number at least 1"),
        ({"d_model": True}, "Config.d_model is True; allowed: a whole number at least 1"),
        ({"context": "long"}, "Config.context is 'long'; allowed: a whole number at least 1"),
        ({"heads": 4, "kv_heads": 3}, r"Config.kv_heads is 3; allowed: a divisor of heads \(4\)"),
        ({"heads": 2, "kv_heads": 4}, r"Config.kv_heads is 4; allowed: a divisor of heads \(2\)"),
        ({"head_dim": 5}, "Config.head_dim is 5; allowed: an even number"),
        ({"experts": 1}, r"Config.top_k is 2; allowed: at most experts \(1\)"),
        ({"router": "random"}, "Config.router is 'random'; allowed: one of top_k, expert_choice, hash"),
        ({"rope_base": 0.0}, "Config.rope_base is 0.0; allowed: a .*number above 0"),
        ({"rope_scale": float("nan")}, "Config.rope_scale is nan; allowed: a .*number above 0"),
        ({"norm_epsilon": float("inf")}, "Config.norm_epsilon is inf; allowed: a .*number above 0"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SMALL.replace(**changes)


def test_every_source_is_in_the_bibliography(references):
    for module in (transformer, attention, capacity, expert_weights, routing):
        keys = set(re.findall(r"\b[a-z]+\d{4}[a-z0-9]+\b", inspect.getsource(module)))
        assert keys and keys <= references
