"""Trees of drafted tokens, as they are laid out: the root is the newest token that is known, a chain is a tree too.

Nodes are numbered level by level from the root, which is 0; so parents come before their children, and what a draft
makes in one pass lies together.

Source: miao2024specinfer; chen2024sequoia.
"""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from anatomy.cost.speculation.trees import Path
from anatomy.decode.forward import TreeNodes
from anatomy.specs.base import between, check_arguments


@dataclasses.dataclass(frozen=True)
class Tree:
    """Which token follows which; fixed when a program is compiled.

    Attributes:
        parents: of the nodes 1, 2, ...

    Raises:
        ValueError: there is no node beside the root, or nodes are not numbered level by level.
    """

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what is no tree, or in another order."""
        allowed = "at least one, each the number of an earlier node, nodes in the order of their depth"
        earlier = all(0 <= parent < node for node, parent in enumerate(self.parents, 1))
        if not self.parents or not earlier or (np.diff(self.depth) < 0).any():
            raise ValueError(f"Tree.parents is {self.parents}; allowed: {allowed}")

    @property
    def drafted(self) -> int:
        """Nodes without the root."""
        return len(self.parents)

    @cached_property
    def depth(self) -> Int[np.ndarray, "nodes"]:
        """Of each node; the root has 0."""
        depth = [0]
        for parent in self.parents:
            depth.append(depth[parent] + 1)
        return np.array(depth)

    @property
    def height(self) -> int:
        """Depth of the deepest node: tokens that can be accepted."""
        return int(self.depth[-1])

    @cached_property
    def rank(self) -> Int[np.ndarray, "nodes"]:
        """How many siblings come before each node."""
        return np.array([0, *(self.parents[:node].count(parent) for node, parent in enumerate(self.parents))])

    @cached_property
    def children(self) -> Int[np.ndarray, "nodes width"]:
        """Of each node; 0, which is nobody's child, where it has no more."""
        table = np.zeros((self.drafted + 1, self.rank.max() + 1), int)
        for node, parent in enumerate(self.parents, 1):
            table[parent, self.rank[node]] = node
        return table

    @cached_property
    def ancestors(self) -> Bool[np.ndarray, "nodes nodes"]:
        """Which nodes each node follows, itself among them: the mask of attention within the tree."""
        mask = np.eye(self.drafted + 1, dtype=bool)
        for node, parent in enumerate(self.parents, 1):
            mask[node] |= mask[parent]
        return mask

    @property
    def is_chain(self) -> bool:
        """Whether no node has two children."""
        return self.height == self.drafted

    def level(self, depth: int) -> slice:
        """Nodes of a depth."""
        first, end = np.searchsorted(self.depth, [depth, depth + 1])
        return slice(int(first), int(end))

    def nodes(self, some: slice) -> TreeNodes | None:
        """These nodes as a pass sees them that finds the nodes before them in the cache; None for a chain."""
        return None if self.is_chain else TreeNodes(some.start, self.depth[some], self.ancestors[some])


def chain(length: int) -> Tree:
    """One token after the other.

    Raises:
        ValueError: length is below 1.
    """
    check_arguments("chain", between(1.0, whole=True), length=length)
    return Tree(tuple(range(length)))


def wide(widths: Sequence[int]) -> Tree:
    """All nodes of a depth have so many children.

    Raises:
        ValueError: a width is below 1.
    """
    check_arguments("wide", between(1.0, whole=True), widths=list(widths))
    parents, level, count = [], [0], 1
    for width in widths:
        parents += [node for node in level for _ in range(width)]
        level = list(range(count, count + width * len(level)))
        count += len(level)
    return Tree(tuple(parents))


def of_paths(paths: Sequence[Path]) -> Tree:
    """A tree given by its nodes, as `cost.speculation.trees.best_tree` gives it.

    Raises:
        ValueError: a node's parent or elder sibling is missing.
    """
    order = sorted(paths, key=lambda path: (len(path), path))
    number = {(): 0} | {path: node for node, path in enumerate(order, 1)}
    for path in order:
        before = [path[:-1]] + ([(*path[:-1], path[-1] - 1)] if path and path[-1] else [])
        if not path or any(other not in number for other in before):
            raise ValueError(f"of_paths.paths has {path}; allowed: nodes whose parents and elder siblings are there")
    return Tree(tuple(number[path[:-1]] for path in order))
