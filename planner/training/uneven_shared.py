"""Fitted stages of schedules whose ranks hold several: strategies in the order of their bounds, each cut exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..costs.keys import Floats
from ..strategy import Schedule
from ..workload.strategy_table import FIELDS, StrategyTable, concatenate, row_codes
from .bounds import node_floors
from .fitting import Fitted, Views, Way
from .objectives import Measures, objective_values
from .paces import least_seconds
from .search import Candidate, Goal, evaluated
from .shared_bounds import shared_floors
from .shared_fitting import SharedFitting
from .space import Nodes, Space

SHARED: tuple[Schedule, ...] = ("interleaved", "zb-v", "dualpipe")

TOGETHER = 64
MOST_STRATEGIES = 100_000
"""Strategies bounded before the nodes left are taken by their own bounds."""
MOST_BUILT = 200
MOST_STAGES = 24
"""Virtual stages of the largest programs solved: larger ones end at their limit, no better than what was built."""
CLOSE = 1e-4
"""As a share: strategies whose bounds are so near the best value are not cut exactly."""
WORK_EACH = 30_000
WORK_IN_ALL = 600_000
"""The solver's work before the search gives up: about ten seconds."""
FIXED_WORK = 15_000
"""Work that making one program takes."""


class SharedSearch:
    """One search: the best value so far, what was found, and what is left unproven."""

    def __init__(self, space: Space, nodes: Nodes, views: Views, goal: Goal, ways: tuple[Way, ...]) -> None:
        self.space, self.nodes, self.views = space, nodes, views
        self.goal, self.ways = goal, ways
        self.floors = node_floors(space, nodes, views.bounding)
        self.found: list[Candidate] = []
        self.bound = np.inf
        self.work = 0

    def run(self, best: float) -> Fitted:
        """Cut strategies until the next one's bound reaches the best value, or for as long as is worth while."""
        table, floors, rest = self._strategies(best)
        values = self.goal.values(floors)
        for row in np.argsort(values, kind="stable")[:MOST_BUILT].tolist():
            if values[row] < best:
                at = np.array([row])
                fitting = self._fitting(table.take(at))
                values[row] = max(values[row], self._values(floors.take(at), np.array([fitting.least_s()]))[0])
                best = min([best, *(self._seen(made, best) for made in fitting.built())])
        for row in np.argsort(values, kind="stable").tolist():
            if values[row] >= best * (1 - CLOSE) or self.work > WORK_IN_ALL:
                rest = min(rest, float(values[row]))
                break
            at = np.array([row])
            if table.virtual_stages[row] > MOST_STAGES:
                self.bound = min(self.bound, float(values[row]))
            else:
                best = self._cut(table.take(at), floors.take(at), float(values[row]), best)
        return Fitted(sorted(self.found, key=lambda each: each.value), min(self.bound, rest, best))

    def _strategies(self, best: float) -> tuple[StrategyTable, Measures, float]:
        """Those that may beat the best value and differ in more than their layout, with what no cut of each goes below;
        and what those not looked at have at least."""
        values = np.where(self.nodes.pp > 1, self.goal.values(self.floors), np.inf)
        order = np.argsort(values, kind="stable")
        order = order[values[order] < best]
        tables, origins = [self.space.leaves(self.nodes, order[:0])[0]], [np.zeros(0, np.int64)]
        done = 0
        while done < len(order) and sum(map(len, tables)) < MOST_STRATEGIES:
            table, origin = self.space.leaves(self.nodes, order[done : done + TOGETHER])
            tables.append(table)
            origins.append(origin)
            done += TOGETHER
        table, origin = concatenate(tables), np.concatenate(origins)
        first, _ = row_codes([origin, *(table.column(name) for name in FIELDS if name != "layout")])
        table, origin = table.take(first), origin[first]
        rest = float(values[order[done]]) if done < len(order) else np.inf
        floors, costs = self.floors.take(origin), self.views.bounding
        floors = replace(floors, step_s=least_seconds(costs, table))
        near = self.goal.values(floors) < best
        table, floors = table.take(near), floors.take(near)
        return table, replace(floors, step_s=shared_floors(costs, table, self.goal.capacity_bytes, self.ways)), rest

    def _cut(self, table: StrategyTable, floors: Measures, floor: float, best: float) -> float:
        """Cut one strategy exactly; returns the best value since."""
        fitting = self._fitting(table)
        cut = fitting.best(self._seconds(floors, best), WORK_EACH)
        self.work += cut.work + FIXED_WORK * len(self.ways)
        self.bound = min(self.bound, max(floor, float(self._values(floors, np.array([cut.least_s]))[0])))
        return best if cut.table is None else self._seen(cut.table, best)

    def _fitting(self, table: StrategyTable) -> SharedFitting:
        return SharedFitting(self.views.bounding, table, self.goal.capacity_bytes, self.ways)

    def _seen(self, made: StrategyTable, best: float) -> float:
        """The best value with one more strategy."""
        value = float(self.goal.values(evaluated(self.views.costs, made))[0])
        if value < best:
            self.found.append(Candidate(made, self.views.costs, value))
        return min(value, best)

    def _values(self, floors: Measures, seconds: Floats) -> Floats:
        """The objective at least, of strategies of a node that take so long."""
        room = np.ones(len(seconds))
        measures = Measures(seconds, floors.busy_s * room, floors.memory_bytes * room)
        return objective_values(self.goal.objective, measures, self.goal.rates)

    def _seconds(self, floors: Measures, best: float) -> float:
        """Seconds within which a strategy of a node can be better than the best value, and may be at all."""
        near, far = self._values(floors, np.array([1.0, 2.0]) * float(floors.busy_s[0] + floors.step_s[0]))
        start = float(floors.busy_s[0] + floors.step_s[0])
        if far <= near:
            return self.goal.time_limit_s
        return min(self.goal.time_limit_s, start + (best - float(near)) / float(far - near) * start)
