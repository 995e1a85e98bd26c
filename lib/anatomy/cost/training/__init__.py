"""What a training run costs: a step, its memory and pipeline, the run with its failures, the loss it buys."""
