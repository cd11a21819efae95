"""Plans of rented fleets to export: catalog replicas of two GPU types, and measured ones that share many classes."""

from __future__ import annotations

import functools

import msgspec

from shardwright.planner import FleetJob, FleetPlan, plan_fleet


@functools.cache
def catalog_plan() -> FleetPlan:
    """Two GPU types that share the requests of a catalog model, one of them spot in a region."""
    served = {
        "model": "llama-3.1-8b",
        "rate_per_s": 12.0,
        "lengths": [{"isl": 200, "osl": 100}, {"isl": 3000, "osl": 300}],
        "targets": {"tpot_s": 0.1},
    }
    offers = [
        {"gpu": "a10g", "usd_per_hour": 0.5, "region": "us-east-1", "tier": "spot", "most": 4},
        {"gpu": "a100-80gb", "usd_per_hour": 3.67},
    ]
    return plan_fleet(msgspec.convert({"models": [served], "offers": offers, "simulate": False}, FleetJob))


@functools.cache
def measured_plan() -> FleetPlan:
    """Replicas of measured tables, twenty classes of requests, and instances of four GPUs."""
    chat = {"model": "chat", "rate_per_s": 5.0, "lengths": [{"isl": 100 + at, "osl": 50} for at in range(20)]}
    tables = [{"model": "chat", "gpu": "a10g", "requests_per_s": [3.0] * 20}]
    offers = [{"gpu": "a10g", "usd_per_hour": 1.0, "instance_gpus": 4, "region": "eu-west-1"}]
    return plan_fleet(msgspec.convert({"models": [chat], "offers": offers, "tables": tables}, FleetJob))
