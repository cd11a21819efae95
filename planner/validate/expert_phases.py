"""The plans of several phases checked one by one, and the means that the whole claims."""

from __future__ import annotations

from collections.abc import Iterator

from ..plan.base import PlanBase
from ..plan.expert_phases import ExpertPhasesPlan
from .common import close, optimality_problems
from .experts import problems as problems_of_one


def problems(plan: PlanBase) -> list[str]:
    """One sentence for everything that does not hold, named by its phase."""
    assert isinstance(plan, ExpertPhasesPlan)
    inside = [f"phases.{phase}: {text}" for phase, part in plan.phases.items() for text in problems_of_one(part)]
    return [*inside, *_whole(plan)]


def _whole(plan: ExpertPhasesPlan) -> Iterator[str]:
    claims = [part.optimality for part in plan.phases.values()]
    value = sum(claim.value for claim in claims) / len(claims)
    bound = sum(claim.bound for claim in claims) / len(claims)
    yield from optimality_problems(plan.optimality, value)
    if not close(plan.optimality.bound, bound):
        yield f"optimality.bound is {plan.optimality.bound:.6g} but the phases' mean is {bound:.6g}"
    named = {(record.source, record.sha256) for record in plan.inputs}
    for phase, part in plan.phases.items():
        if any((record.source, record.sha256) not in named for record in part.inputs):
            yield f"phases.{phase}: has inputs that the plan does not list"
