"""Plans checked from first principles: no cost model, no solver, nothing shared with what made them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import InputError, InvalidPlan

if TYPE_CHECKING:
    from ..plan.base import PlanBase

__all__ = ["validate_plan"]

_CHECKS = {
    "experts": ".experts",
    "expert_phases": ".expert_phases",
    "fleet": ".fleet",
    "training": ".training",
    "serving": ".serving",
}


def validate_plan(plan: PlanBase) -> list[str]:
    """One sentence for everything in the plan that does not hold; an empty list when all of it does."""
    kind = str(type(plan).__struct_config__.tag)
    check: Callable[[PlanBase], list[str]] = import_module(_CHECKS[kind], __name__).problems
    try:
        return check(plan)
    except (InvalidPlan, InputError) as error:
        return [str(error)]
