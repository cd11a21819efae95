"""Strategies whose stages are fitted to each one's memory: the best of them, and a bound on all.

By default stages of 1F1B are cut anywhere and recompute alike, as launchers can run them. Where a job explores uneven
stages, those of every schedule are cut, and recompute as much as each needs.
"""

from __future__ import annotations

import numpy as np

from ..costs.keys import Floats
from ..strategy import Schedule
from ..workload.strategy_table import StrategyTable
from .choices import DEFAULT_SCHEDULES
from .fitting import NONE, Fitted, Fitting, Views, Way
from .lone_bounds import lone_floors
from .objectives import Measures
from .search import Candidate, Goal
from .space import Nodes, Space
from .uneven_shared import SHARED, SharedSearch
from .uneven_space import Meter, better, near, plain, ways

ALIKE: tuple[Schedule, ...] = ("1f1b", "gpipe")
"""Schedules whose stages are cut by default."""
CUT = 1_500
"""Strategies that are evaluated in the time that it takes to cut one exactly."""
MOST = 2_000_000
"""Strategies in whose time a search of one schedule gives up: about ten seconds."""
MOST_ALIKE = 60_000
PLACED = 4
"""How many times longer it takes on links that differ."""
TOGETHER = 16


def fitted(space: Space, nodes: Nodes, views: Views, goal: Goal, best: float, meter: Meter) -> Fitted:
    """Strategies with fitted stages that beat the best value found, in every schedule that may be used."""
    every = "uneven" in space.scope.explore
    found: list[Candidate] = []
    bound = np.inf
    for schedule in (space.scope.constraints.schedule or DEFAULT_SCHEDULES) if len(nodes) else ():
        possible = plain(space, schedule, alike=not every) if every or schedule in ALIKE else None
        if possible is None:
            continue
        meter.allow(MOST if every else MOST_ALIKE)
        search = SharedSearch if schedule in SHARED else LoneSearch
        made = search(possible, nodes, views, goal, ways(space) if every else (NONE,)).run(best, meter)
        found, bound = [*found, *made.candidates], min(bound, made.bound)
        best = min([best, *(each.value for each in made.candidates)])
    return Fitted(sorted(found, key=lambda each: each.value), bound)


class LoneSearch:
    """One search of schedules in which a rank holds one stage: strategies in the order of their bounds, each cut
    exactly, with what was found and what is left unproven."""

    def __init__(self, space: Space, nodes: Nodes, views: Views, goal: Goal, ways: tuple[Way, ...]) -> None:
        self.space, self.nodes, self.views, self.goal, self.ways = space, nodes, views, goal, ways
        self.found: list[Candidate] = []
        self.bound = np.inf

    def run(self, best: float, meter: Meter) -> Fitted:
        """Cut strategies until the next one's bound reaches the best value, or until the meter ends it."""
        costs, capacity = self.views.bounding, self.goal.capacity_bytes
        left = near(self.space, self.nodes, costs, self.goal, best, interleaved=False)
        meter.spent += len(left.table)
        seconds = lone_floors(costs, left.table, capacity, self.ways)
        values = self._values(left.floors, seconds)
        order = np.argsort(values, kind="stable")
        order = order[values[order] < best]
        done = 0
        while done < len(order) and values[order[done]] < best and not meter.over(best, float(values[order[done]])):
            rows = order[done : done + TOGETHER]
            rows = rows[values[rows] < best]
            cuts = [self._cut(left.table.take(one), left.floors.take(one), values[one]) for one in rows[:, None]]
            meter.spent += CUT * len(rows) * len(self.ways) * (1 if self.same_costs else PLACED)
            self.found += better([each for each in cuts if each is not None], self.views.costs, self.goal, best)
            best = min([best, *(each.value for each in self.found)])
            done += len(rows)
        rest = float(values[order[done]]) if done < len(order) else np.inf
        return Fitted(sorted(self.found, key=lambda each: each.value), min(self.bound, rest, left.rest, best))

    @property
    def same_costs(self) -> bool:
        """Whether strategies are bounded by the costs that they are judged by."""
        return self.views.bounding is self.views.costs

    def _cut(self, table: StrategyTable, floors: Measures, floor: Floats) -> StrategyTable | None:
        """The best cut of one strategy, whose bound is noted."""
        made, seconds = Fitting(self.views.costs, table, self.goal.capacity_bytes, self.ways).best()
        least = np.maximum(floor, self._values(floors, np.array([seconds]))) if self.same_costs else floor
        self.bound = min(self.bound, float(least[0]))
        return made

    def _values(self, floors: Measures, seconds: Floats) -> Floats:
        """The objective at least, of strategies that take so long; infinite where they cannot be."""
        values = self.goal.values(Measures(seconds, floors.busy_s, floors.memory_bytes))
        return np.where(np.isfinite(seconds), values, np.inf)
