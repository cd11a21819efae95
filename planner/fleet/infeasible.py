"""Why no fleet holds the load, and the nearest change that would."""

from __future__ import annotations

from shardwright.solvers import Status
from shardwright.solvers.binpacking import solve

from .problem import FleetProblem
from .program import ANY, PROOF, formulate

BISECTIONS = 12


def unservable(problem: FleetProblem) -> str | None:
    """A sentence for the first request class that no replica can serve, or None."""
    most = problem.throughput.max(0)
    for best, each in zip(most.tolist(), problem.classes, strict=True):
        if best <= 0:
            return (
                f"fleet: requests {each.name} ({each.rate_per_s:.4g} per second) are served by no GPU type within the "
                f"latency targets (offered: {', '.join(problem.gpus)}); relax the targets or offer another type"
            )
    return None


def why_infeasible(problem: FleetProblem) -> str:
    """One sentence naming the caps that bind and the nearest change: a higher cap, or the load that they do hold."""
    reason = unservable(problem)
    if reason is not None:
        return reason
    held = f"under the caps the fleet carries {100 * most_share(problem):.3g} % of the load"
    for at, cap in enumerate(problem.caps):
        found = solve(formulate(problem.without_caps({at})), PROOF)
        if found.point is not None:
            needed = float(cap.row @ found.point.units)
            change = "at most" if needed < 0 else "at least"
            return f"fleet: {cap.name}, {abs(cap.most):g} {cap.unit}, binds: {held}; {change} {abs(needed):g} would do"
    names = ", ".join(f"{cap.name} ({abs(cap.most):g} {cap.unit})" for cap in problem.caps)
    return f"fleet: {names} together bind: {held}"


def most_share(problem: FleetProblem) -> float:
    """The largest share of the load that some fleet within the caps carries, to a thousandth."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if solve(formulate(problem.scaled(middle)), ANY).status is Status.INFEASIBLE:
            high = middle
        else:
            low = middle
    return low
