"""The topology as a networkx graph of devices, NICs and switches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .document import Dragonfly, FatTree, MeshFabric, Network, NodeGroup, PcieFabric, SwitchFabric, TopologyFile
from .fabrics import link_counts

if TYPE_CHECKING:
    import networkx

    from .document import TorusFabric
    from .topology import Topology


def topology_graph(topology: Topology, file: TopologyFile) -> networkx.Graph[str]:
    """Nominal links of a topology.

    Nodes carry `kind`: device, nic, switch. Edges carry `bandwidth_bytes_per_s`, one direction, all parallel links of
    the two ends together, and `latency_s`. Devices are named as in `device_names`. Degradations and measurements are
    not in the graph: `Topology.bandwidth_bytes_per_s` is what counts.
    """
    import networkx

    graph: networkx.Graph[str] = networkx.Graph(name=topology.name)
    names = topology.device_names
    graph.add_nodes_from((name, {"kind": "device", "device": i}) for i, name in enumerate(names))
    starts = np.searchsorted(topology.device_domain, np.arange(topology.n_domains + 1))
    for domain, (first, last) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        _add_fabric(graph, topology, domain, names[first:last])
    if topology.networks:
        _add_nics(graph, topology, file)
        for number, network in enumerate(topology.networks):
            _add_network(graph, topology, network, number)
        for link in file.links:
            ends = [_gateway(topology, name) for name in link.between]
            _connect(graph, ends[0], ends[1], link.bandwidth_bytes_per_s, link.latency_s)
    return graph


def _connect(graph: networkx.Graph[str], a: str, b: str, bytes_per_s: float, latency_s: float) -> None:
    for end in (a, b):
        if end not in graph:
            graph.add_node(end, kind="switch")
    graph.add_edge(a, b, bandwidth_bytes_per_s=bytes_per_s, latency_s=latency_s)


def _add_fabric(graph: networkx.Graph[str], topology: Topology, domain: int, names: tuple[str, ...]) -> None:
    fabric, size = topology.domain_fabric(domain)
    if fabric is None or size < 2:
        return
    if isinstance(fabric, SwitchFabric):
        for name in names:
            _connect(graph, name, f"domain-{domain}/switch", fabric.bandwidth_bytes_per_s, fabric.latency_s / 2)
    elif isinstance(fabric, MeshFabric):
        counts = link_counts(fabric, size)
        for i, j in np.argwhere(np.triu(counts)).tolist():
            rate = float(counts[i, j]) * fabric.link_bandwidth_bytes_per_s
            _connect(graph, names[i], names[j], rate, fabric.latency_s)
        for name in names if fabric.host_bandwidth_bytes_per_s else ():
            _connect(graph, name, f"domain-{domain}/host", fabric.host_bandwidth_bytes_per_s or 0.0, fabric.latency_s)
    elif isinstance(fabric, PcieFabric):
        _add_pcie(graph, fabric, domain, names)
    else:
        _add_torus(graph, fabric, names)


def _add_pcie(graph: networkx.Graph[str], fabric: PcieFabric, domain: int, names: tuple[str, ...]) -> None:
    half = fabric.latency_s / 2
    for i, name in enumerate(names):
        switch = i // fabric.devices_per_switch
        socket = switch // fabric.switches_per_socket
        at, above = f"domain-{domain}/pcie-{switch}", f"domain-{domain}/socket-{socket}"
        _connect(graph, name, at, fabric.bandwidth_bytes_per_s, half)
        _connect(graph, at, above, fabric.uplink_bytes_per_s, half)
        if socket:
            _connect(graph, f"domain-{domain}/socket-{socket - 1}", above, fabric.socket_bytes_per_s, fabric.latency_s)


def _add_torus(graph: networkx.Graph[str], fabric: TorusFabric, names: tuple[str, ...]) -> None:
    grid = np.arange(len(names)).reshape(fabric.dims)
    for axis, dim in enumerate(fabric.dims):
        if dim == 1:
            continue
        after = np.roll(grid, -1, axis)
        last = dim if fabric.wrap and dim > 2 else dim - 1
        pairs = zip(
            grid.take(range(last), axis).ravel().tolist(), after.take(range(last), axis).ravel().tolist(), strict=True
        )
        for i, j in pairs:
            _connect(graph, names[i], names[j], fabric.link_bandwidth_bytes_per_s, fabric.latency_s)


def _add_nics(graph: networkx.Graph[str], topology: Topology, file: TopologyFile) -> None:
    """Devices and NICs of a node, each device on its own NICs, or several devices on one where NICs are fewer."""
    starts = np.searchsorted(topology.device_node, np.arange(topology.n_nodes)).tolist()
    names = topology.device_names
    for node, host in enumerate(topology.node_names):
        group: NodeGroup = file.nodes[int(topology.node_group[node])]
        if group.nics is None:
            continue
        rate = group.nics.bandwidth_bytes_per_s
        for number in range(max(group.nics.count, group.devices)):
            nic = f"{host}/nic-{number * group.nics.count // max(group.nics.count, group.devices)}"
            device = names[starts[node] + number * group.devices // max(group.nics.count, group.devices)]
            graph.add_node(nic, kind="nic")
            graph.add_edge(device, nic, bandwidth_bytes_per_s=rate, latency_s=0.0)


def _add_network(graph: networkx.Graph[str], topology: Topology, network: Network, number: int) -> None:
    here = np.flatnonzero(topology.node_network == number).tolist()
    for position, node in enumerate(here):
        nics = topology.group_nics[int(topology.node_group[node])]
        if nics is None:
            continue
        total = nics.count * nics.bandwidth_bytes_per_s
        for nic in range(nics.count):
            leaf = _leaf(network, position, nic)
            name = f"{topology.node_names[node]}/nic-{nic}"
            graph.add_node(name, kind="nic")
            _connect(graph, name, leaf, nics.bandwidth_bytes_per_s, nics.latency_s)
            if not isinstance(network, (FatTree, Dragonfly)):
                _widen(graph, leaf, f"{network.name}/core", nics.bandwidth_bytes_per_s / network.oversubscription)
        if isinstance(network, FatTree):
            _climb(graph, network, position, total)
    if isinstance(network, Dragonfly):
        _add_groups(graph, network, -(-len(here) // network.group_nodes))


def _gateway(topology: Topology, name: str) -> str:
    """The switch of a network that links to other networks end at."""
    network = next(each for each in topology.networks if each.name == name)
    return f"{name}/group-0" if isinstance(network, Dragonfly) else f"{name}/core"


def _leaf(network: Network, position: int, nic: int) -> str:
    if isinstance(network, Dragonfly):
        return f"{network.name}/group-{position // network.group_nodes}"
    if isinstance(network, FatTree):
        return f"{network.name}/level-0-{position // network.levels[0].nodes}"
    return f"{network.name}/pod-{position // network.pod_nodes}-rail-{nic}"


def _widen(graph: networkx.Graph[str], below: str, above: str, bytes_per_s: float) -> None:
    """Add to the uplink of a switch what one more NIC below it brings."""
    if not graph.has_edge(below, above):
        _connect(graph, below, above, 0.0, 0.0)
    graph.edges[below, above]["bandwidth_bytes_per_s"] += bytes_per_s


def _climb(graph: networkx.Graph[str], network: FatTree, position: int, bytes_per_s: float) -> None:
    for number, level in enumerate(network.levels):
        below = f"{network.name}/level-{number}-{position // level.nodes}"
        top = number + 1 == len(network.levels)
        above = "core" if top else f"level-{number + 1}-{position // network.levels[number + 1].nodes}"
        bytes_per_s /= level.oversubscription
        _widen(graph, below, f"{network.name}/{above}", bytes_per_s)
        graph.edges[below, f"{network.name}/{above}"]["latency_s"] = level.latency_s


def _add_groups(graph: networkx.Graph[str], network: Dragonfly, groups: int) -> None:
    rate = network.global_bandwidth_bytes_per_s / max(groups - 1, 1)
    for a in range(groups):
        for b in range(a + 1, groups):
            ends = (f"{network.name}/group-{a}", f"{network.name}/group-{b}")
            _connect(graph, *ends, rate, network.global_latency_s)
