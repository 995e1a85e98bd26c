"""A source of known entropy: an order-2 Markov chain, whose best possible loss is exact.

Symbols: a, b, c three in a row; P(c | a, b) the transitions; pi(a, b) the stationary distribution of pairs.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Float64, Int, Int32
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import entr

from anatomy.specs.base import between, check_arguments

AT_LEAST_NONE, AT_LEAST_ONE = between(whole=True), between(1, whole=True)
DRAWS = 4  # numbers that Philox makes at once


@dataclasses.dataclass(frozen=True, eq=False)
class Markov:
    """An order-2 Markov chain in its stationary state; with `rows` as a `Mixture` has them, without end.

    Attributes:
        transitions: P(c | a, b).
        length: tokens that a row predicts.
        seed: of the rows.

    Raises:
        TypeError, ValueError: the transitions are no conditional distribution, have more than one stationary
            distribution, or a number is impossible.
    """

    transitions: Float64[np.ndarray, "n n n"]
    length: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no source."""
        check_arguments("Markov", AT_LEAST_ONE, length=self.length)
        check_arguments("Markov", AT_LEAST_NONE, seed=self.seed)
        shape = self.transitions.shape
        if len(shape) != 3 or len(set(shape)) != 1 or not shape[0]:
            raise ValueError(f"Markov.transitions has shape {shape}; allowed: three axes of one size, at least 1")
        if not (self.transitions >= 0).all():
            raise ValueError(f"Markov.transitions is {self.transitions.min()} somewhere; allowed: at least 0")
        if (off := np.abs(self.transitions.sum(2) - 1).max()) > 1e-9:
            raise ValueError(f"Markov.transitions sums to 1 but for {off:g}; allowed: distributions over the last axis")
        if (closed := len(self.closed_classes)) != 1:
            raise ValueError(f"Markov.transitions has {closed} closed classes of pairs; allowed: 1")

    @property
    def symbols(self) -> int:
        """Symbols, n."""
        return self.transitions.shape[0]

    @functools.cached_property
    def pairs(self) -> Float64[np.ndarray, "nn nn"]:
        """The chain as one of order 1: from pair (a, b) to pair (b, c)."""
        n = self.symbols
        chain = np.zeros((n, n, n, n))
        b = np.arange(n)
        chain[:, b, b, :] = self.transitions
        return chain.reshape(n * n, n * n)

    @functools.cached_property
    def closed_classes(self) -> list[Int[np.ndarray, "m"]]:
        """Sets of pairs, numbered n a + b, that are never left once entered; one stationary distribution each."""
        count, group = connected_components(csr_array(self.pairs), connection="strong")
        start, end = np.nonzero(self.pairs)
        left = group[start[group[start] != group[end]]]
        return [np.flatnonzero(group == closed) for closed in np.setdiff1d(np.arange(count), left)]

    @functools.cached_property
    def stationary(self) -> Float64[np.ndarray, "n n"]:
        """pi(a, b): share of each pair in a long sequence; the solution of pi = pi P that sums to 1."""
        (states,) = self.closed_classes  # a pair outside never comes back
        equations = self.pairs[np.ix_(states, states)].T - np.eye(len(states))
        equations[-1] = 1.0  # the last follows from the others; the sum does not
        share = np.zeros(len(self.pairs))
        share[states] = np.linalg.solve(equations, np.arange(len(states)) == len(states) - 1)
        return share.reshape(self.symbols, self.symbols)

    @functools.cached_property
    def entropy_rate(self) -> float:
        """Entropy of a symbol given all before it, in nats: sum of pi(a, b) H(P(. | a, b))."""
        return float((self.stationary * entr(self.transitions).sum(2)).sum())

    @functools.cached_property
    def least_loss(self) -> float:
        """Mean loss, in nats a token, that no model can beat on long data: the first token of a row has one before it.

        (H(b | a) + (length - 1) h) / length, with h the entropy rate.
        """
        first = entr(self.stationary).sum() - entr(self.stationary.sum(1)).sum()
        return float((first + (self.length - 1) * self.entropy_rate) / self.length)

    def log_probability(self, tokens: Int[np.ndarray, "*B S"]) -> Float64[np.ndarray, "*B"]:
        """Logarithm of the probability of whole sequences of at least one symbol; minus infinity where impossible.

        Raises:
            ValueError: a sequence is empty, or has a symbol that the source has not.
        """
        tokens = np.asarray(tokens)
        if tokens.shape[-1] < 1:
            raise ValueError(f"Markov tokens have shape {tokens.shape}; allowed: at least one symbol in the last axis")
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.symbols:
            found = f"{tokens.min()} to {tokens.max()}"
            raise ValueError(f"Markov tokens are {found}; allowed: 0 to {self.symbols - 1}")
        with np.errstate(divide="ignore"):
            if tokens.shape[-1] == 1:
                return np.log(self.stationary.sum(1))[tokens[..., 0]]
            start = np.log(self.stationary)[tokens[..., 0], tokens[..., 1]]
            steps = np.log(self.transitions)[tokens[..., :-2], tokens[..., 1:-1], tokens[..., 2:]]
        return start + steps.sum(-1)

    def rows(self, start: int, count: int) -> tuple[Int32[np.ndarray, "count length+1"], Int32[np.ndarray, "count"]]:
        """Tokens of `count` rows from `start` on, and a label that is 0.

        Every row has its own stretch of the counter of one Philox generator, so that it depends on its number alone.

        Raises:
            TypeError, ValueError: start or count is no whole number of at least 0.
        """
        check_arguments("Markov", AT_LEAST_NONE, start=start, count=count)
        blocks = self.length // DRAWS + 1  # length numbers are needed
        bits = np.random.Philox(self.seed, counter=int(start) * blocks).random_raw(int(count) * blocks * DRAWS)
        uniform = unit_interval(bits).reshape(count, blocks * DRAWS)
        tokens = np.empty((count, self.length + 1), np.int32)
        pair = np.searchsorted(cumulative(self.stationary.reshape(-1)), uniform[:, 0], side="right")
        tokens[:, 0], tokens[:, 1] = np.divmod(pair, self.symbols)
        steps = cumulative(self.transitions)
        for s in range(2, self.length + 1):
            below = steps[tokens[:, s - 2], tokens[:, s - 1]]
            tokens[:, s] = (below <= uniform[:, s - 1, None]).sum(1)
        return tokens, np.zeros(count, np.int32)


def random_markov(length: int, symbols: int = 16, successors: int = 4, source: int = 0, seed: int = 0) -> Markov:
    """A source in which each pair is followed by a few symbols, with probabilities drawn evenly from all there are.

    Args:
        length: tokens that a row predicts.
        symbols: n.
        successors: symbols that may follow a pair.
        source: seed of the transitions.
        seed: of the rows.

    Raises:
        TypeError, ValueError: a number is impossible, or the transitions drawn have more than one stationary
            distribution.
    """
    check_arguments("random_markov", AT_LEAST_ONE, symbols=symbols)
    check_arguments("random_markov", between(1, symbols, whole=True), successors=successors)
    check_arguments("random_markov", AT_LEAST_NONE, source=source)
    bits = np.random.Philox([source, symbols, successors])
    order = np.argsort(bits.random_raw(symbols**3).reshape(symbols, symbols, symbols), axis=2)[..., :successors]
    share = -np.log1p(-unit_interval(bits.random_raw(symbols**2 * successors)))  # exponentials: Dirichlet(1, ..., 1)
    share = share.reshape(symbols, symbols, successors)
    transitions = np.zeros((symbols, symbols, symbols))
    np.put_along_axis(transitions, order, share / share.sum(2, keepdims=True), axis=2)
    return Markov(transitions, length, seed)


def unit_interval(bits: np.ndarray) -> Float64[np.ndarray, "..."]:
    """Evenly distributed numbers from 0 to below 1, from 64 random bits each."""
    return (bits >> np.uint64(11)) * 2.0**-53


def cumulative(probability: Float64[np.ndarray, "... n"]) -> Float64[np.ndarray, "... n"]:
    """Sums up to each outcome; exactly 1 from the last possible one on, so that rounding picks no impossible one."""
    total = np.cumsum(probability, axis=-1)
    return total / total[..., -1:]
