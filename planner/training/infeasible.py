"""Why nothing fits, and the smallest change that would."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np

from shardwright.solvers import Work

from ..errors import Infeasible
from ..strategy import Constraints
from ..workload.legality import facts
from .context import Context
from .search import Found, Search, evaluated, search
from .space import Nodes, Space

_TRIED = 400_000


def infeasible(context: Context, space: Space, found: Search) -> Infeasible:
    """The error for a job without a plan: the binding constraint and the nearest feasible change."""
    if len(found.nodes) == 0 or space.count(found.nodes) == 0:
        return Infeasible(f"no strategy is legal: {_legal_change(context, space)}")
    fastest = _fastest(context, space)
    if fastest is not None:
        return _too_slow(context, fastest)
    leanest = found.leanest or _leanest(context, space, found.nodes)
    label = leanest.table.row(0).label()
    return Infeasible(
        f"memory binds: the leanest strategy ({label}) needs {leanest.memory_bytes / 1e9:.1f} GB "
        f"on its fullest device but {context.usable_bytes / 1e9:.1f} GB may be used; "
        f"{_memory_change(context, space, leanest.memory_bytes)}"
    )


def _fastest(context: Context, space: Space) -> Found | None:
    """The fastest strategy that fits, where a time limit was given."""
    if context.job.time_limit_s is None:
        return None
    goal = replace(context.goal, objective="step_s", time_limit_s=math.inf)
    return search(space, context.costs, goal, keep=1).outcome.solution.point


def _too_slow(context: Context, fastest: Found) -> Infeasible:
    return Infeasible(
        f"time binds: no strategy that fits takes at most {context.job.time_limit_s} s per step; the fastest "
        f"({fastest.table.row(0).label()}) takes {fastest.step_s:.4g} s: a time_limit_s of that lets it fit"
    )


def _leanest(context: Context, space: Space, nodes: Nodes) -> Found:
    """The leaf that needs least, of all nodes or of a part of them spread over the space."""
    chosen = np.arange(0, len(nodes), max(1, space.count(nodes) // _TRIED))
    table, _ = space.leaves(nodes, chosen)
    measures = evaluated(context.costs, table)
    least = int(np.argmin(measures.memory_bytes))
    return Found(table.take(np.array([least])), float(measures.step_s[least]), float(measures.memory_bytes[least]))


def _without(constraints: Constraints, name: str) -> Constraints:
    return msgspec.structs.replace(constraints, **{name: None if name == "sp" else ()})


def _given(constraints: Constraints) -> list[str]:
    return [name for name in constraints.__struct_fields__ if getattr(constraints, name) not in (None, ())]


def _again(context: Context, space: Space, constraints: Constraints) -> Space:
    return Space(space.chain, space.facts, replace(space.scope, constraints=constraints))


def _legal_change(context: Context, space: Space) -> str:
    """Which single constraint, or which batch or device count, stands in the way."""
    job, devices = context.job, context.topology.n_devices
    for name in _given(job.constraints):
        relaxed = _again(context, space, _without(job.constraints, name))
        nodes = relaxed.nodes()
        if len(nodes) and relaxed.count(nodes):
            return f"dropping the constraint on {name} would make {relaxed.count(nodes)} legal"
    for factor in (2, 4, 8, 16, 32, 64):
        larger = msgspec.structs.replace(job, gbs=job.gbs * factor)
        wider = Space(space.chain, facts(context.model, larger, devices), space.scope)
        nodes = wider.nodes()
        if len(nodes) and wider.count(nodes):
            return (
                f"gbs {job.gbs} cannot be divided over {devices} devices by any legal tp, cp and pp; "
                f"gbs {larger.gbs} can"
            )
    return (
        f"no tp × cp × pp × dp of {devices} devices suits {len(space.chain.layers)} layers, "
        f"{', '.join(map(str, space.facts.heads))} heads and gbs {job.gbs}; another number of devices would"
    )


def _memory_change(context: Context, space: Space, smallest: float) -> str:
    """The nearest change that fits: states divided in pipelines, a constraint dropped, less margin, or more memory."""
    if not space.choices.divides_pipelines():
        scope = replace(space.scope, explore=(*space.scope.explore, "pipeline_sharding"))
        wider = Space(space.chain, space.facts, scope)
        outcome = search(wider, context.costs, context.goal, keep=1, stop=Work(_TRIED)).outcome
        if outcome.solution.point is not None:
            return f"exploring pipeline_sharding lets {outcome.solution.point.table.row(0).label()} fit"
    for name in _given(context.job.constraints):
        relaxed = _again(context, space, _without(context.job.constraints, name))
        outcome = search(relaxed, context.costs, context.goal, keep=1).outcome
        if outcome.solution.point is not None:
            label = outcome.solution.point.table.row(0).label()
            return f"dropping the constraint on {name} lets {label} fit"
    capacity = context.costs.device.memory_bytes
    if smallest <= capacity:
        margin = 1 - smallest / capacity
        return f"a memory margin of {margin:.3f} or less instead of {context.job.memory_margin} lets it fit"
    needed = smallest / (1 - context.job.memory_margin)
    return f"devices of {needed / 1e9:.0f} GB, or about {smallest / capacity:.1f} times as many devices, would fit"
