"""The fleet as a program: Mélange's bin packing with prices, caps and any number of kinds of replica."""

from __future__ import annotations

import numpy as np

from shardwright.solvers import Gap, Solution, Status, Stop, Work
from shardwright.solvers.binpacking import BinPacking, Packed
from shardwright.solvers.binpacking.narrowing import solve_narrowed

from ..errors import Infeasible, LimitReached
from .problem import FleetProblem

MOST_LOAD = 1e9
WORK = 20_000
PROOF = Gap(1e-4) | Work(WORK)
ANY = Gap(1e9) | Work(WORK)
"""Stop at the first fleet found."""


def formulate(problem: FleetProblem) -> BinPacking:
    """The packing problem: one profile per kind of replica, one item class per request class, one offer per price.

    A slice of a class loads a replica by its rate over the replica's throughput (Griggs et al. 2024, section 5.3); a
    throughput of zero means that the class cannot go there.
    """
    parts = problem.slices or 1
    throughput = problem.throughput
    with np.errstate(divide="ignore", over="ignore"):
        load = np.where(throughput > 0, problem.rates / parts / throughput, np.inf)
    prices = len(problem.prices)
    return BinPacking(
        cost=problem.cost,
        capacity=problem.capacity,
        load=np.where(load > MOST_LOAD, np.inf, load),
        items=np.full(len(problem.classes), parts, dtype=np.int64),
        lower=np.zeros(prices),
        upper=np.full(prices, np.inf),
        limit_matrix=np.array([cap.row for cap in problem.caps], dtype=float).reshape(len(problem.caps), prices),
        limit=np.array([cap.most for cap in problem.caps], dtype=float),
        fractional=problem.slices is None,
    )


def cheapest(problem: FleetProblem, stop: Stop = PROOF, seed: int = 0) -> Solution[Packed]:
    """The cheapest fleet with its proof. Raises Infeasible with what binds, LimitReached when nothing was found."""
    found = solve_narrowed(formulate(problem), stop, seed)
    if found.status is Status.INFEASIBLE:
        from .infeasible import why_infeasible

        raise Infeasible(why_infeasible(problem))
    if found.point is None:
        raise LimitReached(f"fleet: stopped after {found.work} relaxations before any fleet was found")
    return found
