"""The fleet that runs now, in terms of what can be rented."""

from __future__ import annotations

import numpy as np

from shardwright.solvers.binpacking.problem import Floats

from ..workload.fleet import FleetJob, Running
from .candidates import canonical
from .problem import FleetProblem


def units_running(job: FleetJob, problem: FleetProblem) -> tuple[Floats, tuple[str, ...]]:
    """Units of every price that run now, and a phrase for each group that is not among the prices."""
    before = np.zeros(len(problem.prices))
    unknown = []
    for group in job.current:
        at = next((at for at in range(len(problem.prices)) if _same(group, problem, at)), None)
        if at is None:
            unknown.append(f"{group.count} × {' on '.join(part for part in (group.layout, group.gpu) if part)}")
        else:
            before[at] += -(-group.count // problem.prices[at].copies)
    return before, tuple(unknown)


def _same(group: Running, problem: FleetProblem, at: int) -> bool:
    price = problem.prices[at]
    replica = problem.replicas[price.replica]
    return (
        replica.gpu == canonical(group.gpu)
        and group.model in ("", replica.model)
        and (replica.layout == group.layout if group.layout else replica.gpus == group.gpus)
        and (price.region, price.tier) == (group.region, group.tier)
    )
