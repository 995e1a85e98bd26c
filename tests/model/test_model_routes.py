"""Routes of tokens agree with the load that a pass reports."""

import jax
import numpy as np
import pytest
from anatomy.model import Config, apart, forward, init
from anatomy.model.routes import routes, shares

CONFIG = Config(
    vocabulary=32, layers=3, d_model=16, heads=2, kv_heads=1, head_dim=8, d_ff=8, experts=4, top_k=2, context=12
)


@pytest.mark.parametrize("router", ["top_k", "hash"])
@pytest.mark.parametrize("laid", [lambda w: w, apart])
def test_routes_are_those_of_the_pass(router, laid):
    config = CONFIG.replace(router=router)
    weights = laid(init(config, jax.random.key(0)))
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, 32)
    expert, weight = routes(config, weights, tokens)
    assert expert.shape == weight.shape == (3, 2, 12, 2)
    np.testing.assert_allclose(shares(expert, 4), forward(config, weights, tokens).load, atol=1e-6)
    np.testing.assert_allclose(weight.sum(-1), 1, rtol=1e-6)
    assert np.all(weight[..., 0] >= weight[..., 1]) and np.all(expert[..., 0] != expert[..., 1])
