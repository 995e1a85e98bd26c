"""Trains transformers' Mixtral, step by step as it is asked; runs in its own environment.

Reads lines of JSON from standard input and answers each with one. The first says what is trained and how; the answer
is the ways in which transformers can compute it. Each further line is a step: its rows, the learning rate, and one of
these ways; the answer is the time that it took and the loss.
"""

import itertools
import json
import sys
import time
from typing import Any

import torch
from support.make_mixtral_fixture import read
from transformers import MixtralForCausalLM

# Exact, all of them. `batched_mm` copies the weights of two experts for every token: gigabytes a layer.
WAYS = list(itertools.product(("eager", "grouped_mm"), ("eager", "sdpa")))


def optimizer_of(model: MixtralForCausalLM, asked: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW without decay of norms, in its fused form, which is the fastest."""
    norms = [parameter for name, parameter in model.named_parameters() if "norm" in name]
    matrices = [parameter for name, parameter in model.named_parameters() if "norm" not in name]
    groups = [{"params": norms, "weight_decay": 0.0}, {"params": matrices, "weight_decay": asked["decay"]}]
    return torch.optim.AdamW(groups, lr=0.0, betas=tuple(asked["betas"]), fused=True)


def step(
    model: MixtralForCausalLM, optimizer: torch.optim.Optimizer, clip: float, asked: dict[str, Any]
) -> dict[str, float]:
    """One step, timed from the tokens to the new weights."""
    experts, attention = asked["way"]
    model.set_experts_implementation(experts)
    model.set_attn_implementation(attention)
    rows = torch.tensor(asked["rows"])
    inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    for group in optimizer.param_groups:
        group["lr"] = asked["rate"]

    start = time.perf_counter()
    made = model(input_ids=inputs, shift_labels=targets, labels=targets, output_router_logits=True, use_cache=False)
    made.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    balance = model.router_aux_loss_coef * made.aux_loss.item()
    return {"seconds": time.perf_counter() - start, "loss": made.loss.item() - balance}


def main() -> None:
    """Answer until standard input ends."""
    asked = json.loads(sys.stdin.readline())
    torch.set_num_threads(asked["threads"])
    model = read(asked["weights"]).float().train()
    model.router_aux_loss_coef = asked["balance"] / model.num_experts_per_tok  # their loss is k when even, ours 1
    optimizer = optimizer_of(model, asked)
    print(json.dumps(WAYS), flush=True)
    for line in sys.stdin:
        print(json.dumps(step(model, optimizer, asked["clip"], json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
