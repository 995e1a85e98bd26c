"""What the small trainings of the sweeps say together: means over seeds, gaps after tuning, loads of their routers.

Trainings of a sweep see the same rows in the same order and differ in their first weights. So the spread over
seeds is that of the weights; another text would move all of them.

Symbols: E experts, k of them for each token, p_e the share of tokens that visit expert e; these add up to k.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import entr

from anatomy.cost.routing.expert_load import tokens_per_expert
from anatomy.specs.base import between, check_arguments, refuse_where
from anatomy.train import recipes
from anatomy.train.data.sources import DATA
from anatomy.train.loop import Trained, mean_loss

AT_LEAST_NONE, SHARE = between(whole=True), between(high=1.0)
LAST = 40  # steps of a training, at its end, that loads are taken from
TUNED_ON = "unseen_code"  # key of `data.DATA`: what the recipes `tuned_*` learn
TUNED_DOMAIN = "code"
ROWS = 128  # of it, all there are


class Mean(NamedTuple):
    """A mean, and its standard error."""

    value: float
    error: float

    @property
    def errors(self) -> float:
        """Standard errors from 0 to the mean, with its sign; infinite where all values were the same."""
        return self.value / self.error if self.error else float(np.copysign(np.inf, self.value))


def mean(values: Iterable[float]) -> Mean:
    """Mean of independent values, with the standard error s / sqrt(n) where s has n - 1 degrees of freedom.

    Raises:
        ValueError: there are fewer than two values.
    """
    values = np.asarray(list(values), float)
    refuse_where(len(values) < 2, "mean: number of values", len(values), "at least 2")
    return Mean(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def difference(one: Iterable[float], other: Iterable[float]) -> Mean:
    """Mean of `one` less mean of `other`, of independent values: standard errors add up by their squares.

    Raises:
        ValueError: as `mean`.
    """
    first, second = mean(one), mean(other)
    return Mean(first.value - second.value, float(np.hypot(first.error, second.error)))


def slope(x: Iterable[float], y: Iterable[float]) -> Mean:
    """Slope of the line of least squares through points, with its standard error.

    Raises:
        ValueError: there are fewer than four points, too few for an error to be estimated, or not as many x as y, or
            all x are equal.
    """
    x, y = (np.asarray(list(values), float) for values in (x, y))
    refuse_where(len(x) < 4, "slope: number of points", len(x), "at least 4")
    refuse_where(len(y) != len(x), "slope: number of y", len(y), f"{len(x)}, as many as x")
    refuse_where(np.ptp(x) == 0, "slope: x of all points", x, "two that differ")
    (rise, _), covariance = np.polyfit(x, y, 1, cov=True)
    return Mean(float(rise), float(np.sqrt(covariance[0, 0])))


def by_seed(name: str, quantity: Callable[[str], float]) -> Float[np.ndarray, "seeds"]:
    """A quantity of each training of a sweep, which are the recipes `name_0`, `name_1` and so on."""
    return np.array([quantity(f"{name}_{seed}") for seed in recipes.SEEDS])


def held_out(name: str) -> float:
    """Loss of a recipe's model in nats a token on held-out text, mean of the domains.

    Raises:
        ValueError: there is no such recipe.
    """
    return float(np.mean(list(recipes.held_out(name).values())))


def on_tuning_rows(name: str) -> float:
    """Loss of a recipe's model in nats a token on the rows of the tunings, with exact dispatch.

    For a recipe `tuned_*` that is text it was tuned to, for one that it started from, text like it but unseen.

    Raises:
        ValueError: there is no such recipe.
    """
    return recipes.measured(name, tuning_rows_loss)


def tuning_rows_loss(model: Trained) -> float:
    """What `on_tuning_rows` measures."""
    rows = DATA[TUNED_ON]().rows(0, ROWS)[0]
    return mean_loss(model.config, model.weights, rows, ROWS * (rows.shape[1] - 1))


def gap(name: str) -> float:
    """Generalisation gap of a recipe's model: nats a token that held-out code costs more than the tuning rows.

    Raises:
        ValueError: there is no such recipe.
    """
    return recipes.held_out(name)[TUNED_DOMAIN] - on_tuning_rows(name)


def gap_opened(experts: int, seed: int) -> float:
    """Nats a token by which tuning a model with so many experts widened its gap.

    The gap before is what the two texts differ in themselves.
    """
    return gap(f"tuned_{experts}_{seed}") - gap(f"experts_{experts}_{seed}")


def effective_experts(load: Float[np.ndarray, "*batch E"]) -> Float[np.ndarray, "*batch"]:
    """Experts that would be as mixed if all were used alike: the exponential of the entropy of the load.

    Args:
        load: share of the choices that fell on each expert, from 0 to 1; they add up to 1.

    Returns:
        E where the load is even, 1 where one expert has all.

    Raises:
        ValueError: a share is not between 0 and 1, or they do not add up to 1.

    Source: hill1973diversity, the diversity of order 1.
    """
    load = np.asarray(load, float)
    check_arguments("effective_experts", SHARE, load=load)
    total = load.sum(-1)
    refuse_where(np.abs(total - 1) > 1e-3, "effective_experts: sum of load", total, "1")
    return np.exp(entr(load).sum(-1))


def final_load(name: str) -> Float[np.ndarray, "steps L E"]:
    """Share of the choices that fell on each expert in the last `LAST` steps of a recipe.

    Raises:
        ValueError: there is no such recipe.
    """
    return np.array(recipes.measured(name, last_loads))


def last_loads(model: Trained) -> list[Any]:
    """What `final_load` gives."""
    return last_steps(model, "load").tolist()


def last_steps(model: Trained, quantity: str) -> np.ndarray:
    """A quantity in the last `LAST` steps of a training.

    Raises:
        ValueError: it had fewer.
    """
    values = model.history[quantity]
    refuse_where(len(values) < LAST, "steps of the training", len(values), f"at least {LAST}; train for more")
    return values[-LAST:]


def final_dropped(name: str) -> float:
    """Share of the choices that training dropped in the last `LAST` steps of a recipe, for want of places.

    Raises:
        ValueError: there is no such recipe.
    """
    return recipes.measured(name, last_dropped)


def last_dropped(model: Trained) -> float:
    """What `final_dropped` gives."""
    return float(last_steps(model, "dropped").mean())


def kept(name: str) -> float:
    """What the average expert does of what the fullest does, in the batches of a recipe's last steps.

    Raises:
        ValueError: there is no such recipe.
    """
    load = final_load(name)
    return float((1 / (load.shape[-1] * load.max(-1))).mean())


def batch_tokens(name: str) -> int:
    """Tokens of a batch of a recipe's training.

    Raises:
        ValueError: there is no such recipe.
    """
    recipe = recipes.known(name)
    return recipe.training.batch * recipe.config.context


def tokens_per_parameter(name: str) -> float:
    """Tokens that an expert sees on average in a recipe's training, for each of its parameters over all layers.

    Raises:
        ValueError: there is no such recipe.
    """
    recipe = recipes.known(name)
    model = recipe.config.architecture
    tokens = recipe.training.batches().sum() * recipe.config.context
    return float(tokens_per_expert(tokens=tokens, experts=model.experts, top_k=model.top_k) / model.expert_parameters)


def touched(visits: Float[np.ndarray, "*batch E"], tokens: int) -> Float[np.ndarray, "*batch"]:
    """Experts that some token of a batch visits if tokens choose independently but prefer some: sum_e 1 - (1 - p_e)^n.

    With p_e = k / E for all it is `cost.routing.expert_load.experts_touched`.

    Args:
        visits: p_e, the share of tokens that visit each expert, from 0 to 1.
        tokens: n.

    Raises:
        TypeError, ValueError: a share is not between 0 and 1, or tokens no whole number of at least 0.
    """
    visits = np.asarray(visits, float)
    check_arguments("touched", SHARE, visits=visits)
    check_arguments("touched", AT_LEAST_NONE, tokens=tokens)
    return (1 - (1 - visits) ** tokens).sum(-1)
