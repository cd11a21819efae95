"""A placement for every phase: prefill and decode pools that each serve their own routing."""

from __future__ import annotations

import re

import msgspec

from shardwright.solvers import relative_gap

from ..errors import InputError
from ..files import is_file
from ..plan.base import Alternative, Input, Optimality
from ..plan.expert_phases import ExpertPhasesPlan
from ..plan.experts import ExpertPlan, WorkloadScore
from .cluster import ExpertCluster
from .planning import plan_experts
from .replanning import Replan, replan_experts
from .replay import replay
from .request import ExpertRequest
from .workloads import Workloads

_PHASE = re.compile(r"([a-z][a-z0-9_-]{0,31})=(.+)")


def phases_of(routing: list[str]) -> dict[str, list[str]] | None:
    """The routing files of every phase of `prefill=FILE` and the like; None when no file names a phase.

    Raises InputError when only some do or all name the same one.
    """
    named = [None if is_file(text) else _PHASE.fullmatch(text) for text in routing]
    if not any(named):
        return None
    out: dict[str, list[str]] = {}
    for text, match in zip(routing, named, strict=True):
        if match is None:
            raise InputError(f"routing {text}: names no phase but others do; write it as decode={text}, or name none")
        out.setdefault(match[1], []).append(match[2])
    if len(out) < 2:
        raise InputError(f"routing: all files are of phase {next(iter(out))}; name a second phase, or none")
    return out


def plan_expert_phases(
    workloads: dict[str, Workloads], cluster: ExpertCluster, request: ExpertRequest
) -> ExpertPhasesPlan:
    """The best placement found for every phase alone. Raises InputError when the phases have unlike experts."""
    _check(workloads)
    return _together(
        {phase: plan_experts(routing, cluster, request) for phase, routing in workloads.items()}, workloads, cluster
    )


def replan_expert_phases(
    current: ExpertPhasesPlan,
    workloads: dict[str, Workloads],
    cluster: ExpertCluster,
    request: ExpertRequest,
    limits: Replan,
    record: Input | None = None,
) -> ExpertPhasesPlan:
    """Every phase re-planned from its placement in force; the limits hold for each pool. `record` names its file.

    Raises InputError when the current plan has other phases.
    """
    _check(workloads)
    if set(current.phases) != set(workloads):
        raise InputError(
            f"current: the plan has the phases {', '.join(current.phases)} but routing has {', '.join(workloads)}"
        )
    parts = {
        phase: replan_experts(current.phases[phase], routing, cluster, request, limits, record)
        for phase, routing in workloads.items()
    }
    return _together(parts, workloads, cluster)


def _check(workloads: dict[str, Workloads]) -> None:
    if len(workloads) < 2:
        raise InputError(f"phases: at least two are needed but got {len(workloads)}")
    shapes = {phase: (routing.first.experts, routing.first.rows) for phase, routing in workloads.items()}
    (first, wanted), *rest = shapes.items()
    for phase, found in rest:
        if found != wanted:
            raise InputError(
                f"routing: phase {phase} has {found[0]} experts in {found[1]} layers but {first} {wanted[0]} in "
                f"{wanted[1]}; both must be of one model"
            )


def _together(
    plans: dict[str, ExpertPlan], workloads: dict[str, Workloads], cluster: ExpertCluster
) -> ExpertPhasesPlan:
    claims = [plan.optimality for plan in plans.values()]
    first = next(iter(plans.values()))
    value = sum(claim.value for claim in claims) / len(claims)
    bound = sum(claim.bound for claim in claims) / len(claims)
    inputs: list[Input] = []
    for plan in plans.values():
        inputs += [record for record in plan.inputs if record not in inputs]
    return ExpertPhasesPlan(
        inputs=tuple(inputs),
        optimality=Optimality(
            objective=f"{claims[0].objective}; mean over the phases",
            sense="min",
            value=value,
            bound=bound,
            gap=relative_gap(value, bound),
            status="optimal" if all(claim.status == "optimal" for claim in claims) else "feasible",
            work=sum(claim.work for claim in claims),
        ),
        assumptions=("every phase has GPUs of its own, as many as are given",),
        alternatives=_swapped(plans, workloads, cluster),
        provenance=msgspec.structs.replace(first.provenance, solver=f"{first.provenance.solver}, phase by phase"),
        phases=plans,
    )


def _swapped(
    plans: dict[str, ExpertPlan], workloads: dict[str, Workloads], cluster: ExpertCluster
) -> tuple[Alternative, ...]:
    """What the placement of one phase costs another, on the first workload of that other."""
    out = []
    for phase, plan in plans.items():
        for other, routing in workloads.items():
            if other == phase or plan.objective not in ("load", "joint", "transitions"):
                continue
            if plans[other].moe_layers != plan.moe_layers:
                continue
            holders = [[list(gpus) for gpus in plan.placement[layer]] for layer in plan.moe_layers]
            score = replay(holders, routing.first, cluster, evenly=plan.objective == "load").score
            value = plan.load_weight * score.load_ratio + (_traffic(score) if plan.objective != "load" else 0.0)
            why = f"load ratio {score.load_ratio:.3f} where {other}'s own placement has "
            why += f"{plans[other].scores[0].load_ratio:.3f}"
            out.append(Alternative(label=f"{phase}'s placement for {other} too", value=value, why=why))
    return tuple(out)


def _traffic(score: WorkloadScore) -> float:
    return score.traffic if score.traffic is not None else 0.0
