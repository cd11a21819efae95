"""Scale-out networks: what is left of two nodes' NICs on the way between them, and how long the way is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .document import Dragonfly, Network, RailNetwork, TopologyFile
from .errors import TopologyError
from .layout import Floats, Ints, Layout


@dataclass(frozen=True, slots=True)
class Way:
    """From node to node: the fraction of the NICs' rate, an absolute limit in bytes per second, and the latency."""

    fraction: Floats
    limit_bytes_per_s: Floats
    latency_s: Floats


@dataclass(frozen=True, slots=True)
class Paths:
    """Everything needed to look up the way between any two nodes without a matrix of nodes.

    `link_*` is over pairs of networks (infinite, zero on the diagonal); `pairs` and `pair_fraction` are the degraded
    node pairs as sorted keys `a * n_nodes + b`.
    """

    networks: tuple[Network, ...]
    layout: Layout
    link_bytes_per_s: Floats
    link_latency_s: Floats
    link_shared: NDArray[np.bool_]
    node_fraction: Floats
    pairs: Ints
    pair_fraction: Floats

    def way(self, src: Ints, dst: Ints) -> Way:
        """The way between nodes, for index arrays of one shape; rates hold while every node sends."""
        arrays = self.layout
        fraction = np.ones(src.shape)
        latency = arrays.node_nic_latency_s[src] + arrays.node_nic_latency_s[dst]
        limit = np.full(src.shape, np.inf)
        home, away = arrays.node_network[src], arrays.node_network[dst]
        if len(self.networks) > 1:
            limit = self.link_bytes_per_s[home, away]
            latency = latency + self.link_latency_s[home, away]
        for i, network in enumerate(self.networks):
            here = (home == i) & (away == i)
            if here.any():
                nic = arrays.node_nics[src[here]] * arrays.node_nic_bytes_per_s[src[here]]
                part, delay = _inside(network, arrays.node_position[src[here]], arrays.node_position[dst[here]], nic)
                fraction[here] *= part
                latency[here] += delay
        fraction *= np.minimum(self.node_fraction[src], self.node_fraction[dst])
        if len(self.pairs):
            fraction *= self._degraded(src, dst)
        return Way(fraction, limit, latency)

    def _degraded(self, src: Ints, dst: Ints) -> Floats:
        keys = src * len(self.layout.node_domain) + dst
        place = np.minimum(np.searchsorted(self.pairs, keys), len(self.pairs) - 1)
        return np.where(self.pairs[place] == keys, self.pair_fraction[place], 1.0)


def _inside(network: Network, a: Ints, b: Ints, nic_bytes_per_s: Floats) -> tuple[Floats, Floats]:
    if isinstance(network, RailNetwork):
        apart = a // network.pod_nodes != b // network.pod_nodes
        fraction = np.where(apart, 1.0 / network.oversubscription, 1.0)
        return fraction, network.latency_s + apart * network.spine_latency_s
    if isinstance(network, Dragonfly):
        apart = a // network.group_nodes != b // network.group_nodes
        share = network.global_bandwidth_bytes_per_s / network.group_nodes / nic_bytes_per_s
        return np.where(apart, np.minimum(share, 1.0), 1.0), network.latency_s + apart * network.global_latency_s
    fraction = np.ones(a.shape)
    latency = np.full(a.shape, network.levels[0].latency_s)
    above = [*network.levels[1:], network.levels[-1]]
    for level, next_level in zip(network.levels, above, strict=True):
        apart = a // level.nodes != b // level.nodes
        fraction /= np.where(apart, level.oversubscription, 1.0)
        latency += apart * next_level.latency_s
    return fraction, latency


def paths(file: TopologyFile, arrays: Layout) -> Paths:
    """The ways of a topology file. Raises TopologyError when some network in use cannot be reached from another."""
    rates, delays, shared = _network_links(file, np.unique(arrays.node_network))
    nodes = {name: i for i, name in enumerate(arrays.node_names)}
    node_fraction = np.ones(len(nodes))
    pairs: dict[int, float] = {}
    for i, degraded in enumerate(file.degraded):
        named = (degraded.node,) if degraded.node is not None else degraded.between or ()
        for name in named:
            if name not in nodes:
                raise TopologyError(
                    f"$.degraded[{i}]: no node is named {name!r}; the first is {arrays.node_names[0]!r}"
                )
        if degraded.node is not None:
            node_fraction[nodes[degraded.node]] *= degraded.network
        if degraded.between is not None:
            a, b = (nodes[name] for name in degraded.between)
            if a == b:
                raise TopologyError(f"$.degraded[{i}].between must name two different nodes")
            for key in (a * len(nodes) + b, b * len(nodes) + a):
                pairs[key] = pairs.get(key, 1.0) * degraded.network
    keys = np.array(sorted(pairs), dtype=np.intp)
    return Paths(
        networks=file.networks,
        layout=arrays,
        link_bytes_per_s=rates,
        link_latency_s=delays,
        link_shared=shared,
        node_fraction=node_fraction,
        pairs=keys,
        pair_fraction=np.array([pairs[key] for key in keys.tolist()]),
    )


def _network_links(file: TopologyFile, used: Ints) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Widest path between every two networks, with its latency (Floyd's recursion on rates)."""
    names = [network.name for network in file.networks]
    n = max(len(names), 1)
    rates = np.zeros((n, n))
    delays = np.zeros((n, n))
    shared = np.zeros((n, n), dtype=bool)
    np.fill_diagonal(rates, np.inf)
    for i, link in enumerate(file.links):
        for name in link.between:
            if name not in names:
                raise TopologyError(f"$.links[{i}].between: no network is named {name!r}; known: {', '.join(names)}")
        a, b = (names.index(name) for name in link.between)
        if rates[a, b]:
            raise TopologyError(f"$.links[{i}].between: {names[a]!r} and {names[b]!r} are already joined")
        for x, y in ((a, b), (b, a)):
            rates[x, y], delays[x, y], shared[x, y] = link.bandwidth_bytes_per_s, link.latency_s, link.shared
    for via in range(n):
        for a in range(n):
            for b in range(n):
                rate = min(rates[a, via], rates[via, b])
                if rate > rates[a, b]:
                    rates[a, b], delays[a, b] = rate, delays[a, via] + delays[via, b]
                    shared[a, b] = shared[a, via] or shared[via, b]
    for a in used.tolist():
        for b in used.tolist():
            if rates[a, b] == 0:
                raise TopologyError(f"$.links: no bandwidth is given between networks {names[a]!r} and {names[b]!r}")
    return rates, delays, shared
