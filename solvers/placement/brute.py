"""Every placement tried: the reference that the other solvers are compared with on tiny instances."""

from __future__ import annotations

from itertools import product

import numpy as np

from ..solution import Solution, Status
from .exact import enumerate_states
from .problem import Ints, PlacementProblem, score


def solve(problem: PlacementProblem) -> Solution[Ints]:
    """The optimal placement by enumeration; empty slots are filled by imaginary items."""
    total = int(problem.slots.sum())
    states = np.unique(enumerate_states(problem.slots)[:, : problem.items], axis=0)
    best, point, tried = np.inf, None, 0
    for rows in product(states, repeat=problem.layers):
        placement = np.array(rows)
        value = score(problem, placement).value
        tried += 1
        if value < best - 1e-12:
            best, point = value, placement
    assert point is not None and total >= problem.items
    return Solution(Status.OPTIMAL, point, best, best, work=tried)
