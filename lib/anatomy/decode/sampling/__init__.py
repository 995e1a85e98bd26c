"""How tokens are drawn from logits, and what becomes of tokens that a draft has drawn."""

from anatomy.decode.sampling.acceptance import AcceptanceRule, Lenient, Threshold, exact
from anatomy.decode.sampling.draw import Sampling, check_tokens, distribution, draw, make_sampling, sample, uniform

__all__ = [
    "AcceptanceRule",
    "Lenient",
    "Sampling",
    "Threshold",
    "check_tokens",
    "distribution",
    "draw",
    "exact",
    "make_sampling",
    "sample",
    "uniform",
]
