"""Placement that keeps the experts of a router group on one node, as node-limited routing needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shardwright.solvers import Solution, Status
from shardwright.solvers.placement import Effort, PlacementProblem, SlotPlacement, place, value_of
from shardwright.solvers.placement import floor as lower_bound

from ..errors import InputError
from .cluster import ExpertCluster, Ints
from .found import Found
from .request import ExpertRequest


def place_node_local(problem: PlacementProblem, cluster: ExpertCluster, request: ExpertRequest) -> Found:
    """Groups to nodes, then copies and GPUs within each node: EPLB's hierarchical policy with exact parts.

    Raises InputError when groups, experts, nodes and copies do not divide, or for objectives other than load.
    """
    groups, nodes = request.expert_groups or 1, int(cluster.node.max()) + 1
    _check(problem, cluster, request, groups, nodes)
    each = problem.items // groups
    by_group = problem.loads.reshape(*problem.loads.shape[:2], groups, each).sum(axis=3)
    coarse = PlacementProblem(by_group, np.zeros((nodes, nodes)), np.full(nodes, groups // nodes), load_weight=1.0)
    by_node = place(coarse, effort=Effort(seed=request.seed))
    node_of_group = by_node.point
    assert node_of_group is not None
    parts = [
        _within(problem, np.flatnonzero(cluster.node == node), members, request, nodes)
        for node in range(nodes)
        for members in [_members(node_of_group.device == node, each)]
    ]
    point = SlotPlacement(np.concatenate([p.owner for p in parts], 1), np.concatenate([p.device for p in parts], 1))
    value = value_of(problem, point).value
    floor = max(by_node.bound, lower_bound(problem, request.redundant).value)
    status = Status.OPTIMAL if value <= floor * (1 + 1e-9) else Status.FEASIBLE
    solution = Solution(status, point, value, min(floor, value))
    return Found(point.holders(problem.items), solution, "placement, node by node")


def _check(problem: PlacementProblem, cluster: ExpertCluster, request: ExpertRequest, groups: int, nodes: int) -> None:
    if request.objective != "load":
        raise InputError(f"expert-groups needs --objective load but got {request.objective}")
    if groups < 1 or problem.items % groups or groups % nodes:
        raise InputError(
            f"expert-groups must divide the {problem.items} experts and be a multiple of the {nodes} nodes "
            f"but got {groups}"
        )
    if request.redundant % nodes or len(set(np.bincount(cluster.node).tolist())) != 1:
        raise InputError(f"expert-groups needs equal nodes and copies that divide over {nodes} nodes")


def _members(taken: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], each: int) -> Ints:
    """The experts of the groups that a node has, [layers, experts of a node]."""
    rows = [np.flatnonzero(row) for row in taken]
    return np.array([(row[:, None] * each + np.arange(each)).ravel() for row in rows], dtype=np.int64)


def _within(problem: PlacementProblem, gpus: Ints, members: Ints, request: ExpertRequest, nodes: int) -> SlotPlacement:
    loads = np.take_along_axis(problem.loads, np.broadcast_to(members, (len(problem.loads), *members.shape)), axis=2)
    part = replace(
        problem,
        loads=loads,
        link_cost=problem.link_cost[np.ix_(gpus, gpus)],
        slots=problem.slots[gpus],
        speeds=problem.speeds[gpus],
    )
    found = place(part, request.redundant // nodes, Effort(seed=request.seed, exact=False)).point
    assert found is not None
    padded = np.pad(members, ((0, 0), (0, 1)), constant_values=-1)
    return SlotPlacement(np.take_along_axis(padded, found.owner, axis=1), gpus[found.device])
