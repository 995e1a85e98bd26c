"""Speculative decoding: acceptance by position, draft lengths, token trees, and a step of a real deployment."""
