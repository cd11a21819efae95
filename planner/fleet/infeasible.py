"""Why no fleet holds the load, and the nearest change that would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from shardwright.solvers import Gap, Status, Work
from shardwright.solvers.binpacking.narrowing import solve_narrowed
from shardwright.solvers.binpacking.problem import Floats

from ..plan.fleet import RequestClass
from ..workload.fleet import Failures
from .covering import Demands, solve_covering
from .losses import losses
from .problem import Cap, FleetProblem
from .program import ANY, formulate

BISECTIONS = 10
NEAR = Gap(1e-4) | Work(2_000)
TIE = 1e-4
"""What rent counts beside a cap: too little for any number of units to outweigh one of the cap."""

Units = Callable[[FleetProblem], Floats | None]


def unservable(classes: Sequence[RequestClass], most: Floats, gpus: Sequence[str]) -> str | None:
    """A sentence for the first request class that no replica can serve, or None; `most` is each one's best rate."""
    for best, each in zip(most.tolist(), classes, strict=True):
        if best <= 0:
            return (
                f"fleet: requests {each.name} ({each.rate_per_s:.4g} per second) are served by no GPU type within the "
                f"latency targets (offered: {', '.join(gpus)}); relax the targets or offer another type"
            )
    return None


def _unservable(problem: FleetProblem) -> str | None:
    able = np.where(np.isfinite(formulate(problem).load), problem.throughput, 0.0)
    return unservable(problem.classes, able.max(0), problem.gpus)


def why_infeasible(problem: FleetProblem) -> str:
    """One sentence for a load that cannot be packed: what cannot be served, or the caps that bind."""

    def units(changed: FleetProblem) -> Floats | None:
        found = solve_narrowed(formulate(changed), NEAR)
        return None if found.point is None else found.point.units

    return _unservable(problem) or _caps_that_bind(problem, units)


def why_not_covered(problem: FleetProblem, demands: Demands) -> str:
    """The same where losses or hours are to be withstood too: first the load, then the loss, then the caps."""
    reason = _unservable(problem)
    if reason is not None:
        return reason
    calm = replace(demands, failures=Failures(), before=None, hours=(max(demands.hours),))
    if demands.failures.any and solve_covering(problem, calm).point is not None:
        for loss in losses(problem, demands.failures):
            left = [at for at, kept in enumerate(loss.kept) if kept]
            able = problem.throughput[[problem.prices[at].replica for at in left]].max(0, initial=0.0)
            if not left or able.min() <= 0:
                missing = problem.classes[int(np.argmin(able))].name
                return f"fleet: when {loss.name}, nothing is left that serves requests {missing}: offer another place"

    def units(changed: FleetProblem) -> Floats | None:
        found = solve_covering(changed, demands)
        return None if found.point is None else found.point.counts.max(0)

    return _caps_that_bind(problem, units)


def _caps_that_bind(problem: FleetProblem, units: Units) -> str:
    """The first cap whose removal alone makes a fleet possible, and the least that it would have to be."""
    held = f"under the caps the fleet carries {100 * most_share(problem):.3g} % of the load"
    for at, cap in enumerate(problem.caps):
        freed = problem.without_caps({at})
        counts = units(freed if (cap.row < 0).any() else _least_of(freed, cap))
        if counts is not None:
            needed = float(cap.row @ counts)
            change = "at most" if needed < 0 else "at least"
            return f"fleet: {cap.name}, {abs(cap.most):g} {cap.unit}, binds: {held}; {change} {abs(needed):g} would do"
    names = ", ".join(f"{cap.name} ({abs(cap.most):g} {cap.unit})" for cap in problem.caps)
    return f"fleet: {names} together bind: {held}"


def _least_of(problem: FleetProblem, cap: Cap) -> FleetProblem:
    """The problem whose best fleet takes least of a cap, and costs least among those."""
    rent = problem.rent
    share = TIE * cap.row[cap.row > 0].min(initial=1.0) / max(float(rent.max()), 1e-12)
    prices = (
        replace(price, kilowatts=float(row + share * usd), usd_per_start=0.0)
        for price, row, usd in zip(problem.prices, cap.row, rent, strict=True)
    )
    return replace(problem, prices=tuple(prices))


def most_share(problem: FleetProblem) -> float:
    """The largest share of the load that some fleet within the caps carries, to a thousandth; no loss in mind."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if solve_narrowed(formulate(problem.scaled(middle)), ANY).status is Status.INFEASIBLE:
            high = middle
        else:
            low = middle
    return low
