"""Token trees: several tokens are drafted for each place, and the target reads all of them in one pass.

Symbols: r_j rank acceptance, the chance that of the children of a node the j-th is accepted; they add up to 1 at most.
A node is reached if each child on the way to it is accepted, which has the chance of the product of their r_j, and

    tokens = sum of these chances over all nodes, the root, which is the last token that is known, counting 1

Source: miao2024specinfer; chen2024sequoia for acceptance that goes by rank.
"""

import heapq
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from anatomy.specs import Scalar
from anatomy.specs.base import AnyArray, between, check_arguments, is_concrete, refuse_where

Path = tuple[int, ...]  # ranks from the root, which is (), to a node; the first child has rank 0


def tree_size(widths: Sequence[int]) -> int:
    """Tokens that the draft proposes in a tree in which all nodes of a depth have so many children."""
    return int(np.cumprod(widths, dtype=int).sum()) if len(widths) else 0


def tree_tokens(ranks: Sequence[float] | Real[AnyArray, "ranks"], *, widths: Sequence[int]) -> Scalar:
    """Tokens of a speculation step, expected, with a tree in which all nodes of a depth have so many children.

        1 + R(w_1) + R(w_1) R(w_2) + ...,    R(w) = r_1 + ... + r_w

    Widths of 1 are a chain; (k, 1, 1, ...) are k sequences that part at the first token.

    Args:
        ranks: r_1, r_2, ...
        widths: w_1, w_2, ..., children of a node at each depth.

    Raises:
        ValueError: a width is not from 1 to the number of ranks, or ranks are no chances of one choice.
    """
    ranks = _chances("tree_tokens", ranks)
    for width in widths:
        if not 1 <= width <= ranks.shape[0]:
            raise ValueError(f"tree_tokens.widths has {width}; allowed: 1 to {ranks.shape[0]}, the number of ranks")
    some = jnp.stack([jnp.ones(()), *(ranks[:width].sum() for width in widths)])
    return jnp.cumprod(some).sum()


def best_tree(ranks: Sequence[float] | Real[AnyArray, "ranks"], size: int) -> list[Path]:
    """The tree of so many drafted tokens that yields the most: its nodes, the most likely first, without the root.

    A child is never reached more often than its parent or its elder sibling if r falls with the rank, so the most
    likely nodes are a tree, and no other of the size has a larger sum.

    Args:
        ranks: r_1, r_2, ..., none larger than the one before it.
        size: tokens to draft.

    Raises:
        ValueError: ranks is empty, a rank is not from 0 to 1 or above the one before it, they add up to more than 1, or
            size is no whole number from 0 on.

    Source: chen2024sequoia finds it by dynamic programming.
    """
    chances = np.asarray(ranks, float)
    if not (chances.size and (chances >= 0).all() and chances.sum() <= 1 + 1e-12 and (np.diff(chances) <= 0).all()):
        raise ValueError(f"best_tree.ranks is {list(ranks)}; allowed: falling numbers from 0 that add up to 1 at most")
    check_arguments("best_tree", between(whole=True), size=size)
    found: list[Path] = []
    waiting: list[tuple[float, Path]] = [(-float(chances[0]), (0,))]
    while len(found) < size:
        value, path = heapq.heappop(waiting)
        found.append(path)
        heapq.heappush(waiting, (value * chances[0], (*path, 0)))
        if path[-1] + 1 < chances.size:
            sibling = np.prod(chances[list(path[:-1])]) * chances[path[-1] + 1]
            heapq.heappush(waiting, (-sibling, (*path[:-1], path[-1] + 1)))
    return found


def paths_tokens(ranks: Sequence[float] | Real[AnyArray, "ranks"], *, tree: Sequence[Path]) -> Scalar:
    """Tokens of a speculation step, expected, with a tree given by its nodes.

    Args:
        ranks: r_1, r_2, ...
        tree: paths of all drafted tokens; the root is not among them.

    Raises:
        ValueError: the parent of a node is missing, a node is there twice or has a rank without a chance, or ranks are
            no chances of one choice.
    """
    known = {(), *tree}
    if len(known) <= len(tree):
        raise ValueError(f"paths_tokens.tree has {len(tree) + 1 - len(known)} nodes twice; allowed: each node once")
    if beyond := [path for path in tree if not all(0 <= rank < np.shape(ranks)[0] for rank in path)]:
        raise ValueError(f"paths_tokens.tree has {beyond[0]}; allowed: ranks from 0 to {np.shape(ranks)[0] - 1}")
    if orphans := [path for path in tree if path[:-1] not in known]:
        raise ValueError(f"paths_tokens.tree has {orphans[0]} without its parent; allowed: whole trees")
    ranks = _chances("paths_tokens", ranks)
    return 1 + sum(jnp.prod(ranks[jnp.asarray(path)]) for path in tree)


def _chances(owner: str, ranks: Sequence[float] | Real[AnyArray, "ranks"]) -> Float[Array, "ranks"]:
    """Ranks as an array; refused where they cannot be chances of one choice, unless they are traced."""
    check_arguments(owner, between(high=1.0), ranks=ranks)
    if is_concrete(ranks):
        total = np.asarray(ranks).sum()
        refuse_where(total > 1 + 1e-6, f"{owner}.ranks, added up,", total, "at most 1")
    return jnp.asarray(ranks)


def depth(tree: Sequence[Path]) -> int:
    """Steps of the draft that a tree takes: its longest path."""
    return max(map(len, tree), default=0)
