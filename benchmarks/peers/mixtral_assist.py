"""Continues prompts with transformers' Mixtral and a smaller one that assists it; runs in its own environment.

Reads lines of JSON from standard input and answers each with one. The first names the weights of both. Each further
line has a prompt, how many tokens to add, the temperature, a seed, and how the assistant drafts: tokens of a draft and
their schedule, or null to generate without it. The answer is the time and the tokens.
"""

import json
import sys
import time
from typing import Any

import torch
from support.make_mixtral_fixture import read
from transformers import MixtralForCausalLM


@torch.inference_mode()
def run(model: MixtralForCausalLM, assistant: MixtralForCausalLM, asked: dict[str, Any]) -> dict[str, Any]:
    """Generate once."""
    torch.manual_seed(asked["seed"])
    more = {}
    if asked["draft"]:
        settings, asked_for = assistant.generation_config, asked["draft"]
        settings.num_assistant_tokens, settings.num_assistant_tokens_schedule = asked_for[:2]
        settings.assistant_confidence_threshold = asked_for[2]
        more["assistant_model"] = assistant
    if asked["temperature"]:
        more |= {"do_sample": True, "temperature": asked["temperature"], "top_k": 0, "top_p": 1.0}
    tokens = torch.tensor([asked["prompt"]])
    start = time.perf_counter()
    made = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=asked["limit"],
        eos_token_id=None,
        pad_token_id=0,
        **({"do_sample": False} | more),
    )
    return {"seconds": time.perf_counter() - start, "tokens": made[0, tokens.shape[1] :].tolist()}


def main() -> None:
    """Answer until standard input ends."""
    how = json.loads(sys.stdin.readline())
    torch.set_num_threads(how["threads"])
    model, assistant = (read(how[name]).float().eval() for name in ("target", "draft"))
    for one in (model, assistant):
        one.generation_config.eos_token_id = None
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(model, assistant, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
