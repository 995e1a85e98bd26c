"""The article as inputs of the cost models: its training run, its serving cluster, and who else has the chips."""
