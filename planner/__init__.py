"""Joins machines and models: workloads, strategies, cost models, plans, validation, export and the command line.

The public API is what `__all__` names; each name is imported when first used, so that importing this package is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import dump_plan, estimate_training, load_model, load_plan, load_topology, plan_training
    from .errors import Infeasible, InputError, InvalidPlan, LimitReached, ShardwrightError
    from .export import export_plan, list_exporters
    from .plan.training import TrainingPlan
    from .strategy import Constraints, Strategy
    from .validate import validate_plan
    from .workload.training import TrainingJob

_HOMES = {
    "Constraints": "strategy",
    "Infeasible": "errors",
    "InputError": "errors",
    "InvalidPlan": "errors",
    "LimitReached": "errors",
    "ShardwrightError": "errors",
    "Strategy": "strategy",
    "TrainingJob": "workload.training",
    "TrainingPlan": "plan.training",
    "dump_plan": "api",
    "estimate_training": "api",
    "export_plan": "export",
    "list_exporters": "export",
    "load_model": "api",
    "load_plan": "api",
    "load_topology": "api",
    "plan_training": "api",
    "validate_plan": "validate",
}

__all__ = [
    "Constraints",
    "Infeasible",
    "InputError",
    "InvalidPlan",
    "LimitReached",
    "ShardwrightError",
    "Strategy",
    "TrainingJob",
    "TrainingPlan",
    "dump_plan",
    "estimate_training",
    "export_plan",
    "list_exporters",
    "load_model",
    "load_plan",
    "load_topology",
    "plan_training",
    "validate_plan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
