"""Lowering the heaviest pair of devices: MoETuner's goal, over all layers together."""

from __future__ import annotations

import numpy as np

from ..solution import Solution, Status
from .bounds import traffic_floor
from .problem import Floats, Ints, PlacementProblem

POWERS = (2.0, 4.0, 8.0, 16.0)
STEPS = 12


def pair_flow(problem: PlacementProblem, place: Ints) -> Floats:
    """Flow from device g to h added over all transitions, [devices, devices]."""
    assert problem.transitions is not None
    total = np.zeros((problem.devices, problem.devices))
    for transition, here, there in zip(problem.transitions, place[:-1], place[1:], strict=True):
        np.add.at(total, (here[:, None], there[None, :]), transition)
    return total


def heaviest(problem: PlacementProblem, place: Ints) -> float:
    """Largest link cost times flow between two devices."""
    return float((pair_flow(problem, place) * problem.link_cost).max())


def solve(problem: PlacementProblem, start: Ints, work: int, seed: int = 0) -> Solution[Ints]:
    """Anneal from `start` on ever higher powers of the pairs' cost; the bound is all traffic spread over all pairs."""
    from .heaviest_swaps import level_pairs

    assert problem.transitions is not None
    place = start.astype(np.int64).copy()
    best, value = place.copy(), heaviest(problem, place)
    proposals = max(1000, work // (len(POWERS) * STEPS * problem.items))
    rng = np.random.default_rng(seed)
    for power in POWERS:
        between = pair_flow(problem, place)
        loaded = between * problem.link_cost
        scale = float((loaded / loaded.max()).__pow__(power).sum()) if loaded.max() > 0 else 0.0
        unit = loaded.max() or 1.0
        temperatures = np.r_[scale / (problem.layers * problem.items) * np.geomspace(0.1, 1e-4, STEPS - 1), 0.0]
        schedule = (temperatures, proposals, int(rng.integers(1, 2**62)))
        level_pairs(problem.transitions, place, between, problem.link_cost / unit, power, schedule)
        reached = heaviest(problem, place)
        if reached < value:
            best, value = place.copy(), reached
    pairs = problem.devices * (problem.devices - 1)
    spread = traffic_floor(problem, copied=False) * len(problem.transitions) / pairs if pairs else 0.0
    bound = min(spread, value)
    status = Status.OPTIMAL if value <= bound * (1 + 1e-9) else Status.FEASIBLE
    return Solution(status, best, value, bound, work=len(POWERS) * STEPS * proposals)
