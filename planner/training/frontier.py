"""Compromises between two objectives over the whole strategy space, on one cluster or among several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwright.models import ModelGraph
from shardwright.solvers import Stop
from shardwright.solvers.enumeration import Front, PairLeaves, pareto_front
from shardwright.topologies import Topology

from ..errors import InputError, input_errors
from ..plan.frontier import Frontier, FrontierPoint
from ..workload.strategy_table import StrategyTable
from ..workload.training import Objective, Technique, TrainingJob
from .bounds import node_floors
from .context import Context
from .objectives import shown
from .planning import context_of, explicit, plan_training, space_of
from .search import evaluated


def frontier_training(
    model: ModelGraph,
    topologies: Sequence[Topology],
    job: TrainingJob,
    objectives: tuple[Objective, Objective],
    *,
    stop: Stop | None = None,
) -> Frontier:
    """Every strategy on any of the clusters that none beats in one objective without losing in the other.

    Several clusters of different size show what more devices buy: dollars against time per step. Raises InputError
    when the objectives are the same, a cluster lacks a figure for one or fitted stages are to be explored, and
    Infeasible when nothing fits anywhere.
    """
    if objectives[0] == objectives[1]:
        raise InputError(f"a frontier needs two different objectives but got {objectives[0]} twice")
    if "uneven" in job.explore:
        others = ",".join(each for each in get_args(Technique) if each != "uneven")
        raise InputError(
            f"a frontier does not fit stages to their memory: leave uneven out of what to explore ({others} may stay)"
        )
    points: list[FrontierPoint] = []
    candidates = work = 0
    proven = True
    for topology in topologies:
        context = context_of(model, topology, job)
        with input_errors():
            front, count = _front(context, objectives, stop)
        points += [_point(context, each.point, each.first, each.second) for each in front.points]
        candidates, work, proven = candidates + count, work + front.evaluated, proven and front.proven
    if not points and proven:
        plan_training(model, topologies[-1], job)  # says why nothing fits
    first, second = objectives
    return Frontier(
        model=model.name,
        objectives=objectives,
        points=tuple(
            msgspec.structs.replace(each, first=shown(first, each.first), second=shown(second, each.second))
            for each in _undominated(points)
        ),
        proven=proven,
        candidates=candidates,
        work=work,
    )


def _front(
    context: Context, objectives: tuple[Objective, Objective], stop: Stop | None
) -> tuple[Front[StrategyTable], int]:
    space, costs = space_of(context), context.costs
    goals = [context.goal_of(objective) for objective in objectives]
    nodes = space.nodes()
    floors = node_floors(space, nodes, costs)
    bounds = np.stack([goal.values(floors) for goal in goals], axis=1)

    def expand(chosen: NDArray[np.int64]) -> PairLeaves[StrategyTable]:
        table, _ = space.leaves(nodes, chosen)
        measures = evaluated(costs, table)
        values = np.stack([goal.values(measures) for goal in goals], axis=1)
        return PairLeaves(values, lambda i: table.take(np.array([i])))

    return pareto_front(bounds, expand, batch=16, stop=stop), space.count(nodes)


def _point(context: Context, table: StrategyTable, first: float, second: float) -> FrontierPoint:
    strategy = explicit(table, context)
    return FrontierPoint(
        cluster=context.topology.name, strategy=strategy, label=strategy.label(), first=first, second=second
    )


def _undominated(points: list[FrontierPoint]) -> list[FrontierPoint]:
    kept: list[FrontierPoint] = []
    for point in sorted(points, key=lambda each: (each.first, each.second)):
        if not kept or point.second < kept[-1].second:
            kept.append(point)
    return kept
