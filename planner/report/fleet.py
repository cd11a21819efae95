"""The terminal view of a fleet: what to rent, what it costs and how sure that is, and who serves what."""

from __future__ import annotations

from ..plan.fleet import FleetPlan, Rental
from .layer_placement import print_layer_placement
from .text import console, duration, percent, si, table

ROUTED_CLASSES = 40


def print_fleet_plan(plan: FleetPlan, seconds: float | None = None) -> None:
    """Print the whole view; `seconds` is how long planning took."""
    if plan.placement is not None:
        print_layer_placement(plan, plan.placement, seconds)
        return
    out = console()
    rental = plan.rental
    assert rental is not None
    rate = sum(each.rate_per_s for each in rental.classes)
    best = plan.optimality
    proof = "proven optimal" if best.status == "optimal" else f"proven within {percent(best.gap, 3)}"
    took = f", {duration(seconds)}" if seconds is not None else ""
    power = f", {si(rental.watts, 'W')}" if rental.watts is not None else ""
    out.print(f"${rental.usd_per_hour:.2f}/h for {rate:.4g} requests/s", style="bold", markup=False)
    out.print(f"{rental.gpus} GPUs{power}; {proof} (no fleet below ${best.bound:.4f}/h{took})\n", markup=False)
    out.print(table("Rent", ("what", "GPUs", "count", "$/h each", "$/h", "utilization"), _rented(rental)))
    if rental.single_type:
        out.print(table("One GPU type alone", ("GPU", "GPUs", "$/h", "why"), _single(rental)))
    out.print(_routing(rental))
    if rental.limits:
        out.print(table("Limits", ("limit", "used", "of", "unit"), _limits(rental)))
    if plan.assumptions:
        out.print("Assumed", style="bold", markup=False)
        for line in plan.assumptions:
            out.print(f"- {line}", markup=False)


def _rented(rental: Rental) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for each in rental.rented:
        kind = rental.replicas[each.replica]
        place = " ".join(part for part in (each.region, "" if each.tier == "on-demand" else each.tier) if part)
        rows.append(
            (
                f"{kind.name}{f' ({place})' if place else ''}",
                str(kind.gpus),
                str(each.count),
                f"{each.usd_per_hour:.4g}",
                f"{each.count * each.usd_per_hour:.2f}",
                percent(rental.utilization[each.replica]),
            )
        )
    return rows


def _single(rental: Rental) -> list[tuple[str, ...]]:
    return [
        (each.gpu, str(each.gpus), f"{each.usd_per_hour:.2f}", "")
        if each.usd_per_hour is not None
        else (each.gpu, "-", "-", each.why)
        for each in rental.single_type
    ]


def _routing(rental: Rental) -> object:
    names = ("requests", "per second", *(replica.name for replica in rental.replicas))
    rows = [
        (each.name, f"{each.rate_per_s:.4g}", *(percent(row[at]) if row[at] else "-" for row in rental.routing))
        for at, each in enumerate(rental.classes[:ROUTED_CLASSES])
    ]
    left = len(rental.classes) - len(rows)
    return table("Route" + (f" ({left} more classes in the plan)" if left > 0 else ""), names, rows)


def _limits(rental: Rental) -> list[tuple[str, ...]]:
    return [(each.name, f"{abs(each.used):g}", f"{abs(each.most):g}", each.unit) for each in rental.limits]
