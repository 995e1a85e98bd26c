"""Constants fitted to what was observed."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from anatomy.cost.explore.checks import Names, expect, path_name


class Calibration(NamedTuple):
    """Fitted constants, and how well they fit."""

    constants: Any  # a pytree like the one that the fit started from
    predicted: Float[np.ndarray, "observations"]
    errors: Float[np.ndarray, "observations"]  # predicted / observed - 1
    converged: bool  # false where the steps ran out first


def calibrate(
    function: Callable[[Any], Any],
    start: Any,
    observed: Any,
    *,
    prior: Mapping[str, tuple[float, float]] | None = None,
    hold: Names = (),
    tolerance: float = 0.05,
    steps: int = 200,
) -> Calibration:
    """Constants with which a function predicts what was observed, by least squares of the relative errors.

    Minimises the sum of ((predicted / observed - 1) / tolerance)^2, plus ((u - u0) / sd)^2 for each prior, over
    u, which is free to take any value: the logit of a constant with limits on both sides, the log of one with
    a lower limit, else the constant itself. Limits are those of the fields of specs. The method is Gauss-Newton
    in a trust region with the exact Jacobian (`scipy.optimize.least_squares`), which follows the long bent
    valleys in which constants stand in for one another.

    Args:
        function: from the constants to predictions, a vector.
        start: constants to begin with, such as an `Efficiency`.
        observed: what the predictions should be, none of them 0.
        prior: for constants by path, their expected value and the standard deviation of u: 0.1 is about 10 %
            of a positive constant, or of the odds of a share.
        hold: paths of constants that stay what they are.
        tolerance: relative error that the function is expected to have; it weighs observations against priors.
        steps: evaluations at most.

    Returns:
        The constants, predictions and relative errors.

    Raises:
        ValueError: predictions are not finite at the start or not as many as what was observed, a constant starts
            on its limit or is a whole number, a name is unknown, or nothing is left to fit.
    """
    from scipy.optimize import least_squares

    prior = prior or {}
    target = np.asarray(observed, float)
    expect(tolerance > 0, f"tolerance is {tolerance:g}; allowed: above 0")
    usable = target.ndim == 1 and np.all(np.isfinite(target) & (target != 0))
    expect(usable, f"observed is {observed}; allowed: a vector of finite numbers, none of them 0")
    with jax.enable_x64(True):
        leaves, structure = jax.tree_util.tree_flatten_with_path(start)
        held = {path_name(path): leaf for path, leaf in leaves}
        for name in (*prior, *hold):
            expect(name in held, f"constant {name!r} is unknown; allowed: {', '.join(held)}")
        maps = {path_name(path): _free(start, path) for path, _ in leaves if path_name(path) not in hold}
        expect(maps, "every constant is held; allowed: at least one to fit")

        def freed(name: str, value: Any, what: str) -> float:
            u = maps[name][0](jnp.asarray(value, float))
            usable = jnp.ndim(u) == 0 and np.isfinite(u)
            expect(usable, f"{what} of {name} is {value}; allowed: a number inside its limits, not on them")
            return float(u)

        def constants(u: Any) -> Any:
            fitted = {name: back(value) for (name, (_, back)), value in zip(maps.items(), u, strict=True)}
            return jax.tree.unflatten(structure, list((held | fitted).values()))

        begin = np.array([freed(name, held[name], "start") for name in maps])
        expected = [prior.get(name, (held[name], np.inf)) for name in maps]  # without a prior, anything is as likely
        centre = np.array([freed(name, value, "prior") for name, (value, _) in zip(maps, expected, strict=True)])
        sd = np.array([sd for _, sd in expected])
        expect(np.all(sd > 0), f"priors have standard deviations {sd}; allowed: above 0")

        def residuals(u: Any) -> Any:
            return jnp.concatenate([(predict(u) / target - 1) / tolerance, (u - centre) / sd])

        predict = jax.jit(lambda u: jnp.asarray(function(constants(u)), float))
        shape = jax.eval_shape(predict, begin).shape
        expect(shape == target.shape, f"the function returns shape {shape}; allowed: {target.shape}, as observed")
        expect(np.all(np.isfinite(predict(begin))), f"predictions at the start are {predict(begin)}; allowed: finite")
        ends = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-12)
        fit = least_squares(jax.jit(residuals), begin, jax.jit(jax.jacfwd(residuals)), max_nfev=steps, **ends)
        predicted = np.asarray(predict(fit.x))
        fitted = jax.tree.map(lambda x: float(x) if np.ndim(x) == 0 else x, constants(fit.x))
    return Calibration(fitted, predicted, predicted / target - 1, bool(fit.status > 0))


def _free(tree: Any, path: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Maps from the interval that limits a constant to all numbers, and back."""
    low, high = -math.inf, math.inf
    for key in path:
        field = getattr(tree, "__dataclass_fields__", {}).get(path_name((key,)))
        tree = getattr(tree, key.name) if hasattr(key, "name") else tree[getattr(key, "key", getattr(key, "idx", None))]
        if limits := field.metadata.get("limits") if field else None:
            expect(not limits["whole"], f"{path_name(path)} is a whole number and cannot be fitted; name it in hold")
            low, high = max(limits["low"], limits["above"] or limits["low"]), limits["high"]
    if math.isfinite(low) and math.isfinite(high):
        return lambda x: jnp.log(x - low) - jnp.log(high - x), lambda u: low + (high - low) * jax.nn.sigmoid(u)
    if math.isfinite(low):
        return lambda x: jnp.log(x - low), lambda u: low + jnp.exp(u)
    return lambda x: x, lambda u: u
