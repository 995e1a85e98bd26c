"""Encoders and what joins them to a language model: counts against published weights, and against a second count."""

import dataclasses

import jax
import numpy as np
import pytest
from anatomy.specs import CrossAttention, Encoder, Resampler, architecture, catalogue
from hypothesis import given
from hypothesis import strategies as st

ENCODERS = ("vit_b_16", "vit_l_16", "vit_h_14")
FLAMINGOS = {"flamingo_3b": 0.04, "flamingo_9b": 0.13, "flamingo_80b": 0.17}


@pytest.mark.parametrize("key", ENCODERS)
def test_encoders_have_exactly_the_published_parameters(key):
    made, row = catalogue.encoder(key), catalogue.entry("vision", key)
    head = row["classes"] * (made.d_model + 1)
    assert made.parameters + head == row["published_parameters"]


@pytest.mark.parametrize("key", ENCODERS[:2])
def test_encoders_have_the_published_flop(key):
    made, row = catalogue.encoder(key), catalogue.entry("vision", key)
    assert made.flop_per_image == pytest.approx(row["published_flop"], rel=3e-4)


@pytest.mark.parametrize("key", ["llama32_11b", "llama32_90b"])
def test_llama_with_vision_has_the_published_parameters(key):
    row = catalogue.entry("vision", key)
    parts = (
        architecture(row["language"]).parameters.total,
        catalogue.encoder("llama32_encoder").parameters,
        row["projected"] * row["d_model"],
        catalogue.cross_attention(key).parameters(row["d_model"]),
    )
    assert sum(parts) == pytest.approx(row["published_parameters"], rel=0.01)


def test_blocks_of_the_largest_llama():
    row = catalogue.entry("vision", "llama3_405b")
    made = catalogue.cross_attention("llama3_405b").parameters(row["d_model"])
    assert made == pytest.approx(row["published_parameters"], rel=0.02)
    assert row["blocks"] == architecture("llama31_405b").layers // row["every"]


@pytest.mark.parametrize("key, error", FLAMINGOS.items())
def test_flamingos_are_near_the_published_parameters(key, error):
    row = catalogue.entry("vision", key)
    made = catalogue.cross_attention(key).parameters(row["d_model"])
    off = abs(made / row["published_parameters"] - 1)
    assert error - 0.015 < off < error  # the table has two digits; the misses are as the chapter says


def test_the_resampler_of_flamingo():
    row = catalogue.entry("vision", "flamingo_resampler")
    assert catalogue.resampler("flamingo_resampler").parameters == pytest.approx(row["published_parameters"], rel=0.03)


SIZES = st.integers(1, 6)


@given(layers=SIZES, width=SIZES, inner=SIZES, rows=SIZES, patch=SIZES)
def test_parameters_are_those_of_arrays(layers, width, inner, rows, patch):
    made = Encoder(layers=layers, d_model=width, d_ff=inner, side=rows * patch, patch=patch)
    tokens = rows**2 + 1
    layer = [(width, width), (width,)] * 4 + [(width, inner), (inner,), (inner, width), (width,)] + [(width,)] * 4
    arrays = [(patch * patch * 3, width), (width,), (width,), (tokens, width), (width,), (width,)] + layer * layers
    assert made.parameters == sum(int(np.prod(shape)) for shape in arrays)


@given(patches=st.integers(1, 40), latents=SIZES, heads=SIZES, head_dim=SIZES, width=SIZES, among=st.booleans())
def test_flop_of_a_resampler_are_those_of_its_products(patches, latents, heads, head_dim, width, among):
    inner = 3
    made = Resampler(latents=latents, layers=2, d_model=width, heads=heads, head_dim=head_dim, d_ff=inner, among=among)
    inside, read = heads * head_dim, patches + among * latents
    products = [
        (latents, width, inside), (read, width, inside), (read, width, inside), (latents, inside, width),
        (latents, width, inner), (latents, inner, width),
    ]  # fmt: skip
    products += [(latents, head_dim, read), (latents, read, head_dim)] * heads
    assert made.flop_per_image(patches) == 2 * sum(2 * m * n * k for m, k, n in products)


def test_an_image_need_not_be_square():
    square = catalogue.encoder("vit_b_16")
    same = dataclasses.replace(square, width=square.side)
    assert (same.patches, same.parameters, same.flop_per_image) == (196, square.parameters, square.flop_per_image)
    assert dataclasses.replace(square, side=32.0, width=64.0).patches == 8
    with pytest.raises(ValueError, match=r"Encoder\.patch is 16; allowed: a divisor of width \(40"):
        dataclasses.replace(square, width=40.0)


def test_blocks_split_into_what_tokens_and_what_images_pass():
    made = catalogue.cross_attention("llama32_11b")
    assert made.parameters(4096) == made.blocks * (made.block_weights(4096) + made.image_weights)
    scores = made.blocks * 4 * 32 * 128 * 1601
    assert made.flop_per_token(4096, 1601) == 2 * made.blocks * made.block_weights(4096) + scores
    assert made.flop_per_image(10) == 10 * made.flop_per_image(1)
    assert made.cache_bytes(1601) == 8 * 1601 * 2 * 8 * 128 * 2  # layers, latents, keys and values, heads, width, bytes


def test_vision_works_under_transformations():
    def flop(side):
        return dataclasses.replace(catalogue.encoder("vit_b_16"), side=side).flop_per_image

    sides = np.array([160.0, 224.0, 448.0])
    together = jax.vmap(flop)(sides)
    assert np.allclose(together, [flop(float(side)) for side in sides], rtol=1e-6)
    assert jax.grad(flop)(224.0) > 0


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match=r"Encoder\.patch is 15; allowed: a divisor of side \(224"):
        Encoder(layers=1, d_model=8, d_ff=8, side=224, patch=15)
    with pytest.raises(ValueError, match=r"CrossAttention\.mlp_matrices is 4"):
        dataclasses.replace(catalogue.cross_attention("flamingo_3b"), mlp_matrices=4.0)
    with pytest.raises(KeyError, match="vision entry 'vit_h_16'; nearest: vit_"):
        catalogue.encoder("vit_h_16")
    assert isinstance(catalogue.cross_attention("flamingo_3b"), CrossAttention)
