"""Decoding: caches, sampling, generation and the serving engine."""
