"""What is packed into what: classes of identical items, kinds of bins, and what bins cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CAPACITY_TOLERANCE = 1e-9
"""Relative overload that counts as fitting: rounding in sums of thousands of loads, not slack."""
COST_UNIT = 1e-6
"""Costs that differ by less are the same."""


@dataclass(frozen=True, slots=True)
class BinPacking:
    """Items of class i, `items[i]` of them, each to be put in one profile j where it loads `load[j, i]`.

    Bins are bought by offer: one unit of offer v costs `cost[v]` and adds `capacity[j, v]` to profile j, so the same
    machine under three prices is three offers on one profile. Items of a class are identical, so a packing is the
    number of items of each class in each profile: Mélange's per-slice binary program (Griggs et al. 2024, section 5.3)
    with equal variables summed, which has the same optimum. `load` is infinite where a class cannot go. With
    `fractional` an item may be divided. `limit_matrix @ units <= limit` holds quotas, budgets and power; `lower` and
    `upper` bound each offer. Offers are bought in whole units.

    Raises ValueError when shapes disagree or a number is out of range; what cannot be packed is no error.
    """

    cost: Floats
    capacity: Floats
    load: Floats
    items: Integers
    lower: Floats
    upper: Floats
    limit_matrix: Floats
    limit: Floats
    fractional: bool = False

    def __post_init__(self) -> None:
        profiles, classes = self.load.shape
        offers = len(self.cost)
        shapes = {
            "capacity": (self.capacity.shape, (profiles, offers)),
            "items": (self.items.shape, (classes,)),
            "lower": (self.lower.shape, (offers,)),
            "upper": (self.upper.shape, (offers,)),
            "limit_matrix": (self.limit_matrix.shape, (len(self.limit), offers)),
        }
        for name, (found, expected) in shapes.items():
            if found != expected:
                raise ValueError(f"{name} must have shape {expected} but has {found}")
        if not (np.isfinite(self.cost).all() and (self.cost >= 0).all()):
            raise ValueError("cost must be finite and not negative")
        if not (np.isfinite(self.capacity).all() and (self.capacity >= 0).all()):
            raise ValueError("capacity must be finite and not negative")
        if np.isnan(self.load).any() or (self.load < 0).any():
            raise ValueError("load must not be negative or NaN; infinite means cannot")
        if (self.items < 1).any():
            raise ValueError("items must be at least 1 per class")
        if (self.lower > self.upper).any() or (self.lower < 0).any():
            raise ValueError("lower must be between 0 and upper")

    @classmethod
    def of(cls, cost: Floats, load: Floats, items: Integers, *, fractional: bool = False) -> BinPacking:
        """One offer per profile, no limits: Mélange's own program."""
        offers = len(cost)
        return cls(
            cost=np.asarray(cost, float),
            capacity=np.eye(offers),
            load=np.asarray(load, float),
            items=np.asarray(items, np.int64),
            lower=np.zeros(offers),
            upper=np.full(offers, np.inf),
            limit_matrix=np.zeros((0, offers)),
            limit=np.zeros(0),
            fractional=fractional,
        )

    def fits(self, units: Floats, packing: Floats) -> bool:
        """True when the packing covers every item, respects every capacity and the units respect every limit."""
        whole = self.fractional or bool((packing == np.round(packing)).all())
        used = np.where(packing > 0, packing, 0.0) * np.where(packing > 0, self.load, 0.0)
        room = self.capacity @ units
        return bool(
            whole
            and (packing >= 0).all()
            and np.allclose(packing.sum(0), self.items, rtol=CAPACITY_TOLERANCE, atol=0)
            and (used.sum(1) <= room * (1 + CAPACITY_TOLERANCE)).all()
            and self.allows(units)
        )

    def allows(self, units: Floats) -> bool:
        """True when whole units lie within their bounds and limits."""
        slack = CAPACITY_TOLERANCE * np.maximum(np.abs(self.limit), 1)
        return bool(
            (units == np.round(units)).all()
            and (units >= self.lower).all()
            and (units <= self.upper).all()
            and (self.limit_matrix @ units <= self.limit + slack).all()
        )


@dataclass(frozen=True, slots=True)
class Packed:
    """How many units of each offer, and how many items of each class go to each profile ([profile, class]).

    `prices[j]` is the dual of profile j's capacity in the relaxation: what one more unit of it is worth; `limit_prices`
    the same for each row of the limits.
    """

    units: Floats
    packing: Floats
    prices: Floats
    limit_prices: Floats


def why_impossible(problem: BinPacking) -> str:
    """What no units can mend: an item that fits nowhere, or a limit below the lower bounds; empty when neither."""
    nowhere = np.flatnonzero(~np.isfinite(problem.load).any(0))
    if len(nowhere):
        return f"item class {nowhere[0]} fits in no profile"
    least = np.where(problem.limit_matrix >= 0, problem.lower, problem.upper)
    with np.errstate(invalid="ignore"):
        broken = np.nansum(problem.limit_matrix * least, 1) > problem.limit
    return f"limit {int(np.flatnonzero(broken)[0])} is below what the lower bounds need" if broken.any() else ""


def cost_step(cost: Floats) -> float:
    """The largest step of which every cost is a multiple, zero when costs are not on a grid of 1e-6."""
    scaled = cost / COST_UNIT
    whole = np.round(scaled)
    if not np.allclose(scaled, whole, rtol=0, atol=1e-6 * max(1.0, float(scaled.max(initial=0.0)) * 1e-6)):
        return 0.0
    return float(np.gcd.reduce(whole.astype(np.int64))) * COST_UNIT
