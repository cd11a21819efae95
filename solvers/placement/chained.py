"""One item per device on uniform links: every pair of layers is a linear assignment of its own."""

from __future__ import annotations

import numpy as np

from ..solution import Solution, Status
from .assignment import assign
from .problem import Ints, PlacementProblem, score


def suits(problem: PlacementProblem) -> bool:
    """Whether chained assignments are exact here: one slot per device, equal links and devices.

    Every placement then has the same load per device up to renaming, so that the load weight changes nothing.
    """
    return (
        problem.uniform_links
        and problem.equal_devices
        and int(problem.slots[0]) == 1
        and problem.items == problem.devices
    )


def solve(problem: PlacementProblem) -> Solution[Ints]:
    """The optimal placement, proven: keep as much of each transition as possible on its device, layer after layer."""
    path = [np.arange(problem.items, dtype=np.int64)]
    for transition in [] if problem.transitions is None else problem.transitions:
        mate = assign(-transition)
        following = np.empty_like(path[-1])
        following[mate] = path[-1]
        path.append(following)
    while len(path) < problem.layers:
        path.append(path[0])
    placement = np.array(path)
    value = score(problem, placement).value
    return Solution(Status.OPTIMAL, placement, value, value, work=len(path))
