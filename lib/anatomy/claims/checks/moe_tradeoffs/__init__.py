"""Checks of the trade-offs of a mixture of experts."""

from anatomy.claims.checks.moe_tradeoffs import losses, published, serving  # noqa: F401
