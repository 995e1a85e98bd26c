"""How the constants of `efficiency.toml` were fitted: anyone can fit them again, or to runs of their own."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from anatomy.cost.efficiency import Efficiency
from anatomy.cost.explore import Calibration, calibrate
from anatomy.validate.published import MEASURES, Run

# What is usual, and how far constants vary around it: half_size by a factor of two, the odds of a share by one of 1.6.
# Five rows do not determine five constants; what they leave open, these decide.
USUAL = Efficiency(matmul=0.75, half_size=20.0, memory=0.85, link=0.8, network=0.85)
SPREAD = {"matmul": 0.5, "half_size": 0.7, "memory": 0.5, "link": 0.5, "network": 0.5}
TOLERANCE = 0.02  # relative error that the model is expected to have


def fit(
    runs: Sequence[Run],
    hold: Sequence[str] = (),
    start: Efficiency = USUAL,
    spread: Mapping[str, float] = SPREAD,
) -> Calibration:
    """Constants with which the cost model predicts the first published measure of each run.

    Args:
        runs: of one generation of chips.
        hold: names of constants that stay as in `start`.
        start: the constants to begin with.
        spread: standard deviation of each constant from what is usual, in its logarithm or that of its odds.

    Returns:
        The `Efficiency` that fits, predictions and relative errors; see `explore.calibrate`.
    """
    first = [next(iter(run.published.items())) for run in runs]

    def predicted(share: Efficiency) -> Float[Array, "runs"]:
        pairs = zip(runs, first, strict=True)
        return jnp.stack([MEASURES[key].of(run.predict(share), run) for run, (key, _) in pairs])

    prior = {name: (getattr(USUAL, name), sd) for name, sd in spread.items() if name not in hold}
    return calibrate(predicted, start, [value for _, value in first], prior=prior, hold=hold, tolerance=TOLERANCE)
