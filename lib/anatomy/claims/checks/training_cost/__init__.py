"""Checks of the training run and of what it costs."""

from anatomy.claims.checks.training_cost import firms, prices, run  # noqa: F401
