"""Checks of the serving cluster."""

from anatomy.claims.checks.inference_infrastructure import cluster, experts  # noqa: F401
