"""The same relaxation for small tables, by a simplex that starts where it ended: a node differs in one bound.

Prices come from its basis; the bound is theirs by weak duality all the same, and a verdict of infeasible is left to the
interior point, which proves it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .problem import Floats


class Simplex:
    """Variables x (shares of every class by profile) and y (units); rows complete, capacity and limits."""

    def __init__(self, load: Floats, capacity: Floats, cost: Floats, limits: tuple[Floats, Floats]) -> None:
        from ortools.linear_solver import pywraplp

        self.solver: Any = pywraplp.Solver.CreateSolver("GLOP")
        self.solver.SetSolverSpecificParametersAsString("use_preprocessing: false use_dual_simplex: true")
        self.again: Any = pywraplp.MPSolverParameters()
        self.again.SetIntegerParam(self.again.INCREMENTALITY, self.again.INCREMENTALITY_ON)
        infinity = self.solver.infinity()
        profiles, classes = load.shape
        self.scale = np.where(np.isfinite(load), load, 0.0).max(1)
        self.scale[self.scale <= 0] = 1.0
        self.rows = [self.solver.Constraint(-infinity, 0.0) for _ in range(profiles)]
        self.cells: list[tuple[int, int, Any]] = []
        for cls in range(classes):
            complete = self.solver.Constraint(1.0, 1.0)
            for profile in map(int, np.flatnonzero(np.isfinite(load[:, cls]))):
                cell = self.solver.NumVar(0.0, infinity, "")
                complete.SetCoefficient(cell, 1.0)
                self.rows[profile].SetCoefficient(cell, float(load[profile, cls] / self.scale[profile]))
                self.cells.append((profile, cls, cell))
        objective = self.solver.Objective()
        objective.SetMinimization()
        self.units = []
        for offer, price in enumerate(cost):
            unit = self.solver.NumVar(0.0, infinity, "")
            objective.SetCoefficient(unit, float(price))
            for profile in map(int, np.flatnonzero(capacity[:, offer])):
                self.rows[profile].SetCoefficient(unit, -float(capacity[profile, offer] / self.scale[profile]))
            self.units.append(unit)
        self.limits = []
        for row, most in zip(*limits, strict=True):
            limit = self.solver.Constraint(-infinity, float(most))
            for offer in map(int, np.flatnonzero(row)):
                limit.SetCoefficient(self.units[offer], float(row[offer]))
            self.limits.append(limit)

    def solve(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats, Floats] | None:
        """Prices of the profiles, prices of the limits and the units, or None where there is no optimum."""
        for unit, low, high in zip(self.units, lower.tolist(), upper.tolist(), strict=True):
            unit.SetBounds(low, high)
        if self.solver.Solve(self.again) != self.solver.OPTIMAL:
            return None
        prices = np.array([-row.dual_value() for row in self.rows]) / self.scale
        limit_prices = np.array([-row.dual_value() for row in self.limits])
        units = np.array([unit.solution_value() for unit in self.units])
        return np.maximum(prices, 0.0), np.maximum(limit_prices, 0.0), units

    def shares(self, shape: tuple[int, int]) -> Floats:
        """Where the last optimum puts every class."""
        found = np.zeros(shape)
        for profile, cls, cell in self.cells:
            found[profile, cls] = max(cell.solution_value(), 0.0)
        return found
