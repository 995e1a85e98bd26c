"""Sight: gates of 0 leave the text model alone, kept keys and values change nothing, and where the model looks."""

import dataclasses
import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.model import Config, empty_cache, moe, unstack, vision
from anatomy.model import forward as forward_text
from anatomy.model import init as init_text
from anatomy.model.vision import Vision
from anatomy.model.vision.encoder import look
from anatomy.validate import hlo
from hypothesis import given, settings

CONFIG = Config(vocabulary=40, layers=3, d_model=16, heads=4, kv_heads=2, head_dim=6, d_ff=20, experts=3, context=10)
VISION = Vision(height=4, width=8, patch=2, d_image=8, heads=2, layers=2, d_ff=12, latents=3, every=2, block_d_ff=20)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
run = jit(vision.forward, static_argnames=("config", "vision", "dispatch"))
see = jit(vision.see, static_argnums=(0, 1))


@functools.cache
def weights(opened=True):
    """A text model, and sight with gates that are open or 0."""
    text, added = init_text(CONFIG, jax.random.key(0)), vision.init(CONFIG, VISION, jax.random.key(1))
    if opened:
        gate = jnp.asarray(0.7, jnp.float32)
        blocks = tuple(dataclasses.replace(b, attention_gate=gate, mlp_gate=-gate) for b in added.blocks)
        added = dataclasses.replace(added, blocks=blocks)
    return text, added


def pictures(count=2, seed=0):
    return np.random.default_rng(seed).random((count, VISION.height, VISION.width)).astype(np.float32)


def some_tokens(count=2, length=6, seed=0):
    return np.random.default_rng(seed).integers(CONFIG.vocabulary, size=(count, length)).astype(np.int32)


def bits(array):
    return np.asarray(array).view(np.uint32)


@pytest.mark.parametrize("send, separate", [("all_experts", False), ("all_experts", True), ("with_overflow", False)])
def test_gates_of_zero_leave_the_text_model_alone_bit_for_bit(send, separate):
    """Compiled as programs are in use: both with all optimisations."""
    text, added = weights(opened=False)
    text, send = unstack(text) if separate else text, moe.TRAINABLE[send]
    tokens, seen = some_tokens(), see(CONFIG, VISION, added, pictures())
    alone = jax.jit(forward_text, static_argnums=0, static_argnames="dispatch")(CONFIG, text, tokens, dispatch=send)
    made, _ = jax.jit(vision.forward, static_argnums=(0, 1), static_argnames="dispatch")(
        CONFIG, VISION, text, added, tokens, seen, dispatch=send
    )
    np.testing.assert_array_equal(bits(made.logits), bits(alone.logits))
    np.testing.assert_array_equal(bits(made.load), bits(alone.load))
    opened, _ = run(CONFIG, VISION, text, weights()[1], tokens, see(CONFIG, VISION, weights()[1], pictures()))
    assert np.abs(opened.logits - alone.logits).max() > 0.01  # and the gates are what kept them the same


def test_kept_keys_and_values_change_nothing():
    text, added = weights()
    tokens, seen = some_tokens(length=7), see(CONFIG, VISION, added, pictures())
    whole, looked = run(CONFIG, VISION, text, added, tokens, seen)
    cache, logits, at = empty_cache(CONFIG, 2), [], []
    for part in np.split(tokens, [3, 4, 5], axis=1):
        made, weight = run(CONFIG, VISION, text, added, part, seen, cache)
        cache = made.cache
        logits.append(made.logits)
        at.append(weight)
    np.testing.assert_allclose(np.concatenate(logits, axis=1), whole.logits, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(np.concatenate(at, axis=3), looked, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(cache.length, [7, 7])
    np.testing.assert_allclose(looked.sum(-1), 1, rtol=1e-5)
    assert looked.shape == (2, 2, 4, 7, 3) and VISION.blocks(CONFIG) == 2


def test_reading_is_greedy_decoding_without_a_cache():
    text, added = weights()
    images, prompt, end = pictures(3), np.array([5, 7], np.int32), 4
    made = vision.read(CONFIG, VISION, text, added, images, prompt, 6, end)
    assert sorted(made.count) == [0, 4, 6]  # at once, on the way, and not at all
    seen = see(CONFIG, VISION, added, images)
    tokens = np.broadcast_to(prompt, (3, 2))
    for place in range(made.tokens.shape[1]):
        output, looked = run(CONFIG, VISION, text, added, tokens, seen)
        expected = np.asarray(looked)[:, :, :, -1].mean(2).swapaxes(0, 1)
        going = place < made.count
        np.testing.assert_allclose(made.attention[going, place], expected[going], rtol=1e-4, atol=1e-5)
        chosen = np.asarray(output.logits[:, -1].argmax(-1))
        np.testing.assert_array_equal(made.tokens[:, place], np.where(going, chosen, -1))
        assert np.all(chosen[place == made.count] == end)
        tokens = np.concatenate([tokens, chosen[:, None].astype(np.int32)], axis=1)
    over = vision.over_patches(VISION, made)
    assert over.shape == (*made.tokens.shape, 2, 4)
    np.testing.assert_allclose(over.sum((2, 3)), 1, rtol=1e-5)


def test_each_sequence_sees_its_own_image_and_no_other():
    text, added = weights()
    images, tokens = pictures(2), some_tokens()
    other = images.copy()
    other[1] = 1 - other[1]
    one, two = (
        run(CONFIG, VISION, text, added, tokens, see(CONFIG, VISION, added, i))[0].logits for i in (images, other)
    )
    np.testing.assert_allclose(one[0], two[0], rtol=1e-5, atol=1e-6)
    assert np.abs(one[1] - two[1]).max() > 1e-4


@settings(max_examples=10)
@given(st.permutations(range(VISION.patches)))
def test_the_resampler_does_not_mind_the_order_of_patches(order):
    _, added = weights()
    encoded = np.random.default_rng(0).normal(size=(2, VISION.patches, VISION.d_image)).astype(np.float32)
    latents, looked = vision.resample(VISION, added, encoded)
    again, elsewhere = vision.resample(VISION, added, encoded[:, order])
    np.testing.assert_allclose(again, latents, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(elsewhere, looked[:, :, order], rtol=1e-4, atol=1e-6)
    assert latents.shape == (2, VISION.latents, VISION.d_image) and np.allclose(looked.sum(-1), 1)


def test_the_encoder_minds_where_a_patch_is():
    _, added = weights()
    images = pictures()
    one, two = vision.encode(VISION, added, images), vision.encode(VISION, added, images[:, :, ::-1])
    assert np.abs(np.sort(one, axis=1) - np.sort(two, axis=1)).max() > 0.01


def test_patches_are_the_squares_of_an_image():
    image = np.arange(32, dtype=np.float32).reshape(1, 4, 8)
    made = vision.patches(VISION, image)
    assert made.shape == (1, 8, 4)
    np.testing.assert_array_equal(made[0, 0], [0, 1, 8, 9])
    np.testing.assert_array_equal(made[0, 5], image[0, 2:4, 2:4].ravel())


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_looking_is_attention_with_shared_keys(kv_heads):
    """Against every head on its own."""
    random = np.random.default_rng(kv_heads)
    query, key, value = (random.normal(size=s) for s in ((2, 3, 4 * 5), (2, 6, kv_heads, 5), (2, 6, kv_heads, 5)))
    mixed, weight = look(query, key, value)
    for head in range(4):
        q, at = query.reshape(2, 3, 4, 5)[:, :, head], head * kv_heads // 4
        score = np.exp(np.einsum("bsc,bnc->bsn", q, key[:, :, at]) / np.sqrt(5))
        expected = score / score.sum(-1, keepdims=True)
        np.testing.assert_allclose(weight[:, head], expected, rtol=1e-6)
        ours = np.asarray(mixed).reshape(2, 3, 4, 5)[:, :, head]
        np.testing.assert_allclose(ours, expected @ value[:, :, at], rtol=1e-6)


def test_parameters_are_those_of_the_cost_model():
    """Matrices and latents; norms and gates, which it leaves out, apart."""
    added = weights()[1]

    def count(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return sum(leaf.size for path, leaf in leaves if "norm" not in path[-1].name and "gate" not in path[-1].name)

    assert count(added.resampler) + added.latents.size == VISION.resampler.parameters
    assert count(added.blocks) == VISION.cross_attention(CONFIG).parameters(CONFIG.d_model)
    seen = see(CONFIG, VISION, added, pictures(1))
    kept = VISION.cross_attention(CONFIG).cache_bytes(VISION.latents, bytes_per_value=4)
    assert seen.key.nbytes + seen.value.nbytes == kept


def test_products_are_those_of_the_cost_model():
    """Of an image, and of tokens in the blocks, in the programs as they are compiled; to the last one."""
    text, added = weights()
    image, tokens = pictures(1), some_tokens(1)

    def flop(function, *given):
        return hlo.dot_flop(hlo.parse(jax.jit(function).lower(*given).compile().as_text()))

    def sees(added, images):
        return vision.see(CONFIG, VISION, added, images)

    def with_image(added, tokens, seen):
        return vision.forward(CONFIG, VISION, unstack(text), added, tokens, seen)[0].logits

    def alone(tokens):
        return forward_text(CONFIG, unstack(text), tokens, dispatch=moe.all_experts).logits

    cross, read = VISION.cross_attention(CONFIG), VISION.resampler.flop_per_image(VISION.patches)
    made = VISION.encoder.flop_per_image + read + cross.flop_per_image(VISION.latents)
    assert flop(sees, added, image) == made
    more = flop(with_image, added, tokens, sees(added, image)) - flop(alone, tokens)
    assert more == tokens.size * cross.flop_per_token(CONFIG.d_model, VISION.latents)


def test_gradients_reach_everything_once_the_gates_are_open():
    text, added = weights()

    @jit
    def gradient_of(given):
        def size(a):
            seen = vision.see(CONFIG, VISION, a, pictures())
            return (vision.forward(CONFIG, VISION, text, a, some_tokens(), seen)[0].logits ** 2).mean()

        return jax.grad(size)(given)

    gradient = gradient_of(added)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    shut = gradient_of(weights(opened=False)[1])
    reached = {path[-1].name for path, leaf in jax.tree_util.tree_leaves_with_path(shut) if np.any(leaf != 0)}
    assert reached == {"attention_gate", "mlp_gate"}  # the only way in


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"patch": 3}, "Vision.height is 4; allowed: a multiple of patch"),
        ({"width": 7}, "Vision.width is 7; allowed: a multiple of patch"),
        ({"heads": 3}, "Vision.heads is 3; allowed: a divisor of d_image"),
        ({"latents": 0}, "Vision.latents is 0; allowed: a whole number at least 1"),
        ({"layers": True}, "Vision.layers is True; allowed"),
        ({"every": 1.5}, "Vision.every is 1.5; allowed"),
    ],
)
def test_what_cannot_be_built_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        VISION.replace(**changes)


def test_what_cannot_be_read_is_named():
    text, added = weights()
    seen = vision.see(CONFIG, VISION, added, pictures())
    with pytest.raises(ValueError, match=r"images have shape \(2, 4, 4\); allowed: \(B, 4, 8\)"):
        vision.see(CONFIG, VISION, added, pictures()[:, :, :4])
    with pytest.raises(ValueError, match="images are 2; allowed: as many as sequences"):
        vision.forward(CONFIG, VISION, text, added, some_tokens(3), seen)
    with pytest.raises(ValueError, match=r"tokens of a sequence are 11; allowed: at most 10, the Config\.context"):
        vision.forward(CONFIG, VISION, text, added, some_tokens(length=11), seen)
    with pytest.raises(ValueError, match="at most 4, the room of the cache"):
        vision.forward(CONFIG, VISION, text, added, some_tokens(), seen, empty_cache(CONFIG, 2, room=4))
    read = functools.partial(vision.read, CONFIG, VISION, text, added, pictures())
    with pytest.raises(ValueError, match="tokens of the prompt are 0; allowed: 1 to 5"):
        read(np.zeros(0, np.int32), 5, 0)
    with pytest.raises(ValueError, match="tokens of the prompt are 8; allowed: 1 to 5"):
        read(np.zeros(8, np.int32), 5, 0)
    with pytest.raises(ValueError, match=r"read.limit is 0; allowed: a whole number at least 1"):
        read(np.zeros(2, np.int32), 0, 0)
    with pytest.raises(ValueError, match=r"read.prompt is 40; allowed: a whole number at least 0 and at most 39"):
        read(np.array([39, 40]), 5, 0)
    with pytest.raises(ValueError, match=r"read.end is -1; allowed: a whole number at least 0 and at most 39"):
        read(np.zeros(2, np.int32), 5, -1)
    for wrong in (255.0, np.nan, -0.5):
        with pytest.raises(ValueError, match=rf"read.images is {wrong:g}; allowed: a number at least 0 and at most 1"):
            vision.read(CONFIG, VISION, text, added, np.where(pictures() < 0.5, 0, wrong), [1], 2, 0)
