"""Placement for tokens that return home after every layer: few GPUs and nodes per token."""

from __future__ import annotations

import numpy as np

from shardwright.solvers import Solution
from shardwright.solvers.placement import SlotPlacement, fanout, one_copy_each, packed

from ..errors import InputError
from .cluster import ExpertCluster, Ints
from .found import Found
from .replay import problem_of
from .request import ExpertRequest
from .workloads import Workloads


def place_returning(workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest, slots: Ints) -> Found:
    """Swap experts so that a token's experts sit together.

    Raises InputError without token ids, with uneven slots, or when copies are asked for: which copy serves a token that
    returns home is the engine's choice at run time.
    """
    if request.redundant or request.expert_groups is not None or request.workload_weights is not None:
        raise InputError("objective fanout takes no redundant copies, no expert groups and no workload weights")
    if len(set(slots.tolist())) != 1 or slots.sum() != workloads.first.experts:
        raise InputError(
            f"objective fanout needs experts to fill equal slots but {workloads.first.experts} do not divide over "
            f"{cluster.gpus} GPUs"
        )
    task = returning_problem(workloads, cluster, request)
    problem = problem_of(list(workloads.routings), cluster, slots)
    found = fanout.solve(task, packed(problem, 0).device, request.work, request.seed)
    assert found.point is not None
    point = SlotPlacement(one_copy_each(problem), found.point)
    solution = Solution(found.status, point, found.value, found.bound, work=found.work)
    return Found(point.holders(problem.items), solution, "placement.fanout")


def returning_problem(workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest) -> fanout.FanoutProblem:
    """The requests of all workloads' tokens, loads averaged. Raises InputError without token ids."""
    traces = [routing.top_ids for routing in workloads.routings]
    if any(trace is None for trace in traces) or len({trace.shape[2] for trace in traces if trace is not None}) > 1:
        raise InputError("objective fanout needs as many expert ids of every token, not counts or transitions")
    ids = np.concatenate([trace for trace in traces if trace is not None])
    loads = np.mean([routing.loads for routing in workloads.routings], axis=0)
    return fanout.FanoutProblem(ids, loads, cluster.link_cost, request.weight_of_load)
