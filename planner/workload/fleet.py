"""A fleet job: what is to be served, what can be rented, and what the fleet must withstand."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import InputError
from .clocks import LEAST_CLOCK, power_share
from .serving import LengthBin, Targets
from .serving_layout import quantization

Tier = Literal["on-demand", "spot", "reserved"]
MOST_CLASSES = 1000
MOST_LOST = 3
MOST_NUMBER = 1e12
MOST_COUNT = 10_000_000


def _positive(name: str, value: float) -> None:
    if not 0 < value <= MOST_NUMBER:
        raise InputError(f"{name} must be a positive number of at most {MOST_NUMBER:g} but is {value:g}")


def _not_negative(name: str, value: float) -> None:
    if not 0 <= value <= MOST_NUMBER:
        raise InputError(f"{name} must be from 0 to {MOST_NUMBER:g} but is {value:g}")


def _count(name: str, value: int, least: int = 0) -> None:
    if not least <= value <= MOST_COUNT:
        raise InputError(f"{name} must be from {least} to {MOST_COUNT} but is {value}")


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ServedModel(_Record, frozen=True, kw_only=True):
    """A model and its requests: `rate_per_s` of them, of the sizes in `lengths`, within `targets`.

    `model` is a catalog name, a config.json, or any name when every replica has a measured table. `formats` are the
    number formats to choose from. `least_replicas` is the fewest copies to run, whatever the load.
    """

    model: str
    rate_per_s: float
    lengths: tuple[LengthBin, ...]
    targets: Targets = Targets()
    formats: tuple[str, ...] = ("bf16",)
    engine: str = "vllm"
    least_replicas: int = 0

    def __post_init__(self) -> None:
        _positive(f"models: rate_per_s of {self.model}", self.rate_per_s)
        if not self.lengths:
            raise InputError(f"models: {self.model} needs at least one length")
        if len(self.lengths) > MOST_CLASSES:
            raise InputError(
                f"models: {self.model} has {len(self.lengths)} lengths, at most {MOST_CLASSES} are allowed"
            )
        for at, each in enumerate(self.lengths):
            if not 0 < each.weight <= MOST_NUMBER:
                raise InputError(
                    f"models: lengths[{at}].weight of {self.model} must be above 0 and at most {MOST_NUMBER:g} "
                    f"but is {each.weight}"
                )
            if each.isl < 1 or each.osl < 1:
                raise InputError(f"models: lengths[{at}] of {self.model} must have at least one token each way")
        if not self.formats:
            raise InputError(f"models: {self.model} needs at least one of formats")
        for name in self.formats:
            quantization(name)
        _count(f"models: least_replicas of {self.model}", self.least_replicas)


class Clock(_Record, frozen=True, kw_only=True):
    """A GPU with its SM clock lowered to a `share` of the highest, and what it draws then; null scales the draw at full
    clock (see power_share)."""

    share: float
    watts: float | None = None

    def __post_init__(self) -> None:
        if not LEAST_CLOCK <= self.share < 1:
            raise InputError(f"clocks: share must be from {LEAST_CLOCK:g} to below 1 but is {self.share:g}")
        if self.watts is not None:
            _positive("clocks: watts", self.watts)


class Offer(_Record, frozen=True, kw_only=True):
    """GPUs for rent: what one costs per hour, where and how, and how many there are.

    They come in instances of `instance_gpus`, rented whole. A spot GPU is taken away `interruptions_per_hour` times an
    hour and back after `recovery_s`. `watts` is the draw of one GPU with its share of the host; null takes the
    catalog's figure. `network_bytes_per_s` is one GPU's share of what its instance sends to others; null takes the
    NICs of the catalog's node of that type. `clocks` are lower clocks that its GPUs may run at, at the same price; they
    matter where power is capped or minimized.
    """

    gpu: str
    usd_per_hour: float
    region: str = ""
    tier: Tier = "on-demand"
    most: int | None = None
    instance_gpus: int = 1
    interruptions_per_hour: float = 0.0
    recovery_s: float = 300.0
    watts: float | None = None
    network_bytes_per_s: float | None = None
    clocks: tuple[Clock, ...] = ()

    def __post_init__(self) -> None:
        if "@" in self.gpu or "+" in self.gpu:
            raise InputError(f"offers: gpu must be one type without @ or + but is {self.gpu!r}; clocks lower its clock")
        drawn = [each.watts for each in self.clocks if each.watts is not None and self.watts is not None]
        if any(each > (self.watts or 0.0) for each in drawn):
            raise InputError(f"offers: clocks of {self.gpu} must not draw more than its {self.watts:g} W at full clock")
        if len({each.share for each in self.clocks}) != len(self.clocks):
            raise InputError(f"offers: clocks of {self.gpu} must have different shares")
        _not_negative(f"offers: usd_per_hour of {self.gpu}", self.usd_per_hour)
        if self.most is not None:
            _count(f"offers: most of {self.gpu}", self.most)
        _count(f"offers: instance_gpus of {self.gpu}", self.instance_gpus, 1)
        for name in ("interruptions_per_hour", "recovery_s"):
            _not_negative(f"offers: {name} of {self.gpu}", getattr(self, name))
        if self.watts is not None:
            _positive(f"offers: watts of {self.gpu}", self.watts)
        if self.network_bytes_per_s is not None:
            _positive(f"offers: network_bytes_per_s of {self.gpu}", self.network_bytes_per_s)

    @property
    def available(self) -> float:
        """Share of the time that a GPU is there: up 1/λ on average, then gone for the recovery."""
        return 1.0 / (1.0 + self.interruptions_per_hour * self.recovery_s / 3600.0)

    def watts_at(self, clock: float, rated: float | None) -> float | None:
        """Draw of one GPU at a share of its clock; `rated` is the catalog's figure. None where no figure is known.

        Never more than at full clock.
        """
        full = rated if self.watts is None else self.watts
        if clock == 1:
            return full
        given = next((each.watts for each in self.clocks if each.share == clock), None)
        if given is None:
            return None if full is None else full * power_share(clock)
        return given if full is None else min(given, full)

    def runs_at(self, clock: float) -> bool:
        """Whether its GPUs may run at a share of their clock."""
        return clock == 1 or any(each.share == clock for each in self.clocks)


class MeasuredTable(_Record, frozen=True, kw_only=True):
    """Measured requests per second within the targets of one replica on `gpus` GPUs, one figure for each of the
    model's lengths; 0 where it cannot. It replaces what the cost model says of the GPU type, at all of its clocks:
    `clock` is the share of it at which the table was measured."""

    model: str
    gpu: str
    requests_per_s: tuple[float, ...]
    gpus: int = 1
    layout: str = ""
    clock: float = 1.0

    def __post_init__(self) -> None:
        if not LEAST_CLOCK <= self.clock <= 1:
            raise InputError(f"tables: clock of {self.gpu} must be from {LEAST_CLOCK:g} to 1 but is {self.clock:g}")
        _count(f"tables: gpus of {self.gpu}", self.gpus, 1)
        for at, value in enumerate(self.requests_per_s):
            _not_negative(f"tables: requests_per_s[{at}] of {self.gpu}", value)


class Quota(_Record, frozen=True, kw_only=True):
    """At most so many GPUs over all of some types, regions and tiers; an empty list means all."""

    name: str
    most: int
    gpus: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    tiers: tuple[Tier, ...] = ()

    def __post_init__(self) -> None:
        _count(f"quotas: most of {self.name}", self.most)


class PowerCap(_Record, frozen=True, kw_only=True):
    """Watts that the GPUs of some regions may draw; an empty list means all.

    `oversubscription` 0.3 lets 30 % more be placed than the cap feeds at full draw, as inference rarely peaks
    everywhere at once (POLCA, Patel et al. 2024, section 5).
    """

    watts: float
    regions: tuple[str, ...] = ()
    oversubscription: float = 0.0

    def __post_init__(self) -> None:
        _positive("power: watts", self.watts)
        if not 0 <= self.oversubscription <= 1:
            raise InputError(f"power: oversubscription must be from 0 to 1 but is {self.oversubscription:g}")


class Failures(_Record, frozen=True, kw_only=True):
    """What may fail and still leave `load_share` of the load served: any `replicas` at once, a whole `region`, all
    `spot` capacity at once. Requests are routed anew when it happens."""

    replicas: int = 0
    region: bool = False
    spot: bool = False
    load_share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.replicas <= MOST_LOST:
            raise InputError(f"failures: replicas must be from 0 to {MOST_LOST} but is {self.replicas}")
        if not 0 < self.load_share <= 1:
            raise InputError(f"failures: load_share must be above 0 and at most 1 but is {self.load_share:g}")

    @property
    def any(self) -> bool:
        """Whether anything may fail."""
        return bool(self.replicas or self.region or self.spot)


class ThroughputError(_Record, frozen=True, kw_only=True):
    """How wrong throughputs may be, by one factor for each GPU type, and how likely an overload may then be.

    `uniform` factors lie within 1 ± `spread`; `normal` ones have it as their standard deviation.
    """

    spread: float = 0.1
    overload: float = 0.05
    shape: Literal["uniform", "normal"] = "uniform"

    def __post_init__(self) -> None:
        if not 0 < self.spread < 0.5:
            raise InputError(f"error: spread must be above 0 and below 0.5 but is {self.spread:g}")
        if not 0 < self.overload < 0.5:
            raise InputError(f"error: overload must be above 0 and below 0.5 but is {self.overload:g}")


class Switching(_Record, frozen=True, kw_only=True):
    """What it costs to change the fleet: a new replica is paid for `start_s` before it serves, and `usd_per_start`
    beside; it stays for at least `least_hours`. A fleet that is kept is changed only when that saves at least
    `least_saving` of its cost over `horizon_hours`."""

    start_s: float = 300.0
    usd_per_start: float = 0.0
    least_hours: int = 1
    least_saving: float = 0.0
    horizon_hours: float = 24.0

    def __post_init__(self) -> None:
        for name in ("start_s", "usd_per_start"):
            _not_negative(f"switching: {name}", getattr(self, name))
        _count("switching: least_hours", self.least_hours, 1)
        if not 0 <= self.least_saving < 1:
            raise InputError(f"switching: least_saving must be from 0 to below 1 but is {self.least_saving:g}")
        _positive("switching: horizon_hours", self.horizon_hours)


class Running(_Record, frozen=True, kw_only=True):
    """Replicas that run now: how many of which layout on which GPU type, where and how they are rented."""

    gpu: str
    count: int
    gpus: int = 1
    layout: str = ""
    model: str = ""
    region: str = ""
    tier: Tier = "on-demand"

    def __post_init__(self) -> None:
        _count(f"current: count of {self.gpu}", self.count)
        _count(f"current: gpus of {self.gpu}", self.gpus, 1)


class FleetJob(_Record, frozen=True, kw_only=True):
    """Everything a fleet plan is made from; the form of an offers file.

    `objective` `cost` is the cheapest fleet for the rates; `energy` the one whose GPUs draw least; `throughput` the one
    that carries the largest multiple of the rates under `budget_usd_per_hour`. `hours` are (name, multiple of the
    rates) pairs: the fleet follows them hour by hour. `current` is the fleet that runs now. Where throughputs come from
    the cost model, `simulate` holds the percentiles of the replicas in the plan in simulation; null does so where there
    are few request classes. `disaggregated` adds prefill and decode pools, on the same or different GPU types.
    """

    models: tuple[ServedModel, ...]
    offers: tuple[Offer, ...]
    tables: tuple[MeasuredTable, ...] = ()
    quotas: tuple[Quota, ...] = ()
    power: tuple[PowerCap, ...] = ()
    objective: Literal["cost", "energy", "throughput"] = "cost"
    budget_usd_per_hour: float | None = None
    failures: Failures = Failures()
    error: ThroughputError | None = None
    switching: Switching = Switching()
    hours: tuple[tuple[str, float], ...] = ()
    current: tuple[Running, ...] = ()
    slices: int | None = None
    disaggregated: bool = False
    simulate: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.models:
            raise InputError("models must name at least one model")
        if not self.offers:
            raise InputError("offers must name at least one GPU type")
        names = [each.model for each in self.models]
        if len(set(names)) != len(names):
            raise InputError("models must have different names")
        if self.budget_usd_per_hour is not None:
            _positive("budget_usd_per_hour", self.budget_usd_per_hour)
        if self.objective == "throughput" and self.budget_usd_per_hour is None:
            raise InputError("objective throughput needs budget_usd_per_hour")
        if self.slices is not None:
            _count("slices", self.slices, 1)
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be from 0 to 2^63 - 1 but is {self.seed}")
        _combinations(self)
        _known_regions(self)
        for place, (name, multiple) in enumerate(self.hours):
            _not_negative(f"hours[{place}] ({name})", multiple)
        if self.hours and not any(multiple for _, multiple in self.hours):
            raise InputError("hours must have at least one multiple above 0 but none has requests")
        for table in self.tables:
            served = next((each for each in self.models if each.model == table.model), None)
            if served is None:
                raise InputError(f"tables: {table.model!r} is none of the models {', '.join(names)}")
            if len(table.requests_per_s) != len(served.lengths):
                raise InputError(
                    f"tables: {table.gpu} must have {len(served.lengths)} figures, one for each length of "
                    f"{table.model}, but has {len(table.requests_per_s)}"
                )


def _combinations(job: FleetJob) -> None:
    """Raise InputError for what cannot be asked together."""
    several = [
        name
        for name, asked in (
            ("hours", bool(job.hours)),
            ("current", bool(job.current)),
            (f"objective {job.objective}", job.objective != "cost"),
        )
        if asked
    ]
    if job.objective != "cost" and len(several) > 1:
        raise InputError(f"objective {job.objective} cannot be planned with {several[0]}")
    if job.slices is not None and (any(each != "objective energy" for each in several) or job.failures.any):
        raise InputError(f"slices cannot be planned with {several[0] if several else 'failures'}: leave slices out")


def _known_regions(job: FleetJob) -> None:
    """Raise InputError for a quota or power cap on a region without offers, which would count nothing."""
    known = {offer.region for offer in job.offers}
    named = [(f"quotas: {quota.name}", quota.regions) for quota in job.quotas]
    for where, regions in (*named, *(("power", power.regions) for power in job.power)):
        unknown = sorted(set(regions) - known)
        if unknown:
            offered = ", ".join(map(repr, sorted(known)))
            raise InputError(f"{where} names region {unknown[0]!r}, which has no offers (offered: {offered})")
