"""Bounds on traffic that take minutes: matchings and a semidefinite relaxation of every pair of layers."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .bounds import SLIVER, Floor, affinity, combine, item_floor, level_floor, load_floors
from .levels import Level, levels
from .problem import Floats, PlacementProblem
from .threads import one_blas_thread

STEPS, CHECKED = 40, 20
LARGE = 128
LITTLE = 1e-3
FEW_GROUPS = 8
PENALTY_FEW, PENALTY_MANY = 0.01, 0.03
UNITS = 1 << 30


Real = TypeVar("Real", Floats, NDArray[np.float32])


def certify(problem: PlacementProblem, spare: int = 0) -> Floor:
    """The tightest floor known for placements with one copy of every item and `spare` more per layer."""
    traffic = 0.0
    if problem.has_traffic:
        assert problem.transitions is not None
        nested = levels(problem.link_cost)
        with one_blas_thread():
            if spare:
                parts = [_copied_floor(transition, problem, nested, spare) for transition in problem.transitions]
            else:
                parts = [_pair_floor(transition, problem, nested) for transition in problem.transitions]
        traffic = float(np.mean(parts))
    return combine(problem, traffic, float(load_floors(problem, spare).mean()))


def _copied_floor(transition: Floats, problem: PlacementProblem, nested: list[Level], spare: int) -> float:
    total = 0.0
    for level in nested:
        most = int(np.bincount(level.group, problem.slots).max())
        if most < len(transition):
            total += level.step * (float(transition.sum()) - matching_ceiling(transition, most, spare))
    return max(total, item_floor(transition, problem, copied=True))


def _pair_floor(transition: Floats, problem: PlacementProblem, nested: list[Level]) -> float:
    theta = affinity(transition)
    total = 0.0
    for level in nested:
        floors = [level_floor(transition, problem.slots, level, theta)]
        sizes = np.bincount(level.group, problem.slots).astype(np.int64)
        mass = float(transition.sum())
        if sizes.max() < len(transition):
            floors.append(level.step * (mass - matching_ceiling(transition, int(sizes.max()))))
        if level.groups > 1 and np.all(sizes == sizes[0]) and sizes.sum() == len(transition):
            floors.append(level.step * (mass - semidefinite_ceiling(transition, level.groups, theta)))
        total += max(floors)
    return max(total, item_floor(transition, problem, copied=False))


def matching_ceiling(transition: Floats, most: int, spare: int = 0) -> float:
    """The most flow within groups of `most` items of either layer when an item may pick its companions one by one.

    Every item has at most `most` companions on the other side: a b-matching, solved as a flow of least cost with the
    flow of every pair rounded up. Ahuja, Magnanti and Orlin, "Network Flows" (1993), chapter 12.
    With `spare` further copies in the layer that receives, an item there has `most` companions more for every copy. (A
    sender's flow divides over its own copies, but each part has at most `most` companions, and so has their mean.)
    """
    from ortools.graph.python import min_cost_flow

    size = len(transition)
    scale = UNITS / float(transition.max())
    gain = np.ceil(transition * scale).astype(np.int64)
    left, right = np.divmod(np.arange(size * size), size)
    source, sink, pool = 2 * size, 2 * size + 1, 2 * size + 2
    ends = np.arange(size)
    solver = min_cost_flow.SimpleMinCostFlow()
    solver.add_arcs_with_capacity_and_unit_cost(left, size + right, np.ones(size * size, dtype=np.int64), -gain.ravel())
    for tail, head in ((np.full(size, source), ends), (size + ends, np.full(size, sink))):
        solver.add_arcs_with_capacity_and_unit_cost(tail, head, np.full(size, most), np.zeros(size, dtype=np.int64))
    if spare:
        more = np.full(size, most * spare)
        solver.add_arcs_with_capacity_and_unit_cost(size + ends, np.full(size, pool), more, np.zeros(size, np.int64))
        solver.add_arc_with_capacity_and_unit_cost(pool, sink, most * spare, 0)
    solver.set_nodes_supplies(np.array([source, sink]), np.array([size * most, -size * most]))
    if solver.solve() != solver.OPTIMAL:
        raise ArithmeticError("a complete bipartite graph always has a matching of every degree up to its size")
    return float(-solver.optimal_cost() / scale * (1 + 1e-12))


def semidefinite_ceiling(transition: Floats, groups: int, theta: float) -> float:
    """The most flow within equal groups, from a semidefinite relaxation solved in part and made safe.

    With Z as in `level_floor` and Y = Z + 1/groups the 0/1 matrix of what is together: Z is positive semidefinite with
    rows that sum to zero over each layer, its diagonal is 1 - 1/groups, and no entry is below -1/groups. Alternating
    directions on that (Wen, Goldfarb and Yin, "Alternating direction augmented Lagrangian methods for semidefinite
    programming", 2010) keep multipliers d of the diagonal and N >= 0 of the entries; for any of them, with λ the
    largest eigenvalue of flow + N - diag(d) on sum-free vectors, flow within groups is at most
    (sum(flow) + sum(N)) / groups + (1 - 1/groups) (sum(d) + size · max(0, λ)).
    """
    size = len(transition)
    mass = float(transition.sum())
    flow = np.zeros((2 * size, 2 * size))
    flow[:size, size:] = transition * (size / (2 * mass))
    flow[size:, :size] = flow[:size, size:].T
    own, floor = 1 - 1 / groups, -1 / groups
    penalty = PENALTY_FEW if groups < FEW_GROUPS else PENALTY_MANY
    steady = _sum_free_part(flow, size) / penalty
    held = (own * np.eye(2 * size)).astype(np.float32)
    duals = np.diag(flow.sum(axis=1) * theta / penalty).astype(np.float32)
    best = np.inf
    for step in range(1, (CHECKED if groups >= FEW_GROUPS and size > LARGE else STEPS) + 1):
        values, vectors = np.linalg.eigh(_sum_free_part(held - duals + steady.astype(np.float32), size))
        kept = values > 0
        root = vectors[:, kept] * np.sqrt(values[kept])
        reached = root @ root.T + duals
        held = np.maximum(reached, np.float32(floor))
        np.fill_diagonal(held, own)
        duals = reached - held
        if step % CHECKED == 0:
            before, best = best, min(best, _safe_value(flow, penalty * duals.astype(np.float64), groups))
            if before - best < LITTLE * best:
                break
    return best * mass / size


def _safe_value(flow: Floats, duals: Floats, groups: int) -> float:
    """The ceiling that multipliers prove: diagonal of `duals` d, off it -N."""
    size = len(flow) // 2
    excess = float(np.linalg.eigvalsh(_sum_free_part(flow - duals, size))[-1]) + SLIVER
    diagonal = float(np.trace(duals))
    entries = diagonal - float(duals.sum())
    own = 1 - 1 / groups
    return (float(flow.sum()) + entries) / groups + own * (diagonal + 2 * size * max(0.0, excess))


def _sum_free_part(matrix: Real, size: int) -> Real:
    """The matrix between vectors that sum to zero over the first `size` entries and over the rest."""
    out = matrix.copy()
    parts = out.reshape(2, size, 2, size)
    parts -= parts.mean(axis=1, keepdims=True)
    parts -= parts.mean(axis=3, keepdims=True)
    return out
