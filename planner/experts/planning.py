"""From routing, a cluster and a request to a plan: formulate, solve, replay."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from shardwright.solvers import Status, relative_gap
from shardwright.solvers.placement import Effort, PlacementProblem, bisection, fanout, fill, place, two_stage

from ..errors import InputError
from ..plan.base import Alternative, Optimality, Provenance
from ..plan.experts import SENTENCES, ExpertPlan, Migration, WorkloadScore
from ..version import VERSION
from .cluster import ExpertCluster, Ints
from .found import Found
from .replay import Holders, problem_of, replay
from .request import ExpertRequest
from .workloads import Workloads, workloads_of

CHECK_SHARE, CHECK_TOKENS, CHECK_WORK = 0.2, 100, 4


def plan_experts(workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest) -> ExpertPlan:
    """The best placement found and how far from the best possible it can be.

    Raises InputError when the workloads lack what the objective needs or the slots are too few.
    """
    slots = slots_of(workloads, cluster, request)
    found = _solve(workloads, cluster, request, slots)
    unseen = _cross_check(workloads, cluster, request)
    notes: tuple[str, ...] = ()
    if request.redundant and _without_copies(found, cluster, workloads.first.experts):
        # Engines fill every slot they are given, so the plan asks for none that would stay empty.
        notes = (f"{request.redundant} copies would cost more than they save: the plan has none",)
        request = msgspec.structs.replace(request, redundant=0, slots_per_gpu=None)
        slots = slots_of(workloads, cluster, request)
    plan = plan_of(workloads, cluster, request, found, slots)
    if unseen:
        notes += (f"held-out scores are of a plan made alike from the first {1 - CHECK_SHARE:.0%} of the tokens",)
    return msgspec.structs.replace(plan, scores=plan.scores + unseen, assumptions=plan.assumptions + notes)


def _without_copies(found: Found, cluster: ExpertCluster, experts: int) -> bool:
    """Whether every expert has one holder, and no GPU more of them than its slots without copies."""
    if any(len(gpus) > 1 for row in found.holders for gpus in row):
        return False
    held = np.array([np.bincount([gpus[0] for gpus in row], minlength=cluster.gpus) for row in found.holders])
    return bool(np.all(held <= cluster.slots(experts, 0)))


def _cross_check(workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest) -> tuple[WorkloadScore, ...]:
    """How plans made from the first tokens of the traces do on the last, when the request itself holds none back."""
    traces = [routing.top_ids for routing in workloads.routings]
    if request.held_out > 0 or request.method != "auto":
        return ()
    if any(trace is None or len(trace) < CHECK_TOKENS for trace in traces):
        return ()
    parts = workloads_of(list(workloads.routings), CHECK_SHARE)
    work = max(1, request.work // CHECK_WORK)
    alike = msgspec.structs.replace(request, held_out=CHECK_SHARE, work=work, certify=False)
    return tuple(score for score in plan_experts(parts, cluster, alike).scores if score.held_out)


def slots_of(workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest) -> Ints:
    """Slots of every GPU. Raises InputError when experts and copies do not fit, or copies could not be told apart."""
    experts = workloads.first.experts
    if request.redundant > experts * (cluster.gpus - 1):
        raise InputError(f"redundant must be at most {experts * (cluster.gpus - 1)} but got {request.redundant}")
    slots = cluster.slots(experts, request.redundant)
    if request.slots_per_gpu is not None:
        slots = np.full(cluster.gpus, request.slots_per_gpu, dtype=np.int64)
    if slots.sum() < experts + request.redundant:
        raise InputError(
            f"{experts} experts and {request.redundant} redundant copies need as many slots "
            f"but {cluster.gpus} GPUs have {int(slots.sum())}"
        )
    return slots


def formulate(workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest, slots: Ints) -> PlacementProblem:
    """The placement problem of a request. Raises InputError when traffic is asked of mere counts."""
    problem = problem_of(list(workloads.routings), cluster, slots)
    if request.workload_weights is not None:
        problem = _averaged(problem, workloads, request.workload_weights)
    if request.objective == "load":
        return replace(problem, transitions=None, load_weight=1.0)
    if problem.transitions is None:
        raise InputError(
            f"objective {request.objective} needs transitions or expert ids "
            f"but {workloads.first.name} has counts of one layer at a time; use --objective load"
        )
    return replace(problem, load_weight=request.weight_of_load)


def _averaged(problem: PlacementProblem, workloads: Workloads, weights: tuple[float, ...]) -> PlacementProblem:
    """The problem with one scenario, the weighted mean of all workloads."""
    routings = workloads.routings
    if len(weights) != len(routings):
        raise InputError(
            f"workload-weight must be given {len(routings)} times, once a workload, but got {len(weights)}"
        )
    tables = [routing.transitions for routing in routings if routing.transitions is not None]
    return replace(
        problem,
        loads=np.average(problem.loads, axis=0, weights=weights)[None],
        transitions=np.average(tables, axis=0, weights=weights) if len(tables) == len(routings) else None,
    )


def _solve(workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest, slots: Ints) -> Found:
    effort = Effort(work=request.work, seed=request.seed, certify=request.certify)
    if request.objective == "fanout":
        from .returning import place_returning

        return place_returning(workloads, cluster, request, slots)
    problem = formulate(workloads, cluster, request, slots)
    if request.method != "auto":
        from .published import place_as_published

        return place_as_published(problem, request)
    if request.objective == "minimax":
        from .heaviest import place_heaviest

        return place_heaviest(problem, request)
    if request.expert_groups is not None:
        from .node_local import place_node_local

        return place_node_local(problem, cluster, request)
    solution = place(problem, request.redundant, effort)
    assert solution.point is not None
    return Found(solution.point.holders(problem.items), solution, "placement")


def plan_of(
    workloads: Workloads,
    cluster: ExpertCluster,
    request: ExpertRequest,
    found: Found,
    slots: Ints,
    migration: Migration | None = None,
) -> ExpertPlan:
    """The plan of a placement that was found, scored on every workload in sample and held out."""
    first = workloads.first
    scores = score_all(found.holders, workloads, cluster, evenly=request.objective == "load")
    solution = found.solution
    return ExpertPlan(
        inputs=workloads.sources + ((cluster.source,) if cluster.source else ()),
        optimality=Optimality(
            objective=SENTENCES[request.objective],
            sense="min",
            value=solution.value,
            bound=solution.bound,
            gap=relative_gap(solution.value, solution.bound),
            status="optimal" if solution.status is Status.OPTIMAL else "feasible",
            work=solution.work,
        ),
        assumptions=_assumptions(workloads, cluster, request),
        alternatives=_alternatives(workloads, cluster, request, slots),
        provenance=Provenance(
            tool_version=VERSION, seed=request.seed, solver=found.solver, libraries=_libraries(request, slots)
        ),
        objective=request.objective,
        load_weight=request.weight_of_load,
        flow="home" if request.objective == "fanout" else "stay",
        experts=first.experts,
        gpus=cluster.gpus,
        gpus_per_node=cluster.gpus_per_node,
        link_ratio=cluster.link_ratio,
        redundant=request.redundant,
        slots=tuple(slots.tolist()),
        moe_layers=tuple(first.layers.tolist()),
        placement=_all_rows(found.holders, workloads, slots, request.redundant),
        scores=scores,
        reading=workloads.reading,
        migration=migration,
    )


def _libraries(request: ExpertRequest, slots: Ints) -> dict[str, str]:
    """Versions of the libraries that a plan of this kind may come from."""
    out = {"numpy": np.__version__}
    if request.certify or request.method != "auto" or request.objective in ("fanout", "minimax") or slots.max() == 1:
        from importlib.metadata import version

        out |= {name: version(name) for name in ("numba", "ortools")}
    return out


def score_all(
    holders: Holders, workloads: Workloads, cluster: ExpertCluster, *, evenly: bool = False
) -> tuple[WorkloadScore, ...]:
    """Scores on the workloads planned with, then on the tokens held out."""
    seen = [replay(holders, routing, cluster, evenly=evenly).score for routing in workloads.routings]
    unseen = [replay(holders, routing, cluster, held_out=True, evenly=evenly).score for routing in workloads.held_out]
    return tuple(seen + unseen)


def in_order(experts: int, slots: Ints, redundant: int) -> list[list[int]]:
    """Experts in order on the GPUs in order, then the first ones again: the layout of engines before any balancing."""
    held: list[list[int]] = [[] for _ in range(experts)]
    row = np.repeat(np.arange(len(slots)), fill(slots, experts + redundant))
    for slot, gpu in enumerate(row.tolist()):
        held[slot % experts].append(gpu)
    return [sorted(set(gpus)) for gpus in held]


def _all_rows(
    holders: Holders, workloads: Workloads, slots: Ints, redundant: int
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    plain = in_order(workloads.first.experts, slots, redundant)
    rows: list[list[list[int]]] = [plain] * workloads.first.rows
    for layer, row in zip(workloads.first.layers.tolist(), holders, strict=True):
        rows[layer] = row
    return tuple(tuple(tuple(gpus) for gpus in row) for row in rows)


def _alternatives(
    workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest, slots: Ints
) -> tuple[Alternative, ...]:
    """What the usual layout costs on the first workload."""
    plain = in_order(workloads.first.experts, slots, request.redundant)
    even = request.objective == "load"
    usual = replay([plain] * len(workloads.first.layers), workloads.first, cluster, evenly=even).score
    why = f"load ratio {usual.load_ratio:.3f}"
    if usual.traffic is not None:
        why += f", link cost {usual.traffic:.4g} per transition"
    if request.objective == "fanout":
        from .returning import returning_problem

        task = returning_problem(workloads, cluster, request)
        value = fanout.cost(task, np.array([[gpus[0] for gpus in plain]] * len(workloads.first.layers)))
        why = f"{usual.fanout_gpus:.3f} GPUs and {usual.fanout_nodes:.3f} nodes per token"
        return (Alternative(label="experts in order", value=value, why=why),)
    value = request.weight_of_load * usual.load_ratio
    if request.objective in ("transitions", "joint") and usual.traffic is not None:
        value += usual.traffic
    if request.objective == "minimax" and usual.heaviest_pair is not None:
        value = usual.heaviest_pair
    return (Alternative(label="experts in order", value=value, why=why),)


def _assumptions(workloads: Workloads, cluster: ExpertCluster, request: ExpertRequest) -> tuple[str, ...]:
    out = list(cluster.assumptions)
    if request.objective == "fanout":
        out.append("tokens return home after every layer, and every GPU is home to as many tokens")
        if request.redundant:
            out.append("token t uses copy t modulo the number of copies of an expert")
    elif request.objective == "load":
        out.append("the copies of an expert share its load evenly")
    else:
        out.append("tokens stay where their last expert ran")
        if request.redundant:
            out.append("every copy sends tokens to the nearest copies of the next expert, evenly among equals")
    if request.method != "auto":
        program = two_stage if request.method == "moetuner" else bisection
        first = workloads.first
        if not program.programs_fit(len(first.layers), first.experts, cluster.gpus):
            out.append(f"the integer programs of {request.method} are too large here: exchanges search in their place")
    if request.workload_weights is not None:
        out.append(f"workloads averaged with weights {', '.join(f'{weight:g}' for weight in request.workload_weights)}")
    elif len(workloads.routings) > 1:
        out.append("load counts in the worst workload, traffic in the mean of all")
    return tuple(out)
