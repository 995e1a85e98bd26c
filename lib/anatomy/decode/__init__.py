"""Decoding: caches, sampling, generation and the serving engine."""

from anatomy.decode.accepting import Distance, Lenient, Threshold, distance, exact
from anatomy.decode.cache import Cache, OutOfPages, Pages, Pool, Rows, bytes_per_token, pages, rows
from anatomy.decode.clock import Clock, VirtualClock
from anatomy.decode.decoder import Decoder, Plain
from anatomy.decode.drafts import Drafter, Lookup, Model
from anatomy.decode.engine import Engine
from anatomy.decode.generate import Generated, generate, prefill
from anatomy.decode.journal import Journal
from anatomy.decode.record import record
from anatomy.decode.replay import random_requests, recorded, replay
from anatomy.decode.requests import Answer, Limits, Refused, Request
from anatomy.decode.sampling import Sampling, distribution, draw, sample, sampling, uniform
from anatomy.decode.speculating import Speculating
from anatomy.decode.speculative import Adapted, Speculated, Staged, speculate, take_round
from anatomy.decode.step import extend, logits, sender
from anatomy.decode.trees import Tree, chain, of_paths, wide

__all__ = [
    "Adapted",
    "Answer",
    "Cache",
    "Clock",
    "Decoder",
    "Distance",
    "Drafter",
    "Engine",
    "Generated",
    "Journal",
    "Lenient",
    "Limits",
    "Lookup",
    "Model",
    "OutOfPages",
    "Pages",
    "Plain",
    "Pool",
    "Refused",
    "Request",
    "Rows",
    "Sampling",
    "Speculated",
    "Speculating",
    "Staged",
    "Threshold",
    "Tree",
    "VirtualClock",
    "bytes_per_token",
    "chain",
    "distance",
    "distribution",
    "draw",
    "exact",
    "extend",
    "generate",
    "logits",
    "of_paths",
    "pages",
    "prefill",
    "random_requests",
    "record",
    "recorded",
    "replay",
    "rows",
    "sample",
    "sampling",
    "sender",
    "speculate",
    "take_round",
    "uniform",
    "wide",
]
