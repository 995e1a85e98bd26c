"""Padding takes part in nothing: no place, no choice, no loss, whatever its tokens are and whatever brings them."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.model import Config, empty_cache, forward, init, unstack
from anatomy.model.config import ROUTERS
from anatomy.model.moe import DISPATCHES, routing
from hypothesis import example, given, settings

SMALL = Config(vocabulary=40, layers=2, d_model=16, heads=4, kv_heads=2, head_dim=6, d_ff=20, experts=4, context=12)
EVERY = [(router, name) for router in ROUTERS for name in sorted(DISPATCHES)]
ROWS, LENGTH = 3, 8
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time


route = jit(routing.route, static_argnums=0)


@functools.cache
def weights_of(config):
    """Weights larger than those that training begins with, so that routing matters."""
    return jax.tree.map(lambda a: 3 * a, init(config, jax.random.key(0)))


@functools.cache
def program(router, name):
    config = SMALL.replace(router=router)
    weights = weights_of(config)

    @jit
    def read(tokens, mask):
        made = forward(config, weights, tokens, dispatch=DISPATCHES[name], mask=mask)
        return made.logits, {n: getattr(made, n) for n in ("balance", "z", "dropped", "load")}

    return read


def random_tokens(seed, *shape):
    return np.random.default_rng(seed).integers(SMALL.vocabulary, size=shape).astype(np.int32)


def padded(lengths, seed, padding):
    """Tokens by one seed and padding by another, and which are which."""
    mask = np.arange(LENGTH) < np.asarray(lengths)[:, None]
    return np.where(mask, random_tokens(seed, ROWS, LENGTH), random_tokens(padding, ROWS, LENGTH)), mask


lengths = st.lists(st.integers(0, LENGTH), min_size=ROWS, max_size=ROWS)


@pytest.mark.parametrize(("router", "name"), EVERY)
@settings(max_examples=12)
@given(lengths, st.integers(0, 99), st.integers(100, 199), st.integers(200, 299))
@example([1, 8, 3], 0, 100, 200)
@example([0, 5, 0], 1, 100, 201)
@example([0, 0, 0], 1, 100, 201)
def test_padding_changes_no_bit_of_what_is_real(router, name, lengths, seed, one, two):
    (tokens, mask), (others, _) = padded(lengths, seed, one), padded(lengths, seed, two)
    (here, losses), (there, other_losses) = program(router, name)(tokens, mask), program(router, name)(others, mask)
    assert np.array_equal(np.asarray(here)[mask], np.asarray(there)[mask])
    for loss in losses:
        assert np.array_equal(losses[loss], other_losses[loss]), loss
    assert all(np.isfinite(value).all() for value in losses.values())
    if not mask.any():
        assert not any(np.any(value) for value in losses.values())


@pytest.mark.parametrize(("router", "name"), EVERY)
@settings(max_examples=8)
@given(st.sampled_from([1, 3, 6]), st.integers(0, 99))
def test_losses_are_those_of_the_batch_without_padding(router, name, length, seed):
    tokens, mask = padded([length] * ROWS, seed, 100 + seed)
    here, losses = program(router, name)(tokens, mask)
    if name == "by_capacity":  # drops as places are short, and padding leaves it more of them
        assert losses["dropped"] <= program(router, name)(tokens[:, :length], None)[1]["dropped"] + 1e-6
        return
    wanted, others = program(router, "all_experts")(tokens[:, :length], None)
    np.testing.assert_allclose(here[:, :length], wanted, rtol=2e-4, atol=2e-4)
    for loss in losses:
        np.testing.assert_allclose(losses[loss], others[loss], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("router", ROUTERS)
def test_a_mask_of_all_is_no_mask(router):
    tokens, everything = random_tokens(0, ROWS, LENGTH), np.ones((ROWS, LENGTH), bool)
    for name in ("all_experts", "by_capacity", "one_by_one"):
        (here, losses), (there, others) = (program(router, name)(tokens, mask) for mask in (everything, None))
        assert np.array_equal(here, there)
        for loss in losses:
            np.testing.assert_allclose(losses[loss], others[loss], rtol=1e-6)


@pytest.mark.parametrize("name", ["by_capacity", "all_experts"])
def test_without_a_mask_padding_takes_part(name):
    # What the tests above would miss if padding were harmless anyway.
    (tokens, mask), (others, _) = padded([1, 2, 8], 0, 100), padded([1, 2, 8], 0, 200)
    (here, losses), (there, other_losses) = (program("top_k", name)(each, None) for each in (tokens, others))
    assert losses["balance"] != other_losses["balance"] and losses["z"] != other_losses["z"]
    assert np.array_equal(np.asarray(here)[mask], np.asarray(there)[mask]) is (name == "all_experts")


@pytest.mark.parametrize("router", ROUTERS)
@settings(max_examples=6)
@given(lengths.filter(any), st.integers(100, 199), st.integers(200, 299))
def test_padding_changes_no_bit_of_a_gradient(router, lengths, one, two):
    (tokens, mask), (others, _) = padded(lengths, 0, one), padded(lengths, 0, two)
    here, there = gradient_of(router)(tokens, mask), gradient_of(router)(others, mask)
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        assert np.array_equal(a, b)


@functools.cache
def gradient_of(router):
    config = SMALL.replace(router=router)
    weights = weights_of(config)

    @jit
    def gradient(tokens, mask):
        def loss(weights):
            made = forward(config, weights, tokens, dispatch=DISPATCHES["by_capacity"], mask=mask)
            return jnp.where(mask[..., None], jnp.square(made.logits), 0).sum() + made.balance + made.z

        return jax.grad(loss)(weights)

    return gradient


@settings(max_examples=40)
@given(
    st.sampled_from(ROUTERS),
    st.lists(st.booleans(), min_size=10, max_size=10),
    st.integers(0, 99),
)
def test_a_masked_token_chooses_the_expert_that_does_not_exist(router, mask, seed):
    config, mask = SMALL.replace(router=router), np.array(mask)
    scores = jnp.asarray(np.random.default_rng(seed).normal(size=(10, 4)), jnp.float32)
    expert, weight = map(np.asarray, route(config, scores, jnp.arange(10, dtype=jnp.int32), mask=mask).choices)
    assert (expert[~mask] == 4).all() and not weight[~mask].any()
    assert (expert[mask] < 4).all()
    if router == "expert_choice":  # what the real tokens alone would get
        taken = np.zeros((10, 4))
        np.add.at(taken, (np.arange(10)[mask, None], expert[mask]), weight[mask] > 0)
        assert (taken.sum(0) == (max(1, mask.sum() * 2 // 4) if mask.any() else 0)).all()


def test_a_cache_grows_by_the_real_tokens():
    lengths, tokens = np.array([2, 5, 3]), random_tokens(0, 3, LENGTH)
    weights = unstack(weights_of(SMALL))
    read = jit(functools.partial(forward, SMALL))
    whole = read(weights, tokens).logits
    first = read(weights, tokens[:, :5], empty_cache(SMALL, 3), mask=np.arange(5) < lengths[:, None])
    assert first.cache.length.tolist() == lengths.tolist()
    rows, places = np.arange(3)[:, None], lengths[:, None] + np.arange(2)
    more = read(weights, tokens[rows, places], first.cache)
    np.testing.assert_allclose(more.logits, whole[rows, places], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((2, 3), bool), r"forward.mask is \(2, 3\) of bool; allowed: \(2, 4\) of bool"),
        (np.ones((2, 4)), r"forward.mask is \(2, 4\) of float64; allowed: \(2, 4\) of bool"),
        (np.array([[1, 1, 1, 0], [1, 0, 1, 0]], bool), "padding before a token in row 1; allowed: padding at the end"),
    ],
)
def test_masks_that_mean_nothing_are_refused(mask, message):
    with pytest.raises(ValueError, match=message):
        forward(SMALL, weights_of(SMALL), random_tokens(0, 2, 4), mask=mask)
