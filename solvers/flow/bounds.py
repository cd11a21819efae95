"""What no placement can pass: from the capacity of nodes, and from how whole nodes can cover the layers."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from .covers import most_covered
from .problem import ChainFlow

HALVINGS = 80
MULTIPLIERS = 24
MAX_COVERS = 200
SEARCH_NODES = 100
BISECTIONS = 4
PARTED_BISECTIONS = 5
UNCOVERED = 1e-4


def flow_bound(problem: ChainFlow) -> float:
    """No placement passes more, from capacities alone.

    Every unit of flow needs every layer once; a node that holds k of them serves at most k of its layers, and passes no
    more than its throughput nor than all the flow F there is: Σ_i max_k k·min(F, T_i(k)) >= F·layers. Where a path may
    visit at most h nodes, every μ >= 0 gives another limit: Σ_i max_k (k - μ)·min(F, T_i(k)) >= F·(layers - μ·h), the
    Lagrangian dual of counting the visits. Never above Σ_i max_k k·T_i(k) / layers.
    """
    sizes = np.arange(1, problem.throughput.shape[1] + 1)
    high = float((problem.throughput * sizes).max(1).sum()) / problem.layers
    found = _largest(problem, high, 0.0)
    if problem.max_hops is not None:
        for multiplier in np.linspace(0, problem.layers / problem.max_hops, MULTIPLIERS + 2)[1:-1].tolist():
            found = min(found, _largest(problem, found, multiplier))
    return found


def _largest(problem: ChainFlow, high: float, multiplier: float) -> float:
    """The largest flow up to `high` for which the nodes' worth, each visit charged the multiplier, is enough."""
    worth = np.maximum(np.arange(1, problem.throughput.shape[1] + 1) - multiplier, 0.0)
    needed = problem.layers - multiplier * (problem.max_hops or 0)

    def holds(flow: float) -> bool:
        served = float((np.minimum(problem.throughput, flow) * worth).max(1).sum())
        return served >= flow * needed * (1 - 1e-12)

    if holds(high):
        return high
    low = 0.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high


def cover_bound(problem: ChainFlow, reached: float, bound: float, tolerance: float) -> float:
    """A bound no worse than `bound`, from the nodes that must stand together in every layer.

    A layer passes F only if the nodes that hold it pass F together, and a node holds k layers or it does not: if no
    choice of sizes covers every layer so, no placement passes F. Order, links and what reaches a node are left out, so
    the program is a relaxation. The bound is `reached` plus the tolerance when nothing above it can be covered. Where
    there are too many covers for that, nodes may be parted between sizes (see covers).
    """
    least = reached * (1 + tolerance)
    if least >= bound:
        return bound
    uncovered = _cannot_cover(problem, least)
    if uncovered:
        return least
    low, high = least, bound
    if uncovered is None:
        enough = problem.layers - UNCOVERED
        for _ in range(PARTED_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if most_covered(problem, middle, enough) < enough else (middle, high)
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        impossible = _cannot_cover(problem, middle)
        if impossible is None:
            return high
        low, high = (low, middle) if impossible else (middle, high)
    return high


def _cannot_cover(problem: ChainFlow, flow: float) -> bool | None:
    """Whether it is proven that whole nodes cannot cover every layer at a flow; None when the program is too large."""
    from ortools.linear_solver import pywraplp

    stock: dict[bytes, int] = defaultdict(int)
    for row in problem.throughput:
        stock[row.tobytes()] += 1
    rows = [np.frombuffer(key) for key in stock]
    slots = sorted(
        ((float(row[size - 1]), kind, size) for kind, row in enumerate(rows) for size in range(1, len(row) + 1)),
        reverse=True,
    )
    slots = [slot for slot in slots if slot[0] > 0]
    covers = _covers([(passes, kind) for passes, kind, _ in slots], list(stock.values()), flow)
    if covers is None:
        return None
    solver = pywraplp.Solver.CreateSolver("SCIP")
    limits = [solver.Constraint(0, count) for count in stock.values()]
    held = [solver.Constraint(-solver.infinity(), 0) for _ in slots]
    for (_, kind, size), constraint in zip(slots, held, strict=True):
        nodes = solver.IntVar(0, list(stock.values())[kind], "")
        limits[kind].SetCoefficient(nodes, 1)
        constraint.SetCoefficient(nodes, -size)
    objective = solver.Objective()
    objective.SetMaximization()
    for cover in covers:
        layers = solver.NumVar(0, problem.layers, "")
        objective.SetCoefficient(layers, 1)
        for slot, count in cover:
            held[slot].SetCoefficient(layers, count)
    solver.SetSolverSpecificParametersAsString(f"limits/nodes = {SEARCH_NODES}\n")
    if solver.Solve() not in (solver.OPTIMAL, solver.FEASIBLE):
        return None
    return bool(objective.BestBound() < problem.layers - UNCOVERED)


def _covers(slots: list[tuple[float, int]], stock: list[int], flow: float) -> list[tuple[tuple[int, int], ...]] | None:
    """Sets of slots (index, count) that pass the flow together, all that are needed; None when they are too many."""
    found: list[tuple[tuple[int, int], ...]] = []
    steps = 0

    def extend(at: int, need: float, cover: tuple[tuple[int, int], ...], left: list[int]) -> bool:
        nonlocal steps
        steps += 1
        if steps > 10 * MAX_COVERS:
            return False
        if need <= 1e-9 * flow:
            found.append(cover)
            return len(found) <= MAX_COVERS
        if at == len(slots):
            return True
        passes, kind = slots[at]
        for count in range(min(left[kind], math.ceil(need / passes - 1e-12)), -1, -1):
            fewer = [stocked - count * (other == kind) for other, stocked in enumerate(left)]
            if not extend(at + 1, need - count * passes, (*cover, (at, count)) if count else cover, fewer):
                return False
        return True

    return found if extend(0, flow, (), stock) else None
