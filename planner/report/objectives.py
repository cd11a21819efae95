"""What a plan was made for, in words and with units."""

from __future__ import annotations

from ..workload.training import Objective
from .text import count, duration, gigabytes, si

NAMES: dict[Objective, str] = {
    "step_s": "step",
    "tokens_per_s_per_device": "tokens/s per device",
    "days": "whole token budget",
    "usd": "dollars a step",
    "energy_j": "energy a step",
    "peak_memory_bytes": "fullest device",
}
BETTER: dict[Objective, str] = {
    "step_s": "faster",
    "tokens_per_s_per_device": "faster",
    "days": "faster",
    "usd": "cheaper",
    "energy_j": "thriftier in energy",
    "peak_memory_bytes": "leaner in memory",
}


def objective_text(objective: Objective, value: float) -> str:
    """A value of an objective with its unit."""
    if objective == "tokens_per_s_per_device":
        return count(round(value))
    if objective == "days":
        return f"{value:.3g} days"
    if objective == "usd":
        return f"${value:.4g}"
    if objective == "energy_j":
        return si(value, "J")
    return gigabytes(value) if objective == "peak_memory_bytes" else duration(value)
