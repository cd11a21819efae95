"""The fleet plan: what to rent and which requests go where."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from ..errors import InvalidPlan
from ..workload.serving_layout import Layout
from .base import PlanBase
from .layer_placement import LayerPlacement

COST = "cost of the fleet in dollars per hour"
CHANGED = "rent and the cost of starting replicas, in dollars per hour"
DRAWN = "power that the GPUs of the fleet draw at most, in kilowatts"
CARRIED = "multiple of the given rates that the budget carries"

MANY_GPUS = 200_000
MANY_NOTE = "more than the largest clusters built have; are the rates per second?"
"""The largest known, xAI's Colossus, ran 200,000 GPUs in 2025."""


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


class ReplicaPool(_Record, frozen=True, kw_only=True):
    """GPUs of one type inside a replica: `workers` copies of `degrees` each; no degrees where a table was measured."""

    phase: Literal["aggregated", "prefill", "decode"]
    gpu: str
    gpus: int
    workers: int = 1
    degrees: Layout | None = None


class CacheTransfer(_Record, frozen=True, kw_only=True):
    """How caches go from the prefill to the decode pool of a replica: bytes of a token, and what all its links pass."""

    bytes_per_token: float
    bytes_per_s: float


class Latencies(_Record, frozen=True, kw_only=True):
    """What requests see of one replica in a simulation of its share of the load, as mixed and as routed, in the hour
    where it is fullest.

    Latencies are those at the targets' `percentile`; `met` says whether every target holds there and waiting does not
    grow.
    """

    requests_per_s: float
    requests: int
    percentile: float
    ttft_s: float
    tpot_s: float
    e2e_s: float
    met: bool


class Replica(_Record, frozen=True, kw_only=True):
    """One copy of a model on GPUs of one type, or a pair of pools of two types.

    `requests_per_s[c]` is what it carries of request class c alone within the latency targets; 0 where it cannot.
    `usable` is the share of that which the plan counts on. `gpu` names the GPU types, joined by `+` where prefill and
    decode have their own; behind `@` stands the share of its clock that a GPU runs at, where that is lowered. `format`
    is the number format of the weights. `source` says where the figures come from.
    """

    name: str
    model: str
    gpu: str
    gpus: int
    layout: str = ""
    requests_per_s: tuple[float, ...]
    usable: float = 1.0
    format: str = ""
    engine: str = ""
    pools: tuple[ReplicaPool, ...] = ()
    transfer: CacheTransfer | None = None
    latencies: Latencies | None = None
    source: str = ""


class Rented(_Record, frozen=True, kw_only=True):
    """`count` units at one price, each of `gpus` GPUs that hold `copies` replicas of one kind.

    `usd_per_hour`, `gpus` and `watts` are of one unit; `watts` is null where power is not known. `available` is the
    share of the time that it is there.
    """

    replica: int
    count: int
    usd_per_hour: float
    gpus: int
    copies: int = 1
    region: str = ""
    tier: str = "on-demand"
    available: float = 1.0
    watts: float | None = None


class Limit(_Record, frozen=True, kw_only=True):
    """A cap that the fleet keeps: `used` of `most`; a floor has negative numbers.

    `usd_per_hour_each` is what one more of its unit saves per hour by the relaxation's dual, null where the program
    has none.
    """

    name: str
    unit: str
    used: float
    most: float
    usd_per_hour_each: float | None = None


class SingleType(_Record, frozen=True, kw_only=True):
    """The best fleet of one GPU type alone, its draw where that is known, and the multiple of the rates it carries; no
    cost where there is none, and why."""

    gpu: str
    usd_per_hour: float | None = None
    gpus: int | None = None
    watts: float | None = None
    carried: float = 1.0
    why: str = ""


class Insurance(_Record, frozen=True, kw_only=True):
    """The plan's chance of overload when the throughput of every GPU type is wrong by a factor of its own.

    `usd_per_hour_without` is the value of the best fleet that trusts its throughputs (under a budget, the multiple of
    the rates that it carries), and `overload_without` its chance.
    """

    spread: float
    shape: Literal["uniform", "normal"]
    overload_allowed: float
    overload: float
    usd_per_hour_without: float
    overload_without: float


class Contingency(_Record, frozen=True, kw_only=True):
    """Where requests go after a loss: `lost[r]` units of row r of `rented` are gone, `load_share` of the load stays.

    `routing` is as in Rental.
    """

    name: str
    lost: tuple[int, ...]
    load_share: float
    routing: tuple[tuple[float, ...], ...]


class Hour(_Record, frozen=True, kw_only=True):
    """One hour: its multiple of the rates, units of every row of `rented`, cost, units started, its routing, and where
    requests go after a loss in it."""

    hour: str
    multiple: float
    counts: tuple[int, ...]
    usd_per_hour: float
    started: int
    routing: tuple[tuple[float, ...], ...]
    contingencies: tuple[Contingency, ...] = ()


class Schedule(_Record, frozen=True, kw_only=True):
    """The fleet hour by hour. `rented` then holds the most units of every row in any hour.

    `usd_per_hour` is the mean rent and `start_usd_per_hour` the mean cost of starting replicas; `usd_per_hour_static`
    is the cheapest fleet for the busiest hour, kept all the time.
    """

    hours: tuple[Hour, ...]
    usd_per_hour: float
    start_usd_per_hour: float
    usd_per_hour_static: float
    starts: int


class Change(_Record, frozen=True, kw_only=True):
    """From the fleet that runs now: units started and stopped by row of `rented`, what else is stopped, and whether
    the fleet was kept because a change would save too little.

    `start_usd_per_hour` is the cost of starting, over the horizon; `usd_per_hour_anew` the cheapest fleet from
    scratch, without it.
    """

    started: tuple[int, ...]
    stopped: tuple[int, ...]
    dropped: tuple[str, ...]
    kept: bool
    start_usd_per_hour: float
    usd_per_hour_anew: float


class ShadowPrice(_Record, frozen=True, kw_only=True):
    """What one more unit of something is worth, and how that is known."""

    what: str
    unit: str
    worth: float
    how: str


class Rental(_Record, frozen=True, kw_only=True):
    """A fleet to rent. `routing[r][c]` is the share of request class c that replica kind r serves.

    Replica kinds share their load evenly among their replicas. With `slices` every class is divided into that many
    equal parts, each served by one kind; null means that any share may go anywhere. `utilization[r]` is the load of
    the kind over what its replicas carry. `carried` is the multiple of the given rates that `classes` hold.
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
    carried: float = 1.0
    limits: tuple[Limit, ...] = ()
    single_type: tuple[SingleType, ...] = ()
    shadow_prices: tuple[ShadowPrice, ...] = ()
    insurance: Insurance | None = None
    contingencies: tuple[Contingency, ...] = ()
    schedule: Schedule | None = None
    change: Change | None = None

    def __post_init__(self) -> None:
        classes, kinds = len(self.classes), len(self.replicas)
        for at, replica in enumerate(self.replicas):
            if len(replica.requests_per_s) != classes:
                raise InvalidPlan(
                    f"rental.replicas[{at}].requests_per_s must have one entry for each of {classes} request classes"
                )
            if replica.gpus < 1 or any(pool.gpus < 1 or pool.workers < 1 for pool in replica.pools):
                raise InvalidPlan(f"rental.replicas[{at}] must have at least one GPU and one worker in every pool")
        if len(self.utilization) != kinds:
            raise InvalidPlan(f"rental.utilization must have one entry for each of {kinds} kinds of replica")
        for at, rented in enumerate(self.rented):
            if not 0 <= rented.replica < kinds:
                raise InvalidPlan(f"rental.rented[{at}].replica must be from 0 to {kinds - 1} but is {rented.replica}")
            if min(rented.count, rented.copies, rented.gpus) < 1:
                raise InvalidPlan(f"rental.rented[{at}] must have a count, copies and gpus of at least 1")
        hours = () if self.schedule is None else self.schedule.hours
        tables = [("routing", self.routing)]
        tables += [(f"schedule.hours[{at}].routing", each.routing) for at, each in enumerate(hours)]
        losses = (*self.contingencies, *(each for hour in hours for each in hour.contingencies))
        tables += [(f"contingencies[{at}].routing", each.routing) for at, each in enumerate(losses)]
        for name, table in tables:
            if len(table) != kinds or any(len(row) != classes for row in table):
                raise InvalidPlan(f"rental.{name} must have {kinds} rows of {classes} shares")
            if not all(math.isfinite(share) for row in table for share in row):
                raise InvalidPlan(f"rental.{name} must hold finite shares")
        rows = [("contingencies", len(each.lost)) for each in losses]
        rows += [("schedule.hours", len(each.counts)) for each in hours]
        rows += (
            [] if self.change is None else [("change", len(self.change.started)), ("change", len(self.change.stopped))]
        )
        for name, length in rows:
            if length != len(self.rented):
                raise InvalidPlan(f"rental.{name} must have one entry for each of {len(self.rented)} rows of rented")


class FleetPlan(PlanBase, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="fleet"):
    """What to rent, or how to use a given unequal cluster: exactly one of the sections is present."""

    rental: Rental | None = None
    placement: LayerPlacement | None = None

    def __post_init__(self) -> None:
        if (self.rental is None) == (self.placement is None):
            raise InvalidPlan("a fleet plan needs a rental or a placement, and not both")
