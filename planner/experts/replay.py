"""Score any placement on any routing: counts, transitions or the experts of every token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shardwright.models import Routing
from shardwright.solvers.placement import PlacementProblem, SlotPlacement, follow, peaks_of, slot_loads

from ..plan.experts import WorkloadScore
from .cluster import ExpertCluster, Floats, Ints

Holders = list[list[list[int]]]


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay finds: the score, and load per GPU and flow between GPUs, [layers, gpus] and [gpus, gpus].

    `flow[g, h]` is the tokens (shares of all tokens, added over the layers) that move from GPU g to h.
    """

    score: WorkloadScore
    loads: Floats
    flow: Floats | None


def replay(
    holders: Holders, routing: Routing, cluster: ExpertCluster, *, held_out: bool = False, evenly: bool = False
) -> Replay:
    """The placement's cost on a workload. `holders[l][e]` are the GPUs of expert e in the routing's layer l.

    Where tokens move between layers, every copy sends to the nearest copies and load follows. Without transitions, or
    when asked to share `evenly`, the copies of an expert share its load; where there are several, nothing then tells
    which copy a token comes from, and traffic is not counted. For fan-out, token t uses copy t modulo the number of
    copies.
    """
    placement = slot_placement(holders)
    problem = problem_of([routing], cluster, np.full(cluster.gpus, routing.experts))
    if evenly and any(len(gpus) > 1 for row in holders for gpus in row):
        problem = replace(problem, transitions=None)
    flow = follow(problem, placement)
    loads = slot_loads(flow.weights, placement.device, cluster.gpus)
    peaks = peaks_of(loads, problem.per_fair_share)
    between = None
    traffic = hops = heaviest = None
    if flow.transitions is not None and len(flow.transitions):
        between = _flow(flow.transitions, placement.device, cluster.gpus)
        hops = float((between * cluster.link_cost).sum())
        traffic = hops / len(flow.transitions)
        heaviest = float((between * cluster.link_cost).max())
    gpus, nodes = fanout(holders, routing, cluster) if routing.top_ids is not None else (None, None)
    score = WorkloadScore(
        workload=routing.name,
        held_out=held_out,
        tokens=routing.weight,
        load_ratio=float(peaks.mean()),
        load_ratio_p95=float(np.interp(0.95 * (len(peaks) - 1), np.arange(len(peaks)), np.sort(peaks))),
        load_ratio_worst=float(peaks.max()),
        traffic=traffic,
        hops_per_token=hops,
        heaviest_pair=heaviest,
        fanout_gpus=gpus,
        fanout_nodes=nodes,
    )
    return Replay(score, loads[0], between)


def problem_of(routings: list[Routing], cluster: ExpertCluster, slots: Ints) -> PlacementProblem:
    """The placement problem of some workloads: their loads as scenarios, their transitions averaged."""
    loads = np.stack([routing.loads for routing in routings])
    tables = [routing.transitions for routing in routings if routing.transitions is not None]
    transitions = np.mean(tables, axis=0) if len(tables) == len(routings) else None
    return PlacementProblem(loads, cluster.link_cost, slots, transitions, cluster.speeds)


def slot_placement(holders: Holders) -> SlotPlacement:
    """Owner and device of every copy; layers with fewer copies end in empty slots on GPU 0."""
    flat = [[(expert, gpu) for expert, gpus in enumerate(row) for gpu in gpus] for row in holders]
    width = max(len(row) for row in flat)
    padded = np.array([row + [(-1, 0)] * (width - len(row)) for row in flat], dtype=np.int64)
    return SlotPlacement(padded[:, :, 0], padded[:, :, 1])


def fanout(holders: Holders, routing: Routing, cluster: ExpertCluster) -> tuple[float, float]:
    """Mean number of distinct GPUs, and of distinct nodes, that hold a token's experts in one layer."""
    assert routing.top_ids is not None
    gpus = token_gpus(holders, routing.top_ids)
    return _distinct(gpus), _distinct(cluster.node[gpus])


def token_gpus(holders: Holders, ids: Ints) -> Ints:
    """The GPU that serves each of a token's experts, [tokens, layers, k]."""
    most = max(len(gpus) for row in holders for gpus in row)
    table = np.array([[[gpus[i % len(gpus)] for i in range(most)] for gpus in row] for row in holders])
    count = np.array([[len(gpus) for gpus in row] for row in holders])
    layers = np.arange(ids.shape[1])[None, :, None]
    turn = np.arange(len(ids))[:, None, None] % count[layers, ids]
    return np.asarray(table[layers, ids, turn], dtype=np.int64)


def _distinct(places: Ints) -> float:
    ordered = np.sort(places, axis=2)
    return float((1 + (np.diff(ordered, axis=2) != 0).sum(axis=2)).mean())


def _flow(transitions: np.ndarray[tuple[int, ...], np.dtype[np.float32]], device: Ints, gpus: int) -> Floats:
    total = np.zeros((gpus, gpus))
    for layer, part in enumerate(transitions):
        rows = np.zeros((gpus, part.shape[1]))
        np.add.at(rows, device[layer], part.astype(np.float64))
        columns = np.zeros((gpus, gpus))
        np.add.at(columns, device[layer + 1], rows.T)
        total += columns.T
    return total
