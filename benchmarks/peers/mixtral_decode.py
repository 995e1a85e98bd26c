"""Reads and continues tokens with transformers' Mixtral, as it is asked; runs in its own environment.

Reads lines of JSON from standard input and answers each with one. The first names the weights; the answer is the ways
in which transformers can compute them. Each further line has tokens, how many of each row are the prompt, and one of
these ways; the rest of the tokens is fed one by one. The answer is the time of both, and the likeliest token after
each that was fed.
"""

import itertools
import json
import sys
import time
from typing import Any

import torch
from support.make_mixtral_fixture import read
from transformers import DynamicCache, MixtralForCausalLM

# All of them are exact; the last copies the weights of two experts for every token, which pays for a few.
WAYS = list(itertools.product(("eager", "grouped_mm", "batched_mm"), ("eager", "sdpa")))


@torch.inference_mode()
def run(model: MixtralForCausalLM, asked: dict[str, Any]) -> dict[str, Any]:
    """Read the prompts, then feed the other tokens one by one."""
    experts, attention = asked["way"]
    model.set_experts_implementation(experts)
    model.set_attn_implementation(attention)
    tokens, cache = torch.tensor(asked["tokens"]), DynamicCache(config=model.config)
    start = time.perf_counter()
    made = model(input_ids=tokens[:, : asked["prompt"]], past_key_values=cache, logits_to_keep=1).logits[:, -1]
    first = made.argmax(-1).tolist()
    read_all = time.perf_counter()
    best = []
    for at in range(asked["prompt"], tokens.shape[1]):
        logits = model(input_ids=tokens[:, at : at + 1], past_key_values=cache, use_cache=True).logits[:, -1]
        best.append(logits.argmax(-1))
    steps = time.perf_counter() - read_all
    return {
        "prefill": read_all - start,
        "decode": steps,
        "best": [first, *(row.tolist() for row in best)],
    }


def main() -> None:
    """Answer until standard input ends."""
    how = json.loads(sys.stdin.readline())
    torch.set_num_threads(how["threads"])
    model = read(how["weights"]).float().eval()
    print(json.dumps(WAYS), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(model, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
