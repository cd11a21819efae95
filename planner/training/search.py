"""Search of the strategy space: the fastest strategy that fits, proven, and the best of other shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwright.solvers import Stop
from shardwright.solvers.enumeration import Enumeration, Leaves, branch_and_bound

from ..costs.step import TrainingCosts
from ..workload.strategy_table import StrategyTable
from .bounds import node_bounds
from .space import Nodes, Space

ROWS_PER_CALL = 16384


@dataclass(frozen=True, slots=True)
class Found:
    """One strategy of the search: a table of a single row, its time, and the bytes of its fullest device."""

    table: StrategyTable
    step_s: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Search:
    """The outcome, the nodes, and the smallest footprint seen among strategies that do not fit."""

    outcome: Enumeration[Found]
    nodes: Nodes
    smallest: Found | None


def search(
    space: Space, costs: TrainingCosts, capacity_bytes: float, *, keep: int = 6, stop: Stop | None = None
) -> Search:
    """Minimize the step time over every legal strategy whose fullest device holds at most `capacity_bytes`."""
    nodes = space.nodes()
    bounds = node_bounds(space, nodes, costs, capacity_bytes) if len(nodes) else np.zeros(0)
    expander = _Expander(space, nodes, costs, capacity_bytes)
    outcome = branch_and_bound(bounds, expander, keep=keep, batch=16, stop=stop)
    return Search(outcome, nodes, expander.smallest)


class _Expander:
    """Evaluates the leaves of nodes, and remembers the smallest footprint among those that do not fit."""

    def __init__(self, space: Space, nodes: Nodes, costs: TrainingCosts, capacity_bytes: float) -> None:
        self.space = space
        self.nodes = nodes
        self.costs = costs
        self.capacity_bytes = capacity_bytes
        self.smallest: Found | None = None

    def __call__(self, chosen: NDArray[np.int64]) -> Leaves[Found]:
        table, origin = self.space.leaves(self.nodes, chosen)
        step_s, memory_bytes = evaluated(self.costs, table)
        fits = memory_bytes <= self.capacity_bytes
        if len(table) and not fits.all():
            least = int(np.argmin(np.where(fits, np.inf, memory_bytes)))
            if self.smallest is None or memory_bytes[least] < self.smallest.memory_bytes:
                self.smallest = Found(table.take(np.array([least])), float(step_s[least]), float(memory_bytes[least]))

        def point(i: int) -> Found:
            return Found(table.take(np.array([i])), float(step_s[i]), float(memory_bytes[i]))

        return Leaves(np.where(fits, step_s, np.inf), origin, point)


def evaluated(costs: TrainingCosts, table: StrategyTable) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Step seconds and bytes of the fullest device of every row, a bounded number of rows at a time."""
    step_s = np.empty(len(table))
    memory_bytes = np.empty(len(table))
    for start in range(0, len(table), ROWS_PER_CALL):
        rows = np.arange(start, min(start + ROWS_PER_CALL, len(table)))
        part = costs.evaluate(table.take(rows))
        step_s[rows], memory_bytes[rows] = part.step_s, part.memory_bytes
    return step_s, memory_bytes
