"""Tokens over experts: how many each gets, and how many experts are active."""
