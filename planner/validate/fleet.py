"""A fleet plan checked from first principles: everything routed, nothing overloaded, every cap kept, the cost right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

from ..inputs import changed_documents
from ..plan.base import PlanBase
from ..plan.fleet import DRAWN, Contingency, FleetPlan, Insurance, Rental
from ..workload.clocks import at_any_clock
from .common import TOLERANCE, close, optimality_problems
from .fleet_claims import claim_problems
from .fleet_job import job_problems, kept_job
from .fleet_melange import melange_problems
from .layer_placement import placement_problems

FULL = 5e-6
"""Relative overload that counts as full: the interior point's own tolerance, not slack."""


def problems(plan: PlanBase) -> list[str]:
    """One sentence for everything that does not hold."""
    assert isinstance(plan, FleetPlan)
    if plan.placement is not None:
        return placement_problems(plan, plan.placement)
    assert plan.rental is not None
    rental = plan.rental
    counts = _busiest(rental)
    found = [
        *_routing(rental, rental.routing, "routing"),
        *_loads(rental, rental.routing, counts, 1.0, "routing"),
        *_utilization(rental, counts),
        *_totals(rental),
        *_counted_on(rental),
        *claim_problems(plan, rental),
        *_against_inputs(plan, rental),
        *_contingencies(rental, counts, rental.contingencies, 1.0),
        *_hours(rental),
        *_change(rental),
    ]
    if rental.insurance is not None:
        found += _insurance(rental, rental.insurance, counts)
    return [*found, *optimality_problems(plan.optimality, _value(plan, rental))]


def _value(plan: FleetPlan, rental: Rental) -> float:
    """What the plan's parts say of the objective."""
    if plan.optimality.sense == "max":
        return rental.carried
    if plan.optimality.objective == DRAWN:
        return (rental.watts or 0.0) / 1e3
    if rental.schedule is not None:
        return rental.schedule.usd_per_hour + rental.schedule.start_usd_per_hour
    if rental.change is not None:
        return rental.usd_per_hour + rental.change.start_usd_per_hour
    return rental.usd_per_hour


def _busiest(rental: Rental) -> list[int]:
    """Units of every row of `rented` in the hour that the rental describes."""
    if rental.schedule is None:
        return [each.count for each in rental.rented]
    return list(max(rental.schedule.hours, key=lambda hour: hour.multiple).counts)


def _routing(rental: Rental, routing: Sequence[Sequence[float]], where: str) -> Iterator[str]:
    for at, each in enumerate(rental.classes):
        shares = [row[at] for row in routing]
        if not close(sum(shares), 1.0):
            yield f"{where}: the shares of requests {each.name} add up to {sum(shares):.6g} instead of 1"
        if min(shares, default=0.0) < 0:
            yield f"{where}: a share of requests {each.name} is negative"
        for share, replica in zip(shares, rental.replicas, strict=True):
            if share > 0 and (replica.requests_per_s[at] <= 0 or replica.model != each.model):
                yield f"{where}: {replica.name} is sent requests {each.name}, which it cannot serve"
            parts = share * (rental.slices or 0)
            if abs(parts - round(parts)) > TOLERANCE * max(rental.slices or 0, 1):
                yield f"{where}: {replica.name} gets {parts:.6g} slices of requests {each.name}, which is not whole"


def _load(rental: Rental, routing: Sequence[Sequence[float]], kind: int) -> float:
    """Replicas of a kind that its share of the requests keeps busy."""
    terms = zip(routing[kind], rental.classes, rental.replicas[kind].requests_per_s, strict=True)
    return sum(share * each.rate_per_s / most for share, each, most in terms if share > 0 and most > 0)


def _room(rental: Rental, counts: Sequence[int], kind: int) -> float:
    """Replicas of a kind that units of the rows of `rented` are worth."""
    rows = zip(rental.rented, counts, strict=True)
    return sum(count * each.copies * each.available for each, count in rows if each.replica == kind)


def _loads(
    rental: Rental, routing: Sequence[Sequence[float]], counts: Sequence[int], factor: float, where: str
) -> Iterator[str]:
    for kind, replica in enumerate(rental.replicas):
        load, room = factor * _load(rental, routing, kind), _room(rental, counts, kind) * replica.usable
        if load > room * (1 + FULL):
            yield f"{where}: {replica.name} needs {load:.6g} replicas but {room:.6g} may be counted on"


def _utilization(rental: Rental, counts: Sequence[int]) -> Iterator[str]:
    for kind, told in enumerate(rental.utilization):
        room = _room(rental, counts, kind)
        busy = _load(rental, rental.routing, kind) / room if room else 0.0
        if not close(busy, told):
            yield f"utilization[{kind}] is {told:.6g} but the routing gives {busy:.6g}"


def _totals(rental: Rental) -> Iterator[str]:
    if any(each.usd_per_hour < 0 for each in rental.rented):
        yield "rented: a price is negative"
    cost = sum(each.count * each.usd_per_hour for each in rental.rented)
    if not close(cost, rental.usd_per_hour):
        yield f"usd_per_hour is {rental.usd_per_hour:.6g} but the fleet costs {cost:.6g}"
    draws = [None if each.watts is None else each.count * each.watts for each in rental.rented]
    watts = None if None in draws else sum(each or 0.0 for each in draws)
    if (watts is None) != (rental.watts is None) or not close(watts or 0.0, rental.watts or 0.0):
        yield f"watts is {rental.watts} but what is rented draws {watts}"
    gpus = sum(each.count * each.gpus for each in rental.rented)
    if gpus != rental.gpus:
        yield f"gpus is {rental.gpus} but {gpus} are rented"
    for at, each in enumerate(rental.rented):
        if not 0 < each.available <= 1:
            yield f"rented[{at}].available must be above 0 and at most 1 but is {each.available:.6g}"
        if each.copies * rental.replicas[each.replica].gpus > each.gpus:
            yield f"rented[{at}]: {each.copies} copies do not fit on {each.gpus} GPUs"
    for limit in rental.limits:
        if limit.used > limit.most + TOLERANCE * max(abs(limit.most), 1):
            yield f"limits: {limit.name} uses {limit.used:.6g} of {limit.most:.6g} {limit.unit}"


def _counted_on(rental: Rental) -> Iterator[str]:
    for at, replica in enumerate(rental.replicas):
        if not 0 < replica.usable <= 1 or replica.gpus < 1:
            yield f"replicas[{at}] must have at least one GPU and count on a share above 0 and at most 1"
        if not all(math.isfinite(each) and each >= 0 for each in replica.requests_per_s):
            yield f"replicas[{at}].requests_per_s must hold numbers of at least 0"


def _against_inputs(plan: FleetPlan, rental: Rental) -> list[str]:
    """What does not agree with the job or configuration that the plan keeps."""
    found = changed_documents(plan)
    job = kept_job(plan)
    if job is None:
        return [*found, *melange_problems(plan, rental)]
    hours = [[each.count for each in rental.rented]]
    if rental.schedule is not None:
        hours = [list(hour.counts) for hour in rental.schedule.hours]
    return [*found, *job_problems(plan, rental, job, hours)]


def _contingencies(
    rental: Rental, counts: Sequence[int], told: Sequence[Contingency], factor: float, hour: str = ""
) -> Iterator[str]:
    for each in told:
        where = f"{hour}contingency {each.name!r}"
        left = [count - gone for count, gone in zip(counts, each.lost, strict=True)]
        if min(left) < 0 or min(each.lost) < 0:
            yield f"{where}: loses units that there are not"
            continue
        yield from _routing(rental, each.routing, where)
        yield from _loads(rental, each.routing, left, factor * each.load_share, where)


def _hours(rental: Rental) -> Iterator[str]:
    schedule = rental.schedule
    if schedule is None:
        return
    if not schedule.hours:
        yield "schedule: has no hours"
        return
    most = max(hour.multiple for hour in schedule.hours)
    for hour in schedule.hours:
        where = f"hour {hour.hour}"
        cost = sum(count * each.usd_per_hour for count, each in zip(hour.counts, rental.rented, strict=True))
        if not close(cost, hour.usd_per_hour):
            yield f"{where}: usd_per_hour is {hour.usd_per_hour:.6g} but its units cost {cost:.6g}"
        if hour.multiple > 0:
            yield from _routing(rental, hour.routing, where)
            yield from _loads(rental, hour.routing, hour.counts, hour.multiple / most, where)
            yield from _contingencies(rental, hour.counts, hour.contingencies, hour.multiple / most, f"{where}: ")
        elif hour.contingencies or any(share for row in hour.routing for share in row):
            yield f"{where}: has no requests, so none can go anywhere"
    mean = sum(hour.usd_per_hour for hour in schedule.hours) / len(schedule.hours)
    if not close(mean, schedule.usd_per_hour):
        yield f"schedule.usd_per_hour is {schedule.usd_per_hour:.6g} but its hours cost {mean:.6g} on average"
    for at, each in enumerate(rental.rented):
        if max(hour.counts[at] for hour in schedule.hours) != each.count:
            yield f"rented[{at}].count is {each.count} but no hour has as many"


def _change(rental: Rental) -> Iterator[str]:
    if rental.change is None:
        return
    for at, (more, less) in enumerate(zip(rental.change.started, rental.change.stopped, strict=True)):
        if more < 0 or less < 0 or (more and less) or more > rental.rented[at].count:
            yield f"change: row {at} of rented starts {more} and stops {less} of {rental.rented[at].count} units"


def _insurance(rental: Rental, insurance: Insurance, counts: Sequence[int]) -> Iterator[str]:
    """The chance of overload from the utilizations, in the hour where it is largest, and that it is as allowed."""
    chance = _chance(rental, insurance, rental.routing, counts, 1.0)
    if rental.schedule is not None:
        most = max(hour.multiple for hour in rental.schedule.hours)
        by_hour = [(hour.routing, hour.counts, hour.multiple / most) for hour in rental.schedule.hours]
        chance = max(_chance(rental, insurance, *hour) for hour in by_hour)
    if not math.isclose(chance, insurance.overload, rel_tol=1e-3, abs_tol=1e-6):
        yield f"insurance.overload is {insurance.overload:.6g} but the routing gives {chance:.6g}"
    if insurance.overload > insurance.overload_allowed + TOLERANCE:
        yield f"insurance: the chance of overload is {insurance.overload:.4g}, above {insurance.overload_allowed:.4g}"


def _chance(
    rental: Rental,
    insurance: Insurance,
    routing: Sequence[Sequence[float]],
    counts: Sequence[int],
    factor: float,
) -> float:
    fullest: dict[str, float] = {}
    for kind, replica in enumerate(rental.replicas):
        room = _room(rental, counts, kind)
        busy = factor * _load(rental, routing, kind) / room if room else 0.0
        for gpu in at_any_clock(replica.gpu).split("+"):
            fullest[gpu] = max(fullest.get(gpu, 0.0), busy)
    calm = 1.0
    for busy in fullest.values():
        short = NormalDist().cdf((busy - 1) / insurance.spread)
        if insurance.shape == "uniform":
            short = min(max((busy - 1 + insurance.spread) / (2 * insurance.spread), 0.0), 1.0)
        calm *= 1 - short
    return 1 - calm
