"""A layer placement checked from first principles: who holds what, what flows where, and that no more could."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shardwright.models import parameters

from ..inputs import restored_model, restored_topology
from ..plan.fleet import FleetPlan
from ..plan.layer_placement import SINK, SOURCE, Chains, LayerPlacement
from .common import TOLERANCE, close, optimality_problems

LEAST_WEIGHT_BYTES = 0.5
UNITS_PER_TOKEN = 1_000
"""Maximum flow is counted in whole thousandths of a token per second."""


def placement_problems(plan: FleetPlan, placement: LayerPlacement) -> list[str]:
    """One sentence for everything that does not hold."""
    case = _case(plan)
    found: list[str] = []
    for name, chains in (("best", placement.best), ("capped", placement.capped)):
        where = f"placement.{name}"
        found += [*_streams(chains, placement.layers, where), *_given(chains, case, placement.layers, where)]
        if any(record.role == "topology" for record in plan.inputs):
            found += _fits(plan, chains, placement.layers, where)
        if not found:
            found += [*_way(chains, placement, where), *_maximum(chains, placement.layers, where)]
    limit = placement.latency_limit_s
    if limit is not None and placement.capped.token_s > limit * (1 + TOLERANCE):
        found.append(f"placement.capped takes {placement.capped.token_s:.6g} s a token but the limit is {limit:.6g} s")
    return [*found, *_bounds(plan, placement), *optimality_problems(plan.optimality, placement.best.tokens_per_s)]


def _bounds(plan: FleetPlan, placement: LayerPlacement) -> Iterator[str]:
    """The bound of the best placement is the plan's, and the one under a cap carries no more."""
    best, capped = placement.best, placement.capped
    if not _same(best.bound_tokens_per_s, plan.optimality.bound):
        yield (
            f"placement.best.bound_tokens_per_s is {best.bound_tokens_per_s:.6g} "
            f"but optimality.bound is {plan.optimality.bound:.6g}"
        )
    if capped.tokens_per_s > best.tokens_per_s * (1 + TOLERANCE):
        yield "placement.capped carries more than placement.best"


def _case(plan: FleetPlan) -> Mapping[str, object]:
    """The document that the plan was made from; empty where the numbers came from elsewhere."""
    document = next((record.document for record in plan.inputs if record.role == "measured"), None)
    return document if isinstance(document, dict) else {}


def _streams(chains: Chains, layers: int, where: str) -> Iterator[str]:
    """Streams join consecutive layers, fit their links, and what enters a node leaves it."""
    holders = {holder.node: holder for holder in chains.holders}
    begins = {name: holder.start for name, holder in holders.items()} | {SINK: layers}
    ends = {name: holder.end for name, holder in holders.items()} | {SOURCE: 0}
    entering, leaving = dict.fromkeys(begins, 0.0), dict.fromkeys(ends, 0.0)
    for stream in chains.streams:
        link = f"{where}: the stream from {stream.source} to {stream.target}"
        if stream.source == SINK or stream.target == SOURCE:
            yield f"{link} runs the wrong way"
            continue
        if ends[stream.source] != begins[stream.target]:
            yield f"{link} leaves after layer {ends[stream.source]} but enters at layer {begins[stream.target]}"
        if not 0 <= stream.tokens_per_s <= stream.capacity_tokens_per_s * (1 + TOLERANCE):
            yield f"{link} is {stream.tokens_per_s:.6g} tokens/s but the link passes {stream.capacity_tokens_per_s:.6g}"
        leaving[stream.source] += stream.tokens_per_s
        entering[stream.target] += stream.tokens_per_s
    for name, holder in holders.items():
        if not _same(entering[name], leaving[name]):
            yield f"{where}: {entering[name]:.6g} tokens/s enter node {name} but {leaving[name]:.6g} leave it"
        if entering[name] > holder.tokens_per_s * (1 + TOLERANCE):
            yield f"{where}: node {name} passes {entering[name]:.6g} tokens/s but can only {holder.tokens_per_s:.6g}"
        if entering[name] > 0 and holder.end == holder.start:
            yield f"{where}: node {name} passes tokens but holds no layer"
    for name, total in (("the source", leaving[SOURCE]), ("the sink", entering[SINK])):
        if not _same(total, chains.tokens_per_s):
            yield f"{where}: {total:.6g} tokens/s pass {name} but tokens_per_s is {chains.tokens_per_s:.6g}"


def _given(chains: Chains, case: Mapping[str, object], layers: int, where: str) -> Iterator[str]:
    """Throughputs and links are those of the case file, and the bound is no looser than the capacity of the nodes."""
    tables, links, types = (case.get(name) for name in ("throughput_tokens_per_s", "links_tokens_per_s", "node_types"))
    if not isinstance(tables, dict) or not isinstance(links, dict) or not isinstance(types, list):
        return
    if not _numbers(links) or not all(_numbers(tables.get(name), whole_names=True) for name in map(str, types)):
        yield f"{where}: the case file kept in the plan has no throughput of every node type, or holds no numbers"
        return
    if case.get("layers") != layers or types != [holder.type for holder in chains.holders]:
        yield f"{where}: layers and holders are not those of the case file"
        return
    for holder in chains.holders:
        size = holder.end - holder.start
        given = tables[holder.type].get(str(size), 0.0) if size else 0.0
        if not close(given, holder.tokens_per_s):
            yield f"{where}: node {holder.node} passes {given:.6g} tokens/s with {size} layers by the case file"
        held = [int(layer) * tokens for layer, tokens in tables[holder.type].items() if int(layer) <= layers]
        pace = max(held, default=0.0)
        if not close(pace, holder.layer_tokens_per_s):
            yield f"{where}: node {holder.node} does {pace:.6g} layers times tokens/s at best by the case file"
    for stream in chains.streams:
        given = links.get(f"{stream.source}_{stream.target}", 0.0)
        if not close(given, stream.capacity_tokens_per_s):
            yield f"{where}: the link from {stream.source} to {stream.target} passes {given:.6g} by the case file"
    work = sum(max((int(size) * tokens for size, tokens in tables[name].items()), default=0.0) for name in types)
    if chains.bound_tokens_per_s > work / layers * (1 + TOLERANCE):
        yield f"{where}: the bound {chains.bound_tokens_per_s:.6g} is above what the nodes can do, {work / layers:.6g}"


def _numbers(table: object, *, whole_names: bool = False) -> bool:
    """Whether a value maps names, whole numbers where asked, to numbers."""
    return isinstance(table, dict) and all(
        isinstance(value, int | float) and (not whole_names or (name.isdecimal() and len(name) < 10))
        for name, value in table.items()
    )


def _fits(plan: FleetPlan, chains: Chains, layers: int, where: str) -> Iterator[str]:
    """Layers are those of the model, nodes and links those of the topology, and even the narrowest weights fit."""
    model, topology = restored_model(plan), restored_topology(plan)
    names = {name: at for at, name in enumerate(topology.node_names)}
    if layers != model.num_layers or [holder.node for holder in chains.holders] != list(names):
        yield f"{where}: layers and nodes are not those of the model and the topology"
        return
    layer_bytes = LEAST_WEIGHT_BYTES * parameters(model) / layers
    for holder in chains.holders:
        devices = topology.device_accelerator[topology.device_node == names[holder.node]]
        memory = sum(topology.accelerators[int(at)].memory_bytes for at in devices)
        if (holder.end - holder.start) * layer_bytes > memory:
            yield f"{where}: {holder.end - holder.start} layers do not fit node {holder.node}, whatever their format"
    for stream in chains.streams:
        if stream.source in names and stream.target in names:
            rate = float(topology.node_bandwidth_bytes_per_s[names[stream.source], names[stream.target]])
            if stream.tokens_per_s * model.hidden_size > rate * (1 + TOLERANCE):
                yield f"{where}: the link from {stream.source} to {stream.target} cannot carry the stream"


def _way(chains: Chains, placement: LayerPlacement, where: str) -> Iterator[str]:
    """Stages and seconds of the longest way, against what the plan says and the limit of stages."""
    reached = {stream.target for stream in chains.streams}
    idle = [holder.node for holder in chains.holders if holder.node in reached and not holder.layer_tokens_per_s > 0]
    adrift = {stream.source for stream in chains.streams} - reached - {SOURCE}
    if SINK not in reached or adrift or idle:
        yield f"{where}: streams do not lead from the source to the sink over nodes that pass tokens"
        return
    visits, seconds = {SOURCE: 0}, {SOURCE: 0.0}
    held = {holder.node: holder for holder in chains.holders}
    order = sorted({stream.target for stream in chains.streams} - {SINK}, key=lambda name: held[name].start)
    for name in [*order, SINK]:
        before = [stream.source for stream in chains.streams if stream.target == name]
        pace = 0.0
        if name != SINK:
            holder = held[name]
            pace = placement.batch * (holder.end - holder.start) / holder.layer_tokens_per_s
        visits[name] = max(visits[each] for each in before) + (name != SINK)
        seconds[name] = max(seconds[each] for each in before) + pace + placement.hop_s
    if visits[SINK] != chains.stages:
        yield f"{where}.stages is {chains.stages} but a token visits up to {visits[SINK]} nodes"
    if not close(seconds[SINK], chains.token_s):
        yield f"{where}.token_s is {chains.token_s:.6g} but the longest way takes {seconds[SINK]:.6g} s"
    if chains.stage_limit is not None and chains.stages > chains.stage_limit:
        yield f"{where}: {chains.stages} stages exceed the limit of {chains.stage_limit}"
    if chains.tokens_per_s > chains.bound_tokens_per_s * (1 + TOLERANCE):
        yield f"{where}: {chains.tokens_per_s:.6g} tokens/s exceed the bound {chains.bound_tokens_per_s:.6g}"


def _maximum(chains: Chains, layers: int, where: str) -> Iterator[str]:
    """No more can flow over the links that are used: networkx's maximum flow of the same nodes and links."""
    import networkx as nx

    graph: Any = nx.DiGraph()
    for holder in chains.holders:
        if holder.end > holder.start:
            graph.add_edge((holder.node, "in"), (holder.node, "out"), capacity=_whole(holder.tokens_per_s))
    for stream in chains.streams:
        tail = SOURCE if stream.source == SOURCE else (stream.source, "out")
        head = SINK if stream.target == SINK else (stream.target, "in")
        graph.add_edge(tail, head, capacity=_whole(stream.capacity_tokens_per_s))
    most = nx.maximum_flow_value(graph, SOURCE, SINK) / UNITS_PER_TOKEN
    if abs(most - chains.tokens_per_s) > TOLERANCE * most + len(chains.streams) / UNITS_PER_TOKEN:
        yield f"{where}: tokens_per_s is {chains.tokens_per_s:.6g} but its nodes and links pass {most:.6g}"


def _whole(tokens_per_s: float) -> int:
    return round(tokens_per_s * UNITS_PER_TOKEN)


def _same(left: float, right: float) -> bool:
    return abs(left - right) <= TOLERANCE * max(left, right, 1.0)
