"""Trains a tiny model with checkpoints in the directory given and prints a digest of all that came out; a script."""

import sys
from pathlib import Path


def main() -> None:
    """Train, or go on where the last checkpoint ends."""
    from anatomy.model import Config
    from anatomy.train import checkpoint
    from anatomy.train.loop import Training, train
    from anatomy.train.markov import random_markov

    config = Config(
        vocabulary=16, layers=2, d_model=32, heads=2, kv_heads=1, head_dim=16, d_ff=32, experts=4, top_k=2, context=32
    )
    training = Training(steps=60, batch=8, batch_start=4, ramp=100)
    made = train(config, training, random_markov(length=32), Path(sys.argv[1]), "test", every=1, progress=False)
    print(checkpoint.digest(checkpoint.named({"weights": made.weights, "history": made.history})))


if __name__ == "__main__":
    main()
