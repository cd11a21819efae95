"""Units that hold divisible items in several scenarios at once: losses, hours of a day, a growing load.

A scenario gives every profile the room `room @ v` of the variables v and asks it to hold the items, all of them scaled
by one factor. For any prices w >= 0 of the profiles, Σ_j w_j room_j >= factor · Σ_i items_i min_j w_j load_ij is
necessary (weak duality), and all such rows together are sufficient (Farkas), so the scenarios become cutting planes
over v alone: Benders (1962) decomposition, the separation being the relaxation that shrinks all room together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..solution import Progress, Solution, Status
from .problem import BinPacking, Floats, Integers
from .relaxation import Relaxation

FEASIBILITY = 1e-9
HELD = 1e-7
"""Relative shortage of room that counts as held."""
STRONG = 2.0
LINEAR_ROUNDS = 100
WHOLE_ROUNDS = 200
NODES = 20_000


@dataclass(frozen=True, slots=True)
class Scenario:
    """Room of every profile by variable, [profile, variable], and the factor on the items: `load + growth @ v`."""

    room: Floats
    load: float = 1.0
    growth: Floats | None = None

    def factor(self, values: Floats) -> float:
        """How many times the items are to be held."""
        return self.load + (0.0 if self.growth is None else float(self.growth @ values))


@dataclass(frozen=True, slots=True)
class Covering:
    """Minimize `cost @ v` over `matrix @ v <= limit`, bounds and scenarios; `whole` marks the integer variables.

    `load[j, i]` is what one item of class i takes of profile j, infinite where it cannot go; items may be divided.
    """

    cost: Floats
    lower: Floats
    upper: Floats
    whole: Floats
    matrix: Floats
    limit: Floats
    load: Floats
    items: Integers
    scenarios: tuple[Scenario, ...]


def solve(problem: Covering, nodes: int = NODES) -> Solution[Floats]:
    """The cheapest variables that hold the items in every scenario, with a bound; work counts cuts.

    Stops at a number of branch-and-bound nodes in each round, so that the answer is the same on every machine.
    """
    progress = Progress()
    if not np.isfinite(problem.load).any(0).all():
        cls = int(np.argmin(np.isfinite(problem.load).any(0)))
        return Solution(Status.INFEASIBLE, None, bound=math.inf, reason=f"item class {cls} fits in no profile")
    master = _Master(problem)
    for cls in range(problem.load.shape[1]):
        master.add(_alone(problem.load, cls), range(len(problem.scenarios)))
    for linear, rounds in ((True, LINEAR_ROUNDS), (False, WHOLE_ROUNDS)):
        for _ in range(rounds):
            answer = master.solve(linear, nodes)
            if answer.values is None:
                return _nothing(answer.proven, progress, master.cuts)
            if not master.separate(answer.values):
                break
        else:
            if not linear:
                return Solution(Status.LIMIT, None, bound=answer.bound, work=master.cuts, reason="stopped at a limit")
    assert answer.values is not None
    value = float(problem.cost @ answer.values)
    proven = answer.proven and answer.bound >= value - 1e-9 * max(abs(value), 1.0)
    status = Status.OPTIMAL if proven else Status.FEASIBLE
    bound = value if proven else min(answer.bound, value)
    return Solution(status, answer.values, value, bound, progress.seconds, master.cuts)


def _nothing(proven: bool, progress: Progress, work: int) -> Solution[Floats]:
    if proven:
        reason = "no units within the bounds and limits hold the items in every scenario"
        return Solution(Status.INFEASIBLE, None, bound=math.inf, seconds=progress.seconds, work=work, reason=reason)
    return Solution(Status.LIMIT, None, seconds=progress.seconds, work=work, reason="stopped at a limit")


def shortage(load: Floats, items: Integers, room: Floats) -> tuple[float, Floats]:
    """How many times too small the room is (θ, above 1 when it does not hold the items), and prices that prove it.

    The prices are of all profiles; where θ is at most 1 they prove nothing.
    """
    used = room > 0
    able = np.isfinite(load[used]).any(0)
    if not able.all():
        return math.inf, _alone(load, int(np.argmin(able)))
    together = BinPacking(
        cost=np.ones(1), capacity=room[used, None], load=load[used], items=items, lower=np.zeros(1),
        upper=np.full(1, 2 * STRONG), limit_matrix=np.zeros((0, 1)), limit=np.zeros(0), fractional=True,
    )  # fmt: skip
    found = Relaxation(together).solve(np.zeros(1), together.upper, cut=STRONG, tolerance=1e-8)
    with np.errstate(invalid="ignore"):
        worth = np.where(np.isfinite(load[used]), found.prices[:, None] * load[used], np.inf).min(0)
    with np.errstate(divide="ignore"):
        idle = np.where(np.isfinite(load), worth / np.maximum(load, 1e-300), 0.0).max(1)
    prices = np.where(used, 0.0, idle)
    prices[used] = found.prices
    held = float(found.prices @ room[used])
    return (float(items @ worth) / held if held > 0 else math.inf), prices


def demand(load: Floats, items: Integers, prices: Floats) -> float:
    """The least worth of room that holds the items at given prices."""
    with np.errstate(invalid="ignore"):
        priced = np.where(np.isfinite(load), prices[:, None] * load, np.inf)
    return float(items @ priced.min(0))


def _alone(load: Floats, cls: int) -> Floats:
    """Prices at which only one class of items has worth: whatever can hold it, by how much of it."""
    finite = np.isfinite(load[:, cls]) & (load[:, cls] > 0)
    return np.where(finite, 1.0 / np.where(finite, load[:, cls], 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class _Answer:
    values: Floats | None
    bound: float
    proven: bool


class _Master:
    """The program over the variables alone, with the cuts found so far."""

    def __init__(self, problem: Covering) -> None:
        self.problem = problem
        self.rows: list[tuple[Floats, float]] = [
            (-row, -float(most)) for row, most in zip(problem.matrix, problem.limit, strict=True)
        ]
        self.cuts = 0

    def add(self, prices: Floats, scenarios: Any) -> None:
        """The row that prices imply, in each of some scenarios."""
        need = demand(self.problem.load, self.problem.items, prices)
        scale = 1.0 / max(need, 1e-300)
        for at in scenarios:
            scenario = self.problem.scenarios[at]
            row = scale * (prices @ scenario.room)
            if scenario.growth is not None:
                row = row - scale * need * scenario.growth
            self.rows.append((row, scale * need * scenario.load))
            self.cuts += 1

    def separate(self, values: Floats) -> bool:
        """Add cuts for the scenarios that do not hold the items; False when all do."""
        problem = self.problem
        found = False
        for at, scenario in enumerate(problem.scenarios):
            factor = scenario.factor(values)
            if factor <= 0:
                continue
            room = np.maximum(scenario.room @ values, 0.0)
            room[room < FEASIBILITY] = 0.0
            theta, prices = shortage(problem.load * factor, problem.items, room)
            if theta <= 1 + HELD:
                continue
            found = True
            need = demand(problem.load, problem.items, prices)
            others = [
                other
                for other, each in enumerate(problem.scenarios)
                if other == at or prices @ np.maximum(each.room @ values, 0.0) < each.factor(values) * need * (1 - HELD)
            ]
            self.add(prices, others)
        return found

    def solve(self, linear: bool, nodes: int) -> _Answer:
        from ortools.linear_solver import pywraplp

        problem = self.problem
        solver: Any = pywraplp.Solver.CreateSolver("GLOP" if linear else "SCIP")
        infinity = solver.infinity()
        objective = solver.Objective()
        objective.SetMinimization()
        columns = []
        for cost, low, high, whole in zip(problem.cost, problem.lower, problem.upper, problem.whole, strict=True):
            bounds = (float(low), float(high) if math.isfinite(high) else infinity)
            column = solver.IntVar(*bounds, "") if whole and not linear else solver.NumVar(*bounds, "")
            objective.SetCoefficient(column, float(cost))
            columns.append(column)
        for row, least in self.rows:
            constraint = solver.Constraint(float(least), infinity)
            for at in map(int, np.flatnonzero(row)):
                constraint.SetCoefficient(columns[at], float(row[at]))
        exact = pywraplp.MPSolverParameters()
        if not linear:
            solver.SetSolverSpecificParametersAsString(
                f"limits/nodes = {nodes}\nnumerics/feastol = {FEASIBILITY}\nrandomization/randomseedshift = 0\n"
            )
            exact.SetDoubleParam(exact.RELATIVE_MIP_GAP, 0.0)
        status = solver.Solve(exact)
        if status not in (solver.OPTIMAL, solver.FEASIBLE):
            return _Answer(None, -math.inf, proven=status == solver.INFEASIBLE)
        values = np.array([column.solution_value() for column in columns])
        values = values if linear else np.where(problem.whole, np.round(values), values)
        bound = float(objective.Value()) if linear else float(objective.BestBound())
        return _Answer(values, bound, proven=status == solver.OPTIMAL)
