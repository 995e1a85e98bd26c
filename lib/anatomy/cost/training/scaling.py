"""Scaling laws: the loss that parameters and tokens buy, and how to split a budget between them.

Symbols: N parameters, D tokens, C = 6 N D FLOP, L loss in nats a token.
"""

import math

import jax.numpy as jnp
import numpy as np

from anatomy.specs import Scalar, catalogue
from anatomy.specs.base import number, spec


@spec
class Chinchilla:
    """L(N, D) = E + A / N^alpha + B / D^beta (hoffmann2022chinchilla, approach 3)."""

    E: Scalar = number("nats", above=0, doc="loss that no model gets below")
    A: Scalar = number("nats", above=0, doc="price of few parameters")
    B: Scalar = number("nats", above=0, doc="price of few tokens")
    alpha: Scalar = number("1", above=0)
    beta: Scalar = number("1", above=0)

    def loss(self, parameters: Scalar, tokens: Scalar) -> Scalar:
        """L, in nats a token."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def optimum(self, flop: Scalar) -> tuple[Scalar, Scalar]:
        """N and D that give the lowest loss for a budget of FLOP.

        With G = (alpha A / beta B)^(1 / (alpha + beta)):

            N = G (C / 6)^(beta / (alpha + beta)),    D = (C / 6) / N

        Source: hoffmann2022chinchilla, equation 4.
        """
        both = self.alpha + self.beta
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        parameters = scale * (flop / 6.0) ** (self.beta / both)
        return parameters, flop / 6.0 / parameters

    def optimal_tokens(self, parameters: Scalar) -> Scalar:
        """D for which N is the right size: where a FLOP buys as much through N as through D.

        That is alpha A / N^alpha = beta B / D^beta, the same optimum read the other way round.
        """
        ratio = self.beta * self.B * parameters**self.alpha / (self.alpha * self.A)
        return ratio ** (1 / self.beta)


def chinchilla(key: str) -> Chinchilla:
    """A published fit by its key in the catalogue: `chinchilla` or `besiroglu`."""
    row = catalogue.entry("scaling", key)
    return Chinchilla(**{name: row[name] for name in ("E", "A", "B", "alpha", "beta")})


def published_fits(key: str, *, draws: int, seed: int = 0) -> Chinchilla:
    """Draws from the uncertainty of a fit that was published with standard errors.

    The covariance was not published, and the errors of A and alpha (of B and beta) are nearly
    collinear: what the runs fix well is each term at the centre of the runs. So the exponents vary by
    their standard errors and A and B follow, such that A / N0^alpha and B / D0^beta stay what they
    are at the geometric centre (N0, D0) of the published range of runs. The spread this gives the
    exponent of the optimum, 0.020, agrees with the published standard error, 0.018.

    Args:
        key: an entry of the catalogue `scaling` that has `standard_errors`.
        draws: how many.
        seed: of the draws.

    Returns:
        A batch of fits; every field is a vector of `draws` values. Use it under `jax.vmap`.

    Source: besiroglu2024chinchilla for the errors, hoffmann2022chinchilla for the range of runs.
    """
    fit, errors = chinchilla(key), catalogue.entry("scaling", key)["standard_errors"]
    runs = catalogue.entry("scaling", "chinchilla")
    centre_n, centre_d = (math.prod(runs[f"runs_{axis}"]) ** 0.5 for axis in ("parameters", "tokens"))
    noise = np.random.default_rng(seed).standard_normal((3, draws))
    E = np.maximum(fit.E + errors["E"] * noise[0], 1e-3)
    alpha = fit.alpha + errors["alpha"] * noise[1]
    beta = fit.beta + errors["beta"] * noise[2]
    return Chinchilla(
        E=E,
        alpha=alpha,
        beta=beta,
        A=fit.A * centre_n ** (alpha - fit.alpha),
        B=fit.B * centre_d ** (beta - fit.beta),
    )


def effective_tokens(*, unique: Scalar, epochs: Scalar, decay: Scalar) -> Scalar:
    """Tokens of fresh data that would be worth as much as `unique` tokens seen `epochs` times.

    Each further epoch is worth less, by a factor e after R* of them:

        D' = U + U R* (1 - exp(-(epochs - 1) / R*))

    Args:
        unique: U, tokens.
        epochs: passes over them, at least 1.
        decay: R*, the number of repetitions after which a further one is worth 1 / e of a fresh pass.

    Source: muennighoff2023data, equation 5.
    """
    repeats = jnp.asarray(epochs, float) - 1.0
    return unique * (1.0 + decay * -jnp.expm1(-repeats / decay))
