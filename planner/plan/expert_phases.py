"""The plan of pools that serve one phase each: a placement of its own for prefill, for decode, and what they cost."""

from __future__ import annotations

from ..errors import InvalidPlan
from .base import PlanBase
from .experts import ExpertPlan


class ExpertPhasesPlan(PlanBase, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="expert_phases"):
    """`phases` names the plan of every phase's pool, each complete in itself; all place the same experts.

    The value and the bound are the means of the phases'. An alternative tells what one phase's placement would cost
    another.
    """

    phases: dict[str, ExpertPlan]

    def __post_init__(self) -> None:
        if len(self.phases) < 2:
            raise InvalidPlan(f"phases must name at least two phases but has {len(self.phases)}")
        if len({plan.experts for plan in self.phases.values()}) > 1:
            raise InvalidPlan("phases must place the same number of experts")
