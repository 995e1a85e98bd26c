"""Decoding: caches, sampling, generation and the serving engine."""

from anatomy.decode.cache import Cache, OutOfPages, Pages, Pool, Rows, bytes_per_token, pages, rows
from anatomy.decode.generate import Generated, generate, prefill
from anatomy.decode.sampling import Sampling, distribution, draw, sample, sampling, uniform
from anatomy.decode.step import extend, logits, sender

__all__ = [
    "Cache",
    "Generated",
    "OutOfPages",
    "Pages",
    "Pool",
    "Rows",
    "Sampling",
    "bytes_per_token",
    "distribution",
    "draw",
    "extend",
    "generate",
    "logits",
    "pages",
    "prefill",
    "rows",
    "sample",
    "sampling",
    "sender",
    "uniform",
]
