"""The whole-item questions that the relaxation leaves open, put to SCIP: one given fleet, or the program itself.

Both stop at a number of branch-and-bound nodes, not of seconds, so that the answer is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .meeting import decide
from .problem import BinPacking, Floats

FEASIBILITY = 1e-9
SAFE = 1e-7
"""Relative slack on what prices prove."""
LEAST_PRICE = 1e-6
MOST_CHOICES = 1200
"""Cells beyond one per class that are too many for SCIP."""
GLANCE_NODES = 1
"""Of its search, before ways are listed: most units whose items differ much in load are ruled out by then."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`packing` and `units` when a point was found; `bound` on every point's cost; `proven` when the search was
    complete (then no packing means that there is none)."""

    units: Floats | None
    packing: Floats | None
    bound: float
    proven: bool


def pack_exactly(problem: BinPacking, units: Floats, prices: Floats, nodes: int) -> Answer:
    """Is there a packing of whole items into what `units` buy?

    An item placed where it is dearer uses up waste. SCIP is given the few cells that this affords, for a glance; where
    that does not tell, all affordable ways to place items are listed if they are few, and SCIP goes on if not.
    """
    most, dearer, waste = _afforded(problem, units, prices)
    asked = nodes if (most > 0).sum() - len(problem.items) <= MOST_CHOICES else 0

    def search(limit: int) -> Answer:
        return _Program(problem, most, fixed=units).wasting(dearer, waste).solve(limit)

    if asked:
        glance = search(min(GLANCE_NODES, asked))
        if glance.proven or glance.packing is not None:
            return glance
    listed = _listed(problem, units, problem.capacity @ units, prices)
    if listed is not None:
        return listed
    return search(asked) if asked else Answer(None, None, -np.inf, proven=False)


def choices(problem: BinPacking, units: Floats, prices: Floats) -> int:
    """How many cells beyond one per class a packing into what `units` buy may use."""
    most, _, _ = _afforded(problem, units, prices)
    return int((most > 0).sum()) - len(problem.items)


def _afforded(problem: BinPacking, units: Floats, prices: Floats) -> tuple[Floats, Floats, float]:
    """The most items by cell, what one there costs beyond its cheapest place, and what a packing can waste in all.

    At any prices of the profiles the room is worth Σ_j w_j room_j and the items at least Σ_i min_j w_j load_ij, so no
    packing wastes more than the difference.
    """
    room = problem.capacity @ units
    able = np.isfinite(problem.load) & (room > 0)[:, None]
    priced = np.where(able, prices[:, None] * np.where(able, problem.load, 0.0), np.inf)
    cheapest = priced.min(0)
    worth = float(prices @ room)
    waste = worth - float(problem.items @ cheapest) + SAFE * worth
    dearer = np.where(able, priced - cheapest, 0.0)
    afforded = np.divide(waste, dearer, out=np.full_like(dearer, np.inf), where=dearer > 0)
    most = np.where(able, np.floor(np.minimum(problem.items, afforded)), 0.0)
    return most, dearer, waste


def _listed(problem: BinPacking, units: Floats, room: Floats, prices: Floats) -> Answer | None:
    """The answer by listing what is affordable, None where that is too much."""
    used = np.flatnonzero(room > 0)
    if not prices[used].any():
        return None
    scale = np.maximum(prices, LEAST_PRICE * prices.max())[used]
    verdict = decide(scale[:, None] * problem.load[used], scale * room[used], problem.items)
    if verdict.packing is None:
        return Answer(None, None, np.inf, proven=True) if verdict.proven else None
    packing = np.zeros_like(problem.load)
    packing[used] = verdict.packing
    return Answer(units, packing, float(problem.cost @ units), proven=True) if problem.fits(units, packing) else None


def worth_using(problem: BinPacking, bound: float, prices: Floats, cut: float) -> Floats:
    """Cells of the program that may hold an item in a packing cheaper than `cut`, by reduced costs at a relaxation."""
    allowed = np.isfinite(problem.load)
    with np.errstate(invalid="ignore"):
        priced = np.where(allowed, prices[:, None] * problem.load, np.inf)
    worth: Floats = (allowed & (bound + priced - priced.min(0) <= cut)).astype(float)
    return worth


def pack_cheapest(problem: BinPacking, allowed: Floats, window: tuple[float, float], nodes: int) -> Answer:
    """The cheapest packing whose cost lies in `window`, units free between the problem's own bounds."""
    return _Program(problem, allowed * problem.items, window=window).solve(nodes)


class _Program:
    def __init__(
        self,
        problem: BinPacking,
        most: Floats,
        fixed: Floats | None = None,
        window: tuple[float, float] | None = None,
    ) -> None:
        from ortools.linear_solver import pywraplp

        self.problem, self.fixed, self.window = problem, fixed, window
        self.solver: Any = pywraplp.Solver.CreateSolver("SCIP")
        self.parameters: Any = pywraplp.MPSolverParameters()
        infinity = self.solver.infinity()
        room = np.zeros(len(problem.load)) if fixed is None else problem.capacity @ fixed
        self.rows = [self.solver.Constraint(-infinity, float(space)) for space in room]
        self.cells: list[tuple[int, int, Any]] = []
        for cls, count in enumerate(problem.items):
            complete = self.solver.Constraint(float(count), float(count))
            for profile in map(int, np.flatnonzero(most[:, cls])):
                cell = self.solver.IntVar(0, float(most[profile, cls]), "")
                complete.SetCoefficient(cell, 1)
                self.rows[profile].SetCoefficient(cell, float(problem.load[profile, cls]))
                self.cells.append((profile, cls, cell))
        self.units = [] if fixed is not None else self._offers(infinity)

    def wasting(self, dearer: Floats, waste: float) -> _Program:
        """The program with a limit on what items cost beyond their cheapest places."""
        limit = self.solver.Constraint(-self.solver.infinity(), waste)
        for profile, cls, cell in self.cells:
            if dearer[profile, cls] > 0:
                limit.SetCoefficient(cell, float(dearer[profile, cls]))
        return self

    def _offers(self, infinity: float) -> list[Any]:
        problem = self.problem
        units = [
            self.solver.IntVar(float(low), float(high) if np.isfinite(high) else infinity, "")
            for low, high in zip(problem.lower, problem.upper, strict=True)
        ]
        objective = self.solver.Objective()
        objective.SetMinimization()
        cost = self.solver.Constraint(*map(float, self.window or (0.0, infinity)))
        for offer, unit in enumerate(units):
            objective.SetCoefficient(unit, float(problem.cost[offer]))
            cost.SetCoefficient(unit, float(problem.cost[offer]))
            for profile in map(int, np.flatnonzero(problem.capacity[:, offer])):
                self.rows[profile].SetCoefficient(unit, -float(problem.capacity[profile, offer]))
        for row, most in zip(problem.limit_matrix, problem.limit, strict=True):
            limit = self.solver.Constraint(-infinity, float(most))
            for offer in map(int, np.flatnonzero(row)):
                limit.SetCoefficient(units[offer], float(row[offer]))
        return units

    def solve(self, nodes: int) -> Answer:
        self.solver.SetSolverSpecificParametersAsString(
            f"limits/nodes = {nodes}\nnumerics/feastol = {FEASIBILITY}\nrandomization/randomseedshift = 0\n"
        )
        exact = self.parameters
        exact.SetDoubleParam(exact.RELATIVE_MIP_GAP, 0.0)
        status = self.solver.Solve(exact)
        nothing_left = status == self.solver.INFEASIBLE
        bound = np.inf if nothing_left else float(self.solver.Objective().BestBound())
        if status not in (self.solver.OPTIMAL, self.solver.FEASIBLE):
            return Answer(None, None, bound, proven=nothing_left)
        packing = np.zeros_like(self.problem.load)
        for profile, cls, cell in self.cells:
            packing[profile, cls] = round(cell.solution_value())
        units = (
            self.fixed if self.fixed is not None else np.array([round(u.solution_value()) for u in self.units], float)
        )
        proven = status == self.solver.OPTIMAL
        if not self.problem.fits(units, packing):
            return Answer(None, None, bound if proven else -np.inf, proven=False)
        return Answer(units, packing, bound, proven)
