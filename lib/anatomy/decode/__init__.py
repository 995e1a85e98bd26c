"""Decoding: caches, sampling, generation and the serving engine."""

from anatomy.decode.cache import Cache, OutOfPages, Pages, Pool, Rows, bytes_per_token, pages, rows
from anatomy.decode.clock import Clock, VirtualClock
from anatomy.decode.decoder import Decoder, Plain
from anatomy.decode.engine import Engine
from anatomy.decode.generate import Generated, generate, prefill
from anatomy.decode.journal import Journal
from anatomy.decode.replay import random_requests, recorded, replay
from anatomy.decode.requests import Answer, Limits, Refused, Request
from anatomy.decode.sampling import Sampling, distribution, draw, sample, sampling, uniform
from anatomy.decode.step import extend, logits, sender

__all__ = [
    "Answer",
    "Cache",
    "Clock",
    "Decoder",
    "Engine",
    "Generated",
    "Journal",
    "Limits",
    "OutOfPages",
    "Pages",
    "Plain",
    "Pool",
    "Refused",
    "Request",
    "Rows",
    "Sampling",
    "VirtualClock",
    "bytes_per_token",
    "distribution",
    "draw",
    "extend",
    "generate",
    "logits",
    "pages",
    "prefill",
    "random_requests",
    "recorded",
    "replay",
    "rows",
    "sample",
    "sampling",
    "sender",
    "uniform",
]
