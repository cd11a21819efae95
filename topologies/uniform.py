"""Links of groups that are all alike, for searches over degrees: looked up once per shape, then indexed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .algorithms import CHAINS, EXCHANGES, Links
from .errors import TopologyError
from .links import (
    Edges,
    Inside,
    Network,
    NodeNics,
    Sharing,
    domain_edges,
    inside_rate,
    link_users,
    shared_network,
    worst,
)
from .topology import Topology

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

_SAMPLE_DOMAINS = 512
_SHIFT = 21


class UniformLinks:
    """The links of groups of `ranks` × `domains` that start at the first domain, cached by shape."""

    def __init__(self, topology: Topology, nics: NodeNics) -> None:
        self._topology = topology
        self._nics = nics
        self._inside: dict[tuple[bool, int], Inside] = {}
        self._edges: dict[tuple[str, int], Edges] = {}
        self._network: dict[tuple[str, int, int, int], tuple[float, float, float, float]] = {}
        self._first = np.searchsorted(topology.device_domain, np.arange(topology.n_domains))
        self._sizes = np.bincount(topology.device_domain, minlength=topology.n_domains)
        self._memory = min(device.memory_bytes_per_s for device in topology.accelerators)

    def links(self, op: str, ranks: Floats, domains: Floats, sharing: Floats) -> Links:
        """Links for arrays of shapes. Raises TopologyError when a count is no positive integer or does not fit."""
        keys = np.zeros(ranks.shape, dtype=np.int64)
        for what, values in (("domains", domains), ("ranks_per_domain", ranks), ("sharing", sharing)):
            whole = values.astype(np.int64)
            if values.size and (whole.min() < 1 or (whole != values).any() or whole.max() >= 1 << _SHIFT):
                raise TopologyError(f"{what} must be positive integers")
            keys = (keys << _SHIFT) | whole
        shapes, inverse = np.unique(keys, return_inverse=True)
        mask = (1 << _SHIFT) - 1
        rows = [self._row(op, k >> 2 * _SHIFT, (k >> _SHIFT) & mask, k & mask) for k in shapes.tolist()]
        table = np.array(rows, dtype=float).reshape(len(rows), 10)[inverse.reshape(-1)].T
        return Links(
            ranks=ranks,
            domains=domains,
            inside_bytes_per_s=table[0],
            inside_limit_bytes_per_s=table[1],
            memory_bytes_per_s=np.full(ranks.shape, self._memory),
            hop_s=table[2],
            span=table[3].astype(np.intp),
            in_switch=table[4].astype(bool),
            network_bytes_per_s=table[5],
            network_step_s=table[6],
            network_message_s=table[7],
            network_ramp=table[8],
            ports=table[9],
        )

    def _row(self, op: str, domains: int, ranks: int, sharing: int) -> tuple[float, ...]:
        inside = self._inside_rate(op, ranks)
        if domains == 1 or self._topology.n_domains == 1:
            return (*inside, np.inf, 0.0, 0.0, 0.0, 1.0)
        return (*inside, *self._network_rate(op, ranks, domains, sharing), self._ports(ranks, sharing))

    def _inside_rate(self, op: str, ranks: int) -> Inside:
        key = (op in EXCHANGES or op in CHAINS or op == "custom_all_reduce", ranks)
        if key not in self._inside:
            fitting = [d for d in self._topology.fabric_domains.tolist() if self._sizes[d] >= ranks]
            if not fitting:
                raise TopologyError(f"{ranks} ranks do not fit in a domain of {int(self._sizes.max())} devices")
            members = tuple(range(ranks))
            rates = [inside_rate(self._topology, op, domain, members) for domain in fitting]
            self._inside[key] = worst(rates)
        return self._inside[key]

    def _network_rate(self, op: str, ranks: int, domains: int, sharing: int) -> tuple[float, float, float, float]:
        kind = "all_to_all" if op in EXCHANGES else "send_recv" if op in CHAINS else "all_gather"
        key = (kind, min(domains, self._topology.n_domains), ranks, sharing)
        if key not in self._network:
            self._network[key] = self._measured(*key) if self._topology.has_measured_network else self._nominal(*key)
        return self._network[key]

    def _nominal(self, kind: str, domains: int, ranks: int, sharing: int) -> tuple[float, float, float, float]:
        if (kind, domains) not in self._edges:
            leaders = self._first[None, :domains, None]
            self._edges[kind, domains] = domain_edges(self._topology, kind, leaders, self._nics)
        edges = self._edges[kind, domains]
        among = Sharing(self._busy(sharing), link_users([edges]) * sharing)
        return _numbers(shared_network(kind, edges, among, self._nics, ranks))

    def _measured(self, kind: str, domains: int, ranks: int, sharing: int) -> tuple[float, float, float, float]:
        """The slowest of as many links as the operation uses at a time, drawn from all links by chance."""
        if ("sample", 0) not in self._edges:
            leaders = self._first[None, :_SAMPLE_DOMAINS, None]
            self._edges["sample", 0] = domain_edges(self._topology, "all_to_all", leaders, self._nics)
        edges = self._edges["sample", 0]
        busy = self._busy(sharing)
        rates = np.minimum(edges.single * ranks, edges.total / busy[edges.source])
        among = Sharing(busy, link_users([edges]))
        _, step, message, ramp = _numbers(shared_network(kind, edges, among, self._nics, ranks))
        if kind == "all_to_all":
            return float(rates.size / (1 / rates).sum()), step, message, ramp
        used = domains - 1 if kind == "send_recv" else domains
        return float(np.quantile(rates, 1 / (used + 1))), step, message, ramp

    def _busy(self, sharing: int) -> Ints:
        return np.full(self._topology.n_domains, sharing, dtype=np.intp)

    def _ports(self, ranks: int, sharing: int) -> float:
        t = self._topology
        node = np.searchsorted(t.node_domain, 0)
        per_domain = t.node_nics[node] * t.domain_nodes[0] / sharing
        per_rank = ranks * max(1.0, t.node_nics[node] / t.node_devices[node])
        return float(min(per_domain, per_rank))


def _numbers(network: Network) -> tuple[float, float, float, float]:
    parts = (network.bytes_per_s, network.step_s, network.message_s, network.ramp)
    first, step, message, ramp = (float(part[0]) for part in parts)
    return first, step, message, ramp
