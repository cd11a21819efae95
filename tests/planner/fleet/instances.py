"""Small fleets by name: measured tables, so that no cost model is needed."""

from __future__ import annotations

from typing import Any

import msgspec

from shardwright.planner.fleet.candidates import measured_candidates, request_classes
from shardwright.planner.fleet.offers import assemble
from shardwright.planner.fleet.planning import answered, plan_of
from shardwright.planner.fleet.problem import FleetProblem
from shardwright.planner.plan.fleet import FleetPlan
from shardwright.planner.workload.fleet import FleetJob

CHAT = {
    "model": "chat",
    "rate_per_s": 10.0,
    "lengths": [{"isl": 100, "osl": 50, "weight": 3}, {"isl": 2000, "osl": 200, "weight": 1}],
}


def two_gpus(**changes: Any) -> FleetJob:
    """A cheap GPU for short requests and a dear one for long ones, in one region."""
    fields = {
        "models": [CHAT],
        "offers": [{"gpu": "small", "usd_per_hour": 1.0}, {"gpu": "large", "usd_per_hour": 3.0}],
        "tables": [
            {"model": "chat", "gpu": "small", "requests_per_s": [4.0, 0.4]},
            {"model": "chat", "gpu": "large", "requests_per_s": [9.0, 2.5]},
        ],
    }
    return msgspec.convert(fields | changes, FleetJob)


def two_regions(**changes: Any) -> FleetJob:
    """The same GPUs in two regions, the second a little dearer, and cheap spot capacity that comes and goes."""
    places = (("east", 1.0), ("west", 1.1))
    offers = [
        {"gpu": gpu, "usd_per_hour": round(usd * factor, 2), "region": region}
        for region, factor in places
        for gpu, usd in (("small", 1.0), ("large", 3.0))
    ]
    spot = {"gpu": "small", "usd_per_hour": 0.4, "region": "east", "tier": "spot", "interruptions_per_hour": 0.2}
    return two_gpus(offers=[*offers, spot | {"recovery_s": 900}], **changes)


def problem(job: FleetJob) -> FleetProblem:
    classes = request_classes(job)
    return assemble(job, classes, measured_candidates(job, classes))


def plan(job: FleetJob) -> FleetPlan:
    return plan_of(job, answered(job, problem(job)))
