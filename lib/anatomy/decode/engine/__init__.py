"""The serving engine: requests come and go at every step; decoders, clocks, a journal, and replays of traffic."""

from anatomy.decode.engine.clock import Clock, VirtualClock
from anatomy.decode.engine.decoder import Decoder, PlainDecoder
from anatomy.decode.engine.engine import Engine
from anatomy.decode.engine.journal import Journal
from anatomy.decode.engine.replay import random_requests, recorded, replay
from anatomy.decode.engine.requests import Answer, Limits, Refused, Request
from anatomy.decode.engine.speculation import SpeculativeDecoder

__all__ = [
    "Answer",
    "Clock",
    "Decoder",
    "Engine",
    "Journal",
    "Limits",
    "PlainDecoder",
    "Refused",
    "Request",
    "SpeculativeDecoder",
    "VirtualClock",
    "random_requests",
    "recorded",
    "replay",
]
