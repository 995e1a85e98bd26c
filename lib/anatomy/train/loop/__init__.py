"""The training loop: AdamW on next-token loss, a batch that may grow, and checkpoints to go on from."""

from anatomy.train.loop.batch import Batch, Data, batch_of
from anatomy.train.loop.driver import CLOCK, Place, Trained, run, seconds, train
from anatomy.train.loop.objective import cross_entropy, gradients, losses, mean_loss, objective
from anatomy.train.loop.settings import Training
from anatomy.train.loop.steps import MEASURED, State, accumulate, fresh, steps_of, update

__all__ = [
    "CLOCK",
    "MEASURED",
    "Batch",
    "Data",
    "Place",
    "State",
    "Trained",
    "Training",
    "accumulate",
    "batch_of",
    "cross_entropy",
    "fresh",
    "gradients",
    "losses",
    "mean_loss",
    "objective",
    "run",
    "seconds",
    "steps_of",
    "train",
    "update",
]
