"""Active experts, and the load of an expert: whole distributions, exact.

An expert is active in a step if some token is routed to it. Symbols: n tokens, E experts, k different ones for each
token; p_e the chance that a token is routed to expert e, so that these add up to k; q(B) the chance that all tokens
stay within a set B of experts.

**Popularity.** A token is routed to the set S of experts with the chance

    P(S) = prod over e in S of w_e / e_k(w),

e_k being the sum of such products over all sets of k: of all distributions with these p_e the one of most entropy.
Equal weights are even routing.

**Correlation.** Tokens come in groups of m. Each follows the hidden leader of its group with chance f = sqrt(rho), and
chooses for itself otherwise, so that two of a group choose with the correlation rho (`copying_group`).
Groups are independent.

Sources: chen1994weighted for the distribution of sets; kish1965survey for what rho does to a standard
deviation. What follows from the two is derived in place.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Real
from scipy.special import comb
from scipy.stats import binom

from anatomy.specs import Scalar
from anatomy.specs.base import AT_LEAST_ONE, AT_LEAST_ZERO, UP_TO_ONE, AnyArray, between, check_arguments, is_concrete

WHOLE = between(1.0, whole=True)
SUBSETS_OF = 20  # experts whose subsets, 2^20, are still few
TWO_CHOICES_UP_TO = 32  # tokens for which `max_load_distribution` is quick with two choices

GroupModel = Callable[..., Scalar]  # of a chance, with correlation and group_size


def zipf(*, experts: int, exponent: Scalar) -> Float[Array, "E"]:
    """Weights w_e = e^-s, as word frequencies fall with their rank; an exponent s of 0 is even routing."""
    check_arguments("zipf", WHOLE, experts=experts)
    return (jnp.arange(experts) + 1.0) ** -jnp.asarray(exponent, float)


def check_choices(owner: str, weights: Real[AnyArray, "E"], top_k: int) -> None:
    """Refuse weights that leave a token fewer experts than it needs; traced ones pass.

    Raises:
        TypeError, ValueError: weights are below 0, or top_k is no whole number from 1 to the experts with one.
    """
    check_arguments(owner, AT_LEAST_ZERO, weights=weights)
    some = int(np.count_nonzero(weights)) if is_concrete(weights) else np.shape(weights)[0]
    check_arguments(owner, between(1.0, some, whole=True, unit="experts with a weight"), top_k=top_k)


def elementary_symmetric(weights: Real[AnyArray, "E"], *, top_k: int) -> Float[Array, "{top_k}+1"]:
    """Sums of the products of 0, 1, ... k different weights: e_0 = 1 to e_k, by e_j(w, v) = e_j(w) + v e_{j-1}(w)."""

    def include(sums: Float[Array, "terms"], weight: Scalar) -> tuple[Float[Array, "terms"], None]:
        return sums.at[1:].add(weight * sums[:-1]), None

    return jax.lax.scan(include, jnp.zeros(top_k + 1).at[0].set(1.0), jnp.asarray(weights, float))[0]


def inclusion_probabilities(weights: Real[AnyArray, "E"], *, top_k: int) -> Float[Array, "E"]:
    """Chance p_e that a token is routed to each expert, d log e_k / d log w_e; they add up to k.

    Raises:
        TypeError, ValueError: as `check_choices`.
    """
    check_choices("inclusion_probabilities", weights, top_k)
    weights = jnp.asarray(weights, float)
    return weights * jax.grad(lambda w: jnp.log(elementary_symmetric(w, top_k=top_k)[top_k]))(weights)


def weights_for(probabilities: Real[AnyArray, "E"], *, top_k: int, iterations: int = 300) -> Float[Array, "E"]:
    """Weights that route a token to each expert with chance p_e: w_e <- w_e p_e / p_e(w), iterated.

    Args:
        probabilities: p_e, between 0 and 1; scaled so that they add up to k.
        top_k: k.
        iterations: of the iteration, which converges the faster the further each p_e is from 1.

    Raises:
        TypeError, ValueError: as `check_choices`; or a share is not between 0 and 1, or above 1 when scaled.

    Source: chen1994weighted, section 3.
    """
    check_arguments("weights_for", UP_TO_ONE, probabilities=probabilities)
    check_choices("weights_for", probabilities, top_k)
    probabilities = jnp.asarray(probabilities, float)
    probabilities = probabilities * top_k / probabilities.sum()
    check_arguments("weights_for", {**UP_TO_ONE, "high": 1 + 1e-6}, scaled_probabilities=probabilities)

    def closer(_: Scalar, weights: Float[Array, "E"]) -> Float[Array, "E"]:
        now = inclusion_probabilities(weights, top_k=top_k)
        weights = jnp.where(probabilities > 0, weights * probabilities / jnp.where(probabilities > 0, now, 1.0), 0.0)
        return weights / weights.max()

    return jax.lax.fori_loop(0, iterations, closer, probabilities / probabilities.max())


def copying_group(z: Scalar, *, correlation: Scalar, group_size: Scalar) -> Scalar:
    """Chance that no token of a group is routed to experts that one token avoids with chance z, if tokens copy.

    The leader avoids it, and then whoever follows; or it does not, and then nobody may follow:

        z (f + (1 - f) z)^m + (1 - z) ((1 - f) z)^m,    f = sqrt(rho)

    Args:
        z: chance that one token avoids them.
        correlation: rho, from 0 to 1.
        group_size: m, tokens.
    """
    f = jnp.sqrt(correlation)
    return z * (f + (1 - f) * z) ** group_size + (1 - z) * ((1 - f) * z) ** group_size


def polya_urn(z: Scalar, *, correlation: Scalar, group_size: Scalar) -> Scalar:
    """As `copying_group`, if a group has a chance of its own, drawn from a beta distribution with mean z: Polya's urn.

        B(a z + m, a (1 - z)) / B(a z, a (1 - z)) = Gamma(a) Gamma(a z + m) / (Gamma(a z) Gamma(a + m)),  a = 1/rho - 1

    For one choice a token it is what a Dirichlet mixture of experts gives; for more, a model of each expert alone.

    Source: johnson1977urn for the urn.
    """
    a = 1 / jnp.clip(correlation, 1e-6, 1 - 1e-9) - 1
    az = a * jnp.maximum(z, 1e-12)
    mixed = jnp.exp(gammaln(a) + gammaln(az + group_size) - gammaln(az) - gammaln(a + group_size))
    return jnp.where(jnp.asarray(correlation) > 1e-6, jnp.where(z > 0, mixed, 0.0), z**group_size)


def expected_active_experts(
    tokens: Scalar,
    *,
    probabilities: Real[AnyArray, "... E"],
    correlation: Scalar = 0.0,
    group_size: Scalar = 1.0,
    untouched: GroupModel = copying_group,
) -> Float[Array, "..."]:
    """Active experts, expected: sum over e of 1 - untouched(1 - p_e)^(n / m).

    It takes no more than the p_e: whichever sets a token chooses, the expectation is the same. With p_e = k / E and
    no correlation it is `expert_load.active_experts`.

    Args:
        tokens: n.
        probabilities: p_e.
        correlation: rho, the correlation between the choices of a group.
        group_size: m, its tokens.
        untouched: model of a group, `copying_group` or `polya_urn`.

    Raises:
        TypeError, ValueError: a share or rho is not between 0 and 1, tokens are below 0, or a group is below 1.
    """
    check_arguments("expected_active_experts", UP_TO_ONE, probabilities=probabilities, correlation=correlation)
    check_arguments("expected_active_experts", AT_LEAST_ZERO, tokens=tokens)
    check_arguments("expected_active_experts", AT_LEAST_ONE, group_size=group_size)
    idle = untouched(1 - jnp.asarray(probabilities, float), correlation=correlation, group_size=group_size)
    return jnp.sum(1 - idle ** (tokens / group_size), axis=-1)


def active_experts_distribution(
    *, tokens: Scalar, experts: int, top_k: int, correlation: Scalar = 0.0, group_size: Scalar = 1.0
) -> Float[Array, "{experts}+1"]:
    """Chance that 0, 1, ... E experts are active, for even routing.

    A token that comes when j are active activates i more with the chance C(E - j, i) C(j, k - i) / C(E, k). With T the
    matrix of these, a group is T (f I + (1 - f) T)^m + (I - T) ((1 - f) T)^m, as in `copying_group`, and n / m groups
    are its power: only positive numbers are added up but for the last term, so it is exact to rounding.

    Args:
        tokens: n, a whole number of groups.
        experts: E, a Python number.
        top_k: k, a Python number.
        correlation: rho.
        group_size: m, a whole number.

    Raises:
        TypeError, ValueError: a number is not what is allowed.
    """
    check_arguments(
        "active_experts_distribution", WHOLE, tokens=tokens, experts=experts, top_k=top_k, group_size=group_size
    )
    check_arguments("active_experts_distribution", UP_TO_ONE, correlation=correlation)
    check_arguments("active_experts_distribution", between(1.0, experts, whole=True), top_k=top_k)
    j, to = np.mgrid[: experts + 1, : experts + 1]
    step = jnp.asarray(comb(experts - j, to - j) * comb(j, top_k - (to - j)) / comb(experts, top_k) * (to >= j))
    f, one = jnp.sqrt(correlation), jnp.eye(experts + 1)
    own = matrix_power((1 - f) * step, group_size)
    whole = step @ matrix_power(f * one + (1 - f) * step, group_size) + own - step @ own
    return jnp.maximum(matrix_power(whole, tokens / group_size)[0], 0.0)


def matrix_power(matrix: Real[AnyArray, "N N"], exponent: Scalar) -> Float[Array, "N N"]:
    """A matrix to a whole power below 2^32, by squaring; the exponent may be traced."""

    def digit(_: Scalar, now: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        result, square, left = now
        return jnp.where(left % 2 == 1, result @ square, result), square @ square, left // 2

    start = jnp.eye(len(matrix), dtype=matrix.dtype), matrix, jnp.asarray(jnp.round(exponent), jnp.uint32)
    return jax.lax.fori_loop(0, 32, digit, start)[0]


def active_sets_distribution(
    *, tokens: Scalar, weights: Real[AnyArray, "E"], top_k: int, correlation: Scalar = 0.0, group_size: Scalar = 1.0
) -> Float[Array, "sets"]:
    """Chance of each set of experts to be the active ones; bit e of an index says whether e is in the set.

    A choice stays in B with chance z(B) = e_k of the weights in B over e_k of all, a group as in `copying_group`, and
    all with q(B) = copying_group(z(B))^(n / m). That all of B are active follows by taking differences, expert by
    expert (Moebius inversion); what stands in between are probabilities too, so rounding stays near 1e-16 E.

    Args:
        tokens: n.
        weights: w_e of at most 20 experts.
        top_k: k.
        correlation: rho.
        group_size: m.

    Raises:
        TypeError, ValueError: there are too many experts, or a number is not what is allowed.
    """
    weights = jnp.asarray(weights, float)
    check_arguments("active_sets_distribution", between(1.0, SUBSETS_OF, whole=True), experts=len(weights))
    check_choices("active_sets_distribution", weights, top_k)
    check_arguments("active_sets_distribution", AT_LEAST_ZERO, tokens=tokens)
    check_arguments("active_sets_distribution", AT_LEAST_ONE, group_size=group_size)
    check_arguments("active_sets_distribution", UP_TO_ONE, correlation=correlation)
    sums = jnp.zeros((1, top_k + 1)).at[0, 0].set(1.0)  # products of the weights in each set of the first experts
    for weight in weights:
        sums = jnp.concatenate([sums, sums.at[:, 1:].add(weight * sums[:, :-1])])
    inside = jnp.asarray(
        copying_group(sums[:, top_k] / sums[-1, top_k], correlation=correlation, group_size=group_size)
        ** (tokens / group_size)
    )
    for e in range(len(weights)):
        low = inside.reshape(-1, 2, 2**e)
        inside = low.at[:, 1].add(-low[:, 0]).reshape(-1)
    return jnp.maximum(inside, 0.0)


def most_active_experts_distribution(sets: Real[AnyArray, "sets"], *, ways: int = 1) -> Float[Array, "counts"]:
    """Chance that 0, 1, ... experts are active on the expert way that has most of them; for one way, of all experts.

    Args:
        sets: as `active_sets_distribution` returns them.
        ways: e, over which experts are split in their order, E / e to each.

    Raises:
        ValueError: ways do not divide the experts.
    """
    experts = len(sets).bit_length() - 1
    if ways < 1 or experts % ways:
        raise ValueError(
            f"most_active_experts_distribution.ways is {ways}; allowed: a divisor of the experts ({experts})"
        )
    each = experts // ways
    bits = np.arange(len(sets))[:, None] >> np.arange(experts) & 1
    most = bits.reshape(-1, ways, each).sum(-1).max(-1)
    return jax.ops.segment_sum(jnp.asarray(sets), most, num_segments=each + 1)


def expert_load_distribution(
    *, tokens: int, probability: Scalar, correlation: Scalar = 0.0, group_size: int = 1
) -> Float[Array, "{tokens}+1"]:
    """Chance that 0, 1, ... n tokens are routed to an expert, to which a token is routed with chance p.

    A group is binomial with chance f + (1 - f) p where its leader goes there, and (1 - f) p where it does not; n / m
    groups add up, which a Fourier transform multiplies. Variance is n p (1 - p) (1 + (m - 1) rho).

    Args:
        tokens: n, a Python number that is a whole number of groups.
        probability: p.
        correlation: rho.
        group_size: m, a Python number.

    Raises:
        TypeError, ValueError: a number is not what is allowed.
    """
    check_arguments("expert_load_distribution", WHOLE, tokens=tokens, group_size=group_size)
    check_arguments("expert_load_distribution", UP_TO_ONE, probability=probability, correlation=correlation)
    if tokens % group_size:
        raise ValueError(
            f"expert_load_distribution.group_size is {group_size}; allowed: a divisor of tokens ({tokens})"
        )
    f, turn = jnp.sqrt(correlation), jnp.exp(-2j * jnp.pi * jnp.arange(tokens + 1) / (tokens + 1))

    def binomial(chance: Scalar) -> Array:
        return jnp.asarray((1 - chance + chance * turn) ** group_size)

    one = probability * binomial(f + (1 - f) * probability) + (1 - probability) * binomial((1 - f) * probability)
    return jnp.maximum(jnp.fft.ifft(one ** (tokens // group_size)).real, 0.0)


def max_load_distribution(*, tokens: int, weights: Real[AnyArray, "E"], top_k: int) -> Float[np.ndarray, "{tokens}+1"]:
    """Chance that the largest load of an expert is 0, 1, ... n tokens, for independent tokens with one or two choices.

    Experts are dealt their tokens in turn. One that still needs r experts of those left takes expert e with chance
    w_e e_{r-1}(later) / e_r(these), so of so many such tokens a binomial number does. The state is how many tokens
    need two more and one more; those paths on which no expert gets more than c give the chance of at most c.

    Args:
        tokens: n; up to 32 with two choices, beyond which the n^4 E additions take long.
        weights: w_e; equal ones for even routing.
        top_k: k, 1 or 2.

    Returns:
        By NumPy, since the sizes are those of the numbers.

    Raises:
        TypeError, ValueError: tokens, weights or top_k are not what is allowed.
    """
    check_arguments("max_load_distribution", between(1.0, 2.0, whole=True), top_k=top_k)
    check_choices("max_load_distribution", weights, top_k)
    check_arguments(
        "max_load_distribution", between(1.0, TWO_CHOICES_UP_TO if top_k == 2 else 4096, whole=True), tokens=tokens
    )
    chances = np.asarray(selection_probabilities(jnp.asarray(weights, float), top_k=top_k))
    twos, ones = (tokens if top_k == 2 else 0), tokens
    state = np.zeros((tokens + 1, twos + 1, ones + 1))  # by c, and by tokens that need two and one more
    state[:, twos, 0 if top_k == 2 else tokens] = 1.0
    for chance in chances:
        second = binom.pmf(np.arange(twos + 1), np.arange(twos + 1)[:, None], chance[1]) if twos else np.ones((1, 1))
        first = binom.pmf(np.arange(ones + 1), np.arange(ones + 1)[:, None], chance[0])
        after = np.zeros_like(state)
        for a in range(twos + 1):
            for b in range(tokens - a + 1):
                # a of those that need two take it and need one; b of those that need one are done.
                moved = state[a + b :, a:, b:] * second[a:, a, None] * first[None, b:, b]
                width = min(moved.shape[2], ones + 1 - a)
                after[a + b :, : twos + 1 - a, a : a + width] += moved[:, :, :width]
        state = after
    return np.diff(state[:, 0, 0], prepend=0.0)


def selection_probabilities(weights: Real[AnyArray, "E"], *, top_k: int) -> Float[Array, "E k"]:
    """Chance that expert e is taken by a token that needs 1, 2, ... k more of the experts from e on.

        w_e e_{r-1}(w_{e+1}, ...) / e_r(w_e, ...);    1 where only as many as it needs are left

    Source: chen1994weighted, section 4, procedure 2.
    """

    def before(later: Float[Array, "terms"], weight: Scalar) -> tuple[Array, Array]:
        sums = later.at[1:].add(weight * later[:-1])
        some = sums[1:] > 0
        return sums, jnp.where(some, weight * later[:-1] / jnp.where(some, sums[1:], 1.0), 0.0)

    start = jnp.zeros(top_k + 1).at[0].set(1.0)
    return jax.lax.scan(before, start, jnp.asarray(weights, float), reverse=True)[1]
