"""One linear assignment, solved exactly by OR-Tools on integers."""

from __future__ import annotations

import numpy as np

from .problem import Floats, Ints

STEPS = 1 << 40


def assign(cost: Floats) -> Ints:
    """The column of every row in the cheapest perfect assignment of a square cost matrix.

    Costs are rounded to 2^-40 of their range, so the answer is optimal to that precision. Goldberg and Kennedy, "An
    efficient cost scaling algorithm for the assignment problem" (1995), as implemented in OR-Tools.
    """
    from ortools.graph.python import linear_sum_assignment

    size = len(cost)
    low = float(cost.min())
    span = float(cost.max()) - low
    if span == 0:
        return np.arange(size, dtype=np.int64)
    whole = np.rint((cost - low) / span * (STEPS // size)).astype(np.int64)
    solver = linear_sum_assignment.SimpleLinearSumAssignment()
    rows, columns = np.divmod(np.arange(size * size), size)
    solver.add_arcs_with_cost(rows, columns, whole.ravel())
    if solver.solve() != solver.OPTIMAL:
        raise ArithmeticError("a square finite assignment always has an optimum")
    return np.array([solver.right_mate(row) for row in range(size)], dtype=np.int64)
