"""What transformers' Mixtral computes, for the parity test; runs where torch and transformers are installed.

    python tests/support/make_mixtral_fixture.py tests/model/mixtral_logits.safetensors

makes the committed fixture: weights in their layout, tokens and logits, and config.json as metadata. With `--weights
DIRECTORY` the model is read from there instead of made, and with `--shards DIRECTORY` transformers also saves it, in
several files.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM

SEQUENCES, LENGTH = 2, 12


def make() -> MixtralForCausalLM:
    """A small model. No two widths are equal, so that a transposed matrix cannot pass, and weights are large enough
    for logits, positions and routing to matter."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=64,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}, rms_norm_eps=1e-4,
        initializer_range=0.2, tie_word_embeddings=False, sliding_window=None,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:  # they are made as ones
                parameter.uniform_(0.5, 1.5)
    return model


def read(directory: Path) -> MixtralForCausalLM:
    """A saved model, of which every tensor is there and known."""
    model, loading = MixtralForCausalLM.from_pretrained(directory, output_loading_info=True)
    if problems := {name: found for name, found in loading.items() if found}:
        raise SystemExit(f"transformers does not read {directory} whole: {problems}")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--shards", type=Path)
    arguments = parser.parse_args()

    model = (read(arguments.weights) if arguments.weights else make()).float().eval()
    tokens = torch.randint(model.config.vocab_size, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(input_ids=tokens).logits
    if arguments.shards:
        model.save_pretrained(arguments.shards, max_shard_size="64KB")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # the names in memory are others
        tensors = load_file(Path(folder) / "model.safetensors")
        settings = (Path(folder) / "config.json").read_text("utf-8")
    tensors |= {"tokens": tokens.to(torch.int32), "logits": logits.contiguous()}
    save_file(tensors, arguments.output, metadata={"config": settings})


if __name__ == "__main__":
    main()
