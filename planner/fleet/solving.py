"""One fleet problem and its demands, solved by the program that answers them; insurance against wrong throughputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shardwright.solvers import Status, Stop
from shardwright.solvers.binpacking.problem import Floats
from shardwright.solvers.binpacking.rounding import fit

from ..errors import Infeasible, LimitReached
from ..workload.clocks import at_any_clock
from ..workload.fleet import ThroughputError
from .covering import Demands, solve_covering
from .found import Found
from .insurance import countable, each_chance, overload
from .problem import FleetProblem
from .program import PROOF, cheapest, formulate

CHANCE = 1e-9


def solve_fleet(problem: FleetProblem, demands: Demands, seed: int = 0, stop: Stop = PROOF) -> Found:
    """The best counts with their proof. Raises Infeasible naming what binds, LimitReached when nothing was found."""
    if demands.plain:
        packed = cheapest(problem, stop, seed)
        assert packed.point is not None
        return Found(
            counts=packed.point.units[None, :],
            value=packed.value,
            bound=packed.bound,
            status=packed.status,
            work=packed.work,
            solver="binpacking",
            packing=packed.point.packing,
            prices=packed.point.prices,
            cap_prices=packed.point.limit_prices,
        )
    covered = solve_covering(problem, demands)
    if covered.status is Status.INFEASIBLE:
        from .infeasible import why_not_covered

        raise Infeasible(why_not_covered(problem, demands))
    if covered.point is None:
        raise LimitReached(f"fleet: {covered.reason} after {covered.work} cuts, before any fleet was found")
    return covered.point


@dataclass(frozen=True, slots=True)
class Insured:
    """A fleet that keeps the chance of overload, the problem it counts on, and the fleet that trusts throughputs."""

    found: Found
    problem: FleetProblem
    overload: float
    trusting: Found
    overload_without: float


def insure(problem: FleetProblem, demands: Demands, error: ThroughputError, seed: int = 0) -> Insured:
    """The cheapest fleet found whose chance of overload is as allowed.

    No type may be overloaded with a larger chance than the fleet, so counting on that much of every type bounds the
    cost from below; when the fleet found so is not safe enough, less is counted on, as if more types were in use.
    """
    trusting = solve_fleet(problem, demands, seed)
    without = chance(problem, trusting, demands, error)
    bound, types = (
        trusting.bound,
        len({gpu for replica in problem.replicas for gpu in at_any_clock(replica.gpu).split("+")}),
    )
    found, counted, risk = trusting, problem, without
    for number in range(1, types + 1):
        if risk <= error.overload + CHANCE:
            break
        counted = problem.counting_on(countable(error, each_chance(error, number)))
        found = solve_fleet(counted, demands, seed)
        risk = chance(counted, found, demands, error)
        bound = found.bound if number == 1 else bound
    gap_closed = abs(found.value - bound) <= 1e-9 * max(abs(found.value), 1.0)
    status = found.status if gap_closed else Status.FEASIBLE
    proven = replace(found, bound=bound, status=status)
    return Insured(proven, counted, risk, trusting, without)


def chance(problem: FleetProblem, found: Found, demands: Demands, error: ThroughputError) -> float:
    """The chance of overload in the hour where it is largest, requests routed as planned."""
    return max(
        overload(
            error,
            zip(
                (replica.gpu for replica in problem.replicas),
                utilization(problem, found.counts[hour], shares, factor).tolist(),
                strict=True,
            ),
        )
        for hour, (factor, shares) in enumerate(
            zip(factors(found, demands), routings(problem, found, demands), strict=True)
        )
    )


def factors(found: Found, demands: Demands) -> tuple[float, ...]:
    """The multiple of the rates that every hour carries."""
    return tuple(hour * found.multiple for hour in demands.hours)


def routings(problem: FleetProblem, found: Found, demands: Demands) -> list[Floats]:
    """The share of every class that each kind of replica serves, hour by hour."""
    if found.packing is not None:
        return [found.packing / found.packing.sum(0)]
    return [
        route(problem, counts, factor) for counts, factor in zip(found.counts, factors(found, demands), strict=True)
    ]


def route(problem: FleetProblem, counts: Floats, factor: float = 1.0) -> Floats:
    """Shares that keep the fullest kind of replica as empty as can be. An hour without load is served by nothing."""
    if factor <= 0:
        return np.zeros((len(problem.replicas), len(problem.classes)))
    packing = formulate(problem.scaled(factor))
    found = fit(packing, counts, np.random.default_rng(0)).packing
    assert found is not None
    shares: Floats = found / found.sum(0)
    return shares


def utilization(problem: FleetProblem, counts: Floats, shares: Floats, factor: float = 1.0) -> Floats:
    """Load of every kind of replica over what its units carry; 0 where there are none."""
    throughput = problem.throughput
    used = shares * problem.rates * factor / np.where(throughput > 0, throughput, 1.0)
    room = np.zeros(len(problem.replicas))
    np.add.at(room, [price.replica for price in problem.prices], counts * [price.capacity for price in problem.prices])
    busy: Floats = np.divide(used.sum(1), room, out=np.zeros(len(room)), where=room > 0)
    return busy
