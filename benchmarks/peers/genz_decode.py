"""The time of a decode step by GenZ, and how many such answers it gives in a second.

Runs in its own environment; reads the question from standard input.
"""

import json
import sys
import time

from GenZ import decode_moddeling

asked = json.load(sys.stdin)


def answer():
    return decode_moddeling(
        model="meta-llama/Llama-2-70B",
        batch_size=asked["sequences"],
        input_tokens=asked["context"],
        Bb=1,
        system_name="A100_80GB_GPU",
        bits="bf16",
        tensor_parallel=asked["tensor"],
        ceff=asked["matmul"],
        meff=asked["memory"],
    )


seconds = float(answer()["Latency"]) / 1e3
count, start = 0, time.perf_counter()
while time.perf_counter() - start < 3.0:
    answer()
    count += 1
print(json.dumps({"seconds": seconds, "answers_per_second": count / (time.perf_counter() - start)}))
