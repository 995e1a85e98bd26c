"""Checks of speculative decoding."""

from anatomy.claims.checks.speculative_decoding import evidence, gain, mechanism  # noqa: F401
