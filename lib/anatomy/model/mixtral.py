"""Weights to and from the Hugging Face layout of Mixtral, in safetensors, so that a second implementation checks ours.

Names and shapes are those of transformers' `MixtralForCausalLM`. Matrices are (out, in) there and (in, out) here.
Rotary positions turn the same pairs (i, i + C/2) in both, so that no row needs to be moved; and a softmax over the
chosen experts is their softmax over all, divided by its sum over the chosen.

Source: jiang2024mixtral.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as serialise

from anatomy.model.config import Config
from anatomy.model.moe.experts import Experts
from anatomy.model.moe.experts import unstack as unstack_experts
from anatomy.model.transformer import Block, Weights, init, unstack

SETTINGS, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DTYPES = ("float32", "float16", "bfloat16")

# Our names, and theirs.
FIELDS = {
    "vocabulary": "vocab_size",
    "layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_ff": "intermediate_size",
    "experts": "num_local_experts",
    "top_k": "num_experts_per_tok",
    "context": "max_position_embeddings",
    "norm_epsilon": "rms_norm_eps",
}
LAYER = {
    "attention_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "experts_norm": "post_attention_layernorm",
    "router": "block_sparse_moe.gate",
}
EXPERT = {"gate": "w1", "up": "w3", "down": "w2"}
EMBEDDING, NORM, UNEMBEDDING = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def save(config: Config, weights: Weights, directory: str | os.PathLike[str]) -> None:
    """Write model.safetensors and config.json, which `load` and transformers read; float32.

    The directory is made where it is missing. Each file is written under another name and then moved into place, so
    that a reader finds the old one or the new one, whole.

    Args:
        config: of the model.
        weights: stacked or unstacked.
        directory: where to write.

    Raises:
        ValueError: Mixtral does not have the router, or the weights are not those of the configuration.
    """
    if config.router != "top_k":
        raise ValueError(f"Config.router is {config.router!r}; allowed: top_k, the only one of Mixtral")
    tensors = {name: np.ascontiguousarray(a, np.float32) for name, a in to_tensors(jax.device_get(weights)).items()}
    _check(tensors, config, "weights")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / WHOLE, serialise(tensors, metadata={"format": "pt"}))  # transformers asks for the format
    _write(directory / SETTINGS, (json.dumps(to_settings(config), indent=2) + "\n").encode())


def load(directory: str | os.PathLike[str]) -> tuple[Config, Weights]:
    """Read config.json and model.safetensors, or the shards that model.safetensors.index.json names.

    Half precision becomes float32. Where the output matrix is tied to the embedding it is copied.

    Returns:
        The configuration, and weights stacked along L.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or not of a Mixtral that `forward` computes: another model_type, a setting it
            does not know, tensors missing or unknown, a wrong shape or dtype.
    """
    directory = Path(directory)
    settings = _read_json(directory / SETTINGS)
    config = from_settings(settings)
    tensors = _read_tensors(directory)
    if settings.get("tie_word_embeddings", False) and EMBEDDING in tensors:
        output = tensors.setdefault(UNEMBEDDING, tensors[EMBEDDING])
        if not np.array_equal(output, tensors[EMBEDDING]):
            raise ValueError(
                f"{UNEMBEDDING} differs from {EMBEDDING}; allowed: the same, as tie_word_embeddings is true"
            )
    _check(tensors, config, str(directory))
    return config, from_tensors(config, tensors)


def to_settings(config: Config) -> dict[str, Any]:
    """A configuration as config.json has it."""
    settings: dict[str, Any] = {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}
    scaling = {"rope_type": "linear", "type": "linear", "factor": float(config.rope_scale)}  # old name and new
    return settings | {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "torch_dtype": "float32",
        "hidden_act": "silu",
        "rope_theta": float(config.rope_base),
        "rope_scaling": None if config.rope_scale == 1 else scaling,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "bos_token_id": None,  # by default theirs are 1 and 2, and 2 would end a text
        "eos_token_id": None,
    }


def from_settings(settings: Mapping[str, Any]) -> Config:
    """The configuration that config.json describes.

    Raises:
        ValueError: it is not of a Mixtral that `forward` computes; the message names the setting, its value and what
            is allowed.
    """
    _refuse(settings, "model_type", lambda value: value == "mixtral", "mixtral")
    given = {ours: settings.get(theirs) for ours, theirs in FIELDS.items()}
    if given["kv_heads"] is None:
        given["kv_heads"] = given["heads"]
    for ours, theirs in FIELDS.items():
        if ours != "head_dim":
            _refuse(settings | {theirs: given[ours]}, theirs, lambda value: value is not None, "a number")
    if given["head_dim"] is None:
        given["head_dim"] = given["d_model"] // given["heads"]

    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}  # newer, older
    rope = {
        "rope_theta": rope.get("rope_theta", settings.get("rope_theta")),
        "rope_type": rope.get("rope_type", rope.get("type", "default")),
        "factor": rope.get("factor"),
        "partial_rotary_factor": rope.get("partial_rotary_factor", settings.get("partial_rotary_factor")),
    }
    _refuse(rope, "rope_theta", lambda value: value is not None, "a number above 0")
    _refuse(rope, "rope_type", lambda value: value in ("default", "linear"), "default, linear")
    _refuse(rope, "partial_rotary_factor", lambda value: value in (None, 1), "1 or none")
    if rope["rope_type"] == "linear":
        _refuse(rope, "factor", lambda value: value is not None, "a number above 0")

    config = Config(
        **given,
        rope_base=rope["rope_theta"],
        rope_scale=rope["factor"] if rope["rope_type"] == "linear" else 1.0,
    )
    _refuse({"hidden_act": "silu"} | settings, "hidden_act", lambda value: value == "silu", "silu")
    reach = f"none, or at least max_position_embeddings ({config.context})"
    _refuse(settings, "sliding_window", lambda value: value is None or value >= config.context, reach)
    return config


def to_tensors(weights: Weights) -> dict[str, Float[Array, "..."]]:
    """Weights by their names in Mixtral, matrices as (out, in)."""
    weights = unstack(weights)
    tensors = {EMBEDDING: weights.embedding, NORM: weights.norm, UNEMBEDDING: weights.unembedding.T}
    for index, block in enumerate(weights.blocks):
        tensors |= {_of_layer(index, theirs): getattr(block, ours).T for ours, theirs in LAYER.items()}
        for number, expert in enumerate(unstack_experts(block.experts)):
            tensors |= {_of_expert(index, number, theirs): getattr(expert, ours).T for ours, theirs in EXPERT.items()}
    return tensors


def from_tensors(config: Config, tensors: Mapping[str, np.ndarray]) -> Weights:
    """Weights from tensors by their names in Mixtral; stacked, float32."""

    def stacked(names: Iterable[str]) -> np.ndarray:
        return np.stack([tensors[name].T.astype(np.float32) for name in names])

    def of_experts(theirs: str) -> np.ndarray:
        return np.stack(
            [stacked(_of_expert(i, e, theirs) for e in range(config.experts)) for i in range(config.layers)]
        )

    blocks = Block(
        **{ours: stacked(_of_layer(i, theirs) for i in range(config.layers)) for ours, theirs in LAYER.items()},
        experts=Experts(**{ours: of_experts(theirs) for ours, theirs in EXPERT.items()}),
    )
    weights = Weights(
        embedding=tensors[EMBEDDING], blocks=blocks, norm=tensors[NORM], unembedding=tensors[UNEMBEDDING].T
    )
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), weights)


def _of_layer(index: int, name: str) -> str:
    """Name of a tensor of a layer."""
    return f"model.layers.{index}.{name}.weight"


def _of_expert(index: int, number: int, name: str) -> str:
    """Name of a tensor of an expert of a layer."""
    return _of_layer(index, f"block_sparse_moe.experts.{number}.{name}")


def _check(tensors: Mapping[str, np.ndarray], config: Config, where: str) -> None:
    """Refuse tensors that are not those of a configuration."""
    expected = jax.eval_shape(lambda: to_tensors(init(config, jax.random.key(0))))
    for what, names in (("missing", expected.keys() - tensors.keys()), ("unknown", tensors.keys() - expected.keys())):
        if names:
            first = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ValueError(f"{where}: tensors {what}: {first}; allowed: the {len(expected)} of the configuration")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{where}: shape of {name} is {tensor.shape}; allowed: {expected[name].shape}")
        if tensor.dtype.name not in DTYPES:
            raise ValueError(f"{where}: dtype of {name} is {tensor.dtype.name}; allowed: {', '.join(DTYPES)}")


def _refuse(settings: Mapping[str, Any], name: str, right: Callable[[Any], bool], allowed: str) -> None:
    """Refuse a setting that is not right; what is not there is None."""
    value = settings.get(name)
    if not right(value):
        raise ValueError(f"{SETTINGS}: {name} is {value!r}; allowed: {allowed}")


def _read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}; allowed: an object")
    return value


def _read_tensors(directory: Path) -> dict[str, np.ndarray]:
    """All tensors of a model, of one file or of several; the whole file counts where both are, as in transformers."""
    if (directory / WHOLE).exists():
        files = {WHOLE}
    elif (directory / INDEX).exists():
        files = set(_read_json(directory / INDEX).get("weight_map", {}).values())
    else:
        raise FileNotFoundError(f"{directory} holds neither {WHOLE} nor {INDEX}")
    tensors: dict[str, np.ndarray] = {}
    for path in (directory / name for name in sorted(files)):
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
    return tensors


def _write(path: Path, content: bytes) -> None:
    """Write a file under another name, then move it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
