"""Fitted stages of schedules whose ranks hold several: strategies in the order of their bounds, each cut exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..costs.keys import Floats
from ..strategy import Schedule
from ..workload.strategy_table import StrategyTable
from .fitting import Fitted, Views, Way
from .objectives import Measures, objective_values
from .search import Candidate, Goal
from .shared_bounds import shared_floors
from .shared_fitting import SharedFitting
from .space import Nodes, Space
from .uneven_space import Meter, better, near

SHARED: tuple[Schedule, ...] = ("interleaved", "zb-v", "dualpipe")

MOST_BUILT = 200
TOGETHER = 16
MOST_STAGES = 24
"""Virtual stages of the largest programs solved: larger ones end at their limit, no better than what was built."""
CLOSE = 1e-4
"""As a share: strategies whose bounds are so near the best value are not cut exactly."""
WORK_EACH = 30_000
FIXED_WORK = 15_000
"""Work that making one program takes."""
STRATEGIES_PER_WORK = 5
BOUNDED = 20
BUILT = 6_000
"""Strategies that are evaluated in the time of a step of the solver, of bounding one, and of building one."""


class SharedSearch:
    """One search: the best value so far, what was found, and what is left unproven."""

    def __init__(self, space: Space, nodes: Nodes, views: Views, goal: Goal, ways: tuple[Way, ...]) -> None:
        self.space, self.nodes, self.views = space, nodes, views
        self.goal, self.ways = goal, ways
        self.found: list[Candidate] = []
        self.bound = np.inf

    def run(self, best: float, meter: Meter) -> Fitted:
        """Cut strategies until the next one's bound reaches the best value, or until the meter ends it."""
        costs = self.views.bounding
        left = near(self.space, self.nodes, costs, self.goal, best, interleaved=True)
        table, rest = left.table, left.rest
        meter.spent += BOUNDED * len(table)
        floors = replace(left.floors, step_s=shared_floors(costs, table, self.goal.capacity_bytes, self.ways))
        values = self.goal.values(floors)
        order = np.argsort(values, kind="stable")[:MOST_BUILT]
        for start in range(0, len(order), TOGETHER):
            made: list[StrategyTable] = []
            for at in order[start : start + TOGETHER, None]:
                if values[at] < best and not meter.over(best, float(values[at][0])):
                    meter.spent += BUILT
                    fitting = self._fitting(table.take(at))
                    values[at] = np.maximum(values[at], self._values(floors.take(at), np.array([fitting.least_s()])))
                    made += fitting.built()
            best = self._seen(made, best)
        for row in np.argsort(values, kind="stable").tolist():
            if values[row] >= best * (1 - CLOSE) or meter.over(best, float(values[row])):
                rest = min(rest, float(values[row]))
                break
            at = np.array([row])
            if table.virtual_stages[row] > MOST_STAGES:
                self.bound = min(self.bound, float(values[row]))
            else:
                best = self._exact(table.take(at), floors.take(at), float(values[row]), best, meter)
        return Fitted(sorted(self.found, key=lambda each: each.value), min(self.bound, rest, best))

    def _exact(self, table: StrategyTable, floors: Measures, floor: float, best: float, meter: Meter) -> float:
        """Cut one strategy exactly; returns the best value since."""
        fitting = self._fitting(table)
        cut = fitting.best(self._seconds(floors, best), WORK_EACH)
        meter.spent += STRATEGIES_PER_WORK * (cut.work + FIXED_WORK * len(self.ways))
        self.bound = min(self.bound, max(floor, float(self._values(floors, np.array([cut.least_s]))[0])))
        return best if cut.table is None else self._seen([cut.table], best)

    def _fitting(self, table: StrategyTable) -> SharedFitting:
        return SharedFitting(self.views.bounding, table, self.goal.capacity_bytes, self.ways)

    def _seen(self, made: list[StrategyTable], best: float) -> float:
        """The best value with some more strategies."""
        self.found += better(made, self.views.costs, self.goal, best)
        return min([best, *(each.value for each in self.found)])

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
