"""Placement by the programs of MoETuner and ExFlow, judged by the objective and bound of the request."""

from __future__ import annotations

from shardwright.solvers import Solution, Status
from shardwright.solvers.placement import PlacementProblem, SlotPlacement, bisection, floor, one_copy_each, two_stage
from shardwright.solvers.placement.certificate import certify

from ..errors import InputError
from .found import Found
from .request import ExpertRequest


def place_as_published(problem: PlacementProblem, request: ExpertRequest) -> Found:
    """The placement of `request.method`. Raises InputError for what the published program does not know."""
    if request.redundant or request.expert_groups is not None or request.objective in ("fanout", "minimax"):
        raise InputError(
            f"method {request.method} takes no redundant copies, no expert groups and no objective {request.objective}"
        )
    if problem.slots.sum() != problem.items:
        raise InputError(
            f"method {request.method} needs the experts to fill all slots but {problem.items} experts have "
            f"{int(problem.slots.sum())} slots"
        )
    if request.method == "exflow" and (problem.transitions is None or not problem.equal_devices):
        raise InputError("method exflow needs transitions or expert ids, and equal GPUs")
    solver = two_stage if request.method == "moetuner" else bisection
    found = solver.solve(problem, request.work, request.seed)
    assert found.point is not None
    least = certify(problem) if request.certify else floor(problem)
    bound = min(least.value, found.value)
    status = Status.OPTIMAL if found.value <= bound * (1 + 1e-9) else Status.FEASIBLE
    point = SlotPlacement(one_copy_each(problem), found.point)
    solution = Solution(status, point, found.value, bound, work=found.work)
    return Found(point.holders(problem.items), solution, f"placement.{solver.__name__.rsplit('.', 1)[-1]}")
