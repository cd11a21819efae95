"""A fleet to be found: request classes, replicas that can be rented, their prices and the caps on them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from shardwright.solvers.binpacking.problem import Floats

from ..plan.fleet import Replica, RequestClass
from ..workload.clocks import at_any_clock


@dataclass(frozen=True, slots=True)
class Price:
    """One way to rent one kind of replica: where, how and for how much; fields as in plan.fleet.Rented.

    `kilowatts` takes the place of the rent as what is minimized, where it is given.
    """

    replica: int
    usd_per_hour: float
    gpus: int = 1
    copies: int = 1
    region: str = ""
    tier: str = "on-demand"
    available: float = 1.0
    watts: float | None = None
    usd_per_start: float = 0.0
    kilowatts: float | None = None

    @property
    def cost(self) -> float:
        """What one unit adds to the objective per hour."""
        return self.usd_per_hour if self.kilowatts is None else self.kilowatts

    @property
    def capacity(self) -> float:
        """Replicas that one unit is worth on average."""
        return self.copies * self.available


@dataclass(frozen=True, slots=True)
class Cap:
    """`row @ counts <= most`, counts by price; `unit` is what the row counts. A floor has negative numbers."""

    name: str
    unit: str
    row: Floats
    most: float


@dataclass(frozen=True, slots=True)
class FleetProblem:
    """Everything the program needs. `slices` divides every class into equal whole parts; None lets any share go
    anywhere."""

    classes: tuple[RequestClass, ...]
    replicas: tuple[Replica, ...]
    prices: tuple[Price, ...]
    caps: tuple[Cap, ...] = ()
    slices: int | None = None

    @property
    def throughput(self) -> Floats:
        """Requests per second of one replica, [replica, class]; 0 where it cannot."""
        return np.array([replica.requests_per_s for replica in self.replicas], dtype=float)

    @property
    def rates(self) -> Floats:
        """Requests per second of every class."""
        return np.array([each.rate_per_s for each in self.classes])

    @property
    def capacity(self) -> Floats:
        """Replicas of every kind that may be counted on in one unit of every price, [replica, price]."""
        capacity = np.zeros((len(self.replicas), len(self.prices)))
        for at, price in enumerate(self.prices):
            capacity[price.replica, at] = price.capacity * self.replicas[price.replica].usable
        return capacity

    @property
    def cost(self) -> Floats:
        """What one unit of every price adds to the objective per hour: dollars, or kilowatts."""
        return np.array([price.cost for price in self.prices])

    @property
    def rent(self) -> Floats:
        """Dollars per hour of one unit of every price."""
        return np.array([price.usd_per_hour for price in self.prices])

    @property
    def energy(self) -> bool:
        """Whether power is minimized instead of rent."""
        return any(price.kilowatts is not None for price in self.prices)

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPU types offered, in order of appearance, whatever their clocks."""
        return tuple(dict.fromkeys(at_any_clock(self.replicas[price.replica].gpu) for price in self.prices))

    def without_caps(self, dropped: Container[int]) -> FleetProblem:
        """The problem with some caps lifted."""
        return replace(self, caps=tuple(cap for at, cap in enumerate(self.caps) if at not in dropped))

    def with_prices(self, kept: Floats) -> FleetProblem:
        """The problem with some of the prices only, chosen by a mask."""
        chosen = np.flatnonzero(kept)
        return replace(
            self,
            prices=tuple(self.prices[at] for at in chosen),
            caps=tuple(replace(cap, row=cap.row[chosen]) for cap in self.caps),
        )

    def scaled(self, factor: float) -> FleetProblem:
        """The problem with every rate multiplied."""
        classes = (msgspec.structs.replace(each, rate_per_s=each.rate_per_s * factor) for each in self.classes)
        return replace(self, classes=tuple(classes))

    def counting_on(self, share: float) -> FleetProblem:
        """The problem with only a share of every throughput counted on."""
        return replace(self, replicas=tuple(msgspec.structs.replace(each, usable=share) for each in self.replicas))

    def with_cap(self, at: int, most: float) -> FleetProblem:
        """The problem with one cap at another number."""
        caps = tuple(replace(cap, most=most) if place == at else cap for place, cap in enumerate(self.caps))
        return replace(self, caps=caps)
