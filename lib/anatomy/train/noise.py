"""The noise of gradients: how large a batch still pays, estimated from a training's own gradients.

Symbols: G the true gradient, Sigma the covariance of the gradients of single rows, S = tr Sigma. A mean gradient over
B rows has the expected squared norm::

    E |G_B|^2 = |G|^2 + S / B

so that its norms at two batch sizes, b rows of a unit and B rows of a batch of n = B / b units, give both::

    |G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b),    S = (|G_b|^2 - |G_B|^2) / (1 / b - 1 / B)

Runs that reach one loss in batches of B rows after E rows tell the same by what they needed: with the fewest steps
S_min and the fewest rows E_min that could have done, the critical batch is E_min / S_min.

Source: mccandlish2018empirical, section 2.2 for ``B_simple = S / |G|^2``, appendix A.1 for its estimate; equation
2.11 for the rows that runs need.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from anatomy.specs.base import FINITE, between, check_arguments, refuse_where

NORM = {**between(high=1e300), "allowed": "a finite number at least 0"}


class Estimate(NamedTuple):
    """Signal and noise of the gradients of some steps; means over many are unbiased, single ones may be negative."""

    signal: Float[np.ndarray, "*steps"]  # |G|^2
    noise: Float[np.ndarray, "*steps"]  # S, for a batch of one row

    @property
    def critical_batch(self) -> float:
        """B_simple in rows: mean noise over mean signal, for a ratio of single steps would be biased.

        Infinite where the noise hides the signal, so that the mean signal is not above 0; 0 where there is no noise.
        """
        signal, noise = float(np.mean(self.signal)), float(np.mean(self.noise))
        return max(noise, 0.0) / signal if signal > 0 else float("inf")

    def windows(self, steps: int) -> list["Estimate"]:
        """The same, so many steps at a time, from the last backwards; the first that fill no window are left out.

        Raises:
            TypeError, ValueError: there are fewer steps than one window has, or the number is impossible.
        """
        check_arguments("windows", between(1, len(self.signal), whole=True), steps=steps)
        first = len(self.signal) % steps
        return [Estimate(*(part[i : i + steps] for part in self)) for i in range(first, len(self.signal), steps)]


def estimate(
    units: Float[np.ndarray, "*steps"],
    gradient: Float[np.ndarray, "*steps"],
    unit: int,
    batch: Float[np.ndarray, "*steps"],
) -> Estimate:
    """Signal and noise of each step, from norms at two batch sizes.

    Args:
        units: mean over the units of a step of the squared norms of their mean gradients; `history["square"]`.
        gradient: norm of the mean gradient of the whole batch, before it is clipped; `history["gradient"]`.
        unit: b, rows of a unit; `Training.unit`.
        batch: B, rows of each step; `history["rows"]`.

    Returns:
        ``|G|^2`` and S of each step.

    Raises:
        TypeError, ValueError: a norm is negative or no number, the unit is not above 0, or a batch has one unit only,
            from which noise cannot be told; or there are not as many norms of one kind as of the other.

    Source: mccandlish2018empirical, appendix A.1.
    """
    check_arguments("noise", NORM, units=units, gradient=gradient)
    check_arguments("noise", FINITE, unit=unit, batch=batch)
    if not np.shape(units) == np.shape(gradient) == np.broadcast_shapes(np.shape(batch), np.shape(units)):
        shapes = ", ".join(str(np.shape(values)) for values in (units, gradient, batch))
        raise ValueError(f"noise.units, gradient and batch are {shapes}; allowed: one shape")
    refuse_where(np.asarray(batch) <= unit, "noise.batch", batch, f"more rows than a unit has ({unit:g})")
    small, large = np.asarray(units, float), np.asarray(gradient, float) ** 2
    rows = np.asarray(batch, float)
    signal = (rows * large - unit * small) / (rows - unit)
    noise = (small - large) / (1 / unit - 1 / rows)
    return Estimate(signal, noise)


def critical_batch(batch: Float[np.ndarray, "runs"], rows: Float[np.ndarray, "runs"]) -> float:
    """Critical batch in rows, from what runs in different batches needed to reach one loss.

    (S / S_min - 1)(E / E_min - 1) = 1 with S = E / B is the line E = E_min + S_min B; it is fitted by least squares.

    Args:
        batch: B, rows of a step of each run.
        rows: E, rows that the run needed.

    Returns:
        E_min / S_min; infinite where larger batches needed no more rows, 0 where the line leaves none at B = 0.

    Raises:
        TypeError, ValueError: a number is not above 0, or there are no two batches that differ.

    Source: mccandlish2018empirical, equation 2.11.
    """
    check_arguments("critical_batch", FINITE, batch=batch, rows=rows)
    if len(np.unique(batch)) < 2:
        raise ValueError(f"critical_batch.batch is {batch}; allowed: at least two batches that differ")
    steps_min, rows_min = np.polyfit(batch, rows, 1)
    return max(float(rows_min / steps_min), 0.0) if steps_min > 0 else float("inf")
