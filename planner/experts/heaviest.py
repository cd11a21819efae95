"""Placement by the heaviest pair of GPUs."""

from __future__ import annotations

from dataclasses import replace

from shardwright.solvers import Solution
from shardwright.solvers.placement import Effort, PlacementProblem, SlotPlacement, heaviest, one_copy_each, place

from ..errors import InputError
from .found import Found
from .request import ExpertRequest


def place_heaviest(problem: PlacementProblem, request: ExpertRequest) -> Found:
    """Least total traffic first, then its heaviest pair lowered. Raises InputError when copies are asked for."""
    if request.redundant or request.expert_groups is not None:
        raise InputError("objective minimax takes no redundant copies and no expert groups")
    if problem.slots.sum() != problem.items:
        raise InputError(
            f"objective minimax needs the experts to fill all slots but {problem.items} experts have "
            f"{int(problem.slots.sum())} slots"
        )
    effort = Effort(work=request.work // 2, seed=request.seed, exact=False)
    start = place(replace(problem, load_weight=0.0), effort=effort)
    assert start.point is not None
    found = heaviest.solve(problem, start.point.device, request.work, request.seed)
    assert found.point is not None
    point = SlotPlacement(one_copy_each(problem), found.point)
    solution = Solution(found.status, point, found.value, found.bound, work=start.work + found.work)
    return Found(point.holders(problem.items), solution, "placement.heaviest")
