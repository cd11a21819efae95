"""The best fleet of every GPU type alone, to set beside the mix."""

from __future__ import annotations

import numpy as np

from ..errors import Infeasible, LimitReached
from ..plan.base import Alternative
from ..plan.fleet import CARRIED, DRAWN, SingleType
from ..workload.clocks import at_any_clock
from .covering import Demands
from .problem import FleetProblem
from .solving import solve_fleet


def single_types(problem: FleetProblem, demands: Demands) -> tuple[SingleType, ...]:
    """The best fleet of each GPU type under the same caps and losses, in the busiest hour."""
    one_hour = Demands(failures=demands.failures, hours=(max(demands.hours),), largest=demands.largest)
    return tuple(_alone(problem, one_hour, gpu) for gpu in problem.gpus if "+" not in gpu)


def _alone(problem: FleetProblem, demands: Demands, gpu: str) -> SingleType:
    alone = problem.with_prices(
        np.array([at_any_clock(problem.replicas[price.replica].gpu) == gpu for price in problem.prices])
    )
    able = problem.throughput[[price.replica for price in alone.prices]].max(0)
    if able.min() <= 0:
        missing = problem.classes[int(able.argmin())].name
        return SingleType(gpu=gpu, why=f"cannot serve requests {missing} within the latency targets")
    try:
        found = solve_fleet(alone, demands)
    except Infeasible:
        return SingleType(gpu=gpu, why="the caps or losses leave too few")
    except LimitReached:
        return SingleType(gpu=gpu, why="not found within the limits of the search")
    counts = found.counts[0]
    gpus = sum(round(float(count)) * price.gpus for price, count in zip(alone.prices, counts, strict=True))
    watts = [price.watts for price, count in zip(alone.prices, counts, strict=True) if count]
    return SingleType(
        gpu=gpu,
        usd_per_hour=float(alone.rent @ counts),
        gpus=gpus,
        watts=None if None in watts else float(np.array(watts, dtype=float) @ counts[counts > 0]),
        carried=found.multiple * max(demands.hours),
    )


def alternatives(single: tuple[SingleType, ...], objective: str, value: float) -> tuple[Alternative, ...]:
    """The single-type fleets that there are, best first; `value` is that of the mix."""
    able = [each for each in single if each.usd_per_hour is not None]
    if objective == CARRIED:
        able.sort(key=lambda each: (-each.carried, each.gpu))
        return tuple(
            Alternative(
                label=f"{each.gpu} only",
                value=each.carried,
                why=f"{each.gpus} GPUs carry {each.carried:.4g} times the rates",
            )
            for each in able
        )
    unit = "kW" if objective == DRAWN else "$/h"
    costs = sorted(
        ((each.watts or 0.0) / 1e3 if objective == DRAWN else each.usd_per_hour or 0.0, each.gpu, each.gpus)
        for each in able
    )
    return tuple(
        Alternative(label=f"{gpu} only", value=cost, why=f"{gpus} GPUs, {round(cost - value, 9) + 0.0:.4g} {unit} more")
        for cost, gpu, gpus in costs
    )
