"""The fleet plan: what to rent and which requests go where."""

from __future__ import annotations

import math

import msgspec

from ..errors import InvalidPlan
from .base import PlanBase
from .layer_placement import LayerPlacement


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class RequestClass(_Record, frozen=True, kw_only=True):
    """Requests of one model and of about one size, and how many arrive per second.

    `isl` and `osl` are null where the throughput table names its sizes only by row and column.
    """

    name: str
    model: str
    rate_per_s: float
    isl: int | None = None
    osl: int | None = None


class Replica(_Record, frozen=True, kw_only=True):
    """What is rented as one: GPUs that serve one copy of a model (or several, where an instance holds more).

    `requests_per_s[c]` is what one replica carries of request class c alone within the latency targets; 0 where it
    cannot. `watts` is null where power is not known.
    """

    name: str
    model: str
    gpu: str
    gpus: int
    layout: str = ""
    requests_per_s: tuple[float, ...]
    watts: float | None = None


class Rented(_Record, frozen=True, kw_only=True):
    """`count` replicas of one kind at one price; `usd_per_hour` is that of one of them."""

    replica: int
    count: int
    usd_per_hour: float
    region: str = ""
    tier: str = "on-demand"


class Limit(_Record, frozen=True, kw_only=True):
    """A cap that the fleet keeps: `used` of `most`. `binds` says that the plan would be better without it."""

    name: str
    unit: str
    used: float
    most: float
    binds: bool = False


class SingleType(_Record, frozen=True, kw_only=True):
    """The cheapest fleet of one GPU type alone; no cost where it cannot serve every request class, and why."""

    gpu: str
    usd_per_hour: float | None = None
    gpus: int | None = None
    why: str = ""


class Rental(_Record, frozen=True, kw_only=True):
    """A fleet to rent. `routing[r][c]` is the share of request class c that replica kind r serves.

    Replica kinds share their load evenly among their replicas. With `slices` every class is divided into that many
    equal parts, each served by one kind; null means that any share may go anywhere. `utilization[r]` is the load of
    the kind over what its replicas carry.
    """

    classes: tuple[RequestClass, ...]
    replicas: tuple[Replica, ...]
    rented: tuple[Rented, ...]
    routing: tuple[tuple[float, ...], ...]
    slices: int | None
    utilization: tuple[float, ...]
    usd_per_hour: float
    gpus: int
    watts: float | None = None
    limits: tuple[Limit, ...] = ()
    single_type: tuple[SingleType, ...] = ()

    def __post_init__(self) -> None:
        classes, kinds = len(self.classes), len(self.replicas)
        for at, replica in enumerate(self.replicas):
            if len(replica.requests_per_s) != classes:
                raise InvalidPlan(
                    f"rental.replicas[{at}].requests_per_s must have one entry for each of {classes} request classes"
                )
        if len(self.routing) != kinds or any(len(row) != classes for row in self.routing):
            raise InvalidPlan(f"rental.routing must have {kinds} rows of {classes} shares")
        if len(self.utilization) != kinds:
            raise InvalidPlan(f"rental.utilization must have one entry for each of {kinds} kinds of replica")
        for at, rented in enumerate(self.rented):
            if not 0 <= rented.replica < kinds:
                raise InvalidPlan(f"rental.rented[{at}].replica must be from 0 to {kinds - 1} but is {rented.replica}")
            if rented.count < 1:
                raise InvalidPlan(f"rental.rented[{at}].count must be at least 1 but is {rented.count}")
        if not all(math.isfinite(share) for row in self.routing for share in row):
            raise InvalidPlan("rental.routing must hold finite shares")


class FleetPlan(PlanBase, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="fleet"):
    """What to rent, or how to use a given unequal cluster: exactly one of the sections is present."""

    rental: Rental | None = None
    placement: LayerPlacement | None = None

    def __post_init__(self) -> None:
        if (self.rental is None) == (self.placement is None):
            raise InvalidPlan("a fleet plan needs a rental or a placement, and not both")
