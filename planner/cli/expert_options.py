"""What `shardwright experts` plans: one placement or one a phase, anew or from the placement in a plan file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from .common import parse_size

if TYPE_CHECKING:
    from ..experts.cluster import ExpertCluster
    from ..experts.replanning import Replan
    from ..experts.request import ExpertRequest
    from ..experts.workloads import Workloads
    from ..plan.base import Input
    from ..plan.expert_phases import ExpertPhasesPlan
    from ..plan.experts import ExpertPlan

    Routed = Workloads | dict[str, Workloads]


@dataclass(frozen=True, slots=True)
class InForce:
    """The plan in force, the record of its file, and the limits of turning it into another."""

    plan: ExpertPlan | ExpertPhasesPlan
    record: Input
    limits: Replan


def limits(current: str | None, expert_size: str | None, budget: str | None, target: float) -> InForce | None:
    """The plan in force and the limits of a re-plan, None when there is none.

    Raises InputError when limits come without that plan, a budget without the size of an expert, or the file holds a
    plan of another kind.
    """
    if current is None:
        given = [name for name, text in (("expert-size", expert_size), ("budget", budget)) if text is not None]
        if target != 1.0:
            given.append("target")
        if given:
            raise InputError(f"{given[0]} limits a re-plan: give the plan in force with --current, or leave it out")
        return None
    from ..experts.replanning import Replan
    from ..files import read_document, sha256_of
    from ..plan.base import Input
    from ..plan.expert_phases import ExpertPhasesPlan
    from ..plan.experts import ExpertPlan
    from ..plan.io import load

    if expert_size is None:
        raise InputError("expert-size is missing: a re-plan needs the bytes of one expert, such as 44MB")
    bounds = Replan(
        expert_bytes=parse_size(expert_size),
        budget_bytes=None if budget is None else parse_size(budget),
        target=target,
    )
    plan = load(current)
    if not isinstance(plan, ExpertPlan | ExpertPhasesPlan):
        raise InputError(f"current {current}: must be a plan of experts")
    return InForce(plan, Input(role="plan", source=current, sha256=sha256_of(read_document(current, "plan"))), bounds)


def workloads_by_phase(routing: list[str], load: Callable[[list[str]], Workloads]) -> Routed:
    """The routing read by `load`: together, or of each phase when the files are named by phase."""
    from ..experts.phases import phases_of

    phases = phases_of(routing)
    return load(routing) if phases is None else {phase: load(files) for phase, files in phases.items()}


def planned(workloads: Routed, cluster: ExpertCluster, request: ExpertRequest) -> ExpertPlan | ExpertPhasesPlan:
    """A plan anew."""
    if isinstance(workloads, dict):
        from ..experts.phases import plan_expert_phases

        return plan_expert_phases(workloads, cluster, request)
    from ..experts.planning import plan_experts

    return plan_experts(workloads, cluster, request)


def replanned(
    current: InForce, workloads: Routed, cluster: ExpertCluster, request: ExpertRequest
) -> ExpertPlan | ExpertPhasesPlan:
    """A plan from the one in force. Raises InputError when one of them has phases and the other has not."""
    from ..experts.phases import replan_expert_phases
    from ..experts.replanning import replan_experts
    from ..plan.experts import ExpertPlan

    plan = current.plan
    if isinstance(plan, ExpertPlan):
        if isinstance(workloads, dict):
            raise InputError("current: the plan has one placement but routing names phases")
        return replan_experts(plan, workloads, cluster, request, current.limits, current.record)
    if not isinstance(workloads, dict):
        raise InputError(f"current: the plan has the phases {', '.join(plan.phases)} but routing names none")
    return replan_expert_phases(plan, workloads, cluster, request, current.limits, current.record)
