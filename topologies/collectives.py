"""Times of collectives on any group of devices."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import algorithms
from .algorithms import Links
from .coefficients import OpCoefficients
from .errors import TopologyError
from .fabrics import GroupRate, group_rate
from .topology import Topology

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Collectives:
    """Collective times on one topology."""

    def __init__(self, topology: Topology, coefficients: OpCoefficients | None = None) -> None:
        self.topology = topology
        self.coefficients = coefficients or OpCoefficients()
        self._inside: dict[tuple[int, tuple[int, ...], int], GroupRate] = {}

    def seconds(self, op: str, size_bytes: float, groups: ArrayLike) -> float:
        """Time until the slowest of the groups is done; rows of `groups` are device ids and run at the same time."""
        algorithms.check_op(op)
        rows = np.atleast_2d(np.asarray(groups, dtype=np.intp))
        if rows.size == 0 or rows.shape[1] == 1 or size_bytes == 0:
            return 0.0
        times = algorithms.seconds(op, np.full(len(rows), float(size_bytes)), self._links(rows), self.coefficients)
        return float(times.max())

    def uniform_seconds(
        self, op: str, size_bytes: ArrayLike, ranks_per_domain: ArrayLike, domains: ArrayLike, sharing: ArrayLike = 1
    ) -> Floats:
        """Times for groups of `ranks_per_domain` × `domains`, `sharing` of them at a time on each domain's NICs."""
        algorithms.check_op(op)
        size, r, d, s = np.broadcast_arrays(
            *(np.asarray(each, dtype=float) for each in (size_bytes, ranks_per_domain, domains, sharing))
        )
        t = self.topology
        ring, exchange, delay = np.empty(r.shape), np.empty(r.shape), np.empty(r.shape)
        for ranks in np.unique(r):
            rate = self._group_rate(0, tuple(range(int(ranks))), 1)
            here = r == ranks
            ring[here], exchange[here], delay[here] = rate.ring_bytes_per_s, rate.exchange_bytes_per_s, rate.latency_s
        network = np.full(r.shape, np.inf)
        outer = np.zeros(r.shape)
        if t.n_domains > 1:
            starts = np.searchsorted(t.device_domain, np.arange(t.n_domains))
            nodes = np.searchsorted(t.node_domain, np.arange(t.n_domains))
            for count in np.unique(d):
                last = min(int(count), t.n_domains) - 1
                if last < 1:
                    continue
                here = d == count
                single = float(t.bandwidth_bytes_per_s(starts[0], starts[last]))
                total = float(t.node_rate_bytes_per_s(nodes[0], nodes[last])) * int(t.domain_nodes()[0])
                network[here] = np.minimum(r[here] * single, total / s[here])
                outer[here] = float(t.latency_s(starts[0], starts[last]))
        links = Links(r, d, ring, exchange, network, delay, outer)
        return np.where(size > 0, algorithms.seconds(op, size, links, self.coefficients), 0.0)

    def _group_rate(self, domain: int, members: tuple[int, ...], concurrent: int) -> GroupRate:
        fabric, size = self.topology.domain_fabric(domain)
        if fabric is None or len(members) < 2:
            return GroupRate(np.inf, np.inf, 0.0)
        if max(members) >= size:
            raise TopologyError(f"{len(members)} ranks do not fit in a domain of {size} devices")
        return group_rate(fabric, size, members, concurrent)

    def _links(self, rows: Ints) -> Links:
        t = self.topology
        domain = t.device_domain[rows]
        parts = [self._row(row, where) for row, where in zip(rows, domain, strict=True)]
        busy = np.zeros(t.n_domains, dtype=np.intp)
        for _, order, *_ in parts:
            if len(order) > 1:
                busy[order] += 1
        columns = []
        for ranks, order, firsts, rate in parts:
            network, outer = np.inf, 0.0
            if len(order) > 1:
                after = np.roll(firsts, -1, axis=0)
                single = t.bandwidth_bytes_per_s(firsts, after).sum(1)
                a, b = t.device_node[firsts[:, 0]], t.device_node[after[:, 0]]
                share = np.maximum(busy[order], busy[np.roll(order, -1)])
                total = t.node_rate_bytes_per_s(a, b) * t.domain_nodes()[order] / share
                network = float(np.minimum(single, total).min())
                outer = float(t.latency_s(firsts[:, 0], after[:, 0]).max())
            columns.append(
                (ranks, len(order), rate.ring_bytes_per_s, rate.exchange_bytes_per_s, network, rate.latency_s, outer)
            )
        return Links(*(np.array(column, dtype=float) for column in zip(*columns, strict=True)))

    def _row(self, row: Ints, domain: Ints) -> tuple[float, Ints, Ints, GroupRate]:
        order, first = np.unique(domain, return_index=True)
        order = order[np.argsort(first)]
        members = [row[domain == d] for d in order]
        least = min(len(each) for each in members)
        rates = [
            self._group_rate(int(d), tuple(self.topology.device_local[m].tolist()), 1)
            for d, m in zip(order, members, strict=True)
        ]
        worst = min(rates, key=lambda rate: rate.ring_bytes_per_s)
        return len(row) / len(order), order, np.stack([each[:least] for each in members]), worst
