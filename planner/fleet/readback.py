"""From counts to the rental of a plan: what is rented, who serves what, and what happens after a loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardwright.solvers.binpacking.problem import Floats

from ..plan.fleet import Change, Contingency, Hour, Limit, Rental, Rented, Schedule
from .covering import Demands
from .found import Found
from .losses import losses, units_lost
from .problem import FleetProblem
from .solving import factors, route, routings, utilization


@dataclass(frozen=True, slots=True)
class Rows:
    """The prices with units in some hour, and the kinds of replica behind them, by their place in the problem."""

    prices: list[int]
    kinds: list[int]

    def part(self, shares: Floats) -> tuple[tuple[float, ...], ...]:
        """The rows of a table of shares that the plan keeps."""
        return tuple(tuple(row) for row in shares[self.kinds].tolist())


def rows_of(problem: FleetProblem, counts: Floats) -> Rows:
    """What has units in any hour."""
    prices = [int(at) for at in np.flatnonzero(counts.max(0) > 0)]
    return Rows(prices, sorted({problem.prices[at].replica for at in prices}))


def rental_of(problem: FleetProblem, found: Found, demands: Demands) -> Rental:
    """The rental of what was found. With a schedule, the busiest hour stands for all in what is not by hour."""
    rows = rows_of(problem, found.counts)
    shares = routings(problem, found, demands)
    carried = factors(found, demands)
    busiest = int(np.argmax(carried))
    most = found.counts.max(0)
    rented = tuple(_rented(problem, rows, at, most[at]) for at in rows.prices)
    counts = found.counts[busiest]
    watts = [each.watts for each in rented]
    return Rental(
        classes=problem.scaled(carried[busiest]).classes,
        replicas=tuple(problem.replicas[kind] for kind in rows.kinds),
        rented=rented,
        routing=rows.part(shares[busiest]),
        slices=problem.slices,
        utilization=tuple(utilization(problem, counts, shares[busiest], carried[busiest])[rows.kinds].tolist()),
        usd_per_hour=float(sum(each.count * each.usd_per_hour for each in rented)),
        gpus=sum(each.count * each.gpus for each in rented),
        watts=None if None in watts else float(sum(each.count * (each.watts or 0.0) for each in rented)),
        carried=carried[busiest],
        limits=tuple(
            Limit(
                name=cap.name,
                unit=cap.unit,
                used=float((found.counts @ cap.row).max()),
                most=cap.most,
                usd_per_hour_each=None if found.cap_prices is None else float(found.cap_prices[at]),
            )
            for at, cap in enumerate(problem.caps)
        ),
        contingencies=contingencies(problem, counts, demands, carried[busiest], rows),
    )


def contingencies(
    problem: FleetProblem, counts: Floats, demands: Demands, carried: float, rows: Rows
) -> tuple[Contingency, ...]:
    """Where requests go after every loss that takes something away and is no part of another."""
    found: dict[tuple[int, ...], Contingency] = {}
    share = demands.failures.load_share
    if carried <= 0:
        return ()
    for loss in losses(problem, demands.failures):
        if any(kind not in rows.kinds for kind, _ in loss.kinds):
            continue  # the same loss with a rented kind in its place takes more
        lost = units_lost(problem, loss, counts)
        key = tuple(round(float(lost[at])) for at in rows.prices)
        if not any(key) or key in found:
            continue
        shares = route(problem, counts - lost, carried * share)
        found[key] = Contingency(name=loss.name, lost=key, load_share=share, routing=rows.part(shares))
    return tuple(each for key, each in found.items() if not any(_within(key, other) for other in found if other != key))


def _within(lost: tuple[int, ...], more: tuple[int, ...]) -> bool:
    return all(mine <= other for mine, other in zip(lost, more, strict=True))


def schedule_of(
    problem: FleetProblem, found: Found, demands: Demands, names: tuple[str, ...], static: float
) -> Schedule:
    """The hours of a schedule; `static` is the cost of the fleet of the busiest hour kept all the time."""
    rows = rows_of(problem, found.counts)
    cost = found.counts @ problem.rent
    before = found.counts[-1] if demands.before is None else demands.before
    started = np.maximum(np.diff(found.counts, axis=0, prepend=before[None, :]), 0.0)
    begin = np.array([price.usd_per_start for price in problem.prices])
    paid_over = len(names) if len(names) > 1 else demands.horizon_hours
    hours = [
        Hour(
            hour=name,
            multiple=multiple,
            counts=tuple(int(count) for count in found.counts[at][rows.prices]),
            usd_per_hour=float(cost[at]),
            started=round(float(started[at].sum())),
            routing=rows.part(shares),
            contingencies=contingencies(problem, found.counts[at], demands, multiple, rows),
        )
        for at, (name, multiple, shares) in enumerate(
            zip(names, demands.hours, routings(problem, found, demands), strict=True)
        )
    ]
    return Schedule(
        hours=tuple(hours),
        usd_per_hour=float(cost.mean()),
        start_usd_per_hour=float((started @ begin).sum() / paid_over),
        usd_per_hour_static=static,
        starts=sum(hour.started for hour in hours),
    )


def change_of(
    problem: FleetProblem, found: Found, demands: Demands, dropped: tuple[str, ...], anew: float, kept: bool
) -> Change:
    """What changes from the fleet that runs."""
    rows = rows_of(problem, found.counts)
    before = np.zeros(len(problem.prices)) if demands.before is None else demands.before
    more = np.maximum(found.counts[0] - before, 0.0)
    less = np.maximum(before - found.counts[0], 0.0)
    gone = [at for at in np.flatnonzero(less) if at not in rows.prices]
    begin = np.array([price.usd_per_start for price in problem.prices])
    stopped = tuple(f"{less[at]:g} × {problem.replicas[problem.prices[at].replica].name}" for at in gone)
    return Change(
        started=tuple(int(each) for each in more[rows.prices]),
        stopped=tuple(int(each) for each in less[rows.prices]),
        dropped=stopped + dropped,
        kept=kept,
        start_usd_per_hour=float(more @ begin) / demands.horizon_hours,
        usd_per_hour_anew=anew,
    )


def _rented(problem: FleetProblem, rows: Rows, at: int, count: float) -> Rented:
    price = problem.prices[at]
    return Rented(
        replica=rows.kinds.index(price.replica),
        count=round(float(count)),
        usd_per_hour=price.usd_per_hour,
        gpus=price.gpus,
        copies=price.copies,
        region=price.region,
        tier=price.tier,
        available=price.available,
        watts=price.watts,
    )
