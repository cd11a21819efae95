"""Search of the strategy space: the best strategy that fits, proven, and the best of other shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwright.solvers import Stop
from shardwright.solvers.enumeration import Enumeration, Leaves, branch_and_bound

from ..costs.rows import Rows
from ..costs.step import TrainingCosts
from ..workload.strategy_table import StrategyTable, concatenate
from ..workload.training import Objective
from .bounds import node_floors
from .objectives import Measures, Rates, objective_values
from .space import Nodes, Space

Floats = NDArray[np.float64]

ROWS_PER_CALL = 65536


@dataclass(frozen=True, slots=True)
class Goal:
    """What to minimize, and the limits: bytes of the fullest device and seconds of a step."""

    objective: Objective
    capacity_bytes: float
    time_limit_s: float
    rates: Rates

    def values(self, measures: Measures) -> Floats:
        """The objective, infinite beyond a limit."""
        value = objective_values(self.objective, measures, self.rates)
        within = (measures.memory_bytes <= self.capacity_bytes) & (measures.step_s <= self.time_limit_s)
        return np.where(within, value, np.inf)


@dataclass(frozen=True, slots=True)
class Found:
    """One strategy of the search: a table of a single row, its time, and the bytes of its fullest device."""

    table: StrategyTable
    step_s: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A strategy with the cost model it was judged by and its value; `devices[r]` plays rank r, or device r if None."""

    table: StrategyTable
    costs: TrainingCosts
    value: float
    devices: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """The outcome, the nodes, and the leanest of the strategies seen that exceed the memory."""

    outcome: Enumeration[Found]
    nodes: Nodes
    leanest: Found | None


def search(space: Space, costs: TrainingCosts, goal: Goal, *, keep: int = 6, stop: Stop | None = None) -> Search:
    """Minimize the goal over every legal strategy within its limits."""
    nodes = space.nodes()
    bounds = goal.values(node_floors(space, nodes, costs)) if len(nodes) else np.zeros(0)
    expander = _Expander(space, nodes, costs, goal)
    outcome = branch_and_bound(bounds, expander, keep=keep, batch=16, stop=stop)
    return Search(outcome, nodes, expander.leanest)


class _Expander:
    """Evaluates the leaves of nodes, and remembers the leanest of those that do not fit."""

    def __init__(self, space: Space, nodes: Nodes, costs: TrainingCosts, goal: Goal) -> None:
        self.space = space
        self.nodes = nodes
        self.costs = costs
        self.goal = goal
        self.leanest: Found | None = None

    def __call__(self, chosen: NDArray[np.int64], limit: float) -> Leaves[Found]:
        table, origin = self.space.first_leaves(self.nodes, chosen)
        if self.space.choices.further(2):
            measures, floors = evaluated_with_floors(self.costs, table)
            bounds = self.goal.values(floors)
            further, parent = self.space.further_leaves(table, np.flatnonzero(np.isfinite(bounds) & (bounds <= limit)))
            table, origin = concatenate([table, further]), np.concatenate([origin, origin[parent]])
            measures = measures.joined(evaluated(self.costs, further))
        else:
            measures = evaluated(self.costs, table)

        def point(i: int) -> Found:
            return Found(table.take(np.array([i])), float(measures.step_s[i]), float(measures.memory_bytes[i]))

        fits = measures.memory_bytes <= self.goal.capacity_bytes
        if not fits.all():
            least = point(int(np.argmin(np.where(fits, np.inf, measures.memory_bytes))))
            if self.leanest is None or least.memory_bytes < self.leanest.memory_bytes:
                self.leanest = least
        return Leaves(self.goal.values(measures), origin, point)


def evaluated(costs: TrainingCosts, table: StrategyTable) -> Measures:
    """Measures of every row, a bounded number of rows at a time."""
    result = _room(len(table))
    for part, rows in _parts(costs, table):
        result.put(part, costs.step(rows))
    return result


def evaluated_with_floors(costs: TrainingCosts, table: StrategyTable) -> tuple[Measures, Measures]:
    """Measures of every row, and what those of the rows that divide more of the states do not go below."""
    result, floors = _room(len(table)), _room(len(table))
    for part, rows in _parts(costs, table):
        step = costs.step(rows)
        result.put(part, step)
        floors.step_s[part], floors.memory_bytes[part] = costs.undivided(rows, step)
        floors.busy_s[part] = step.busy_s
    return result, floors


def _room(count: int) -> Measures:
    return Measures(*(np.empty(count) for _ in range(3)))


def _parts(costs: TrainingCosts, table: StrategyTable) -> Iterator[tuple[slice, Rows]]:
    for start in range(0, len(table), ROWS_PER_CALL):
        part = slice(start, min(start + ROWS_PER_CALL, len(table)))
        yield part, costs.rows(table.take(part))
