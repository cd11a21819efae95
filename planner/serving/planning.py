"""Plan or estimate a serving deployment: the public functions of this room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from shardwright.models import ModelGraph
from shardwright.topologies import Topology

from ..costs.serving.shapes import check_layout
from ..errors import Infeasible, InputError, input_errors
from ..plan.base import Input
from ..plan.serving import Hour, ServingPlan
from ..workload.serving import LengthBin, Load, ServingJob, Trace
from ..workload.serving_layout import Layout, LayoutConstraints
from .choices import Choice
from .closed_loop import run as run_closed
from .closed_loop import search_concurrency
from .deployments import PoolOf, Proposal
from .modes import search_mode
from .open_loop import Found, search_rate, value_of
from .placement import Placement, place
from .pools import Option, Phase, fewest
from .problem import Problem, problem_of
from .readback import plan_of
from .resilience import node_loss
from .runs import run as run_open

TRACE_BINS = 256
HOUR_REQUESTS = 300, 8000


def plan_serving(
    model: ModelGraph,
    topology: Topology,
    job: ServingJob,
    *,
    trace: Trace | None = None,
    hours: Sequence[tuple[str, float]] = (),
    inputs: tuple[Input, ...] = (),
) -> ServingPlan:
    """The best deployment of a model for a load, its targets met in simulation.

    With `hours` the pools are sized for the busiest hour and scaled for every other. Raises Infeasible with the
    nearest attainable target or rate when no deployment meets the targets, InputError for what contradicts itself.
    """
    with input_errors():
        problem = problem_of(model, topology, job, trace)
        found = _search(problem)
        placement = _place(problem, found.proposal)
        if placement is None:
            problem = problem_of(model, topology, job, trace, even=True)
            found = _search(problem)
            placement = _placed(problem, found.proposal)
        loss = node_loss(problem, found.proposal, placement) if not found.proposal.shared else None
        schedule = _hours(problem, found, hours) if hours else ()
        return plan_of(problem, found, placement, inputs, (loss, schedule))


def estimate_serving(
    model: ModelGraph,
    topology: Topology,
    job: ServingJob,
    layouts: Sequence[tuple[str, Layout, int]],
    *,
    trace: Trace | None = None,
    inputs: tuple[Input, ...] = (),
) -> ServingPlan:
    """What one given deployment sees of a load: (phase, layout, workers) for every pool, phases as in PoolPlan.

    Nothing is searched and targets may be missed; `targets_met` says so. Raises InputError when a layout does not fit
    the model or the cluster, Infeasible when it does not fit in memory.
    """
    with input_errors():
        total = sum(layout.devices * workers for _, layout, workers in layouts)
        if not layouts or total > topology.n_devices:
            raise InputError(f"layouts need {total} devices but {topology.name} has {topology.n_devices}")
        for phase, layout, workers in layouts:
            if workers < 1:
                raise InputError(f"workers of the {phase} pool must be at least 1 but got {workers}")
            check_layout(model, layout)
        if len({phase for phase, _, _ in layouts} & {"prefill", "decode"}) == 1:
            raise InputError("prefill and decode workers need each other: give both phases, or aggregated workers")
        pools: list[PoolOf] = []
        problem: Problem | None = None
        for phase, layout, workers in layouts:
            problem = problem_of(model, topology, only(job, layout), trace)
            exact = [each for each in problem.types if each.layout == layout]
            if not exact:
                raise InputError(f"layout {layout.label()} is not one that {topology.name} can hold")
            pools.append(PoolOf(exact[0], _phase(phase), workers))
        assert problem is not None
        proposal = Proposal(tuple(pools))
        load = job.load
        outcome = (
            run_closed(problem, proposal, load.concurrency)
            if load.concurrency is not None
            else run_open(problem, proposal, load.rate_per_s or 0.0)
        )
        value = value_of(problem, proposal, outcome)
        found = Found(proposal, outcome, value, value, 1, 1)
        return plan_of(problem, found, _placed(problem, proposal), inputs, (None, ()))


def load_of_trace(trace: Trace, concurrency: int | None = None) -> Load:
    """A load with the trace's mean rate (or a concurrency) and its lengths, thinned to 256 requests."""
    at = np.unique(np.linspace(0, len(trace) - 1, min(TRACE_BINS, len(trace))).astype(int))
    bins = tuple(LengthBin(isl=int(trace.prompt_tokens[i]), osl=int(trace.output_tokens[i])) for i in at)
    cached = float(trace.cached_tokens.sum() / trace.prompt_tokens.sum())
    if concurrency is not None:
        return Load(lengths=bins, concurrency=concurrency, cached=min(cached, 0.99))
    rate = trace.rate_per_s
    if not np.isfinite(rate):
        raise InputError(f"trace {trace.name}: all requests arrive at once; give a concurrency or a rate")
    return Load(lengths=bins, rate_per_s=rate, cached=min(cached, 0.99))


def _phase(name: str) -> Phase:
    phases: dict[str, Phase] = {"aggregated": "aggregated", "prefill": "prefill", "decode": "decode"}
    return phases[name]


def only(job: ServingJob, layout: Layout) -> ServingJob:
    """The job held to one layout."""
    degrees = {name: (getattr(layout, name),) for name in ("tp", "pp", "attn_dp", "cp", "ep", "moe_tp")}
    return msgspec.structs.replace(job, constraints=LayoutConstraints(**degrees))


def _search(problem: Problem) -> Found:
    if problem.job.mode in ("shared", "afd"):
        return search_mode(problem)
    return search_concurrency(problem) if problem.job.load.concurrency is not None else search_rate(problem)


def _placed(problem: Problem, proposal: Proposal) -> Placement:
    found = _place(problem, proposal)
    if found is None:
        raise Infeasible(
            f"{proposal.label()} cannot be placed on {problem.topology.name}: its scale-up domains are too small"
        )
    return found


def _place(problem: Problem, proposal: Proposal) -> Placement | None:
    pools = [pool for pool in proposal.pools if not (proposal.shared and pool.phase == "decode")]
    workers = [pool.worker for pool in pools for _ in range(pool.workers)]
    found = place(problem.topology, workers)
    return Placement(found.devices * 2) if found is not None and proposal.shared else found


def _hours(problem: Problem, found: Found, hours: Sequence[tuple[str, float]]) -> tuple[Hour, ...]:
    """The fewest workers of the plan's own kinds for every hour's rate, the targets of each hour met in simulation."""
    options: list[Option] = [
        Choice(pool.worker, pool.phase, pool.rate, pool.rate).option() for pool in found.proposal.pools
    ]
    supply = [0] * len(problem.kinds)
    for pool in found.proposal.pools:
        supply[problem.kinds.index(pool.worker.kind)] += pool.workers * pool.worker.devices
    rows: list[Hour] = []
    for name, rate in hours:
        workers, met = tuple(0 for _ in options), True
        wanted = rate
        while rate > 0:
            counts = fewest(options, supply, wanted)
            workers = counts.workers if counts is not None else tuple(pool.workers for pool in found.proposal.pools)
            outcome = run_open(problem, _scaled(found.proposal, workers), rate, HOUR_REQUESTS)
            met = outcome.meets(problem.job.targets)
            if met or counts is None:
                break
            wanted *= 1.1
        devices = _scaled(found.proposal, workers).devices
        rows.append(Hour(hour=name, rate_per_s=rate, workers=workers, devices=devices, targets_met=met))
    return tuple(rows)


def _scaled(proposal: Proposal, workers: Sequence[int]) -> Proposal:
    """The proposal with other numbers of workers; pools without any are left out."""
    pools = (replace(pool, workers=number) for pool, number in zip(proposal.pools, workers, strict=True) if number)
    return replace(proposal, pools=tuple(pools))
