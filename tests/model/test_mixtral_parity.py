"""Logits of transformers' Mixtral with the same weights, and what is refused of a saved model."""

import dataclasses
import json
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from anatomy.model import Config, forward, init, unstack
from anatomy.model.mixtral import load, save
from anatomy.model.moe import DISPATCHES, EXACT
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.mixtral_peer import Unavailable, peer_python

FIXTURE = Path(__file__).with_name("mixtral_logits.safetensors")
SCRIPT = Path(__file__).parents[1] / "support" / "make_mixtral_fixture.py"
quick = {"xla_backend_optimization_level": 0}  # compiles in half the time
run = jax.jit(forward, static_argnames=("config", "dispatch"), compiler_options=quick)
SMALL = Config(vocabulary=40, layers=2, d_model=16, heads=4, kv_heads=2, head_dim=6, d_ff=20, experts=3, context=32)


def unpack(fixture, directory):
    """Weights and settings of a fixture as a model's directory; its tokens and logits."""
    tensors = load_file(fixture)
    tokens, logits = tensors.pop("tokens"), tensors.pop("logits")
    with safe_open(fixture, "np") as file:
        (directory / "config.json").write_text(file.metadata()["config"])
    save_file(tensors, directory / "model.safetensors")
    return tokens, logits


def some_weights(config, seed):
    """Weights of a configuration, with nothing to compile."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    return jax.tree.map(lambda a: random.normal(size=a.shape).astype(a.dtype), shapes)


def same(one, two):
    """Whether two trees of weights have the same bits."""
    leaves = list(zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in leaves)


@pytest.fixture
def saved(tmp_path):
    """A small saved model."""
    save(SMALL, some_weights(SMALL, 1), tmp_path)
    return tmp_path


def settings(directory, **changes):
    """Change config.json of a saved model; None takes a setting away."""
    path = directory / "config.json"
    changed = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))


def tensors(directory, change):
    """Change the tensors of a saved model."""
    held = {name: a.copy() for name, a in load_file(directory / "model.safetensors").items()}
    change(held)
    save_file(held, directory / "model.safetensors")


@pytest.mark.parametrize("send", sorted(EXACT))
def test_logits_agree_with_those_that_transformers_computed(send, tmp_path):
    tokens, theirs = unpack(FIXTURE, tmp_path)
    config, weights = load(tmp_path)
    ours = run(config, weights, jnp.asarray(tokens), dispatch=DISPATCHES[send]).logits
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "change", [{"rope_base": 10_000.0}, {"rope_scale": 1.0}, {"norm_epsilon": 0.01}, {"top_k": 1}, {"top_k": 3}]
)
def test_the_fixture_would_show_another_formula(change, tmp_path):
    tokens, theirs = unpack(FIXTURE, tmp_path)
    config, weights = load(tmp_path)
    ours = run(config.replace(**change), weights, jnp.asarray(tokens)).logits
    assert theirs.std() > 1
    assert np.abs(ours - theirs).max() > 0.01


@pytest.mark.parametrize(
    "config", [SMALL, SMALL.replace(rope_scale=4.0, rope_base=500.0), SMALL.replace(experts=1, top_k=1, kv_heads=1)]
)
def test_what_was_saved_is_what_is_loaded(config, tmp_path):
    weights = some_weights(config, 2)
    save(config, weights, tmp_path / "new" / "folder")
    again, loaded = load(tmp_path / "new" / "folder")
    assert again == config
    assert same(weights, loaded)


def test_weights_that_lie_apart_are_saved_alike(saved, tmp_path):
    save(SMALL, unstack(some_weights(SMALL, 1)), tmp_path / "apart")
    assert (tmp_path / "apart" / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


def test_a_model_can_be_saved_over_an_older_one(saved):
    weights = some_weights(SMALL, 3)
    save(SMALL, weights, saved)
    assert same(load(saved)[1], weights)
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_a_write_that_fails_leaves_the_old_file(saved, monkeypatch):
    before = (saved / "model.safetensors").read_bytes()

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        save(SMALL, some_weights(SMALL, 3), saved)
    assert (saved / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("router", ["hash", "expert_choice"])
def test_routers_that_mixtral_does_not_have_are_not_saved(router, tmp_path):
    config = SMALL.replace(router=router)
    with pytest.raises(ValueError, match=f"Config.router is '{router}'; allowed: top_k"):
        save(config, some_weights(config, 0), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 3}, "tensors missing: model.layers.2"),
        ({"experts": 2}, "tensors unknown: model.layers.0.block_sparse_moe.experts.2.w1.weight, .* and 3 more"),
        ({"d_ff": 21}, r"shape of .*w[123].weight is .*; allowed: \(.*21"),
    ],
)
def test_weights_of_another_configuration_are_not_saved(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save(SMALL.replace(**change), some_weights(SMALL, 0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_shards_are_read_like_one_file(saved):
    config, whole = load(saved)
    held = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    names = sorted(held)
    parts = {f"model-{i + 1:05}-of-00003.safetensors": names[i::3] for i in range(3)}
    for file, some in parts.items():
        save_file({name: held[name] for name in some}, saved / file)
    index = {"metadata": {}, "weight_map": {name: file for file, some in parts.items() for name in some}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    again, loaded = load(saved)
    assert again == config
    assert same(whole, loaded)

    (saved / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00003"):
        load(saved)


def test_a_tied_embedding_is_copied(saved):
    tensors(saved, lambda held: held.pop("lm_head.weight"))
    with pytest.raises(ValueError, match=r"tensors missing: lm_head.weight"):
        load(saved)
    settings(saved, tie_word_embeddings=True)
    _, weights = load(saved)
    assert np.array_equal(weights.unembedding, weights.embedding.T)
    tensors(saved, lambda held: held.update({"lm_head.weight": held["model.embed_tokens.weight"] + 1}))
    with pytest.raises(ValueError, match=r"lm_head.weight differs from model.embed_tokens.weight; allowed: the same"):
        load(saved)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_single(dtype, saved):
    _, full = load(saved)
    tensors(saved, lambda held: held.update({name: a.astype(dtype) for name, a in held.items()}))
    _, loaded = load(saved)
    assert same(jax.tree.map(lambda a: a.astype(dtype).astype(jnp.float32), full), loaded)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}, {"rope_base": 77.0}),
        ({"rope_parameters": {"rope_type": "linear", "factor": 3.0}}, {"rope_scale": 3.0}),
        ({"rope_scaling": {"type": "linear", "factor": 3.0}}, {"rope_scale": 3.0}),
        ({"num_key_value_heads": None}, None),
        ({"sliding_window": 32}, {}),
        ({"torch_dtype": None, "hidden_act": None, "an_unknown_setting": 1}, {}),
    ],
)
def test_settings_of_older_and_newer_files_are_understood(changes, expected, saved):
    settings(saved, **changes)
    if expected is None:  # a key and value head for each query head
        with pytest.raises(ValueError, match=r"shape of .*k_proj.weight is \(12, 16\); allowed: \(24, 16\)"):
            load(saved)
    else:
        assert load(saved)[0] == SMALL.replace(**expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; allowed: mixtral"),
        ({"model_type": None}, "model_type is None; allowed: mixtral"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; allowed: silu"),
        ({"sliding_window": 8}, "sliding_window is 8; allowed: none, or at least max_position_embeddings .32."),
        ({"rope_theta": None}, "rope_theta is None; allowed: a number above 0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type is 'yarn'; allowed: default, linear"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'; allowed: default, linear"),
        ({"rope_scaling": {"type": "linear"}}, "factor is None; allowed: a number above 0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; allowed: 1 or none"),
        ({"vocab_size": None}, "vocab_size is None; allowed: a number"),
        ({"num_experts_per_tok": 4}, "Config.top_k is 4; allowed: at most experts .3."),
        ({"hidden_size": "wide"}, "Config.d_model is 'wide'; allowed: a whole number"),
        ({"vocab_size": 41}, r"lm_head.weight is \(40, 16\); allowed: \(41, 16\)"),
        ({"head_dim": None}, r"k_proj.weight is \(12, 16\); allowed: \(8, 16\)"),
    ],
)
def test_settings_that_the_model_does_not_know_are_refused(changes, message, saved):
    settings(saved, **changes)
    with pytest.raises(ValueError, match=message):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop("model.norm.weight"), "tensors missing: model.norm.weight"),
        (
            lambda held: held.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(24, np.float32)}),
            "tensors unknown: model.layers.0.self_attn.q_proj.bias",
        ),
        (
            lambda held: held.update({"lm_head.weight": np.ascontiguousarray(held["lm_head.weight"].T)}),
            r"shape of lm_head.weight is \(16, 40\); allowed: \(40, 16\)",
        ),
        (
            lambda held: held.update({"model.norm.weight": np.zeros(16, np.int8)}),
            "dtype of model.norm.weight is int8; allowed: float32, float16, bfloat16",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message, saved):
    tensors(saved, change)
    with pytest.raises(ValueError, match=message):
        load(saved)


def test_damaged_and_missing_files_are_refused(saved):
    whole, text = (saved / "model.safetensors").read_bytes(), (saved / "config.json").read_text()
    (saved / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read"):
        load(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        load(saved)
    (saved / "config.json").write_text(text[:-10])
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        load(saved)
    (saved / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"config.json holds a list; allowed: an object"):
        load(saved)
    (saved / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json"):
        load(saved)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        Config(context=64, layers=3, rope_scale=4.0),
        Config(context=64, layers=2, heads=4, kv_heads=4, head_dim=48, experts=8, top_k=3, norm_epsilon=1e-6),
        Config(context=64, layers=2, heads=6, kv_heads=2, head_dim=32, experts=1, top_k=1),
    ],
    ids=["multi_query", "multi_head", "dense"],
)
def test_transformers_computes_the_same_from_weights_that_we_saved(config, tmp_path):
    try:
        python = peer_python()
    except Unavailable as error:
        pytest.skip(str(error))
    weights, random = init(config, jax.random.key(4)), np.random.default_rng(4)
    blocks = dataclasses.replace(  # norms begin as ones, which would hide their place
        weights.blocks,
        attention_norm=random.uniform(0.5, 1.5, weights.blocks.attention_norm.shape).astype(np.float32),
        experts_norm=random.uniform(0.5, 1.5, weights.blocks.experts_norm.shape).astype(np.float32),
    )
    weights = dataclasses.replace(weights, blocks=blocks)
    save(config, weights, tmp_path / "ours")
    answers, shards = tmp_path / "answers.safetensors", tmp_path / "theirs"
    command = [python, SCRIPT, answers, "--weights", tmp_path / "ours", "--shards", shards]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert not done.returncode, done.stderr

    held = load_file(answers)
    logits = jax.jit(forward, static_argnums=0)(config, weights, jnp.asarray(held["tokens"])).logits
    assert held["logits"].std() > 0.9
    np.testing.assert_allclose(logits, held["logits"], rtol=0, atol=1e-4)

    assert (shards / "model.safetensors.index.json").exists()
    again, loaded = load(shards)  # what transformers saved
    assert again == config
    assert same(weights, loaded)
