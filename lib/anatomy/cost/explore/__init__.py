"""Questions to any cost function: a million variants, the best of them, what drives it, how sure, fitted to what.

A cost function here is pure and takes numbers or specs. All is computed in double precision, whatever the setting
of JAX, and each call compiles its function anew, with what the function sees of its surroundings at the call.
"""

from anatomy.cost.explore.calibration import Calibration, calibrate
from anatomy.cost.explore.fronts import pareto
from anatomy.cost.explore.sweeping import sweep
from anatomy.cost.explore.uncertainty import (
    Distribution,
    Propagated,
    elasticities,
    fixed,
    lognormal,
    loguniform,
    normal,
    propagate,
    triangular,
    uniform,
)

__all__ = [
    "Calibration",
    "Distribution",
    "Propagated",
    "calibrate",
    "elasticities",
    "fixed",
    "lognormal",
    "loguniform",
    "normal",
    "pareto",
    "propagate",
    "sweep",
    "triangular",
    "uniform",
]
