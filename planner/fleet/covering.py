"""Losses, hours, a fleet that runs already and a budget, as one program over the counts alone.

Its variables are the units of every price in every hour (reserved units are the same in all), the units started, marks
of how many units of a kind there are (for losses), and the multiple of the rates (under a budget).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from shardwright.solvers import Solution
from shardwright.solvers.binpacking import covering
from shardwright.solvers.binpacking.problem import Floats

from ..workload.fleet import Failures
from .found import Found
from .losses import losses
from .problem import FleetProblem
from .program import formulate

MOST_MULTIPLE = 1e9
MOST_UNITS = 1e7


@dataclass(frozen=True, slots=True)
class Demands:
    """What the fleet must do beside holding the load: withstand `failures`; follow `hours`, multiples of the rates;
    come from the units that run `before`, where a change must pay within `horizon_hours`; keep what it starts for
    `least_hours`. `largest` asks for the largest multiple of the rates instead of the cheapest fleet.

    A schedule without a fleet before it begins where it ends.
    """

    failures: Failures = field(default_factory=Failures)
    hours: tuple[float, ...] = (1.0,)
    before: Floats | None = None
    least_hours: int = 1
    horizon_hours: float = 24.0
    largest: bool = False

    @property
    def plain(self) -> bool:
        """Whether packing alone answers it."""
        return not (self.failures.any or len(self.hours) > 1 or self.before is not None or self.largest)


def solve_covering(problem: FleetProblem, demands: Demands, fixed: Floats | None = None) -> Solution[Found]:
    """The best counts for every hour; `fixed` holds the units of the only hour at given numbers."""
    program = _Program(problem, demands)
    built = program.build(fixed)
    solution = covering.solve(built)
    sign = -1.0 if demands.largest else 1.0
    if solution.point is None:
        return Solution(solution.status, None, work=solution.work, reason=solution.reason)
    values = solution.point
    found = Found(
        counts=np.round(np.array([[values[at] for at in row] for row in program.units])),
        value=sign * solution.value,
        bound=sign * solution.bound,
        status=solution.status,
        work=solution.work,
        solver="binpacking.covering",
        multiple=float(values[program.growth]) if program.growth is not None else 1.0,
    )
    return Solution(solution.status, found, found.value, found.bound, solution.seconds, solution.work)


@dataclass
class _Program:
    """The program as it is put together: one entry per variable, rows as {variable: coefficient} <= limit."""

    problem: FleetProblem
    demands: Demands
    cost: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float]] = field(default_factory=list)
    rooms: list[tuple[dict[tuple[int, int], float], float]] = field(default_factory=list)
    marks: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        packing = formulate(self.problem)
        self.load, self.items, self.capacity = packing.load, packing.items, packing.capacity
        self.units = self._units()
        self.starts = self._starts()
        if self.demands.least_hours > 1:
            self._stay()
        self.growth = self._variable(-1.0, MOST_MULTIPLE, whole=False) if self.demands.largest else None
        for hour, factor in enumerate(self.demands.hours):
            self._keep_caps(hour)
            if factor > 0:
                self._hold_load(hour, factor)

    def build(self, fixed: Floats | None) -> covering.Covering:
        """The finished program."""
        count = len(self.cost)
        lower, upper = np.zeros(count), np.array(self.upper)
        if fixed is not None:
            lower[self.units[0]] = upper[self.units[0]] = fixed
        matrix = np.zeros((len(self.rows), count))
        for at, (terms, _) in enumerate(self.rows):
            for variable, coefficient in terms.items():
                matrix[at, variable] = coefficient
        growth = np.zeros(count)
        if self.growth is not None:
            growth[self.growth] = 1.0
        scenarios = []
        for room, factor in self.rooms:
            table = np.zeros((len(self.problem.replicas), count))
            for (kind, variable), size in room.items():
                table[kind, variable] = size
            grown = growth * factor if self.growth is not None else None
            scenarios.append(covering.Scenario(table, 0.0 if grown is not None else factor, grown))
        return covering.Covering(
            cost=np.array(self.cost),
            lower=lower,
            upper=upper,
            whole=np.array(self.whole),
            matrix=matrix,
            limit=np.array([limit for _, limit in self.rows]),
            load=self.load,
            items=self.items,
            scenarios=tuple(scenarios),
        )

    @cached_property
    def most(self) -> Floats:
        """More units than the busiest hour could fill, and spares for every loss, are never useful; caps end them."""
        finite = (np.where(np.isfinite(self.load), self.load, 0.0) * self.items).sum(1)
        floors = sum(-cap.most for cap in self.problem.caps if cap.most < 0)
        busiest = MOST_UNITS if self.demands.largest else max(self.demands.hours)
        with np.errstate(divide="ignore", invalid="ignore"):
            filled = np.where(self.capacity > 0, finite[:, None] * busiest / self.capacity, 0.0).max(0)
            most: Floats = np.ceil(filled) + self.demands.failures.replicas + floors
            for cap in self.problem.caps:
                if (cap.row >= 0).all():
                    most = np.minimum(most, np.where(cap.row > 0, np.floor(cap.most / cap.row + 1e-9), np.inf))
        return np.minimum(most, MOST_UNITS)

    def _variable(self, cost: float, upper: float, whole: bool = True) -> int:
        self.cost.append(cost)
        self.upper.append(upper)
        self.whole.append(whole)
        return len(self.cost) - 1

    def _units(self) -> list[list[int]]:
        """The variable of every price in every hour."""
        hours = len(self.demands.hours)
        columns: list[list[int]] = []
        for price, most in zip(self.problem.prices, self.most.tolist(), strict=True):
            cost = 0.0 if self.demands.largest else price.cost
            if price.tier == "reserved":
                columns.append([self._variable(cost, most)] * hours)
            else:
                columns.append([self._variable(cost / hours, most) for _ in range(hours)])
        return [[column[hour] for column in columns] for hour in range(hours)]

    def _starts(self) -> list[list[int | None]]:
        """The variable of the units started in every hour; None where nothing can start."""
        before, hours = self.demands.before, len(self.demands.hours)
        rows: list[list[int | None]] = []
        for hour in range(hours):
            row: list[int | None] = []
            for at, price in enumerate(self.problem.prices):
                given = hour == 0 and before is not None
                if not given and (hours == 1 or price.tier == "reserved"):
                    row.append(None)
                    continue
                share = hours if hours > 1 else self.demands.horizon_hours
                start = self._variable(price.usd_per_start / share, float(self.most[at]), whole=False)
                terms = {start: -1.0, self.units[hour][at]: 1.0}
                if not given:
                    terms[self.units[hour - 1][at]] = -1.0
                self.rows.append((terms, float(before[at]) if given and before is not None else 0.0))
                row.append(start)
            rows.append(row)
        return rows

    def _stay(self) -> None:
        """Units started within the last `least_hours` still run (Rajan and Takriti 2005)."""
        hours = len(self.starts)
        for hour in range(hours):
            first = hour - min(self.demands.least_hours, hours) + 1
            recent = range(first if self.demands.before is None else max(first, 0), hour + 1)
            for at in range(len(self.problem.prices)):
                terms = {self.units[hour][at]: -1.0}
                for other in recent:
                    start = self.starts[other % hours][at]
                    if start is not None:
                        terms[start] = terms.get(start, 0.0) + 1.0
                self.rows.append((terms, 0.0))

    def _keep_caps(self, hour: int) -> None:
        units = self.units[hour]
        for cap in self.problem.caps:
            self.rows.append(({units[at]: float(cap.row[at]) for at in np.flatnonzero(cap.row)}, cap.most))

    def _hold_load(self, hour: int, factor: float) -> None:
        """The load held by all units, and its share after every loss."""
        units = self.units[hour]
        room = {
            (price.replica, units[at]): float(self.capacity[price.replica, at])
            for at, price in enumerate(self.problem.prices)
        }
        self.rooms.append((room, factor))
        for loss in losses(self.problem, self.demands.failures):
            left = {
                (price.replica, units[at]): room[price.replica, units[at]]
                for at, price in enumerate(self.problem.prices)
                if loss.kept[at]
            }
            for kind, count in loss.kinds:
                for number in range(1, count + 1):
                    left[kind, self._mark(hour, kind, number)] = -float(self.capacity[kind].max())
            self.rooms.append((left, factor * self.demands.failures.load_share))

    def _mark(self, hour: int, kind: int, number: int) -> int:
        """A variable that is 1 where an hour has at least `number` units of a kind."""
        if (hour, kind, number) not in self.marks:
            mark = self._variable(0.0, 1.0)
            self.marks[hour, kind, number] = mark
            mine = [at for at, price in enumerate(self.problem.prices) if price.replica == kind]
            terms = {self.units[hour][at]: 1.0 for at in mine}
            terms[mark] = -float(self.most[mine].sum())
            self.rows.append((terms, float(number - 1)))
        return self.marks[hour, kind, number]
