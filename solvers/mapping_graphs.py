"""Relaxations on directed graphs whose items are bits: connected parts, matchings, cheapest edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TINY = 1e-300


def masks(allowed: NDArray[np.bool_]) -> list[int]:
    """Each row as an integer whose bits are the row's true columns."""
    return [int.from_bytes(row.tobytes(), "little") for row in np.packbits(allowed, axis=1, bitorder="little")]


def parts(followers: list[int], leaders: list[int]) -> list[int]:
    """The strongly connected parts, as bit masks."""
    found, left = [], (1 << len(followers)) - 1
    while left:
        start = left & -left
        part = _reach(start, followers, left) & _reach(start, leaders, left)
        found.append(part)
        left &= ~part
    return found


def _reach(start: int, followers: list[int], within: int) -> int:
    reached = fresh = start
    while fresh:
        lowest = fresh & -fresh
        new = followers[lowest.bit_length() - 1] & within & ~reached
        reached |= new
        fresh = (fresh | new) & ~lowest
    return reached


def matching_size(followers: list[int]) -> int:
    """Most edges with at most one out of and one into an item: augmenting paths found breadth first."""
    leader_of: dict[int, int] = {}
    follower_of: dict[int, int] = {}
    free = (1 << len(followers)) - 1
    for root in range(len(followers)):
        came_from: dict[int, int] = {}
        seen, queue = 0, [root]
        for item in queue:
            direct = followers[item] & free
            if direct:
                end = (direct & -direct).bit_length() - 1
                free ^= 1 << end
                came_from[end] = item
                _augment(root, end, came_from, leader_of, follower_of)
                break
            new = followers[item] & ~seen
            seen |= new
            while new:
                end = (new & -new).bit_length() - 1
                came_from[end] = item
                queue.append(leader_of[end])
                new &= new - 1
    return len(leader_of)


def _augment(
    root: int, end: int, came_from: dict[int, int], leader_of: dict[int, int], follower_of: dict[int, int]
) -> None:
    """Turn over the path from root to a free end."""
    while True:
        item = came_from[end]
        previous = follower_of.get(item)
        leader_of[end], follower_of[item] = item, end
        if item == root:
            return
        assert previous is not None
        end = previous


def cheapest_edges(cost: Floats, edges: int) -> float:
    """A lower bound on the cost of any `edges` edges with at most one out of and one into an item.

    Infinite costs, and the diagonal, are no edges; where too few are left the bound is infinite. Dummy items take the
    ends that are left over; costs are rounded down to integers for the assignment solver.
    """
    if edges == 0:
        return 0.0
    from ortools.graph.python.linear_sum_assignment import SimpleLinearSumAssignment

    items = len(cost)
    spare = items - edges
    tails, heads = np.nonzero(np.isfinite(cost) & ~np.eye(items, dtype=bool))
    off = cost[tails, heads]
    if not len(off):
        return np.inf
    least, unit = off.min(), max((off.max() - off.min()) / 1e8, TINY)
    real, dummy = np.meshgrid(np.arange(items), items + np.arange(spare), indexing="ij")
    none = np.zeros(2 * items * spare, dtype=np.int64)
    solver = SimpleLinearSumAssignment()
    solver.add_arcs_with_cost(
        np.concatenate([tails, real.ravel(), dummy.ravel()]),
        np.concatenate([heads, dummy.ravel(), real.ravel()]),
        np.concatenate([np.floor((off - least) / unit).astype(np.int64), none]),
    )
    if solver.solve() != solver.OPTIMAL:
        return np.inf
    return float(edges * least + unit * solver.optimal_cost())
