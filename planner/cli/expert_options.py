"""What `shardwright experts` does beside planning anew: re-plan from the placement in a plan file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError
from .common import parse_size

if TYPE_CHECKING:
    from ..experts.cluster import ExpertCluster
    from ..experts.replanning import Replan
    from ..experts.request import ExpertRequest
    from ..experts.workloads import Workloads
    from ..plan.experts import ExpertPlan


def limits(current: str | None, expert_size: str | None, budget: str | None, target: float) -> Replan | None:
    """The limits of a re-plan, None without a plan in force.

    Raises InputError when limits come without that plan, or a budget without the size of an expert.
    """
    from ..experts.replanning import Replan

    if current is None:
        given = [name for name, text in (("expert-size", expert_size), ("budget", budget)) if text is not None]
        if given:
            raise InputError(f"{given[0]} limits a re-plan: give the plan in force with --current, or leave it out")
        return None
    if expert_size is None:
        raise InputError("expert-size is missing: a re-plan needs the bytes of one expert, such as 44MB")
    return Replan(
        expert_bytes=parse_size(expert_size),
        budget_bytes=None if budget is None else parse_size(budget),
        target=target,
    )


def replanned(
    current: str, workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest, bounds: Replan
) -> ExpertPlan:
    """The re-plan from a plan file. Raises InputError when the file holds a plan of another kind."""
    from ..experts.replanning import replan_experts
    from ..plan.experts import ExpertPlan
    from ..plan.io import load

    plan = load(current)
    if not isinstance(plan, ExpertPlan):
        raise InputError(f"current {current}: must be a plan of experts")
    return replan_experts(plan, workloads, cluster, request, bounds)
