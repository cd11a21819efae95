"""Fitted constants of the collective model."""

from __future__ import annotations

import msgspec


class OpCoefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One collective on one kind of accelerator: launch floor, cost of a step, and reachable share of a link's rate."""

    floor_s: float = 8e-6
    step_s: float = 1e-6
    efficiency: float = 0.8
    network_step_s: float = 5e-6
    network_efficiency: float = 0.9
