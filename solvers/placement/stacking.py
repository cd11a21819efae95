"""Small problems several times in one: array operations on few numbers take as long as on many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .annealing import looked_at
from .problem import PlacementProblem
from .slots import SlotPlacement

MOST_TIMES = 16
ENOUGH = 8192


def beside(problem: PlacementProblem, slots: int) -> int:
    """How many copies of a problem fill an array operation; one of a large problem."""
    return int(np.clip(ENOUGH // max(1, looked_at(problem.layers, slots, problem.devices)), 1, MOST_TIMES))


def stacked(problem: PlacementProblem, times: int) -> PlacementProblem:
    """The problem `times` times, one after another with no flow between, load weighing as much against flow."""
    if times == 1:
        return problem
    transitions = problem.transitions
    if transitions is not None:
        gap = np.zeros((1, *transitions.shape[1:]))
        transitions = np.concatenate([transitions, *[gap, transitions] * (times - 1)])
    layers = problem.layers * times
    weight = problem.load_weight * max(1, problem.layers - 1) * times / max(1, layers - 1)
    return replace(problem, loads=np.tile(problem.loads, (1, times, 1)), transitions=transitions, load_weight=weight)


def stacked_placement(placement: SlotPlacement, times: int) -> SlotPlacement:
    """The placement `times` times, one after another."""
    return SlotPlacement(np.tile(placement.owner, (times, 1)), np.tile(placement.device, (times, 1)))
