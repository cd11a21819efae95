"""The scores of a placement counted again from the routing files that the plan was made from, where they lie."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from shardwright.models import ModelError, Routing, read_routing, routing_from_ids, split_tokens
from shardwright.topologies import Topology

from ..files import is_file
from ..inputs import restored_topology, routing_input
from ..plan.experts import ExpertPlan, WorkloadScore
from .expert_walk import Links, reach, walk

SINGLE = 1e-5


def load_problems(plan: ExpertPlan) -> Iterator[str]:
    """One sentence for every figure of a workload that is not the placement's: tokens, loads, traffic and reach.

    Scores on held-out tokens of a plan that used them all are of another placement, made alike, and not counted.
    """
    yield from _named(plan)
    links = _links(plan)
    if links is None:
        return
    try:
        counted = {routing.name: routing for routing in _routings(plan)}
    except ModelError as error:
        yield f"reading: {error}"
        return
    for at, score in enumerate(plan.scores):
        whole = counted.get(score.workload)
        if whole is None or (score.held_out and not plan.reading.held_out):
            continue
        if (whole.experts, tuple(whole.layers.tolist())) != (plan.experts, plan.moe_layers):
            yield f"scores[{at}]: {score.workload} has other layers or experts than the plan"
            continue
        try:
            routing = _part(whole, plan.reading.held_out, last=score.held_out)
        except ModelError as error:
            yield f"reading: {error}"
            continue
        for name, found in _score(plan, routing, links).items():
            claimed = getattr(score, name)
            if (claimed is None) != (found is None) or (
                found is not None and not math.isclose(claimed, found, rel_tol=SINGLE, abs_tol=1e-12)
            ):
                made = "none can be told" if found is None else f"the placement makes {found:.6g}"
                yield f"scores[{at}]: {name} is {claimed if claimed is None else format(claimed, '.6g')} but {made}"


def _named(plan: ExpertPlan) -> Iterator[str]:
    """Scores are of the routing files, or of arrays in them."""
    sources = [record.source for record in plan.inputs if record.role == "routing"]
    for at, score in enumerate(plan.scores):
        if sources and score.workload not in sources and score.workload.rpartition(" [")[0] not in sources:
            yield f"scores[{at}]: {score.workload} is none of the routing files {', '.join(sources)}"


def returning_value(plan: ExpertPlan, score: WorkloadScore) -> float | None:
    """The value of objective fanout on equal GPUs, where every device is home to as many tokens: a GPU reached costs
    one unless it is home, and a node that is not home's what its links cost more; None on a topology's links."""
    if plan.link_ratio is None or score.fanout_gpus is None or score.fanout_nodes is None:
        return None
    away_gpu, away_node = 1 - 1 / plan.gpus, 1 - plan.gpus_per_node / plan.gpus
    reached = away_gpu * score.fanout_gpus + (plan.link_ratio - 1) * away_node * score.fanout_nodes
    return reached + plan.load_weight * score.load_ratio


def _score(plan: ExpertPlan, routing: Routing, links: Links) -> dict[str, float | None]:
    rows = [[np.asarray(gpus, dtype=np.int64) for gpus in plan.placement[layer]] for layer in plan.moe_layers]
    found = walk(rows, routing, links, evenly=plan.objective == "load")
    peaks = (found.load / links.speed).max(axis=1) * links.speed.sum()
    hops = heaviest = None
    if found.flow is not None:
        priced = found.flow * links.cost
        hops, heaviest = float(priced.sum()), float(priced.max())
    gpus, nodes = (None, None) if routing.top_ids is None else reach(rows, routing.top_ids, links)
    return {
        "tokens": routing.weight,
        "load_ratio": float(peaks.mean()),
        "load_ratio_p95": float(np.interp(0.95 * (len(peaks) - 1), np.arange(len(peaks)), np.sort(peaks))),
        "load_ratio_worst": float(peaks.max()),
        "traffic": None if hops is None else hops / (len(rows) - 1),
        "hops_per_token": hops,
        "heaviest_pair": heaviest,
        "fanout_gpus": gpus,
        "fanout_nodes": nodes,
    }


def _part(routing: Routing, held_out: float, *, last: bool) -> Routing:
    return split_tokens(routing, held_out)[int(last)] if held_out else routing


def _routings(plan: ExpertPlan) -> Iterator[Routing]:
    reading = plan.reading
    for record in plan.inputs:
        if record.role != "routing" or not is_file(record.source):
            continue
        if routing_input(record.source).sha256 == record.sha256:
            for routing in read_routing(record.source, array=reading.array, top=reading.top):
                yield _widened(routing, plan.experts)


def _widened(routing: Routing, experts: int) -> Routing:
    """A trace in which the last experts never occur, with as many as the plan has."""
    if routing.top_ids is None or routing.experts >= experts:
        return routing
    wider = routing_from_ids(routing.name, routing.top_ids, experts=experts)
    return Routing(
        wider.name, wider.loads, routing.layers, routing.rows, wider.transitions, wider.top_ids, wider.weight
    )


def _links(plan: ExpertPlan) -> Links | None:
    """The links that the plan was made for; None where neither a ratio nor a topology tells them."""
    if any(record.role == "topology" for record in plan.inputs):
        return _measured_links(restored_topology(plan))
    if plan.link_ratio is None or not 1 <= plan.gpus_per_node <= plan.gpus:
        return None
    node = np.arange(plan.gpus) // plan.gpus_per_node
    cost = np.where(node[:, None] == node, 1.0, plan.link_ratio)
    np.fill_diagonal(cost, 0.0)
    return Links(cost, node, np.ones(plan.gpus))


def _measured_links(topology: Topology) -> Links:
    """A byte's time on every link over that on the fastest; speeds by bf16 peak, or by memory where one has none."""
    devices = np.arange(topology.n_devices)
    pairs = np.broadcast_arrays(devices[:, None], devices[None, :])
    off = pairs[0] != pairs[1]
    rate = topology.bandwidth_bytes_per_s(pairs[0][off], pairs[1][off])
    cost = np.zeros((topology.n_devices, topology.n_devices))
    cost[off] = rate.max(initial=0.0) / rate
    kinds = [topology.accelerators[kind] for kind in topology.device_accelerator.tolist()]
    peaks = [kind.peak_flops.get("bf16") for kind in kinds]
    speed = [kind.memory_bytes_per_s for kind in kinds] if None in peaks else [peak for peak in peaks if peak]
    return Links(cost, np.asarray(topology.device_node, dtype=np.int64), np.asarray(speed, dtype=np.float64))
