"""Checks of vision."""

from anatomy.claims.checks.vision import loading, model, public  # noqa: F401
