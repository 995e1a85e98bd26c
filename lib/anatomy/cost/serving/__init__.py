"""What a deployment costs: prefill and decode steps, memory, communication, and the search for a plan."""
