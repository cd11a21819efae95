"""Lower bounds on every term of a mapping problem; their sum bounds the problem.

A term alone asks for a partition of the items into lines. Up to 16 items that partition is solved exactly, by dynamic
programming over subsets (Held and Karp 1962) and covers of all items by subsets. Beyond, a relaxation is solved: a
bottleneck cycle cover whose connected parts hold whole lines, or the cheapest set of edges with one out of and one
into an item (the assignment relaxation of the travelling salesman).

Together, rings and the paths across them bound more: rings no worse than some edge stay inside the connected parts
that such edges leave, each part has room for few rings, and every path visits all rings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .mapping_graphs import cheapest_edges, masks, matching_size, parts
from .mapping_grid import Floats, Ints, MappingProblem, Term

EXACT_ITEMS = 16
ROUNDING = 1e-12


def term_bounds(problem: MappingProblem) -> list[float]:
    """A lower bound on each term of every order."""
    return [_term_bound(problem, term) for term in problem.terms]


def problem_bound(problem: MappingProblem, floors: list[float]) -> float:
    """A lower bound on the value of every order, given the term bounds: their sum, or more for rings crossed by paths.

    Rings no worse than r stay inside the connected parts that such edges leave. If they need at least x + 1 parts, the
    paths, which visit every ring side by side, hop between parts at least x times, along x edges of a forest over the
    parts. The bound is the least over r, and only has to be looked at where parts join.
    """
    priced = list(zip(problem.terms, floors, strict=True))
    ring, ring_floor = next((pair for pair in priced if pair[0].cyclic and pair[0].reduce == "max"), (None, 0.0))
    path, path_floor = next((pair for pair in priced if not pair[0].cyclic and pair[0].reduce == "sum"), (None, 0.0))
    plain = len(problem.shape) == len(problem.terms) == 2 and all(len(term.axes) == 1 for term in problem.terms)
    if not plain or ring is None or path is None or ring.axes == path.axes or min(problem.shape) < 2:
        return sum(floors)
    width, rings = problem.shape[ring.axes[0]], problem.shape[path.axes[0]]
    values = np.unique(ring.cost[~np.eye(problem.items, dtype=bool)])
    values = values[values >= ring_floor * (1 - ROUNDING)]
    bound = np.inf

    def fewer_parts(value: float, limit: int) -> bool:
        return len(_Parts(ring.cost <= value, width, rings).members) < limit

    worst = _least(values, lambda value: _Parts(ring.cost <= value, width, rings).needed <= rings)
    while worst + path_floor < bound:
        found = _Parts(ring.cost <= worst, width, rings)
        other = cheapest_edges(path.cost, (rings - found.needed) * width) / width
        bound = min(bound, worst + max(path_floor, found.crossing(path.cost) + other))
        if len(found.members) == 1:
            break
        worst = _least(values, partial(fewer_parts, limit=len(found.members)))
    return float(max(bound, sum(floors)))


class _Parts:
    """The connected parts of the items, and how many of them it takes at least to hold all rings of a width."""

    def __init__(self, allowed: NDArray[np.bool_], width: int, rings: int) -> None:
        allowed = allowed & ~np.eye(len(allowed), dtype=bool)
        found = parts(masks(allowed), masks(allowed.T))
        self.members = [np.array([i for i in range(len(allowed)) if part >> i & 1]) for part in found]
        self.width = width
        room = np.sort([len(part) // width for part in self.members])[::-1].cumsum()
        self.needed = int(np.searchsorted(room, rings)) + 1

    def crossing(self, cost: Floats) -> float:
        """Least mean cost of `needed` - 1 hops between parts that make no circle, `width` paths side by side.

        From one part to another the paths cost at least the cheapest `width` edges out of different items, or into
        different items. Of all forests with so many edges, Kruskal's has the least cost.
        """
        large = [part for part in self.members if len(part) >= self.width]
        hops = []
        for k, one in enumerate(large):
            for j, other in enumerate(large[:k]):
                both = [cost[np.ix_(one, other)], cost[np.ix_(other, one)]]
                means = [
                    max(float(np.sort(block.min(axis=axis))[: self.width].mean()) for axis in (0, 1)) for block in both
                ]
                hops.append((min(means), j, k))
        tree, total, taken = list(range(len(large))), 0.0, 0
        for mean, j, k in sorted(hops):
            if taken == self.needed - 1:
                break
            if tree[j] != tree[k]:
                total, taken = total + mean, taken + 1
                tree = [tree[j] if label == tree[k] else label for label in tree]
        return total


def _term_bound(problem: MappingProblem, term: Term) -> float:
    length = int(problem.members(term.axes).shape[1])
    if length == 1:
        return 0.0
    if problem.items == problem.positions <= EXACT_ITEMS:
        return _smallest_worst_cover(term, length)
    lines = problem.positions // length
    edges = length if term.cyclic else length - 1
    cost = np.array(term.cost, dtype=np.float64)
    if length == 2 and term.cyclic:
        cost = np.maximum(cost, cost.T) if term.reduce == "max" else cost + cost.T
        edges = 2 if term.reduce == "max" else 1
    if term.reduce == "max":
        return _bottleneck(cost, lines * edges, length, problem.positions, term.cyclic)
    return float(cheapest_edges(cost, lines * edges)) / lines


def _smallest_worst_cover(term: Term, length: int) -> float:
    """The least possible worst line, over all partitions of the items into lines."""
    items = len(term.cost)
    subsets, cost = _line_costs(term, length)
    values = np.unique(cost[np.isfinite(cost)])
    return _least(values, lambda value: _covers(items, subsets[cost <= value], items // length))


def _least(values: Floats, possible: Callable[[float], bool]) -> float:
    """The least of the sorted values that is possible, by bisection; the last is taken to be."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if possible(float(values[middle])):
            high = middle
        else:
            low = middle + 1
    return float(values[low])


def _line_costs(term: Term, length: int) -> tuple[Ints, Floats]:
    """All subsets of `length` items, as bit masks, and the cheapest line through each.

    best[subset, last] is the cheapest line through the subset that ends in `last`; on a cyclic line it begins with the
    subset's lowest item.
    """
    items, adds = len(term.cost), term.reduce == "sum"
    into = np.ascontiguousarray(term.cost.T)
    everything = np.arange(1 << items)
    size = np.zeros(1 << items, dtype=np.int64)
    for item in range(items):
        size += everything >> item & 1
    best = np.full((1 << items, items), np.inf)
    best[1 << np.arange(items), np.arange(items)] = 0.0
    for count in range(2, length + 1):
        for item in range(items):
            subsets = np.flatnonzero((size == count) & (everything >> item & 1 == 1))
            if term.cyclic:
                subsets = subsets[subsets & -subsets != 1 << item]
            before = best[subsets ^ 1 << item]
            best[subsets, item] = (before + into[item] if adds else np.maximum(before, into[item])).min(axis=1)
    subsets = np.flatnonzero(size == length)
    if not term.cyclic:
        return subsets, best[subsets].min(axis=1)
    first = np.log2(subsets & -subsets).round().astype(np.int64)
    back = into[first]
    return subsets, (best[subsets] + back if adds else np.maximum(best[subsets], back)).min(axis=1)


def _covers(items: int, subsets: Ints, lines: int) -> bool:
    """Whether `lines` of the subsets cover every item exactly once: the lowest item left decides the next subset."""
    everything = (1 << items) - 1
    last = np.zeros(1 << items, dtype=bool)
    last[everything ^ subsets] = True
    reached = np.zeros(1, dtype=np.int64)
    for _ in range(lines - 1):
        free = ~reached & everything
        lowest = free & -free
        found = [np.empty(0, dtype=np.int64)]
        for bit in np.unique(lowest):
            masks, fitting = reached[lowest == bit], subsets[subsets & bit != 0]
            at, which = np.nonzero((masks[:, None] & fitting) == 0)
            found.append(np.unique(masks[at] | fitting[which]))
        reached = np.unique(np.concatenate(found))
    return bool(last[reached].any())


def _bottleneck(cost: Floats, edges: int, length: int, positions: int, cyclic: bool) -> float:
    """Least worst edge for which enough edges exist, one out of and one into an item, in parts of whole lines."""
    off = ~np.eye(len(cost), dtype=bool)
    values = np.unique(cost[off])

    def possible(value: float) -> bool:
        allowed = (cost <= value) & off
        followers, leaders = masks(allowed), masks(allowed.T)
        if not cyclic:
            followers = leaders = [a | b for a, b in zip(followers, leaders, strict=True)]
        room = sum(part.bit_count() // length * length for part in parts(followers, leaders))
        return room >= positions and matching_size(masks(allowed)) >= edges

    return _least(values, possible)
