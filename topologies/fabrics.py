"""Scale-up fabrics: what a pair of devices, or a group of devices of one domain, gets from switch, mesh, tree or torus.

Devices are numbered within their domain. All rates are for one direction.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .document import Fabric, MeshFabric, PcieFabric, SwitchFabric, TorusFabric

Index = NDArray[np.intp]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GroupRate:
    """What a group of devices gets inside its domain.

    `ring_bytes_per_s` is what each device can send while the group runs rings over all its links,
    `exchange_bytes_per_s` the same while every device sends to every other; `hops` is the mean number of links between
    ring neighbours, `span` how far up a PCIe tree the group reaches (0 one switch, 1 one socket, 2 beyond).
    """

    ring_bytes_per_s: float
    exchange_bytes_per_s: float
    latency_s: float
    hops: float = 1.0
    span: int = 0


def pair_bandwidth(fabric: Fabric, size: int, src: Index, dst: Index) -> Floats:
    """Bytes per second from device to device, on the links of the best path, while nothing else runs."""
    if isinstance(fabric, SwitchFabric):
        return np.full(src.shape, fabric.bandwidth_bytes_per_s)
    if isinstance(fabric, MeshFabric):
        return mesh_matrix(fabric, size)[src, dst]
    if isinstance(fabric, PcieFabric):
        crossed = _crossings(fabric, src, dst)
        uplink = min(fabric.bandwidth_bytes_per_s, fabric.uplink_bytes_per_s)
        rates = np.array([fabric.bandwidth_bytes_per_s, uplink, min(uplink, fabric.socket_bytes_per_s)])
        return rates[crossed]
    return np.full(src.shape, fabric.link_bandwidth_bytes_per_s)


def pair_latency(fabric: Fabric, size: int, src: Index, dst: Index) -> Floats:
    """Seconds from device to device: the fabric's latency once per link, or per PCIe switch, on the way."""
    if isinstance(fabric, SwitchFabric):
        return np.full(src.shape, fabric.latency_s)
    if isinstance(fabric, MeshFabric):
        return np.asarray(np.where(link_counts(fabric, size)[src, dst] > 0, 1.0, 2.0) * fabric.latency_s)
    if isinstance(fabric, PcieFabric):
        return np.asarray((_crossings(fabric, src, dst) + 1.0) * fabric.latency_s)
    return torus_distance(fabric, src, dst) * fabric.latency_s


def device_bandwidth(fabric: Fabric, size: int) -> float:
    """Bytes per second that one device can send over all its scale-up links together."""
    if isinstance(fabric, MeshFabric):
        return float(link_counts(fabric, size).sum(1).max()) * fabric.link_bandwidth_bytes_per_s
    if isinstance(fabric, TorusFabric):
        ways = sum(min(dim - 1, 2) if fabric.wrap else min(dim - 1, 1) for dim in fabric.dims)
        return max(ways, 1) * fabric.link_bandwidth_bytes_per_s
    return fabric.bandwidth_bytes_per_s


@functools.lru_cache(maxsize=64)
def link_counts(fabric: MeshFabric, size: int) -> NDArray[np.int64]:
    """Links between every two devices of a mesh."""
    counts = np.zeros((size, size), dtype=np.int64)
    if fabric.links is None:
        counts[:] = 1
        np.fill_diagonal(counts, 0)
        return counts
    for i, j, count in fabric.links:
        counts[i, j] = counts[j, i] = count
    return counts


@functools.lru_cache(maxsize=64)
def mesh_matrix(fabric: MeshFabric, size: int) -> Floats:
    """Pair bandwidths of a mesh: direct links, else the best path over one other device, else the host.

    Zero where no path exists; `Topology` refuses such a mesh.
    """
    direct = link_counts(fabric, size) * fabric.link_bandwidth_bytes_per_s
    detour = np.zeros_like(direct)
    for via in range(size):
        np.maximum(detour, np.minimum(direct[:, via, None], direct[via]), out=detour)
    host = fabric.host_bandwidth_bytes_per_s or 0.0
    return np.where(direct > 0, direct, np.maximum(detour, host)).astype(float)


def torus_distance(fabric: TorusFabric, src: Index, dst: Index) -> Floats:
    """Links on the shortest way between devices."""
    distance = np.zeros(np.broadcast(src, dst).shape)
    for dim, a, b in zip(
        fabric.dims, np.unravel_index(src, fabric.dims), np.unravel_index(dst, fabric.dims), strict=True
    ):
        apart = np.abs(a - b)
        distance += np.minimum(apart, dim - apart) if fabric.wrap else apart
    return distance


def _crossings(fabric: PcieFabric, src: Index, dst: Index) -> Index:
    """0 under one switch, 1 under one socket, 2 across sockets."""
    a, b = src // fabric.devices_per_switch, dst // fabric.devices_per_switch
    sockets = a // fabric.switches_per_socket != b // fabric.switches_per_socket
    return np.asarray((a != b).astype(np.intp) + sockets)


def group_rate(fabric: Fabric, size: int, members: tuple[int, ...], crowding: tuple[int, int] = (1, 1)) -> GroupRate:
    """What `members` of one domain get for a collective.

    Groups that run at the same time compete only where links are shared, in a PCIe tree: `crowding` groups, this one
    counted, use its switch uplinks and its socket link. On a torus they do not as long as they are blocks.
    """
    if isinstance(fabric, SwitchFabric):
        return GroupRate(fabric.bandwidth_bytes_per_s, fabric.bandwidth_bytes_per_s, fabric.latency_s)
    if isinstance(fabric, MeshFabric):
        return _mesh_rate(fabric, size, members)
    if isinstance(fabric, PcieFabric):
        return _pcie_rate(fabric, members, crowding)
    return _torus_rate(fabric, members)


@functools.lru_cache(maxsize=4096)
def _mesh_rate(fabric: MeshFabric, size: int, members: tuple[int, ...]) -> GroupRate:
    """Rings over all links inside the group (RCCL and NCCL build one per link), never less than the worst pair."""
    index = np.array(members)
    inside = link_counts(fabric, size)[np.ix_(index, index)]
    pairs = mesh_matrix(fabric, size)[np.ix_(index, index)]
    worst = float(pairs[~np.eye(len(index), dtype=bool)].min())
    links = float(inside.sum(1).min()) * fabric.link_bandwidth_bytes_per_s
    ring = max(links, worst)
    exchange = min(ring, worst * (len(index) - 1))
    return GroupRate(ring, exchange, fabric.latency_s)


@functools.lru_cache(maxsize=4096)
def _pcie_rate(fabric: PcieFabric, members: tuple[int, ...], crowding: tuple[int, int]) -> GroupRate:
    """A ring passes each shared link once; in an exchange it carries everything that leaves the switch or socket."""
    n = len(members)
    switches = [member // fabric.devices_per_switch for member in members]
    sockets = [switch // fabric.switches_per_socket for switch in switches]
    ring = exchange = fabric.bandwidth_bytes_per_s
    levels = ((switches, fabric.uplink_bytes_per_s), (sockets, fabric.socket_bytes_per_s))
    for (places, nominal), sharing in zip(levels, crowding, strict=True):
        if len(set(places)) == 1:
            continue
        rate = nominal / sharing
        ring = min(ring, rate)
        for place in set(places):
            inside = places.count(place)
            exchange = min(exchange, rate * (n - 1) / (inside * (n - inside)))
    span = (len(set(switches)) > 1) + (len(set(sockets)) > 1)
    return GroupRate(ring, exchange, fabric.latency_s, span=span)


@functools.lru_cache(maxsize=4096)
def _torus_rate(fabric: TorusFabric, members: tuple[int, ...]) -> GroupRate:
    """Rings along every dimension the group spans, both ways round where it spans a whole wrapped dimension.

    An exchange is bound by links over mean distance: each device sends on `ways` links and its traffic takes
    `distance` of them (Jouppi et al., TPU v4, ISCA 2023, section 3 on bisection).
    """
    places = np.stack(np.unravel_index(np.array(members), fabric.dims))
    ways = 0
    distance = hops = 0.0
    for dim, place in zip(fabric.dims, places, strict=True):
        spanned = int(place.max() - place.min()) + 1
        if spanned == 1:
            continue
        whole = fabric.wrap and spanned == dim
        ways += 2 if whole and dim > 2 else 1
        distance += dim / 4 if whole else spanned / 3
        hops += spanned
    block = len(members) == math.prod(int(place.max() - place.min()) + 1 for place in places)
    ring = max(ways, 1) * fabric.link_bandwidth_bytes_per_s
    if not block:
        ring = fabric.link_bandwidth_bytes_per_s
    exchange = ring / max(distance, 1.0)
    return GroupRate(ring, min(ring, exchange), fabric.latency_s, max(hops / max(len(members), 1), 1.0))
