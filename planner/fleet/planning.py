"""From a fleet problem to a plan: solve, read back, and set the single-type fleets beside it."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from shardwright.solvers import Solution, Status, relative_gap
from shardwright.solvers.binpacking import Packed, solve
from shardwright.solvers.binpacking.problem import Floats

from ..plan.base import Alternative, Input, Optimality, Provenance
from ..plan.fleet import FleetPlan, Limit, Rental, Rented, SingleType
from .problem import FleetProblem
from .program import PROOF, cheapest, formulate, routing_of

OBJECTIVE = "cost of the fleet in dollars per hour"
PROVEN_GAP = 1e-9


def plan_problem(problem: FleetProblem, inputs: tuple[Input, ...] = (), seed: int = 0) -> FleetPlan:
    """The cheapest fleet for a problem. Raises Infeasible naming what binds."""
    found = cheapest(problem, seed=seed)
    assert found.point is not None
    rental = rental_of(problem, found.point.units, found.point.packing, single_types(problem))
    return FleetPlan(
        inputs=inputs,
        optimality=optimality_of(found),
        assumptions=assumptions_of(problem),
        alternatives=_alternatives(rental),
        provenance=Provenance(
            tool_version=version("shardwright"),
            seed=seed,
            solver="binpacking",
            libraries={name: version(name) for name in ("numpy", "ortools")},
        ),
        rental=rental,
    )


def optimality_of(found: Solution[Packed]) -> Optimality:
    """The proof of a cheapest fleet."""
    gap = relative_gap(found.value, found.bound)
    return Optimality(
        objective=OBJECTIVE,
        sense="min",
        value=found.value,
        bound=found.bound,
        gap=gap,
        status="optimal" if found.status is Status.OPTIMAL or gap <= PROVEN_GAP else "feasible",
        work=found.work,
    )


def rental_of(
    problem: FleetProblem, counts: Floats, packing: Floats, single_type: tuple[SingleType, ...] = ()
) -> Rental:
    """The rental of counts by price and a packing; kinds of which nothing is rented are left out."""
    shares = routing_of(problem, packing)
    kinds = np.unique([price.replica for price, count in zip(problem.prices, counts, strict=True) if count > 0])
    place = {int(kind): at for at, kind in enumerate(kinds)}
    rented = tuple(
        Rented(
            replica=place[price.replica],
            count=round(float(count)),
            usd_per_hour=price.usd_per_hour,
            region=price.region,
            tier=price.tier,
        )
        for price, count in zip(problem.prices, counts, strict=True)
        if count > 0
    )
    replicas = tuple(problem.replicas[kind] for kind in kinds)
    watts = [replicas[each.replica].watts for each in rented]
    return Rental(
        classes=problem.classes,
        replicas=replicas,
        rented=rented,
        routing=tuple(tuple(row) for row in shares[kinds].tolist()),
        slices=problem.slices,
        utilization=tuple(_utilization(problem, counts, shares)[kinds].tolist()),
        usd_per_hour=float(sum(each.count * each.usd_per_hour for each in rented)),
        gpus=sum(each.count * replicas[each.replica].gpus for each in rented),
        watts=None
        if None in watts
        else float(sum(each.count * (w or 0) for each, w in zip(rented, watts, strict=True))),
        limits=tuple(
            Limit(name=cap.name, unit=cap.unit, used=float(cap.row @ counts), most=cap.most) for cap in problem.caps
        ),
        single_type=single_type,
    )


def single_types(problem: FleetProblem) -> tuple[SingleType, ...]:
    """The cheapest fleet of every GPU type alone, under the same caps."""
    return tuple(_alone(problem, gpu) for gpu in problem.gpus)


def _alone(problem: FleetProblem, gpu: str) -> SingleType:
    mask = np.array([problem.replicas[price.replica].gpu == gpu for price in problem.prices])
    alone = problem.with_prices(mask)
    can = (problem.throughput[[price.replica for price in alone.prices]] > 0).any(0)
    if not can.all():
        missing = problem.classes[int(np.argmin(can))]
        return SingleType(gpu=gpu, why=f"cannot serve requests {missing.name} within the latency targets")
    found = solve(formulate(alone), PROOF)
    if found.point is None:
        return SingleType(gpu=gpu, why="the caps leave too few")
    gpus = sum(
        round(float(count)) * problem.replicas[price.replica].gpus
        for price, count in zip(alone.prices, found.point.units, strict=True)
    )
    return SingleType(gpu=gpu, usd_per_hour=found.value, gpus=gpus)


def assumptions_of(problem: FleetProblem) -> tuple[str, ...]:
    """What the program takes for granted."""
    routed = (
        "any share of a request class may go to any kind of replica"
        if problem.slices is None
        else "every request class goes to one kind of replica"
        if problem.slices == 1
        else f"every request class is divided into {problem.slices} equal slices, each served by one kind of replica"
    )
    return (
        routed,
        "loads add up: a replica that spends a share of its throughput on one class has the rest for the others",
        "the replicas of a kind share its load evenly",
    )


def _alternatives(rental: Rental) -> tuple[Alternative, ...]:
    able = [each for each in rental.single_type if each.usd_per_hour is not None]
    return tuple(
        Alternative(
            label=f"{each.gpu} only",
            value=each.usd_per_hour or 0.0,
            why=f"{each.gpus} GPUs, {(each.usd_per_hour or 0) - rental.usd_per_hour:.4g} $/h more",
        )
        for each in sorted(able, key=lambda each: (each.usd_per_hour or 0.0, each.gpu))
    )


def _utilization(problem: FleetProblem, counts: Floats, shares: Floats) -> Floats:
    throughput = problem.throughput
    used = np.where(shares > 0, shares * problem.rates, 0.0) / np.where(throughput > 0, throughput, 1.0)
    room = np.zeros(len(problem.replicas))
    np.add.at(room, [price.replica for price in problem.prices], counts)
    busy: Floats = np.divide(used.sum(1), room, out=np.zeros(len(room)), where=room > 0)
    return busy
