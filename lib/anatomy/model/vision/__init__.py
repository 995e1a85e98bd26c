"""Sight for a model of text: an encoder of patches, a resampler, and gated cross-attention between frozen layers."""

from anatomy.model.vision.config import Vision
from anatomy.model.vision.encoder import encode, patches, resample
from anatomy.model.vision.language import Seen, forward, kept, see
from anatomy.model.vision.reading import Reading, over_patches, read
from anatomy.model.vision.weights import Added, init

__all__ = [
    "Added",
    "Reading",
    "Seen",
    "Vision",
    "encode",
    "forward",
    "init",
    "kept",
    "over_patches",
    "patches",
    "read",
    "resample",
    "see",
]
