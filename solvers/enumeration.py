"""Best point of a discrete space too large to evaluate: branch and bound over groups of points.

The space is cut into nodes, each with a lower bound on the value of every point inside. Nodes are expanded in order of
their bounds, many at a time; a point is proven best once every unexpanded node's bound is at least its value.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .solution import Progress, Solution, Status, Stop

T = TypeVar("T")
MANY = 1 << 18
"""Points of one expansion from which on the next takes no more nodes."""


@dataclass(frozen=True, slots=True)
class Leaves(Generic[T]):
    """Points found by expanding nodes: their values (infinite when infeasible), the node each came from, and how to
    make the i-th of them."""

    values: NDArray[np.float64]
    node: NDArray[np.int64]
    point: Callable[[int], T]


@dataclass(frozen=True, slots=True)
class Ranked(Generic[T]):
    """A point, its value, and the node it came from."""

    point: T
    value: float
    node: int


@dataclass(frozen=True, slots=True)
class Enumeration(Generic[T]):
    """The outcome: the solution, the best point of each of the best nodes (best first), and what was looked at."""

    solution: Solution[T]
    best: tuple[Ranked[T], ...]
    expanded: int
    evaluated: int
    feasible: int


def branch_and_bound(
    bounds: NDArray[np.float64],
    expand: Callable[[NDArray[np.int64], float], Leaves[T]],
    *,
    keep: int = 1,
    batch: int = 64,
    stop: Stop | None = None,
) -> Enumeration[T]:
    """Minimize over all points of all nodes.

    `bounds[i]` must not exceed the value of any point of node i; an infinite bound says that none is feasible.
    `expand(nodes, limit)` may leave out points that are sure to exceed the limit, since none of them is kept.
    `keep` asks for the best point of that many different nodes, all of them proven. `batch` nodes are expanded
    together, doubling as the search goes on until they make so many points that memory would tell. The work counted
    is points evaluated, and equal values are won by the lower node, so that the answer is the same on every machine
    unless `stop` looks at the clock.
    """
    began = time.perf_counter()
    order = np.argsort(bounds, kind="stable")
    order = order[np.isfinite(bounds[order])]
    progress = Progress(started=began)
    best: list[Ranked[T]] = []
    done = feasible = 0
    stopped = False
    while done < len(order):
        worst_kept = best[keep - 1].value if len(best) >= keep else np.inf
        next_bound = float(bounds[order[done]])
        if next_bound >= worst_kept:
            break
        progress.bound = min(next_bound, progress.value)
        if stop is not None and done and stop(progress):
            stopped = True
            break
        nodes = order[done : done + batch]
        nodes = nodes[bounds[nodes] < worst_kept]
        leaves = expand(nodes, worst_kept)
        best = _merged(best, leaves, keep)
        feasible += int(np.count_nonzero(np.isfinite(leaves.values)))
        progress.work += len(leaves.values)
        progress.value = best[0].value if best else np.inf
        done += len(nodes)
        if len(leaves.values) < MANY:
            batch *= 2
    seconds = time.perf_counter() - began
    remaining = float(bounds[order[done]]) if done < len(order) else np.inf
    solution = _solution(best, remaining, stopped, seconds, progress.work)
    return Enumeration(solution, tuple(best), done, progress.work, feasible)


def _merged(best: list[Ranked[T]], leaves: Leaves[T], keep: int) -> list[Ranked[T]]:
    """The best point of each node among those kept and those new, best first, at most `keep`."""
    limit = best[keep - 1].value if len(best) >= keep else np.inf
    candidates = np.flatnonzero(np.isfinite(leaves.values) & (leaves.values <= limit))
    ranked = candidates[np.lexsort((candidates, leaves.node[candidates], leaves.values[candidates]))]
    _, first = np.unique(leaves.node[ranked], return_index=True)
    chosen = ranked[np.sort(first)][:keep]
    new = [Ranked(leaves.point(int(i)), float(leaves.values[i]), int(leaves.node[i])) for i in chosen]
    return sorted(best + new, key=lambda each: (each.value, each.node))[:keep]


def _solution(best: list[Ranked[T]], remaining: float, stopped: bool, seconds: float, work: int) -> Solution[T]:
    if not best:
        status = Status.LIMIT if stopped else Status.INFEASIBLE
        reason = "stopped before a feasible point was found" if stopped else "no point of the space is feasible"
        return Solution(status, None, bound=remaining, seconds=seconds, work=work, reason=reason)
    value = best[0].value
    bound = min(value, remaining)
    status = Status.OPTIMAL if bound >= value else Status.FEASIBLE
    return Solution(status, best[0].point, value, bound, seconds, work)


@dataclass(frozen=True, slots=True)
class Compromise(Generic[T]):
    """A point that no other beats in one value without losing in the other."""

    point: T
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class Front(Generic[T]):
    """All compromises between two values, ascending in the first; `proven` unless stopped early."""

    points: tuple[Compromise[T], ...]
    proven: bool
    expanded: int
    evaluated: int


@dataclass(frozen=True, slots=True)
class PairLeaves(Generic[T]):
    """Points found by expanding nodes: both values of each, shape [points, 2], infinite when infeasible."""

    values: NDArray[np.float64]
    point: Callable[[int], T]


def pareto_front(
    bounds: NDArray[np.float64],
    expand: Callable[[NDArray[np.int64]], PairLeaves[T]],
    *,
    batch: int = 64,
    stop: Stop | None = None,
) -> Front[T]:
    """Every compromise between two values to minimize; equal ones are represented by the first found.

    `bounds[i]` holds a lower bound on either value of every point of node i; a node whose bounds some point already
    reaches in both is left out.
    """
    order = np.lexsort((bounds[:, 1], bounds[:, 0]))
    order = order[np.isfinite(bounds[order]).all(axis=1)]
    progress = Progress()
    front = np.zeros((0, 2))
    points: list[T] = []
    done = expanded = 0
    stopped = False
    while done < len(order) and not stopped:
        nodes = order[done : done + batch]
        done += len(nodes)
        nodes = nodes[~beaten(bounds[nodes], front)]
        if not len(nodes):
            continue
        leaves = expand(nodes)
        expanded += len(nodes)
        progress.work += len(leaves.values)
        front, points = _joined(front, points, leaves)
        stopped = stop is not None and done < len(order) and stop(progress)
        batch *= 2
    made = (Compromise(point, float(a), float(b)) for point, (a, b) in zip(points, front, strict=True))
    return Front(tuple(made), not stopped, expanded, progress.work)


def beaten(values: NDArray[np.float64], front: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pairs some front point reaches in both values, shape [pairs]; the front ascends in the first and descends
    in the second."""
    if not len(front):
        return np.zeros(len(values), bool)
    last = np.searchsorted(front[:, 0], values[:, 0], side="right") - 1
    result: NDArray[np.bool_] = (last >= 0) & (front[np.maximum(last, 0), 1] <= values[:, 1])
    return result


def _joined(front: NDArray[np.float64], points: list[T], leaves: PairLeaves[T]) -> tuple[NDArray[np.float64], list[T]]:
    """The front of what was known and what is new; among equals the known ones stay."""
    new = np.flatnonzero(np.isfinite(leaves.values).all(axis=1) & ~beaten(leaves.values, front))
    values = np.concatenate([front, leaves.values[new]])
    age = np.arange(len(values))
    order = np.lexsort((age, values[:, 1], values[:, 0]))
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(values[order, 1])[:-1]])
    kept = order[values[order, 1] < best_before]
    made = [points[i] if i < len(points) else leaves.point(int(new[i - len(points)])) for i in kept]
    return values[kept], made
