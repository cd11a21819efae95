"""Joins machines and models: workloads, strategies, cost models, plans, validation, export and the command line.

The public API is what `__all__` names; each name is imported when first used, so that importing this package is free.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        dump_plan,
        estimate_serving,
        estimate_training,
        frontier_training,
        load_model,
        load_plan,
        load_topology,
        load_trace,
        plan_expert_phases,
        plan_experts,
        plan_fleet,
        plan_serving,
        plan_training,
    )
    from .errors import Infeasible, InputError, InvalidPlan, LimitReached, ShardwrightError
    from .experts.request import ExpertRequest
    from .export import export_plan, list_exporters
    from .plan.expert_phases import ExpertPhasesPlan
    from .plan.experts import ExpertPlan
    from .plan.fleet import FleetPlan
    from .plan.serving import ServingPlan
    from .plan.training import TrainingPlan
    from .strategy import Constraints, Strategy
    from .validate import validate_plan
    from .workload.fleet import FleetJob, MeasuredTable, Offer, ServedModel
    from .workload.serving import LengthBin, Load, ServingJob, Targets
    from .workload.serving_layout import Layout, LayoutConstraints, Speculation
    from .workload.training import Tier, TrainingJob

_HOMES = {
    "Constraints": "strategy",
    "ExpertPhasesPlan": "plan.expert_phases",
    "ExpertPlan": "plan.experts",
    "ExpertRequest": "experts.request",
    "FleetJob": "workload.fleet",
    "FleetPlan": "plan.fleet",
    "Infeasible": "errors",
    "InputError": "errors",
    "InvalidPlan": "errors",
    "Layout": "workload.serving_layout",
    "LayoutConstraints": "workload.serving_layout",
    "LengthBin": "workload.serving",
    "LimitReached": "errors",
    "Load": "workload.serving",
    "MeasuredTable": "workload.fleet",
    "Offer": "workload.fleet",
    "ServedModel": "workload.fleet",
    "ServingJob": "workload.serving",
    "ServingPlan": "plan.serving",
    "ShardwrightError": "errors",
    "Speculation": "workload.serving_layout",
    "Strategy": "strategy",
    "Targets": "workload.serving",
    "Tier": "workload.training",
    "TrainingJob": "workload.training",
    "TrainingPlan": "plan.training",
    "dump_plan": "api",
    "estimate_serving": "api",
    "estimate_training": "api",
    "export_plan": "export",
    "frontier_training": "api",
    "list_exporters": "export",
    "load_model": "api",
    "load_plan": "api",
    "load_topology": "api",
    "load_trace": "api",
    "plan_expert_phases": "api",
    "plan_experts": "api",
    "plan_fleet": "api",
    "plan_serving": "api",
    "plan_training": "api",
    "validate_plan": "validate",
}

__all__ = [
    "Constraints",
    "ExpertPhasesPlan",
    "ExpertPlan",
    "ExpertRequest",
    "FleetJob",
    "FleetPlan",
    "Infeasible",
    "InputError",
    "InvalidPlan",
    "Layout",
    "LayoutConstraints",
    "LengthBin",
    "LimitReached",
    "Load",
    "MeasuredTable",
    "Offer",
    "ServedModel",
    "ServingJob",
    "ServingPlan",
    "ShardwrightError",
    "Speculation",
    "Strategy",
    "Targets",
    "Tier",
    "TrainingJob",
    "TrainingPlan",
    "dump_plan",
    "estimate_serving",
    "estimate_training",
    "export_plan",
    "frontier_training",
    "list_exporters",
    "load_model",
    "load_plan",
    "load_topology",
    "load_trace",
    "plan_expert_phases",
    "plan_experts",
    "plan_fleet",
    "plan_serving",
    "plan_training",
    "validate_plan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
