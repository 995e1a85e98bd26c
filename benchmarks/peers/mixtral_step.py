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
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

# Exact, all of them. `batched_mm` copies the weights of two experts for every token: gigabytes a layer.
WAYS = list(itertools.product(("eager", "grouped_mm"), ("eager", "sdpa")))


def optimizer_of(model: MixtralForCausalLM, how: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW without decay of norms, in its fused form, which is the fastest."""
    norms = [parameter for name, parameter in model.named_parameters() if "norm" in name]
    matrices = [parameter for name, parameter in model.named_parameters() if "norm" not in name]
    groups = [{"params": norms, "weight_decay": 0.0}, {"params": matrices, "weight_decay": how["decay"]}]
    return torch.optim.AdamW(groups, lr=0.0, betas=tuple(how["betas"]), fused=True)


def balance(model: MixtralForCausalLM, routers: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Their load-balancing loss, layer by layer as ours is, not of all layers as one; and 1 when even, not top_k."""
    experts, top_k = model.num_experts, model.num_experts_per_tok
    return sum(load_balancing_loss_func((scores,), experts, top_k) for scores in routers) / (top_k * len(routers))


def step(
    model: MixtralForCausalLM, optimizer: torch.optim.Optimizer, how: dict[str, Any], asked: dict[str, Any]
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
    made = model(input_ids=inputs, output_router_logits=True, use_cache=False)
    loss = torch.nn.functional.cross_entropy(made.logits.flatten(0, 1), targets.flatten())
    (loss + how["balance"] * balance(model, made.router_logits)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), how["clip"])
    optimizer.step()
    optimizer.zero_grad()
    return {"seconds": time.perf_counter() - start, "loss": loss.item()}


def main() -> None:
    """Answer until standard input ends."""
    how = json.loads(sys.stdin.readline())
    torch.set_num_threads(how["threads"])
    model = read(how["weights"]).float().train()
    optimizer = optimizer_of(model, how)
    print(json.dumps(WAYS), flush=True)
    for line in sys.stdin:
        print(json.dumps(step(model, optimizer, how, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
