"""What drives a result, and how sure it is."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from anatomy.cost.explore.checks import Function, Names, Numbers, check_parameters, expect, largest_first, path_name
from anatomy.cost.explore.sweeping import CHUNK, evaluate

ONCE = {"xla_backend_optimization_level": 0}  # a program that runs once: half the time to compile


def elasticities(function: Function, at: Numbers) -> dict[str, float]:
    """Per cent that a function changes by for one per cent more of each of its inputs: d log f / d log x.

    Whole numbers are varied as if they were none. A function of steps, as with `ceil`, has elasticity 0 in them.

    Args:
        function: from the inputs, by name, to a number.
        at: the inputs: numbers, or pytrees of numbers such as a `Cluster`.

    Returns:
        Elasticity of every number by its path (`cluster.node.chip.memory_bandwidth`), the largest first; 0
        for inputs that are 0; infinite or NaN (and last) where the gradient is.

    Raises:
        TypeError: the function lacks a parameter of that name, or needs others.
        ValueError: an input or the result is not a single number, or the result is 0 or not finite.
    """
    check_parameters(function, at)
    with jax.enable_x64(True):
        inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), dict(at))
        for path, leaf in jax.tree_util.tree_leaves_with_path(inputs):
            expect(leaf.ndim == 0, f"{path_name(path)} has shape {leaf.shape}; allowed: single numbers")
        shape = jax.eval_shape(lambda given: function(**given), inputs)
        expect(getattr(shape, "shape", None) == (), f"the function returns {shape}; allowed: a single number")
        gradient = jax.value_and_grad(lambda given: jnp.asarray(function(**given), float))
        value, slopes = jax.jit(gradient, compiler_options=ONCE)(inputs)
        expect(np.isfinite(value) and value != 0, f"the function is {value:g} there; allowed: finite and not 0")
        found = jax.tree.map(lambda x, slope: float(slope * x / value) if x != 0 else 0.0, inputs, slopes)
    return largest_first({path_name(path): number for path, number in jax.tree_util.tree_leaves_with_path(found)})


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Of an uncertain input: what its draws are."""

    sample: Callable[[np.random.Generator, int], Float[np.ndarray, "draws"]]


def normal(mean: float, sd: float) -> Distribution:
    """Normal, of that mean and standard deviation; ValueError for an sd below 0."""
    expect(sd >= 0, f"normal has sd {sd:g}; allowed: at least 0")
    return Distribution(lambda rng, n: rng.normal(mean, sd, n))


def lognormal(median: float, factor: float) -> Distribution:
    """Lognormal: 68 % lie between median / factor and median * factor; ValueError unless median > 0, factor >= 1."""
    expect(median > 0 and factor >= 1, f"lognormal has ({median:g}, {factor:g}); allowed: above 0, at least 1")
    return Distribution(lambda rng, n: median * factor ** rng.standard_normal(n))


def uniform(low: float, high: float) -> Distribution:
    """Anything between low and high alike; ValueError for low above high."""
    expect(low <= high, f"uniform has ({low:g}, {high:g}); allowed: low <= high")
    return Distribution(lambda rng, n: rng.uniform(low, high, n))


def loguniform(low: float, high: float) -> Distribution:
    """Between low and high, every factor alike; ValueError unless 0 < low <= high."""
    expect(0 < low <= high, f"loguniform has ({low:g}, {high:g}); allowed: 0 < low <= high")
    return Distribution(lambda rng, n: np.exp(rng.uniform(np.log(low), np.log(high), n)))


def triangular(low: float, mode: float, high: float) -> Distribution:
    """Between low and high, most likely the mode; ValueError unless low <= mode <= high and low < high."""
    expect(low <= mode <= high != low, f"triangular has ({low:g}, {mode:g}, {high:g}); allowed: in order, low < high")
    return Distribution(lambda rng, n: rng.triangular(low, mode, high, n))


def fixed(value: float) -> Distribution:
    """No uncertainty: always that value."""
    return Distribution(lambda rng, n: np.full(n, float(value)))


class Propagated(NamedTuple):
    """Draws of inputs and outputs, and what they say."""

    inputs: dict[str, Float[np.ndarray, "draws"]]
    outputs: dict[str, Float[np.ndarray, "draws"]]
    quantiles: dict[str, Float[np.ndarray, "quantiles"]]  # of each output
    correlations: dict[str, dict[str, float]]  # of each output with each input, by rank, the largest first


def propagate(
    function: Function,
    inputs: Numbers,
    draws: int = 10_000,
    seed: int = 0,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    *,
    keep: Names | None = None,
) -> Propagated:
    """The spread of a function of uncertain, independent inputs, by Monte Carlo.

    The draws of an input depend on the seed and on its name only: with another input more or less, or another
    distribution elsewhere, they stay what they are, and differences between variants are not noise.

    Args:
        function: from the inputs, by name, to a number or a pytree of numbers.
        inputs: distributions; anything else, such as a spec, is handed to the function as it is.
        draws: how many; the error of a quantile falls with their square root.
        seed: of the draws.
        quantiles: of each output, between 0 and 1.
        keep: outputs to return, as in `sweep`.

    Returns:
        Draws, quantiles of each output, and Spearman's rank correlation of each output with each uncertain
        input: what drives the spread (0 for what does not vary, noise about 1 / sqrt(draws)). NaN where a draw is.

    Raises:
        TypeError: the function lacks a parameter of that name, or needs others.
        ValueError: no input is uncertain, draws is below 2, or an output is unknown or not a single number.
    """
    from scipy.stats import rankdata  # slow to import, and needed here only

    check_parameters(function, inputs)
    uncertain = {name: given for name, given in inputs.items() if isinstance(given, Distribution)}
    expect(uncertain and draws >= 2, f"{len(uncertain)} distributions, {draws} draws; allowed: at least 1 and 2")
    drawn = {n: given.sample(np.random.default_rng([seed, *n.encode()]), draws) for n, given in uncertain.items()}
    known = partial(function, **{name: given for name, given in inputs.items() if name not in uncertain})
    outputs = evaluate(known, drawn, [1] * len(drawn), keep, CHUNK, progress=False, taken=())

    def ranks(column: np.ndarray) -> np.ndarray:  # of length one and mean zero
        centred = rankdata(column.astype(float), nan_policy="propagate") - (draws + 1) / 2
        return centred / (np.linalg.norm(centred) or 1.0)

    of_inputs = {name: ranks(column) for name, column in drawn.items()}
    correlations = {
        output: largest_first({name: float(rank @ of_output) for name, rank in of_inputs.items()})
        for output, of_output in ((name, ranks(column)) for name, column in outputs.items())
    }
    spread = {name: np.quantile(column.astype(float), quantiles) for name, column in outputs.items()}
    return Propagated(drawn, outputs, spread, correlations)
