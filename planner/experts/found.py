"""What the solvers behind a plan hand back."""

from __future__ import annotations

from dataclasses import dataclass

from shardwright.solvers import Solution
from shardwright.solvers.placement import SlotPlacement

from .replay import Holders


@dataclass(frozen=True, slots=True)
class Found:
    """Holders per layer with routing, the objective's value with a bound on it, and the solver's name."""

    holders: Holders
    solution: Solution[SlotPlacement]
    solver: str
