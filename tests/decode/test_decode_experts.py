"""Experts as serving computes them: fused and in tiles, as the plain formula has it."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.decode import PlainDecoder, ServedModel, extend, logits, select_dispatch
from anatomy.model import Config, empty_cache, fuse_experts, init, unstack
from anatomy.model.moe import Choices, Experts, FusedExpert, all_experts, in_tiles, one_by_one
from anatomy.model.moe.tiles import tile_sizes
from hypothesis import example, given, settings

CONFIG = Config(
    vocabulary=16, layers=2, d_model=8, heads=2, kv_heads=1, head_dim=4, d_ff=12, experts=3, top_k=2, context=32
)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time


@functools.cache
def weights():
    """Larger than those that training begins with, so that experts matter."""
    return unstack(jax.tree.map(lambda a: 4 * a, init(CONFIG, jax.random.key(0))))


@functools.cache
def each(form):
    """Three experts, fused or not."""
    return (weights() if form == "plain" else fuse_experts(weights())).blocks[0].experts


@functools.cache
def program(name):
    return jit({"all_experts": all_experts, "in_tiles": in_tiles, "one_by_one": one_by_one}[name])


def some_choices(tokens, seed, favourite):
    """Two different experts for each token, or none; most have the favourite first."""
    random = np.random.default_rng(seed)
    first = np.where(random.random(tokens) < 0.8, favourite, random.integers(0, 3, tokens))
    chosen, weight = np.stack([first, (first + random.integers(1, 3, tokens)) % 3], axis=1), random.random((tokens, 2))
    gone = random.random(tokens) < 0.2
    chosen[gone], weight[gone] = 3, 0
    return Choices(jnp.asarray(chosen, jnp.int32), jnp.asarray(weight, jnp.float32))


@settings(max_examples=15)
@given(
    tokens=st.sampled_from([1, 3, 40, 70, 600]),
    seed=st.integers(0, 99),
    favourite=st.integers(0, 2),
    form=st.sampled_from(["plain", "fused"]),
)
@example(tokens=70, seed=0, favourite=1, form="fused")  # an expert has more rows than the largest tile
@example(tokens=600, seed=0, favourite=2, form="plain")
def test_tiles_compute_what_all_experts_compute(tokens, seed, favourite, form):
    choices = some_choices(tokens, seed, favourite)
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(tokens, 8)), jnp.float32)
    wanted, _ = program("all_experts")(x, choices, each("plain"))
    for name in ("in_tiles", *(("one_by_one",) if tokens < 40 else ())):
        made, dropped = program(name)(x, choices, each(form))
        np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)
        assert dropped == 0


def test_the_favourite_of_the_examples_fills_several_tiles():
    for tokens, favourite in ((70, 1), (600, 2)):
        chosen = np.asarray(some_choices(tokens, 0, favourite).expert)
        assert (chosen == favourite).sum() > tile_sizes(tokens)[-1]


@pytest.mark.parametrize("tokens", [*range(1, 70), 511, 512, 5000])
def test_sizes_of_tiles_rise_and_none_is_larger_than_needed(tokens):
    sizes = tile_sizes(tokens)
    assert sizes == sorted(set(sizes))
    assert sizes[0] >= 1 and sizes[-1] <= tokens
    assert len(sizes) <= 5  # each is a program for each expert of each layer


def test_fused_weights_are_the_same_and_are_fused_once():
    one, two = each("plain")[1], each("fused")[1]
    assert (one.gate == two.gate).all() and (one.up == two.up).all() and (one.down == two.down).all()
    assert fuse_experts(weights()).blocks[1].experts[0].inner.shape == (8, 24)
    twice = fuse_experts(fuse_experts(weights()))
    assert twice.blocks[0].experts[0] is not None
    for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(fuse_experts(weights())), strict=True):
        assert (a == b).all()
    assert isinstance(
        PlainDecoder(ServedModel(weights(), CONFIG, "all_experts")).model.weights.blocks[0].experts[0], Experts
    )
    assert isinstance(PlainDecoder(ServedModel(weights(), CONFIG)).model.weights.blocks[0].experts[0], FusedExpert)


@pytest.mark.parametrize("name", ["all_experts", "in_tiles", "one_by_one"])
def test_every_dispatch_serves_fused_weights(name):
    @jit
    def read(w):
        model = ServedModel(w, CONFIG, name)
        x, _ = extend(model, empty_cache(CONFIG, 2), jnp.array([[1, 2], [3, 0]]), jnp.array([2, 1]))
        return logits(model, x)

    there = jnp.array([[1, 1], [1, 0]], bool)[..., None]
    np.testing.assert_allclose(read(fuse_experts(weights())) * there, read(weights()) * there, rtol=1e-5, atol=1e-5)


def test_few_tokens_go_one_by_one_and_more_in_tiles():
    assert [select_dispatch(None, tokens) for tokens in (1, 2)] == [one_by_one] * 2
    assert [select_dispatch(None, tokens) for tokens in (3, 8, 256)] == [in_tiles] * 3
    assert select_dispatch("in_tiles", 1) is in_tiles
