"""The time of a decode step by llm-analysis, and how many such answers it gives in a second.

Runs in its own environment; reads the question from standard input.
"""

import json
import logging
import sys
import time

from llm_analysis.analysis import LLMAnalysis
from llm_analysis.config import ModelConfig, ParallelismConfig, get_dtype_config_by_name, get_gpu_config_by_name

logging.disable(logging.CRITICAL)
asked = json.load(sys.stdin)
analysis = LLMAnalysis(
    ModelConfig(
        name="asked",
        num_layers=asked["layers"],
        n_head=asked["heads"],
        num_key_value_heads=asked["kv_heads"],
        hidden_dim=asked["d_model"],
        vocab_size=asked["vocabulary"],
        max_seq_len=2 * asked["context"],
        # A gate is a third matrix: as many parameters as two of one and a half times the width.
        ffn_embed_dim=round(1.5 * asked["d_ff"]),
        expansion_ratio=1.5 * asked["d_ff"] / asked["d_model"],
    ),
    get_gpu_config_by_name("a100-sxm-80gb"),
    get_dtype_config_by_name("w16a16e16"),
    ParallelismConfig(tp_size=asked["tensor"]),
    flops_efficiency=asked["matmul"],
    hbm_memory_efficiency=asked["memory"],
)


def answer():
    return analysis.inference(batch_size_per_gpu=asked["sequences"], seq_len=asked["context"], num_tokens_to_generate=2)


seconds = answer()["decode_latency"]
count, start = 0, time.perf_counter()
while time.perf_counter() - start < 3.0:
    answer()
    count += 1
print(json.dumps({"seconds": seconds, "answers_per_second": count / (time.perf_counter() - start)}))
