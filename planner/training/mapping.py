"""Which node plays which part of the rank order, so that heavy transfers take fast links.

Ranks that share a scale-up domain stay together; what is ordered is which domain stands at which place of the grid
that the outer axes form. Every axis that crosses domains becomes a term: pipelines add up their hops, rings go at the
pace of their slowest link (Pipette, Jang et al. 2024, section V).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Topology

from ..costs.step import TrainingCosts
from ..strategy import Strategy
from ..workload.strategy_table import StrategyTable
from .device_order import WORK_IN_ALL, order_within_domains

AXES = ("tp", "cp", "dp_shard", "dp_replicate", "pp")
SEARCH_WORK = 400_000


@dataclass(frozen=True, slots=True)
class DomainGrid:
    """Degrees that remain between domains, outermost first, and the axis of each."""

    axes: tuple[str, ...]
    shape: tuple[int, ...]


def domain_grid(strategy: Strategy, domain: int) -> DomainGrid | None:
    """How the outer axes cut the domains into a grid; None where a domain's edge falls inside an axis."""
    room = domain
    outer: list[tuple[str, int]] = []
    for axis in AXES:
        degree = getattr(strategy, axis)
        inside = min(room, degree)
        if degree % inside or room % inside:
            return None
        room //= inside
        if degree > inside:
            if room > 1:
                return None
            outer.append((axis, degree // inside))
    if room > 1:
        return None
    outer.reverse()
    return DomainGrid(tuple(axis for axis, _ in outer), tuple(degree for _, degree in outer))


def inner_degrees(strategy: Strategy, domain: int) -> dict[str, int]:
    """The part of every axis that lies inside a domain, outermost first, where the axes fill whole domains."""
    inner: dict[str, int] = {}
    room = domain
    for axis in AXES:
        inner[axis] = min(room, getattr(strategy, axis))
        room //= inner[axis]
    return dict(reversed(inner.items()))


def carried_bytes(costs: TrainingCosts, table: StrategyTable) -> dict[tuple[str, ...], float]:
    """Bytes one device sends per step along each set of axes, outermost first, whether or not compute hides them."""
    rows = costs.rows(table)
    s = table.row(0)
    m = int(rows.microbatches[0])
    tokens = s.mbs * costs.job.sequence_length / s.cp
    width = costs.model.stream_size * costs.device.element_bytes
    held = float(rows.over_all(rows.stages.total, rows.dense_parameters())[0]) / s.pp
    held += float(rows.over_all(rows.stages.total, rows.gathered(rows.costs.expert_parameters))[0]) / s.pp
    sent = costs.device.coefficients.framework.gradient_comm_bytes
    states = held * (sent + (2.0 if s.zero else sent)) * (m if s.zero >= 2 else 1)
    layers = len(costs.chain.layers) / s.pp
    rounds = m - 1 - -(-(m - 1) // s.pp)  # hops of round trips beyond the first (Pipette, section IV)
    return {
        ("tp",): 4 * layers * m * tokens * width,
        ("cp",): 3 * layers * m * tokens * width / s.tp,
        ("dp_shard", "cp") if s.zero else ("dp_replicate", "dp_shard", "cp"): states,
        ("dp_replicate",): held * 2 * sent / (s.cp * s.dp_shard) if s.zero else 0.0,
        ("pp",): 2 * (1 + rounds / max(s.pp - 1, 1)) * tokens * width / s.tp,
    }


def order_key(costs: TrainingCosts, table: StrategyTable) -> Hashable:
    """All that a strategy's order of nodes depends on, on one cluster."""
    strategy = table.row(0)
    return tuple(getattr(strategy, axis) for axis in AXES), tuple(carried_bytes(costs, table).items())


def node_order(
    topology: Topology,
    costs: TrainingCosts,
    table: StrategyTable,
    *,
    work: int = SEARCH_WORK,
    start: NDArray[np.int64] | None = None,
) -> NDArray[np.int64] | None:
    """Device of every rank in the best order found, of domains and within each; None where there is nothing to order.

    `start` is an order of devices that keeps domains together, by default the cluster's own. Domains of different pace
    keep to the places of theirs, so that slow devices stay in the stages sized for them.
    """
    domain = costs.network.domain
    if topology.n_devices != domain * topology.n_domains:
        return None
    strategy = table.row(0)
    grid = domain_grid(strategy, domain)
    if grid is None:
        return None
    carried = carried_bytes(costs, table)
    domains = np.zeros(1, dtype=np.int64)
    if grid.shape:
        places = (costs.chain.ranks.devices if start is None else start)[::domain] // domain
        found = _domain_order(topology, costs, grid, carried, places, work)
        if found is None:
            return None
        domains = found
    inside = min(WORK_IN_ALL, work * WORK_IN_ALL // SEARCH_WORK)
    return order_within_domains(topology, inner_degrees(strategy, domain), carried, inside)[domains].reshape(-1)


def _domain_order(
    topology: Topology,
    costs: TrainingCosts,
    grid: DomainGrid,
    carried: dict[tuple[str, ...], float],
    start: NDArray[np.int64],
    work: int,
) -> NDArray[np.int64] | None:
    """The domain at every place of the grid."""
    from shardwright.solvers.mapping import MappingProblem, Term, solve
    from shardwright.solvers.solution import Work

    domain = costs.network.domain
    seconds = 1.0 / _domain_rates(topology)
    terms = []
    for axes, sent in carried.items():
        between = tuple(grid.axes.index(axis) for axis in axes if axis in grid.axes)
        if not between or not sent:
            continue
        ring = axes != ("pp",)
        length = int(np.prod([grid.shape[axis] for axis in between]))
        # every device of a domain sends along the same axes at the same time
        cost = domain * sent * seconds
        terms.append(Term(between, cost, cyclic=ring and length > 2, reduce="max" if ring else "sum"))
    if not terms:
        return start
    ranks = costs.chain.ranks
    pace = None if ranks.alike else np.unique(ranks.slowness[::domain], return_inverse=True)[1]
    problem = MappingProblem(grid.shape, tuple(terms), blocks=pace)
    solution = solve(problem, stop=Work(work), start=start)
    return None if solution.point is None else np.asarray(solution.point, dtype=np.int64)


def _domain_rates(topology: Topology) -> NDArray[np.float64]:
    """Bytes per second between the first nodes of every two domains, all NICs together."""
    first = np.searchsorted(topology.node_domain, np.arange(topology.n_domains))
    rates = topology.node_rate_bytes_per_s(first[:, None], first[None, :]).astype(np.float64)
    np.fill_diagonal(rates, rates.max())
    return rates
