"""From a job and its candidates to a problem: prices of units, and the caps on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwright.solvers.binpacking.problem import Floats

from ..errors import InputError
from ..inputs import catalog_gpu
from ..plan.fleet import Replica, RequestClass
from ..workload.clocks import at_clock
from ..workload.fleet import FleetJob, Offer, Quota
from .candidates import Candidate, canonical
from .problem import Cap, FleetProblem, Price


def assemble(job: FleetJob, classes: tuple[RequestClass, ...], candidates: Sequence[Candidate]) -> FleetProblem:
    """The problem of the candidates that some offer holds.

    Raises InputError where nothing fits what is offered or a power cap lacks the watts of a GPU type.
    """
    replicas: list[Replica] = []
    prices: list[Price] = []
    offers: list[Floats] = []
    draws: list[Floats] = []
    for candidate in candidates:
        units = units_of(job, candidate.gpus, len(replicas))
        if units:
            replicas.append(_replica(candidate))
        for unit in units:
            prices.append(unit.price)
            offers.append(unit.gpus)
            draws.append(unit.watts)
    if not prices:
        raise InputError("offers: no replica of any model fits what is offered")
    return FleetProblem(
        classes, tuple(replicas), tuple(prices), _caps(job, replicas, prices, (offers, draws)), job.slices
    )


def undominated(job: FleetJob, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no whole number of smaller replicas on the same GPUs replaces at the same rent.

    Only where both fill instances without a rest; then losses, quotas and floors favour the smaller too.
    """
    alike: dict[tuple[str, str], list[tuple[int, Candidate]]] = {}
    for at, each in enumerate(candidates):
        if len(each.gpus) == 1:
            alike.setdefault((each.model, each.gpus[0][0]), []).append((at, each))
    gone = {
        at
        for same in alike.values()
        for at, each in same
        if any(_replaces(job, other, each, at > place) for place, other in same if place != at)
    }
    return [each for at, each in enumerate(candidates) if at not in gone]


def _replaces(job: FleetJob, small: Candidate, large: Candidate, earlier: bool) -> bool:
    (gpu, few), (_, many) = small.gpus[0], large.gpus[0]
    if many % few or (many == few and not earlier and bool((small.rates == large.rates).all())):
        return False
    sizes = [offer.instance_gpus for offer in job.offers if canonical(offer.gpu) == at_clock(gpu)[0]]
    even = all(size % each == 0 or each % size == 0 for size in sizes for each in (few, many))
    return even and bool((small.rates * (many // few) >= large.rates).all())


def watts_of(offer: Offer, clock: float = 1.0) -> float | None:
    """Draw of one GPU at a share of its clock: as offered, or from the catalog's limit."""
    return offer.watts_at(clock, catalog_gpu(offer.gpu)[1])


def name_of(candidate: Candidate) -> str:
    """What a replica is called: its layout and GPU type, or both pools in full."""
    gpu = candidate.gpus[0][0]
    if len(candidate.pools) > 1:
        return candidate.layout
    return f"{candidate.layout} on {gpu}" if candidate.layout else gpu


def _replica(candidate: Candidate) -> Replica:
    return Replica(
        name=name_of(candidate),
        model=candidate.model,
        gpu="+".join(dict.fromkeys(gpu for gpu, _ in candidate.gpus)),
        gpus=sum(gpus for _, gpus in candidate.gpus),
        layout=candidate.layout,
        format=candidate.format,
        engine=candidate.engine,
        pools=candidate.pools,
        transfer=candidate.transfer,
        requests_per_s=tuple(candidate.rates.tolist()),
        source=candidate.source,
    )


@dataclass(frozen=True, slots=True)
class Unit:
    """A price, and the GPUs and watts that one unit takes of every offer; watts that are not known are not numbers."""

    price: Price
    gpus: Floats
    watts: Floats


def prices_of(job: FleetJob, pools: tuple[tuple[str, int], ...]) -> list[Price]:
    """Every price of a replica of such pools."""
    return [unit.price for unit in units_of(job, pools)]


def units_of(job: FleetJob, pools: tuple[tuple[str, int], ...], replica: int = 0) -> list[Unit]:
    """Every way to rent a replica of such pools (GPU type, GPUs), with what one unit takes of every offer.

    One pool takes whole instances: as many replicas as one holds, or as many instances as one replica needs. Two pools
    are rented in one region and tier, so that prompts need not travel far. Raises InputError where energy is minimized
    and the watts of a GPU type are not known.
    """
    found = []
    for chosen in _matches(job, pools):
        gpus, watts = np.zeros(len(job.offers)), np.zeros(len(job.offers))
        for (gpu, needed), at in zip(pools, chosen, strict=True):
            instance = job.offers[at].instance_gpus
            taken = -(-needed // instance) * instance
            gpus[at] += taken
            draw = watts_of(job.offers[at], at_clock(gpu)[1])
            watts[at] += math.nan if draw is None else taken * draw
        copies = int(gpus.sum()) // pools[0][1] if len(pools) == 1 else 1
        rent = float(gpus @ [offer.usd_per_hour for offer in job.offers])
        draw = None if math.isnan(watts.sum()) else float(watts.sum())
        if job.objective == "energy" and draw is None:
            raise InputError(f"objective energy: the watts of {pools[0][0]} are not known: give watts in its offer")
        first, start = job.offers[chosen[0]], job.switching
        price = Price(
            replica=replica,
            usd_per_hour=rent,
            gpus=int(gpus.sum()),
            copies=copies,
            region=first.region,
            tier=first.tier,
            available=math.prod(job.offers[at].available for at in set(chosen)),
            watts=draw,
            usd_per_start=start.usd_per_start * copies + rent * start.start_s / 3600.0,
            kilowatts=draw / 1e3 if job.objective == "energy" and draw is not None else None,
        )
        found.append(Unit(price, gpus, watts))
    return found


def _matches(job: FleetJob, pools: tuple[tuple[str, int], ...]) -> list[tuple[int, ...]]:
    """The offers that each pool may come from."""
    by_pool = []
    for gpu, _ in pools:
        name, clock = at_clock(gpu)
        mine = [at for at, each in enumerate(job.offers) if canonical(each.gpu) == name and each.runs_at(clock)]
        by_pool.append(mine)
    if len(by_pool) == 1:
        return [(at,) for at in by_pool[0]]
    places = [(offer.region, offer.tier) for offer in job.offers]
    return [(first, second) for first in by_pool[0] for second in by_pool[1] if places[first] == places[second]]


def _caps(
    job: FleetJob, replicas: list[Replica], prices: list[Price], taken: tuple[list[Floats], list[Floats]]
) -> tuple[Cap, ...]:
    gpus, watts = (np.array(each) for each in taken)
    caps = []
    for at, offer in enumerate(job.offers):
        if offer.most is not None:
            place = " ".join(part for part in (offer.region, offer.tier) if part)
            caps.append(Cap(f"availability of {offer.gpu} ({place})", "GPUs", gpus[:, at], float(offer.most)))
    for quota in job.quotas:
        counted = gpus @ [float(_in_quota(quota, offer, job)) for offer in job.offers]
        caps.append(Cap(f"quota {quota.name}", "GPUs", counted, float(quota.most)))
    for power in job.power:
        inside = np.array([not power.regions or offer.region in power.regions for offer in job.offers])
        drawn = np.where(inside, watts, 0.0).sum(1)
        if np.isnan(drawn).any():
            raise InputError(f"power: the watts of {_unknown(job, inside)} are not known: give watts in its offer")
        place = " ".join(power.regions) or "all regions"
        caps.append(Cap(f"power of {place}", "W", drawn, power.watts * (1 + power.oversubscription)))
    if job.budget_usd_per_hour is not None:
        rent = np.array([price.usd_per_hour for price in prices])
        caps.append(Cap("budget", "$/h", rent, job.budget_usd_per_hour))
    for served in job.models:
        if served.least_replicas:
            mine = [-float(price.copies * (replicas[price.replica].model == served.model)) for price in prices]
            name = f"least replicas of {served.model}"
            caps.append(Cap(name, "replicas", np.array(mine), -float(served.least_replicas)))
    return tuple(caps)


def _in_quota(quota: Quota, offer: Offer, job: FleetJob) -> bool:
    names = {canonical(gpu) for gpu in quota.gpus}
    unknown = names - {canonical(each.gpu) for each in job.offers}
    if unknown:
        raise InputError(f"quotas: {quota.name} names {min(unknown)}, which is none of the offers")
    return (
        (not names or canonical(offer.gpu) in names)
        and (not quota.regions or offer.region in quota.regions)
        and (not quota.tiers or offer.tier in quota.tiers)
    )


def _unknown(job: FleetJob, inside: NDArray[np.bool_]) -> str:
    """The first GPU type offered inside whose watts are not known."""
    return next(each.gpu for each, mine in zip(job.offers, inside, strict=True) if mine and watts_of(each) is None)
