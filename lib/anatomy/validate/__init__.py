"""The cost models held against what was not made here: published runs, and the hours of published models."""

from anatomy.validate.hours import Training, published_hours
from anatomy.validate.published import Row, Run, compare, mean_error, read

__all__ = ["Row", "Run", "Training", "compare", "mean_error", "published_hours", "read"]
