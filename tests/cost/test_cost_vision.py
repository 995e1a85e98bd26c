"""What seeing costs: parts that add up, limits that are known, and bytes that can be counted by hand."""

import dataclasses

import jax
import numpy as np
import pytest
from anatomy.cost.vision import added, blocks_like, code_bytes, data_rate, latent_bytes, storage_traffic, tuning_flop
from anatomy.specs import architecture, catalogue, cluster
from hypothesis import given
from hypothesis import strategies as st

GPT4 = architecture("gpt4")
ENCODER = dataclasses.replace(catalogue.encoder("vit_h_14"), side=224.0)
RESAMPLER = catalogue.resampler("flamingo_resampler")
PARTS = (GPT4, ENCODER, RESAMPLER, blocks_like(GPT4, every=7.0, d_image=1536.0))


def test_blocks_are_like_those_of_flamingo():
    for key in ("flamingo_3b", "flamingo_9b", "flamingo_80b"):
        row, made = catalogue.entry("vision", key), catalogue.cross_attention(key)
        layers = {"flamingo_3b": 24.0, "flamingo_9b": 40.0, "flamingo_80b": 80.0}[key]
        model = architecture("chinchilla_70b").replace(
            layers=layers, d_model=row["d_model"], heads=row["heads"], kv_heads=row["kv_heads"]
        )
        assert blocks_like(model, every=float(row["every"]), d_image=1536.0) == made


def test_parts_of_what_is_added():
    made = added(*PARTS)
    assert made.total == made.encoder + made.resampler + made.blocks
    assert (made.encoder, made.resampler) == (ENCODER.parameters, RESAMPLER.parameters)
    every, seventh = (added(*PARTS[:3], blocks_like(GPT4, every=n, d_image=1536.0)).blocks for n in (1.0, 7.0))
    assert every / seventh == pytest.approx(120 / 18)


def test_without_images_and_blocks_it_is_plain_training():
    none = dataclasses.replace(PARTS[3], blocks=0.0)
    made = tuning_flop(GPT4, ENCODER, RESAMPLER, none, tokens=1e12, images=0.0, attended=8192.0)
    assert made.total == made.language == pytest.approx(1e12 * GPT4.flop_per_token(8192.0, backward=True).total)


@given(tokens=st.floats(1.0, 1e13), images=st.floats(1.0, 1e11))
def test_freezing_saves_a_third_of_the_language_model_and_two_of_the_encoder(tokens, images):
    whole, frozen = (tuning_flop(*PARTS, tokens=tokens, images=images, attended=4096.0, frozen=f) for f in (0.0, 1.0))
    assert frozen.language == pytest.approx(whole.language * 2 / 3)
    assert whole.images - frozen.images == pytest.approx(2 * images * ENCODER.flop_per_image)
    assert frozen.blocks == whole.blocks
    assert whole.total == pytest.approx(whole.language + whole.blocks + whole.images)


def test_appetite_is_the_speed_of_the_identity():
    # 6 FLOP a parameter and token: the tokens of a second need just the FLOP of a second.
    rate = data_rate(flop_per_token=6 * 280e9, chips=25_000.0, peak=312e12, utilisation=0.34)
    assert rate * 6 * 280e9 == pytest.approx(25_000 * 312e12 * 0.34)


@given(rate=st.floats(0.0, 1e9), size=st.floats(0.0, 1e6), nodes=st.integers(1, 4000))
def test_traffic_is_shared_evenly(rate, size, nodes):
    there = cluster("a100_sxm_40gb", nodes)
    made = storage_traffic(tokens_per_second=rate, bytes_per_token=size, cluster=there)
    assert made.cluster == pytest.approx(rate * size)
    assert made.node * nodes == pytest.approx(made.cluster) and made.chip * 8 == pytest.approx(made.node)
    assert made.share * 25e9 == pytest.approx(made.chip)  # 200 Gb/s a chip


def test_bytes_of_latents_and_codes():
    # An image of 512 pixels as 64 x 64 x 4 values of two bytes, and as 1,024 codes of 13 bits.
    assert latent_bytes(patch=512.0, downsampling=8.0, channels=4.0) == 64 * 64 * 4 * 2
    assert code_bytes(patch=512.0, downsampling=16.0, codes=8192.0) == pytest.approx(1024 * 13 / 8)
    assert latent_bytes(patch=14.0, downsampling=8.0, channels=4.0, bytes_per_value=1.0) == 12.25


def test_costs_work_under_transformations():
    def cost(every):
        return tuning_flop(
            *PARTS[:3], blocks_like(GPT4, every=every, d_image=1536.0), tokens=2e12, images=1e9, attended=8192.0
        ).total

    every = np.arange(1.0, 9.0)
    assert np.allclose(jax.jit(jax.vmap(cost))(every), [cost(n) for n in every], rtol=1e-6)
    assert jax.grad(lambda n: tuning_flop(*PARTS, tokens=n, images=1e9, attended=8192.0).total)(2e12) > 0


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: blocks_like(GPT4, every=0.5, d_image=1536.0),
            r"blocks_like\.every is 0\.5; allowed: a number at least 1",
        ),
        (lambda: tuning_flop(*PARTS, tokens=-1.0, images=0.0, attended=8192.0), r"tuning_flop\.tokens is -1"),
        (
            lambda: tuning_flop(*PARTS, tokens=1.0, images=0.0, attended=8192.0, frozen=2.0),
            r"tuning_flop\.frozen is 2; allowed: a number from 0 to 1",
        ),
        (
            lambda: data_rate(flop_per_token=1.0, chips=1.0, peak=1.0, utilisation=1.5),
            r"data_rate\.utilisation is 1\.5",
        ),
        (
            lambda: storage_traffic(tokens_per_second=1.0, bytes_per_token=-4.0, cluster=cluster("a100_sxm_40gb", 1)),
            r"traffic\.bytes_per_token is -4",
        ),
        (lambda: latent_bytes(patch=14.0, downsampling=0.0, channels=4.0), r"latent_bytes\.downsampling is 0"),
        (lambda: code_bytes(patch=14.0, downsampling=16.0, codes=0.5), r"code_bytes\.codes is 0\.5"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
