"""A fleet plan checked from first principles: everything routed, nothing overloaded, every cap kept, the cost right."""

from __future__ import annotations

from collections.abc import Iterator

from ..plan.base import PlanBase
from ..plan.fleet import FleetPlan, Rental
from .common import TOLERANCE, close, optimality_problems
from .layer_placement import placement_problems


def problems(plan: PlanBase) -> list[str]:
    """One sentence for everything that does not hold."""
    assert isinstance(plan, FleetPlan)
    if plan.placement is not None:
        return placement_problems(plan, plan.placement)
    assert plan.rental is not None
    rental = plan.rental
    value = rental.usd_per_hour if plan.optimality.sense == "min" else plan.optimality.value
    return [*_routing(rental), *_loads(rental), *_totals(rental), *optimality_problems(plan.optimality, value)]


def _routing(rental: Rental) -> Iterator[str]:
    for at, each in enumerate(rental.classes):
        shares = [row[at] for row in rental.routing]
        if not close(sum(shares), 1.0):
            yield f"routing: the shares of requests {each.name} add up to {sum(shares):.6g} instead of 1"
        if min(shares, default=0.0) < 0:
            yield f"routing: a share of requests {each.name} is negative"
        for share, replica in zip(shares, rental.replicas, strict=True):
            if share > 0 and (replica.requests_per_s[at] <= 0 or replica.model != each.model):
                yield f"routing: {replica.name} is sent requests {each.name}, which it cannot serve"
            parts = share * (rental.slices or 0)
            if abs(parts - round(parts)) > TOLERANCE * max(rental.slices or 0, 1):
                yield f"routing: {replica.name} gets {parts:.6g} slices of requests {each.name}, which is not whole"


def _loads(rental: Rental) -> Iterator[str]:
    counts = [sum(each.count for each in rental.rented if each.replica == at) for at in range(len(rental.replicas))]
    for at, (replica, count) in enumerate(zip(rental.replicas, counts, strict=True)):
        load = sum(
            share * each.rate_per_s / most
            for share, each, most in zip(rental.routing[at], rental.classes, replica.requests_per_s, strict=True)
            if share > 0 and most > 0
        )
        if load > count * (1 + TOLERANCE):
            yield f"routing: {replica.name} needs {load:.6g} replicas but {count} are rented"
        if count and not close(load / count, rental.utilization[at]):
            yield f"utilization[{at}] is {rental.utilization[at]:.6g} but the routing gives {load / count:.6g}"


def _totals(rental: Rental) -> Iterator[str]:
    cost = sum(each.count * each.usd_per_hour for each in rental.rented)
    if any(each.usd_per_hour < 0 for each in rental.rented):
        yield "rented: a price is negative"
    if not close(cost, rental.usd_per_hour):
        yield f"usd_per_hour is {rental.usd_per_hour:.6g} but the fleet costs {cost:.6g}"
    gpus = sum(each.count * rental.replicas[each.replica].gpus for each in rental.rented)
    if gpus != rental.gpus:
        yield f"gpus is {rental.gpus} but {gpus} are rented"
    for limit in rental.limits:
        if limit.used > limit.most + TOLERANCE * max(abs(limit.most), 1):
            yield f"limits: {limit.name} uses {limit.used:.6g} of {limit.most:.6g} {limit.unit}"
