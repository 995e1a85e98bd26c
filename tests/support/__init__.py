"""What several tests, and the benchmarks, need: a clean copy of the checkout, a browser, node, type checks."""

from support.annotations import checked

__all__ = ["checked"]
