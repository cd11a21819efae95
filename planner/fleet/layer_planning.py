"""From a cluster of unequal nodes to a plan: place the layers for the most flow, then again under a latency cap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version

import msgspec
import numpy as np

from shardwright.solvers import Solution, Status, relative_gap
from shardwright.solvers.flow import ChainFlow, Placement, fewest_hops, solve

from ..errors import Infeasible, InputError, LimitReached
from ..plan.base import Alternative, Optimality, Provenance
from ..plan.fleet import FleetPlan
from ..plan.layer_placement import SINK, SOURCE, Chains, Holder, LayerPlacement, Simulated, Stream
from .layer_case import Floats, LayerCase

OBJECTIVE = "tokens per second through the layers"
SLOW_TYPES = 4


@dataclass(frozen=True, slots=True)
class LayerRequest:
    """What caps the second placement: the stages that a token may visit, or the time it may take.

    Without either the cap is halfway between the fewest stages possible and those of the placement of most flow.
    A token takes, for every layer, the time of `batch` tokens at the best pace of the node that holds it, and `hop_s`
    for every link. Raises InputError when a number is out of range.
    """

    max_stages: int | None = None
    latency_s: float | None = None
    batch: int = 32
    hop_s: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_stages is not None and self.max_stages < 1:
            raise InputError(f"max_stages must be at least 1 but is {self.max_stages}")
        if self.max_stages is not None and self.latency_s is not None:
            raise InputError("a cap is given by max_stages or by latency, not by both")
        if self.latency_s is not None and not self.latency_s > 0:
            raise InputError(f"latency must be positive but is {self.latency_s:g} s")
        if self.batch < 1:
            raise InputError(f"batch must be at least 1 but is {self.batch}")
        if not self.hop_s >= 0:
            raise InputError(f"the time of a hop must be at least 0 but is {self.hop_s:g} s")


def plan_layers(
    case: LayerCase,
    request: LayerRequest,
    simulated: Callable[[Chains], Simulated] | None = None,
    notes: tuple[str, ...] = (),
) -> FleetPlan:
    """The placements of most flow, free and capped; `simulated` adds what a simulation says of either.

    Raises Infeasible when the nodes cannot hold the layers or the cap cannot be kept, LimitReached when no placement
    was found that anything flows through.
    """
    problem = ChainFlow(case.layers, case.throughput, case.link)
    found = _solved(problem, request)
    best = _chains(case, problem, found, request)
    capped = _capped(case, problem, best, request)
    if simulated is not None:
        same = capped.holders == best.holders
        best = msgspec.structs.replace(best, simulated=simulated(best))
        capped = msgspec.structs.replace(capped, simulated=best.simulated if same else simulated(capped))
    return FleetPlan(
        inputs=case.sources,
        optimality=Optimality(
            objective=OBJECTIVE,
            sense="max",
            value=best.tokens_per_s,
            bound=best.bound_tokens_per_s,
            gap=relative_gap(best.tokens_per_s, best.bound_tokens_per_s),
            status="optimal" if found.status is Status.OPTIMAL else "feasible",
            work=found.work,
        ),
        assumptions=(*notes, *_assumptions(request)),
        alternatives=(
            Alternative(
                label=f"at most {capped.stage_limit} stages"
                if request.latency_s is None
                else f"at most {request.latency_s:.3g} s a token",
                value=capped.tokens_per_s,
                why=f"{capped.stages} stages instead of {best.stages}, "
                f"{capped.token_s:.3g} s a token instead of {best.token_s:.3g} s",
            ),
        ),
        provenance=Provenance(
            tool_version=version("shardwright"),
            seed=request.seed,
            solver="flow",
            libraries={name: version(name) for name in ("numpy", "ortools")},
        ),
        placement=LayerPlacement(
            layers=case.layers,
            batch=request.batch,
            hop_s=request.hop_s,
            latency_limit_s=request.latency_s,
            best=best,
            capped=capped,
        ),
    )


def _solved(problem: ChainFlow, request: LayerRequest) -> Solution[Placement]:
    found = solve(problem, seed=request.seed)
    if found.status is Status.INFEASIBLE:
        fewest = fewest_hops(problem)
        reason = found.reason if fewest is None else f"{problem.max_hops} stages are allowed but {fewest} are needed"
        raise Infeasible(f"placement: {reason}")
    if found.point is None:
        raise LimitReached(f"placement: {found.reason}; look for links that are missing")
    return found


def _capped(case: LayerCase, problem: ChainFlow, best: Chains, request: LayerRequest) -> Chains:
    fewest = fewest_hops(problem)
    assert fewest is not None
    if request.latency_s is not None:
        return _within_latency(case, problem, best, request)
    limit = request.max_stages or fewest + (best.stages - fewest) // 2
    if best.stages <= limit:
        return msgspec.structs.replace(best, stage_limit=limit)
    limited = replace(problem, max_hops=limit)
    capped = _chains(case, limited, _solved(limited, request), request)
    # What no placement at all passes, no capped one does.
    bound = max(min(capped.bound_tokens_per_s, best.bound_tokens_per_s), capped.tokens_per_s)
    return msgspec.structs.replace(capped, bound_tokens_per_s=bound)


def _within_latency(case: LayerCase, problem: ChainFlow, best: Chains, request: LayerRequest) -> Chains:
    """The most flow within the latency, over limits of stages and over the slowest types left out one by one."""
    assert request.latency_s is not None
    if best.token_s <= request.latency_s:
        return best
    pace = best_pace(case)
    tried = [best]
    for slowest in np.unique(pace)[:SLOW_TYPES].tolist():
        fast = replace(problem, throughput=np.where(pace[:, None] >= slowest, problem.throughput, 0.0))
        fewest = fewest_hops(fast)
        if fewest is None:
            break
        for limit in sorted({fewest, (fewest + best.stages) // 2, best.stages}):
            limited = replace(fast, max_hops=limit)
            found = solve(limited, seed=request.seed)
            if found.point is not None:
                tried.append(_chains(case, limited, found, request))
    kept = [chains for chains in tried if chains.token_s <= request.latency_s]
    if not kept:
        nearest = min(tried, key=lambda chains: chains.token_s)
        raise Infeasible(
            f"placement: no placement found takes at most {request.latency_s:.3g} s a token; "
            f"the nearest takes {nearest.token_s:.3g} s over {nearest.stages} stages with batches of {request.batch}"
        )
    found_best = max(kept, key=lambda chains: chains.tokens_per_s)
    return msgspec.structs.replace(found_best, stage_limit=None, bound_tokens_per_s=best.bound_tokens_per_s)


def best_pace(case: LayerCase) -> Floats:
    """The most layers times tokens per second that every node does with any number of layers."""
    pace: Floats = (case.throughput * np.arange(1, case.throughput.shape[1] + 1)).max(1)
    return pace


def _chains(case: LayerCase, problem: ChainFlow, found: Solution[Placement], request: LayerRequest) -> Chains:
    """The placement read back; nodes that nothing flows through hold nothing."""
    assert found.point is not None
    placement, nodes = found.point, problem.nodes
    names = [*case.names, SOURCE, SINK]
    busy = {end for a, b, _ in placement.edges for end in (a, b)}
    pace = best_pace(case).tolist()
    holders = []
    for node, (start, end) in enumerate(zip(placement.start, placement.end, strict=True)):
        held = end - start if node in busy else 0
        passes = float(problem.throughput[node, held - 1]) if held else 0.0
        holders.append(
            Holder(
                node=names[node],
                type=case.types[node],
                start=start if held else 0,
                end=end if held else 0,
                tokens_per_s=passes,
                layer_tokens_per_s=pace[node],
            )
        )
    streams = tuple(
        Stream(
            source=names[a],
            target=names[b],
            tokens_per_s=flow,
            capacity_tokens_per_s=float(problem.link[a, b]),
        )
        for a, b, flow in sorted(placement.edges, key=lambda edge: (edge[0] != nodes, edge[:2]))
    )
    stages, token_s = longest_way(holders, streams, request)
    return Chains(
        tokens_per_s=found.value,
        bound_tokens_per_s=found.bound,
        stages=stages,
        stage_limit=problem.max_hops,
        token_s=token_s,
        holders=tuple(holders),
        streams=streams,
    )


def longest_way(holders: list[Holder], streams: tuple[Stream, ...], request: LayerRequest) -> tuple[int, float]:
    """The most nodes that a token visits and the longest time that it takes, every used way considered."""
    visits, seconds = {SOURCE: 0}, {SOURCE: 0.0}
    for holder in sorted((each for each in holders if each.end > each.start), key=lambda each: each.start):
        before = [stream.source for stream in streams if stream.target == holder.node]
        visits[holder.node] = 1 + max(visits[name] for name in before)
        layers_s = request.batch * (holder.end - holder.start) / holder.layer_tokens_per_s
        seconds[holder.node] = layers_s + request.hop_s + max(seconds[name] for name in before)
    last = [stream.source for stream in streams if stream.target == SINK]
    return max(visits[name] for name in last), request.hop_s + max(seconds[name] for name in last)


def _assumptions(request: LayerRequest) -> tuple[str, ...]:
    return (
        "a node passes the throughput of the layers it holds, whatever share of them a request needs",
        f"a token takes the time of {request.batch} tokens at its node's best pace for every layer, "
        f"and {1e3 * request.hop_s:g} ms for every link",
        "a node passes what it does with a full batch: enough requests, and their caches, must be in flight to fill it",
    )
