"""The rows of a table that no other beats."""

from bisect import bisect_left, bisect_right

import numpy as np
from jaxtyping import Bool, Float, Int

from anatomy.cost.explore.checks import Names, Numbers, expect


def pareto(
    columns: Numbers, *, minimise: Names = (), maximise: Names = (), where: Bool[np.ndarray, "rows"] | None = None
) -> Int[np.ndarray, "front"]:
    """Rows that no other row beats: none is as good in every objective and better in one.

    Up to three objectives need a sort by the first and a pass that keeps the stairs of the others, O(n log n).
    With more, blocks of sorted rows are held against the front so far, O(n front).

    Args:
        columns: objectives by name, as `sweep` returns them.
        minimise: names of those that should be small.
        maximise: names of those that should be large.
        where: rows that count, such as those that fit; all by default.

    Returns:
        Indices in ascending order. Equal rows are all on the front or none; rows with NaN in an objective never are.

    Raises:
        ValueError: there is no objective, a column is missing, or lengths differ.
    """
    signed = [(name, 1.0) for name in minimise] + [(name, -1.0) for name in maximise]
    expect(signed, "pareto has no objective; allowed: at least one in minimise or maximise")
    for name, _ in signed:
        expect(name in columns, f"objective {name!r} is no column; allowed: {list(columns)}")
    flat = [np.zeros(len(columns[signed[0][0]]))] * (3 - len(signed))  # fewer than three have zeros as the others
    values = np.stack([sign * np.asarray(columns[name], float) for name, sign in signed] + flat, axis=1)
    counts = np.ones(len(values), bool) if where is None else np.asarray(where, bool)
    expect(counts.shape == (len(values),), f"where has shape {counts.shape}; allowed: ({len(values)},)")
    index = np.flatnonzero(counts & ~np.isnan(values).any(axis=1))
    order = np.lexsort(values[index].T[::-1])
    values = values[index[order]]
    first = np.r_[True, (values[1:] != values[:-1]).any(axis=1)][: len(values)]  # of rows that are equal
    front = (_stairs if values.shape[1] == 3 else _blocks)(values[first])
    return np.sort(index[order[front[np.cumsum(first) - 1]]])


def _stairs(rows: Float[np.ndarray, "rows 3"]) -> Bool[np.ndarray, "rows"]:
    """Of distinct rows in lexicographic order, those that no earlier one beats: later ones cannot."""
    on = np.zeros(len(rows), bool)
    ys, zs = list[float](), list[float]()  # the stairs of the rows so far: y rises, z falls
    for i, (y, z) in enumerate(rows[:, 1:].tolist()):
        right = bisect_right(ys, y)
        if right and zs[right - 1] <= z:
            continue
        on[i] = True
        left = stop = bisect_left(ys, y)
        while stop < len(zs) and zs[stop] >= z:
            stop += 1
        ys[left:stop], zs[left:stop] = [y], [z]
    return on


def _blocks(rows: Float[np.ndarray, "rows objectives"], size: int = 1024) -> Bool[np.ndarray, "rows"]:
    """As `_stairs`, for any number of objectives: each block of rows against the front so far, then within."""

    def beaten(these: np.ndarray, by: np.ndarray) -> np.ndarray:  # by how many rows that are nowhere larger
        return np.logical_and.reduce([b <= a[:, None] for a, b in zip(these.T, by.T, strict=True)]).sum(axis=1)

    on = np.zeros(len(rows), bool)
    for start in range(0, len(rows), size):
        left = np.arange(start, min(start + size, len(rows)))
        front = np.flatnonzero(on)
        for piece in range(0, len(front), size):
            left = left[beaten(rows[left], rows[front[piece : piece + size]]) == 0]
        on[left[beaten(rows[left], rows[left]) == 1]] = True  # each is as small as itself
    return on
