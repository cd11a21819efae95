"""What is rented against the offers of the job: every row's price, and every cap, counted anew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..inputs import catalog_gpu
from ..plan.fleet import Limit, Rental, Rented, Replica, ReplicaPool
from ..workload.clocks import at_clock
from ..workload.fleet import FleetJob, Offer, Quota
from .common import close

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Place:
    """One way to rent a kind of replica: a row as the offers make it, GPUs and watts of every offer in a unit (watts
    that are not known are not numbers), and its start."""

    row: Rented
    taken: tuple[int, ...]
    drawn: tuple[float, ...]
    usd_per_start: float


def places(job: FleetJob, replica: Replica) -> list[Place]:
    """Every way to rent a kind of replica: whole instances, two pools in one region and tier."""
    by_pool = [_fitting(job, each) for each in replica.pools]
    found = []
    for chosen in itertools.product(*by_pool):
        offers = [job.offers[at] for at in chosen]
        if len({(offer.region, offer.tier) for offer in offers}) != 1:
            continue
        taken, drawn = [0] * len(job.offers), [0.0] * len(job.offers)
        for pool, at, offer in zip(replica.pools, chosen, offers, strict=True):
            gpus = math.ceil(pool.gpus / offer.instance_gpus) * offer.instance_gpus
            watts = watts_of(offer, at_clock(pool.gpu)[1])
            taken[at] += gpus
            drawn[at] += math.nan if watts is None else gpus * watts
        rent = sum(gpus * offer.usd_per_hour for gpus, offer in zip(taken, job.offers, strict=True))
        copies = sum(taken) // replica.pools[0].gpus if len(replica.pools) == 1 else 1
        row = Rented(
            replica=0,
            count=1,
            usd_per_hour=rent,
            gpus=sum(taken),
            copies=copies,
            region=offers[0].region,
            tier=offers[0].tier,
            available=math.prod(job.offers[at].available for at in set(chosen)),
            watts=None if math.isnan(sum(drawn)) else sum(drawn),
        )
        start = job.switching.usd_per_start * copies + rent * job.switching.start_s / SECONDS_PER_HOUR
        found.append(Place(row, tuple(taken), tuple(drawn), start))
    return found


def _fitting(job: FleetJob, pool: ReplicaPool) -> list[int]:
    """The offers of a pool's GPU type that may run at its clock."""
    name, clock = at_clock(pool.gpu)
    return [at for at, each in enumerate(job.offers) if name_of(each.gpu) == name and each.runs_at(clock)]


def name_of(gpu: str) -> str:
    """The catalog's name of a GPU type, or the name as given."""
    return catalog_gpu(gpu)[0]


def watts_of(offer: Offer, clock: float = 1.0) -> float | None:
    """Draw of one GPU at a share of its clock: as offered, or from the catalog's limit."""
    return offer.watts_at(clock, catalog_gpu(offer.gpu)[1])


def matched(job: FleetJob, rental: Rental) -> tuple[list[Place | None], list[str]]:
    """The offer behind every row of the rental, and a sentence for every row that none makes."""
    found: list[Place | None] = []
    problems = []
    for at, row in enumerate(rental.rented):
        replica = rental.replicas[row.replica]
        known = places(job, replica)
        fitting = next((each for each in known if _same(each.row, row)), None)
        found.append(fitting)
        if fitting is None:
            place = " ".join(part for part in (row.region, row.tier) if part)
            problems.append(
                f"rented[{at}]: no offer makes {replica.name} ({place}) what the plan says{_nearest(known, row)}"
            )
    return found, problems


def _same(made: Rented, row: Rented) -> bool:
    numbers = (
        (made.usd_per_hour, made.available, made.watts or 0.0),
        (row.usd_per_hour, row.available, row.watts or 0.0),
    )
    words = (made.gpus, made.copies, made.region, made.tier, made.watts is None)
    return words == (row.gpus, row.copies, row.region, row.tier, row.watts is None) and all(map(close, *numbers))


def _nearest(known: Sequence[Place], row: Rented) -> str:
    """What the offers there say instead, where they differ in numbers alone."""
    same = next((each.row for each in known if (each.row.region, each.row.tier) == (row.region, row.tier)), None)
    if same is None:
        return ""
    for name in ("usd_per_hour", "gpus", "copies", "available", "watts"):
        told, true = getattr(row, name), getattr(same, name)
        if told != true:
            return f": {name} is {told} but {true} by the offers"
    return ""


def limit_problems(
    job: FleetJob, rental: Rental, rows: Sequence[Place], hours: Sequence[Sequence[int]]
) -> Iterator[str]:
    """The caps of the job against the limits that the plan tells of; `hours` are the counts of every hour."""
    expected = list(_limits(job, rental, rows, hours))
    if [(each.name, each.unit) for each in expected] != [(each.name, each.unit) for each in rental.limits]:
        yield f"limits must be the job's: {', '.join(each.name for each in expected) or 'none'}"
        return
    twins = _twins(job)
    for at, (true, told) in enumerate(zip(expected, rental.limits, strict=True)):
        if not close(true.most, told.most):
            yield f"limits[{at}]: {told.name} is {true.most:.6g} {told.unit} by the job but {told.most:.6g} in the plan"
        if true.used > true.most + 1e-6 * max(abs(true.most), 1):
            yield f"limits[{at}]: {told.name} is {true.most:.6g} {told.unit} but the fleet uses {true.used:.6g}"
        alike = at < len(twins) and twins[at] > 1
        if not alike and not math.isclose(true.used, told.used, rel_tol=1e-6, abs_tol=1e-9):
            yield f"limits[{at}]: {told.name} is used {true.used:.6g} {told.unit} but the plan says {told.used:.6g}"


def _twins(job: FleetJob) -> list[int]:
    """For every offer with a cap, how many offers cannot be told from it by what they rent."""
    alike = [_identity(offer) for offer in job.offers]
    return [alike.count(_identity(offer)) for offer in job.offers if offer.most is not None]


def _identity(offer: Offer) -> tuple[object, ...]:
    kind = (name_of(offer.gpu), offer.region, offer.tier, offer.instance_gpus)
    return (*kind, offer.usd_per_hour, offer.available, watts_of(offer), offer.clocks)


def _limits(job: FleetJob, rental: Rental, rows: Sequence[Place], hours: Sequence[Sequence[int]]) -> Iterator[Limit]:
    def used(worth: Sequence[float]) -> float:
        """The most in any hour of what one unit of every row counts."""
        return max(sum(count * each for count, each in zip(counts, worth, strict=True)) for counts in hours)

    def drawn(weights: Sequence[float]) -> float:
        return used([sum(map(lambda gpus, weight: gpus * weight, row.taken, weights)) for row in rows])

    alike = [_identity(offer) for offer in job.offers]
    for offer in job.offers:
        if offer.most is not None:
            place = " ".join(part for part in (offer.region, offer.tier) if part)
            mine = [float(_identity(offer) == each) for each in alike]
            most = [each.most for each, own in zip(job.offers, mine, strict=True) if own]
            alone = sum(mine) == 1
            taken = drawn(mine) if alone or None not in most else 0.0
            together = max(taken - sum(each or 0 for each in most) + offer.most, 0.0)
            name = f"availability of {offer.gpu} ({place})"
            yield Limit(name=name, unit="GPUs", used=taken if alone else together, most=float(offer.most))
    for quota in job.quotas:
        counted = drawn([float(_counts(quota, offer)) for offer in job.offers])
        yield Limit(name=f"quota {quota.name}", unit="GPUs", used=counted, most=float(quota.most))
    for power in job.power:
        inside = [not power.regions or offer.region in power.regions for offer in job.offers]
        draw = used([sum(watts for watts, mine in zip(row.drawn, inside, strict=True) if mine) for row in rows])
        name = f"power of {' '.join(power.regions) or 'all regions'}"
        yield Limit(name=name, unit="W", used=draw, most=power.watts * (1 + power.oversubscription))
    if job.budget_usd_per_hour is not None:
        rent = used([row.row.usd_per_hour for row in rows])
        yield Limit(name="budget", unit="$/h", used=rent, most=job.budget_usd_per_hour)
    for served in job.models:
        if served.least_replicas:
            mine = [rental.replicas[each.replica].model == served.model for each in rental.rented]
            fewest = used([-float(row.row.copies * own) for row, own in zip(rows, mine, strict=True)])
            name = f"least replicas of {served.model}"
            yield Limit(name=name, unit="replicas", used=fewest, most=-float(served.least_replicas))


def _counts(quota: Quota, offer: Offer) -> bool:
    names = {name_of(gpu) for gpu in quota.gpus}
    return (
        (not names or name_of(offer.gpu) in names)
        and (not quota.regions or offer.region in quota.regions)
        and (not quota.tiers or offer.tier in quota.tiers)
    )
