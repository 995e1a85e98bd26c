"""What several tests, and the benchmarks, need: a clean copy of the checkout, a browser, node."""
