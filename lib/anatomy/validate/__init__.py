"""The cost models held against what was not made here: published runs, and the hours of published models."""

from anatomy.validate.hours import Training, published_hours
from anatomy.validate.published import Row, Run, compare, mean_error
from anatomy.validate.reading import read
from anatomy.validate.serving import Served

__all__ = ["Row", "Run", "Served", "Training", "compare", "mean_error", "published_hours", "read"]
