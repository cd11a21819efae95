"""From an expert plan to what serving and training cost models take of it."""

from __future__ import annotations

from ..errors import InputError
from ..plan.base import PlanBase
from ..plan.expert_phases import ExpertPhasesPlan
from ..plan.experts import ExpertPlan
from ..workload.experts import ExpertLoad


def expert_load(plan: PlanBase, name: str) -> ExpertLoad:
    """The plan's load ratio and reach on its worst workload, on held-out tokens where it has them, worst phase.

    Layers run one after another, so that the mean over layers of the fullest rank's load is what a step waits for.
    Raises InputError when the plan is of another kind.
    """
    if isinstance(plan, ExpertPhasesPlan):
        loads = [expert_load(part, name) for part in plan.phases.values()]
        return max(loads, key=lambda load: load.imbalance)
    if not isinstance(plan, ExpertPlan):
        raise InputError(f"experts {name}: must be a plan of experts")
    unseen = [score for score in plan.scores if score.held_out]
    scores = unseen or list(plan.scores)
    reached = [score.fanout_gpus for score in scores if score.fanout_gpus is not None]
    nodes = [score.fanout_nodes for score in scores if score.fanout_nodes is not None]
    return ExpertLoad(
        imbalance=max(1.0, *(score.load_ratio for score in scores)),
        ranks=plan.gpus,
        reach=max(reached) if len(reached) == len(scores) else None,
        nodes=-(-plan.gpus // plan.gpus_per_node),
        reach_nodes=max(nodes) if len(nodes) == len(scores) else None,
    )


def read_expert_load(path: str) -> ExpertLoad:
    """The same from a plan file. Raises InputError or InvalidPlan when it is no plan of experts."""
    from ..plan.io import load

    return expert_load(load(path), path)
