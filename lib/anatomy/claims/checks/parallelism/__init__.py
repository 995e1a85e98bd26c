"""Checks of the parallelism."""

from anatomy.claims.checks.parallelism import layout, memory, network, schedule  # noqa: F401
