"""Requests that wait: arrivals, batching policies, a simulated server, and the formulas of queueing theory."""
