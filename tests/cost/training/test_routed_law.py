"""Mixtures of experts: the law against published losses and its limits, the roofline against sums by hand."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.cost.serving.roofline import balanced_batch, bytes_read, chips_to_hold, decode_roofline, dollars_per_token
from anatomy.cost.training.routed_law import ROUTERS, routed_law
from anatomy.specs import architecture, catalogue, chip
from hypothesis import given

A100 = chip("a100_sxm_40gb")
GPT4 = architecture("gpt4")
LAWS = {router: routed_law(router) for router in ROUTERS}
PUBLISHED = catalogue.entry("scaling", "routed")["losses"]
SIZES = {"15M": 15e6, "1.3B": 1.3e9}
every_router = pytest.mark.parametrize("router", ROUTERS)
sizes, counts = st.floats(1e6, 1e13), st.floats(1, 1e4)


@pytest.mark.parametrize("size", SIZES)
def test_the_law_gives_the_published_losses(size):
    law = LAWS["s_base"]
    predicted = [float(law.loss(SIZES[size], e)) for e in PUBLISHED["experts"]]
    np.testing.assert_allclose(predicted, PUBLISHED[size], rtol=0.005)


@every_router
@given(n=sizes)
def test_one_expert_is_the_dense_law(router, n):
    law, dense = LAWS[router], catalogue.entry("scaling", "routed")["dense"]
    assert float(law.saturating(1.0)) == pytest.approx(law.E_start, rel=1e-12)
    assert float(law.effective_parameters(n, 1.0)) == pytest.approx(n, rel=1e-9)
    # One power of N, and near the law that was fitted to dense models alone, in the range of both.
    exponent = jax.grad(lambda x: jnp.log(law.loss(jnp.exp(x))))(np.log(n))
    assert exponent == pytest.approx(-dense["alpha_N"], abs=0.003)
    if 15e6 <= n <= 1.3e9:
        assert float(law.loss(n)) == pytest.approx((dense["N_c"] / n) ** dense["alpha_N"], rel=0.03)


@every_router
@given(n=sizes)
def test_the_gain_saturates(router, n):
    law = LAWS[router]
    assert float(law.saturating(1e12)) == pytest.approx(law.E_max, rel=1e-6)
    last = float(law.gain(n, 1e9))
    assert float(law.gain(n, 1e12)) == pytest.approx(last, abs=1e-6)
    assert abs(float(law.gain(n, 64.0))) <= abs(last)


@every_router
@given(n=sizes, e=counts)
def test_experts_help_below_the_cutoff_and_hurt_above(router, n, e):
    law = LAWS[router]
    more, fewer = float(law.gain(n, 2 * e)), float(law.gain(n, e))
    if n < 0.99 * law.cutoff:
        assert more > fewer >= -1e-12
    elif n > 1.01 * law.cutoff:
        assert more < fewer <= 1e-12
    assert float(law.gain(law.cutoff, e)) == pytest.approx(0, abs=1e-12)


@every_router
@given(n=sizes, e=counts)
def test_effective_parameters_are_those_of_a_dense_model_of_that_loss(router, n, e):
    law = LAWS[router]
    dense = float(law.effective_parameters(n, e))
    assert float(law.loss(dense)) == pytest.approx(float(law.loss(n, e)), rel=1e-9)
    assert float(law.gain(n, e, than=e)) == pytest.approx(0, abs=1e-12)
    assert float(law.gain(n, e)) == pytest.approx(1 - float(law.loss(n, e)) / float(law.loss(n)), abs=1e-12)


def test_a_router_without_a_law_is_refused():
    with pytest.raises(KeyError, match="s_base, rl_r, hash"):
        routed_law("losses")


# Serving.


def test_a_dense_model_reads_all_its_weights_once():
    dense = GPT4.replace(experts=1.0, top_k=1.0)
    table = dense.parameters.embedding
    for batch in (1.0, 1000.0):
        assert float(bytes_read(dense, tokens=batch)) == pytest.approx(2 * (dense.parameters.total - table))


@given(st.integers(1, 2000))
def test_a_batch_reads_what_its_tokens_visit(batch):
    read, parts = float(bytes_read(GPT4, tokens=batch, bytes_per_parameter=1.0)), GPT4.parameters
    assert parts.active - parts.embedding <= read * (1 + 1e-12)
    assert read <= parts.total - parts.embedding
    assert read < float(bytes_read(GPT4, tokens=batch + 1, bytes_per_parameter=1.0)) or batch > 200
    if batch == 1:
        assert read == pytest.approx(parts.active - parts.embedding)


@given(st.floats(1, 1e5), st.integers(1, 256), st.sampled_from([2.0, 16.0, 64.0, 128.0]))
def test_chips_cancel_in_the_price(batch, chips, experts):
    model = GPT4.replace(experts=experts)
    one, many = (
        float(
            dollars_per_token(
                decode_roofline(model, batch=batch, chip=A100, chips=n), batch=batch, chips=n, dollars_per_hour=1.0
            )
        )
        for n in (1.0, float(chips))
    )
    assert one == pytest.approx(many, rel=1e-12)


@pytest.mark.parametrize("experts", [16.0, 64.0, 128.0])
def test_the_balanced_batch_is_where_the_two_costs_meet(experts):
    batch = float(balanced_batch(experts=experts, top_k=2.0, chip=A100))
    step = decode_roofline(GPT4.replace(experts=experts), batch=batch, chip=A100)
    # Attention is shared by all tokens, so that it is bound by arithmetic there.
    assert 0.5 < float(step.read / step.compute) < 1
    assert float(step.utilisation) == 1
    only = experts * GPT4.expert_parameters
    flop = 2 * batch * 2 * GPT4.expert_parameters
    assert 2 * only / A100.memory_bandwidth == pytest.approx(flop / A100.flops_16bit)


@given(st.floats(1, 1e5))
def test_more_experts_never_cost_less(batch):
    prices = [
        float(
            dollars_per_token(
                decode_roofline(GPT4.replace(experts=e), batch=batch, chip=A100),
                batch=batch,
                chips=1.0,
                dollars_per_hour=1.0,
            )
        )
        for e in (2.0, 16.0, 64.0, 128.0)
    ]
    assert prices == pytest.approx(sorted(prices), rel=1e-5)


def test_chips_that_hold_the_weights():
    # 1.83e12 parameters at two bytes in memories of 40 GB: 91.6 chips, so twelve boxes of eight.
    assert float(chips_to_hold(GPT4, A100)) == 96
    assert float(chips_to_hold(GPT4, A100, bytes_per_parameter=1.0)) == 48
    assert float(chips_to_hold(GPT4, A100, boxes_of=1.0)) == np.ceil(2 * GPT4.parameters.total / 40e9)
    assert float(chips_to_hold(GPT4, A100, share=0.5)) == 184


def test_jit_vmap_and_plain_agree():
    def price(batch):
        return dollars_per_token(
            decode_roofline(GPT4, batch=batch, chip=A100), batch=batch, chips=1.0, dollars_per_hour=1.0
        )

    batches = jnp.array([1.0, 64.0, 4096.0])
    plain = [float(price(b)) for b in batches]
    np.testing.assert_allclose(jax.jit(jax.vmap(price))(batches), plain, rtol=1e-12)
