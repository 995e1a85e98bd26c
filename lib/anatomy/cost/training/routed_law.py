"""The scaling law of routed language models: the loss that experts buy.

Symbols: N parameters of the dense model behind a mixture (what a token passes when it sees one expert a layer),
E experts. The law's logarithms are to base 10.
"""

import jax.numpy as jnp

from anatomy.specs import Scalar, catalogue
from anatomy.specs.base import number, spec


@spec
class RoutedLaw:
    """log L = a log N + b log Ehat + c log N log Ehat + d (clark2022unified, equation 1).

    Fitted to dense models of 15 million to 1.3 billion parameters, up to 512 experts, all trained on 130 billion
    tokens: it knows no other number of tokens.
    """

    a: Scalar = number("1", low=-1, high=0, doc="exponent of N")
    b: Scalar = number("1", low=-1, high=0, doc="exponent of E")
    c: Scalar = number("1", low=0, high=1, doc="what each takes from the other")
    d: Scalar = number("1", doc="log of the loss at N = Ehat = 1")
    E_start: Scalar = number("experts", above=0, doc="where the gain sets in")
    E_max: Scalar = number("experts", above=0, doc="where it ends")

    def saturating(self, experts: Scalar) -> Scalar:
        """Ehat, the experts that count: E_start for one expert, never more than E_max.

            1 / Ehat = 1 / (E - 1 + 1 / (1 / E_start - 1 / E_max)) + 1 / E_max

        Source: clark2022unified, equation 7.
        """
        start = 1 / (1 / self.E_start - 1 / self.E_max)
        return 1 / (1 / (experts - 1 + start) + 1 / self.E_max)

    def loss(self, parameters: Scalar, experts: Scalar = 1.0) -> Scalar:
        """L, in nats a token."""
        n, e = jnp.log10(parameters), jnp.log10(self.saturating(experts))
        return 10 ** (self.a * n + self.b * e + self.c * n * e + self.d)

    def gain(self, parameters: Scalar, experts: Scalar, than: Scalar = 1.0) -> Scalar:
        """Share of the loss that `experts` save against `than` experts; below 0 where more experts hurt."""
        return 1 - self.loss(parameters, experts) / self.loss(parameters, than)

    def effective_parameters(self, parameters: Scalar, experts: Scalar) -> Scalar:
        """Parameters of a dense model with the loss of the mixture; those of the mixture itself for one expert.

        Source: clark2022unified, section 5.1, the effective parameter count.
        """
        n, e = jnp.log10(parameters), jnp.log10(self.saturating(experts))
        first = jnp.log10(self.E_start)
        return 10 ** ((self.a * n + (self.b + self.c * n) * (e - first) + self.c * n * first) / self._slope)

    @property
    def cutoff(self) -> Scalar:
        """N from which more experts stop to help, 10^(-b / c)."""
        return 10 ** (-self.b / self.c)

    @property
    def _slope(self) -> Scalar:
        """Exponent of N in a dense model of this law: a + c log E_start."""
        return self.a + self.c * jnp.log10(self.E_start)


ROUTERS = ("s_base", "rl_r", "hash")  # balanced assignment, reinforcement learning, a hash of the token


def routed_law(router: str) -> RoutedLaw:
    """The published law of a router: one of `ROUTERS`.

    Raises:
        KeyError: there is no such router; the message lists those there are.
    """
    if router not in ROUTERS:
        raise KeyError(f"routed law {router!r}; allowed: {', '.join(ROUTERS)}")
    row = catalogue.entry("scaling", "routed")[router]
    return RoutedLaw(**{name: row[name] for name in ("a", "b", "c", "d", "E_start", "E_max")})
