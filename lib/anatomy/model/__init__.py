"""The small model: a mixture of experts in the article's manner, at a width that fits two cores."""

from anatomy.model.attention import Rows, empty_cache
from anatomy.model.config import Config
from anatomy.model.transformer import Block, Output, Weights, block, forward, fuse_experts, init, unstack

__all__ = [
    "Block",
    "Config",
    "Output",
    "Rows",
    "Weights",
    "block",
    "empty_cache",
    "forward",
    "fuse_experts",
    "init",
    "unstack",
]
