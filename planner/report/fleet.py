"""The terminal view of a fleet: what to rent, what it costs and how sure that is, and who serves what."""

from __future__ import annotations

from ..plan.fleet import MANY_GPUS, MANY_NOTE, FleetPlan, Latencies, Rental, Schedule
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
    for line, style in _headline(plan, rental, seconds):
        out.print(line, style=style, markup=False)
    out.print("")
    out.print(table("Rent", ("kind", "GPUs", "count", "$/h each", "$/h", "utilization"), _rented(rental)))
    if rental.schedule is not None:
        out.print(_schedule(rental, rental.schedule))
    if rental.single_type:
        out.print(table("One GPU type alone", ("GPU", "GPUs", "$/h", "carries", "why"), _single(rental)))
    others = [each for each in plan.alternatives if each.label.startswith("what if")]
    if others:
        rows = [(each.label, f"{each.value:.4g}" if each.value else "-", each.why) for each in others]
        out.print(table("Otherwise", ("change", "value", "why"), rows))
    out.print(_routing(rental))
    seen = [(each.name, each.latencies) for each in rental.replicas if each.latencies is not None]
    if seen:
        at = f"{seen[0][1].percentile:g}"
        head = ("kind", "requests/s each", f"TTFT p{at}", f"TPOT p{at}", f"end to end p{at}", "targets")
        out.print(table("Seen in simulation, at the mix and load routed to a replica", head, _seen(seen)))
    if rental.contingencies:
        names = [(each.name, percent(each.load_share, 0)) for each in rental.contingencies]
        out.print(table("Withstands", ("loss", "load served"), names))
    if rental.limits:
        out.print(table("Limits", ("limit", "used", "of", "unit", "$/h for one more"), _limits(rental)))
    if rental.shadow_prices:
        rows = [(each.what, f"{each.worth:.4g} {each.unit}", each.how) for each in rental.shadow_prices]
        out.print(table("Worth", ("change", "saves", "source"), rows))
    if plan.assumptions:
        out.print("Assumed", style="bold", markup=False)
        for line in plan.assumptions:
            out.print(f"- {line}", markup=False)


def _headline(plan: FleetPlan, rental: Rental, seconds: float | None) -> list[tuple[str, str]]:
    best, rate = plan.optimality, sum(each.rate_per_s for each in rental.classes)
    proof = "proven optimal" if best.status == "optimal" else f"proven within {percent(best.gap, 3)}"
    took = f", {duration(seconds)}" if seconds is not None else ""
    power = f", {si(rental.watts, 'W')}" if rental.watts is not None else ""
    cost = rental.usd_per_hour if rental.schedule is None else rental.schedule.usd_per_hour
    mean = "" if rental.schedule is None else " on average"
    lines = [(f"${cost:.2f}/h{mean} for {rate:.4g} requests/s{' at the busiest' if mean else ''}", "bold")]
    many = f": {MANY_NOTE}" if rental.gpus > MANY_GPUS else ""
    lines.append((f"{rental.gpus} GPU{'' if rental.gpus == 1 else 's'}{power}{many}", "yellow" if many else ""))
    side = "above" if best.sense == "max" else "below"
    lines.append((f"{best.objective}: {best.value:.6g}, {proof} (none {side} {best.bound:.6g}{took})", ""))
    if rental.insurance is not None:
        safe = rental.insurance
        wrong = f"{safe.shape} ±{percent(safe.spread, 0)}"
        premium = abs(best.value - safe.usd_per_hour_without)
        beside = "of" if best.sense == "max" else "over"
        chance = f"Chance of overload {percent(safe.overload)} with throughputs {wrong}"
        price = f"insurance costs {premium:.4g} {beside} {safe.usd_per_hour_without:.4g}"
        lines.append((f"{chance}; {price}, whose chance is {percent(safe.overload_without)}", ""))
    if rental.change is not None:
        change = rental.change
        kept = "kept: a change saves too little" if change.kept else f"starts {sum(change.started)} units"
        stops = f", stops {sum(change.stopped)}" + (f" and {', '.join(change.dropped)}" if change.dropped else "")
        lines.append((f"From the fleet that runs: {kept}{stops}; anew ${change.usd_per_hour_anew:.2f}/h", ""))
    return lines


def _rented(rental: Rental) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for each in rental.rented:
        kind = rental.replicas[each.replica]
        place = " ".join(part for part in (each.region, "" if each.tier == "on-demand" else each.tier) if part)
        copies = f"{each.copies} × " if each.copies > 1 else ""
        rows.append(
            (
                f"{copies}{kind.name}{f' ({place})' if place else ''}",
                str(each.gpus),
                str(each.count),
                f"{each.usd_per_hour:.4g}",
                f"{each.count * each.usd_per_hour:.2f}",
                percent(rental.utilization[each.replica]),
            )
        )
    return rows


def _seen(seen: list[tuple[str, Latencies]]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{each.requests_per_s:.4g}",
            duration(each.ttft_s),
            duration(each.tpot_s),
            duration(each.e2e_s),
            "met" if each.met else "missed",
        )
        for name, each in seen
    ]


def _schedule(rental: Rental, schedule: Schedule) -> object:
    names = [rental.replicas[each.replica].name for each in rental.rented]
    rows = [
        (hour.hour, f"{hour.multiple:.3g}", *map(str, hour.counts), str(hour.started), f"{hour.usd_per_hour:.2f}")
        for hour in schedule.hours
    ]
    title = (
        f"Hours: {schedule.starts} starts cost ${schedule.start_usd_per_hour:.3g}/h; the busiest hour's fleet all the "
        f"time costs ${schedule.usd_per_hour_static:.2f}/h"
    )
    return table(title, ("hour", "load", *names, "started", "$/h"), rows)


def _single(rental: Rental) -> list[tuple[str, ...]]:
    return [
        (each.gpu, str(each.gpus), f"{each.usd_per_hour:.2f}", percent(each.carried), "")
        if each.usd_per_hour is not None
        else (each.gpu, "-", "-", "-", each.why)
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
    return [
        (
            each.name,
            f"{abs(each.used):g}",
            f"{abs(each.most):g}",
            each.unit,
            "-" if each.usd_per_hour_each is None else f"{each.usd_per_hour_each:.4g}",
        )
        for each in rental.limits
    ]
