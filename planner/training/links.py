"""Links as measured: which strategy and which order of nodes suit them, and what the slow ones cost."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Topology, parse_topology

from ..costs.network import MappedNetwork
from ..costs.step import TrainingCosts
from ..plan.base import Term
from ..workload.strategy_table import StrategyTable
from .apart import ApartCosts, KindsNetwork, crossings_of, kinds_network
from .context import Context
from .mapping import node_order
from .objectives import Measures
from .search import Candidate, evaluated

SLOW_LINKS_NAMED = 3
ORDERED = 2


def uneven_links(topology: Topology) -> bool:
    """Whether some pairs of devices have other links than others in their place."""
    return topology.has_measured_links or not topology.homogeneous


def best_links(topology: Topology) -> Topology:
    """The same cluster with every measured link as fast as the fastest of its kind and nothing degraded: no order of
    nodes can do better on the real one."""
    document = dict(topology.document)
    document.pop("degraded", None)
    measured = document.get("measured")
    if measured:
        same = np.asarray(topology.device_domain[:, None] == topology.device_domain[None, :])
        kinds = {"node_bandwidth": None, "device_bandwidth": same, "fabric_bandwidth": None}
        fastest = {name: _fastest(measured[name], kind) for name, kind in kinds.items() if measured.get(name)}
        if measured.get("node_latency"):
            fastest["node_latency"] = _fastest(measured["node_latency"], None, smallest=True)
        document["measured"] = measured | fastest
    return parse_topology(document)


def _fastest(section: dict[str, Any], same: NDArray[np.bool_] | None, smallest: bool = False) -> dict[str, Any]:
    values = np.array([[np.nan if each is None else each for each in row] for row in section["matrix"]], dtype=float)
    np.fill_diagonal(values, np.nan)
    chosen = np.nanmin if smallest else np.nanmax
    flat = np.full(values.shape, chosen(values))
    if same is not None:
        for kind in (same, ~same):
            if np.isfinite(values[kind]).any():
                flat[kind] = chosen(values[kind])
    return section | {"matrix": flat.tolist()}


def views_of(context: Context) -> list[Context]:
    """The context with uneven links seen in ways that a search can use: as their bound, the real ones in the cluster's
    own order, and measured ones of average luck."""
    views = [bounding_context(context), replace(context, costs=own_order(context))]
    return [*views, context] if context.topology.has_measured_network else views


def best_placed(context: Context, views: Sequence[Sequence[StrategyTable]]) -> list[Candidate]:
    """Strategies that were best in different views of the links, on real devices, best first.

    The best few of every view stand in the best order found, the others in the cluster's own.
    """
    costs = own_order(context)
    favoured = {table.row(0): table for view in views for table in view[:ORDERED]}
    others = {table.row(0): table for view in views for table in view if table.row(0) not in favoured}
    ordered = [placed(context, table) for table in favoured.values()]
    own = [_valued(context, costs, table) for table in others.values()]
    return sorted([*ordered, *own], key=lambda each: each.value)


def own_order(context: Context) -> TrainingCosts:
    """The cost model on the devices as they stand, faster ones first where they differ."""
    return context.costs.on_devices(context.costs.chain.ranks.devices)


def placed(context: Context, table: StrategyTable) -> Candidate:
    """A strategy in the better of the cluster's own order and the order found for it."""
    own = on_devices(context, table, context.costs.chain.ranks.devices)
    found = node_order(context.topology, context.costs, table)
    return own if found is None else min(own, on_devices(context, table, found), key=lambda each: each.value)


def placed_alike(context: Context, table: StrategyTable, own: TrainingCosts) -> Measures:
    """Measures of strategies that share one `order_key`, where `placed` puts each; `own` are costs in the cluster's own
    order."""
    measures = evaluated(own, table)
    found = node_order(context.topology, context.costs, table)
    if found is None:
        return measures
    other = evaluated(context.costs.on_devices(found), table)
    better = context.goal.values(other) < context.goal.values(measures)
    names = (each.name for each in fields(Measures))
    return Measures(*(np.where(better, getattr(other, name), getattr(measures, name)) for name in names))


def on_devices(context: Context, table: StrategyTable, devices: NDArray[np.int64]) -> Candidate:
    """A strategy with rank r on `devices[r]`."""
    return _valued(context, context.costs.on_devices(devices), table)


def _valued(context: Context, costs: TrainingCosts, table: StrategyTable) -> Candidate:
    assert isinstance(costs.network, MappedNetwork)
    return Candidate(table, costs, float(context.goal.values(evaluated(costs, table))[0]), costs.network.devices)


def link_terms(context: Context, chosen: Candidate) -> tuple[Term, ...]:
    """What the slow links cost the plan, with and without a better order of nodes, and which they are."""
    assert chosen.devices is not None
    own = context.costs.chain.ranks.devices
    host = float(evaluated(context.costs.on_devices(own), chosen.table).step_s[0])
    made = float(evaluated(chosen.costs, chosen.table).step_s[0])
    best = float(evaluated(ideal_context(context).costs, chosen.table).step_s[0])
    moved = int(np.count_nonzero(chosen.devices != own))
    terms = [
        Term(name="in the cluster's own order", value=host, unit="s", why="this strategy with rank r on device r"),
        Term(
            name="in the plan's order",
            value=made,
            unit="s",
            why=f"{moved} ranks on other devices keep busy transfers off slow links: {(host - made) / host:.2%} saved",
        ),
        Term(
            name="if all links were the fastest",
            value=best,
            unit="s",
            why=f"so the slow links cost {made - best:.4g} s a step, {(made - best) / made:.2%} of it",
        ),
    ]
    return (*terms, *_slowest(context.topology))


def _slowest(topology: Topology) -> list[Term]:
    """The slowest pairs of nodes against the median pair."""
    if topology.n_nodes < 2:
        return []
    rates = topology.node_bandwidth_bytes_per_s.copy()
    np.fill_diagonal(rates, np.inf)
    median = float(np.median(rates[np.isfinite(rates)]))
    order = np.argsort(rates, axis=None, kind="stable")[:SLOW_LINKS_NAMED]
    names = topology.node_names
    result = []
    for index in order.tolist():
        a, b = divmod(index, topology.n_nodes)
        rate = float(rates[a, b])
        if rate < median:
            why = f"{1 - rate / median:.1%} slower than the median pair of nodes"
            result.append(Term(name=f"{names[a]} to {names[b]}", value=rate, unit="B/s", why=why))
    return result


def ideal_context(context: Context) -> Context:
    """The context of the same cluster with every link as fast as the fastest of its kind."""
    topology = context.topology
    if len(topology.document["nodes"]) > 1 or len(topology.networks) > 1:
        costs = copy.copy(context.costs)
        costs.network = kinds_network(topology, costs.network)
    else:
        costs = TrainingCosts(context.model, best_links(topology), context.job)
        costs.chain, costs.pipelines = context.costs.chain, context.costs.pipelines
    return replace(context, costs=costs)


def bounding_context(context: Context) -> Context:
    """The context of a search whose values bound those of every order of nodes on the real links."""
    ideal = ideal_context(context)
    network = ideal.costs.network
    if not isinstance(network, KindsNetwork) or not network.kinds:
        return ideal
    crossings = crossings_of(context.topology, network)
    return replace(ideal, costs=ApartCosts(ideal.costs, network, crossings)) if crossings else ideal
