"""The small model: a mixture of experts in the article's manner, at a width that fits two cores."""

from anatomy.model.config import Config
from anatomy.model.transformer import Block, Cache, Output, Weights, apart, block, empty_cache, forward, init

__all__ = ["Block", "Cache", "Config", "Output", "Weights", "apart", "block", "empty_cache", "forward", "init"]
