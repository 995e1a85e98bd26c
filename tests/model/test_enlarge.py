"""A model with zeros around it: a larger one, and the same function."""

import functools

import jax
import numpy as np
import pytest
from anatomy.decode import generate
from anatomy.model import Config, forward, init, unstack
from anatomy.model.enlarge import enlarge
from anatomy.model.moe import all_experts

CONFIG = Config(vocabulary=20, layers=2, d_model=12, heads=2, head_dim=4, kv_heads=1, d_ff=10, experts=3, context=16)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles in half the time
run = jit(
    lambda config, weights, tokens: forward(config, weights, tokens, dispatch=all_experts).logits, static_argnums=0
)
SIZES = [
    {"layers": 5},
    {"d_model": 30},
    {"heads": 5},
    {"d_ff": 64},
    {"layers": 3, "d_model": 48, "heads": 4, "d_ff": 11},
]


@functools.cache
def weights():
    return jax.tree.map(lambda a: 2 * a, init(CONFIG, jax.random.key(0)))


def tokens():
    return np.random.default_rng(0).integers(20, size=(3, 16))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_larger_model_is_the_same_function(sizes):
    config, larger = enlarge(CONFIG, weights(), **sizes)
    assert {name: getattr(config, name) for name in sizes} == sizes
    fresh = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    assert jax.tree.map(lambda a: a.shape, larger) == jax.tree.map(lambda a: a.shape, fresh)
    wanted = run(CONFIG, weights(), tokens())
    np.testing.assert_allclose(run(config, larger, tokens()), wanted, rtol=2e-4, atol=5e-4)  # logits up to 10


def test_weights_that_are_apart_are_enlarged_alike():
    for one, other in zip(
        *(jax.tree.leaves(enlarge(CONFIG, w, layers=3)[1]) for w in (weights(), unstack(weights()))), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_larger_model_generates_the_same():
    config, larger = enlarge(CONFIG, weights(), layers=3, d_model=48)
    prompts = [[1, 2, 3], [4]]
    one, other = (
        generate(c, w, prompts, 8, chunk=8, dispatch="all_experts") for c, w in ((CONFIG, weights()), (config, larger))
    )
    np.testing.assert_array_equal(one.tokens, other.tokens)


@pytest.mark.parametrize(
    "sizes, says",
    [
        ({"d_ff": 9}, "enlarge.d_ff is 9; allowed: at least 10, as it is"),
        ({"experts": 4}, "enlarge.experts is 4; allowed: sizes of layers, d_model, heads, d_ff"),
        ({"layers": 2.5}, "Config.layers is 2.5"),
    ],
)
def test_what_cannot_grow_is_refused(sizes, says):
    with pytest.raises(ValueError, match=says):
        enlarge(CONFIG, weights(), **sizes)


def test_query_heads_of_several_groups_are_not_enlarged():
    config = CONFIG.replace(kv_heads=2)
    with pytest.raises(ValueError, match=r"enlarge.heads is 4; allowed: 2, as kv_heads is 2"):
        enlarge(config, init(config, jax.random.key(0)), heads=4)
