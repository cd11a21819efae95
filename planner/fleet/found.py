"""What the programs hand back, whichever solved them."""

from __future__ import annotations

from dataclasses import dataclass

from shardwright.solvers import Status
from shardwright.solvers.binpacking.problem import Floats


@dataclass(frozen=True, slots=True)
class Found:
    """Units of every price in every hour, [hour, price], with the objective's value and bound.

    `packing` is the packing where one was made; `prices` and `cap_prices` are the relaxation's duals of the kinds of
    replica and of the caps. `multiple` is how many times the rates are carried.
    """

    counts: Floats
    value: float
    bound: float
    status: Status
    work: int
    solver: str
    packing: Floats | None = None
    prices: Floats | None = None
    cap_prices: Floats | None = None
    multiple: float = 1.0
