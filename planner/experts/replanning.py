"""Re-planning from the placement in force: what to move under a budget, how long it takes, and when it pays."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwright.solvers import Solution, Status
from shardwright.solvers.placement import (
    PlacementProblem,
    Schedule,
    anneal,
    floor,
    rebalance,
    value_of,
    with_empty,
)

from ..errors import InputError
from ..files import sha256_of
from ..plan.base import Input
from ..plan.experts import ExpertPlan, Migration
from .cluster import ExpertCluster
from .found import Found
from .planning import formulate, plan_of
from .replay import Holders, slot_placement
from .request import ExpertRequest
from .workloads import Workloads

BISECTIONS = 8


class Replan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of a re-plan: the size of one expert, bytes that may move (None: all), and a load ratio that is enough."""

    expert_bytes: float
    budget_bytes: float | None = None
    target: float = 1.0

    def __post_init__(self) -> None:
        if not self.expert_bytes > 0:
            raise InputError(f"expert-size must be more than 0 but got {self.expert_bytes}")
        if self.budget_bytes is not None and not self.budget_bytes >= 0:
            raise InputError(f"budget must be at least 0 but got {self.budget_bytes}")
        if not self.target >= 1:
            raise InputError(f"target must be a load ratio of at least 1 but got {self.target}")

    def copies(self, residents: int) -> int:
        """Most copies that may be loaded."""
        return residents if self.budget_bytes is None else int(self.budget_bytes // self.expert_bytes)


def replan_experts(
    current: ExpertPlan,
    workloads: Workloads,
    cluster: ExpertCluster,
    request: ExpertRequest,
    limits: Replan,
    record: Input | None = None,
) -> ExpertPlan:
    """The best placement found that the budget lets the current one turn into.

    For load alone, copies are replaced or exchanged one step at a time until no layer's ratio exceeds the target; with
    traffic, the placement is annealed with a price on every moved copy, found by bisection. `record` names the current
    plan's file; without it its content is hashed. Raises InputError when the
    current plan is for other layers, experts or GPUs.
    """
    _check(current, workloads, cluster, request)
    request = msgspec.structs.replace(request, redundant=current.redundant)
    slots = np.array(current.slots, dtype=np.int64)
    problem = formulate(workloads, cluster, request, slots)
    before: Holders = [[list(gpus) for gpus in current.placement[layer]] for layer in current.moe_layers]
    held = _held(before, cluster.gpus)
    residents = int(held.sum())
    allowed = limits.copies(residents)
    if request.objective == "load":
        after, work = rebalance(problem, held, limits.target, allowed)
        holders: Holders = [[np.flatnonzero(row).tolist() for row in layer] for layer in after]
    else:
        holders, work = _annealed(problem, before, allowed, request)
    point = slot_placement(holders)
    value = value_of(problem, point).value
    bound = min(floor(problem, current.redundant).value, value)
    status = Status.OPTIMAL if value <= bound * (1 + 1e-9) else Status.FEASIBLE
    found = Found(holders, Solution(status, point, value, bound, work=work), "placement.migration")
    paid = value_of(problem, slot_placement(before)).value
    saved = 1 - value / paid if paid > 0 else 0.0
    move = _migration(held, _held(holders, cluster.gpus), cluster, limits.expert_bytes, saved)
    plan = plan_of(workloads, cluster, request, found, slots, move)
    return msgspec.structs.replace(plan, inputs=(*plan.inputs, record or _hashed(current)))


def _hashed(current: ExpertPlan) -> Input:
    """The record of a plan in force that comes from no file."""
    return Input(role="plan", source="memory:plan in force", sha256=sha256_of(msgspec.to_builtins(current)))


def _check(current: ExpertPlan, workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest) -> None:
    first = workloads.first
    if (current.experts, current.gpus) != (first.experts, cluster.gpus):
        raise InputError(
            f"current: the plan places {current.experts} experts on {current.gpus} GPUs "
            f"but {first.experts} experts and {cluster.gpus} GPUs are given"
        )
    if current.moe_layers != tuple(first.layers.tolist()):
        raise InputError("current: the plan is for other layers than the routing")
    if request.objective not in ("load", "transitions", "joint"):
        raise InputError(f"current: re-planning knows load, transitions and joint but got {request.objective}")
    if request.method != "auto" or request.certify:
        raise InputError("current: re-planning has a search and a bound of its own: leave --method and --certify out")
    if request.redundant not in (0, current.redundant) or request.expert_groups is not None:
        raise InputError(f"current: the plan has {current.redundant} redundant copies, which a re-plan keeps")


def _held(holders: Holders, gpus: int) -> NDArray[np.bool_]:
    table = np.zeros((len(holders), len(holders[0]), gpus), dtype=bool)
    for layer, row in enumerate(holders):
        for expert, where in enumerate(row):
            table[layer, expert, where] = True
    return table


def _annealed(problem: PlacementProblem, before: Holders, allowed: int, request: ExpertRequest) -> tuple[Holders, int]:
    """Anneal under a price per moved copy, as low as keeps the number of moves within `allowed`."""
    start = slot_placement(before)
    full = with_empty(start, problem.slots)
    was = _held(before, problem.devices)
    share = request.work // BISECTIONS
    plan = Schedule.for_size(problem.layers, full.owner.shape[1], problem.devices, share, request.seed)
    scale = float(problem.link_cost.max()) / problem.items
    low, high = 0.003 * scale, 3.0 * scale
    best, value, work = before, value_of(problem, start).value, 0
    for turn in range(BISECTIONS):
        stay = 0.0 if turn == 0 else float(np.sqrt(low * high))
        run = anneal(problem, full, replace(plan, stay=stay, hot=0.1))
        work += run.work
        holders = run.placement.holders(problem.items)
        moved = int((_held(holders, problem.devices) & ~was).sum())
        reached = value_of(problem, run.placement).value
        if moved <= allowed and reached < value:
            best, value = holders, reached
        if moved <= allowed and turn == 0:
            break
        low, high = (stay, high) if moved > allowed else (low, stay)
    return best, work


def _migration(
    was: NDArray[np.bool_], held: NDArray[np.bool_], cluster: ExpertCluster, expert_bytes: float, saved: float
) -> Migration:
    """Copies to load, from the nearest holder each; the busiest GPU's links give the time.

    It pays once the share of expert time saved has added up to the time of the move, which runs beside serving.
    """
    sent, received = np.zeros(cluster.gpus), np.zeros(cluster.gpus)
    loads = np.argwhere(held & ~was)
    for layer, expert, gpu in loads:
        holders = np.flatnonzero(was[layer, expert])
        source = holders[cluster.link_cost[holders, gpu].argmin()]
        sent[source] += cluster.link_cost[source, gpu]
        received[gpu] += cluster.link_cost[source, gpu]
    seconds = None
    if cluster.fastest_bytes_per_s is not None:
        seconds = float(max(sent.max(), received.max()) * expert_bytes / cluster.fastest_bytes_per_s)
    return Migration(
        moved=len(loads),
        residents=int(was.sum()),
        bytes=len(loads) * expert_bytes,
        seconds=seconds,
        pays_after_s=seconds / saved if seconds is not None and saved > 0 else None,
    )
