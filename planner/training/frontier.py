"""Compromises between two objectives over the whole strategy space, on one cluster or among several."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwright.models import ModelGraph
from shardwright.solvers import Stop
from shardwright.solvers.enumeration import Front, PairLeaves, beaten, pareto_front
from shardwright.topologies import Topology

from ..costs.step import TrainingCosts
from ..errors import InputError, input_errors
from ..plan.frontier import Frontier, FrontierPoint
from ..workload.strategy_table import StrategyTable, concatenate
from ..workload.training import Objective, Technique, TrainingJob
from .bounds import node_floors
from .context import Context
from .fitting import Views
from .links import bounding_context, own_order, placed, placed_alike, uneven_links
from .mapping import order_key
from .objectives import Measures, shown
from .planning import context_of, explicit, plan_training, space_of
from .search import evaluated
from .space import Nodes, Space
from .uneven import fitted
from .uneven_space import Meter

Pairs = NDArray[np.float64]

TOGETHER = 64
ORDERS_TRIED = 48


def frontier_training(
    model: ModelGraph,
    topologies: Sequence[Topology],
    job: TrainingJob,
    objectives: tuple[Objective, Objective],
    *,
    stop: Stop | None = None,
) -> Frontier:
    """Every strategy on any of the clusters that none beats in one objective without losing in the other.

    Stages are as even as can be, and cut anywhere in the strategies that are best by either objective.
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
    fronts = []
    for topology in topologies:
        context = context_of(model, topology, job)
        with input_errors():
            fronts.append(_front(context, objectives, stop))
    points = [point for front in fronts for point in front.points]
    proven = all(front.proven for front in fronts)
    if not points and proven:
        plan_training(model, topologies[-1], job)  # says why nothing fits
    kept = _undominated(points)
    first, second = objectives
    return Frontier(
        model=model.name,
        objectives=objectives,
        points=tuple(
            msgspec.structs.replace(each, first=shown(first, each.first), second=shown(second, each.second))
            for each in kept
        ),
        proven=proven,
        gap=_gap(np.array([(each.first, each.second) for each in kept]), np.concatenate([f.floor for f in fronts])),
        candidates=sum(front.candidates for front in fronts),
        work=sum(front.work for front in fronts),
    )


@dataclass(frozen=True, slots=True)
class _Front:
    """The compromises found on one cluster, and pairs of values [pairs, 2] of which every strategy has one at least."""

    points: list[FrontierPoint]
    floor: Pairs
    proven: bool
    candidates: int
    work: int


def _front(context: Context, objectives: tuple[Objective, Objective], stop: Stop | None) -> _Front:
    """Where links are uneven the front of the fastest ones bounds, and strategies stand on the real ones."""
    space = space_of(context)
    nodes = space.nodes()
    goals = _Goals(context, objectives)
    if not uneven_links(context.topology):
        found = goals.front(space, nodes, context.costs, stop)
        points = [_point(context, each.point, each.first, each.second) for each in found.points]
        meter = Meter(found.evaluated, stop)
        points += goals.cut(space, nodes, Views(context.costs, context.costs), points, meter)
        return _Front(points, _pairs(found), found.proven, space.count(nodes), found.evaluated + meter.spent)
    ideal = bounding_context(context).costs
    bound = goals.front(space, nodes, ideal, stop)
    real = own_order(context)
    own = goals.front(space, nodes, real, stop)
    table = goals.undecided(space, nodes, ideal, own)
    points = [
        _point(context, one, *values)
        for one, values in goals.on_real_links(table, real, goals.values(evaluated(ideal, table)), _pairs(bound))
    ]
    work = bound.evaluated + own.evaluated + len(table)
    meter = Meter(work, stop)
    if len(context.topology.networks) == 1:
        points += goals.cut(space, nodes, Views(real, ideal), points, meter)
    return _Front(points, _pairs(bound), bound.proven and own.proven, space.count(nodes), work + meter.spent)


def _pairs(front: Front[StrategyTable]) -> Pairs:
    return np.array([(each.first, each.second) for each in front.points]).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class _Goals:
    """Two objectives of one context."""

    context: Context
    objectives: tuple[Objective, Objective]

    def values(self, measures: Measures) -> Pairs:
        """Both values of every row, infinite beyond a limit."""
        goals = (self.context.goal_of(objective) for objective in self.objectives)
        return np.stack([goal.values(measures) for goal in goals], axis=1)

    def front(self, space: Space, nodes: Nodes, costs: TrainingCosts, stop: Stop | None) -> Front[StrategyTable]:
        """The front by some costs."""
        bounds = self.values(node_floors(space, nodes, costs))

        def expand(chosen: NDArray[np.int64]) -> PairLeaves[StrategyTable]:
            table, _ = space.leaves(nodes, chosen)
            return PairLeaves(self.values(evaluated(costs, table)), lambda i: table.take(np.array([i])))

        return pareto_front(bounds, expand, batch=16, stop=stop)

    def cut(
        self, space: Space, nodes: Nodes, views: Views, known: list[FrontierPoint], meter: Meter
    ) -> list[FrontierPoint]:
        """Strategies whose stages are cut anywhere that are better in one objective than all that is known."""
        made: list[FrontierPoint] = []
        for number, objective in enumerate(self.objectives):
            best = min([(each.first, each.second)[number] for each in (*known, *made)], default=np.inf)
            for each in fitted(space, nodes, views, self.context.goal_of(objective), best, meter).candidates:
                costs = views.costs if views.costs is views.bounding else placed(self.context, each.table).costs
                first, second = self.values(evaluated(costs, each.table))[0].tolist()
                made.append(_point(self.context, each.table, first, second))
        return made

    def undecided(self, space: Space, nodes: Nodes, ideal: TrainingCosts, own: Front[StrategyTable]) -> StrategyTable:
        """Strategies that on the fastest links no point of the front in the cluster's own order reaches."""
        known = _pairs(own)
        chosen = np.flatnonzero(~beaten(self.values(node_floors(space, nodes, ideal)), known))
        made = [each.point for each in own.points]
        for start in range(0, len(chosen), TOGETHER):
            table, _ = space.leaves(nodes, chosen[start : start + TOGETHER])
            values = self.values(evaluated(ideal, table))
            made.append(table.take(np.isfinite(values).all(axis=1) & ~beaten(values, known)))
        return concatenate(made) if made else space.leaves(nodes, chosen[:0])[0]

    def on_real_links(
        self, table: StrategyTable, real: TrainingCosts, floors: Pairs, bound: Pairs
    ) -> Iterator[tuple[StrategyTable, tuple[float, float]]]:
        """Strategies where `estimate_training` places them, with both values.

        Those that send as much along the same axes stand in the same order of devices; the orders tried first are of
        strategies nearest the bounding front, and no more than are worth while.
        """
        behind = (floors[:, None, :] / bound[None, :, :]).min(axis=2).max(axis=1)
        groups: dict[Hashable, list[int]] = {}
        for row in np.argsort(behind, kind="stable").tolist():
            groups.setdefault(order_key(self.context.costs, table.take(np.array([row]))), []).append(row)
        for rows in list(groups.values())[:ORDERS_TRIED]:
            alike = table.take(np.array(rows))
            values = self.values(placed_alike(self.context, alike, real))
            for row in np.flatnonzero(np.isfinite(values).all(axis=1)).tolist():
                yield alike.take(np.array([row])), (float(values[row, 0]), float(values[row, 1]))


def _gap(points: Pairs, floor: Pairs) -> float:
    """By what share some strategy might be better than every point in at least one of the two values, at most."""
    if not len(points) or not len(floor):
        return 0.0
    worse = (points[:, None, :] / floor[None, :, :]).max(axis=2)
    return max(float(worse.min(axis=0).max()) - 1.0, 0.0)


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
