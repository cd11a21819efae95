"""Arrays that say which device sits in which node, domain and network, from the records of a topology file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .accelerators import Accelerator, accelerator
from .document import MAX_DEVICES, Fabric, MeshFabric, NodeGroup, TopologyFile
from .errors import TopologyError
from .fabrics import device_bandwidth, mesh_matrix

Ints = NDArray[np.intp]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layout:
    """Devices in node-major order. `*_local` counts within the domain, `node_position` within the network.

    A group without NICs has rate 0 there; it then is the whole topology, one domain.
    """

    accelerators: tuple[Accelerator, ...]
    fabrics: tuple[Fabric | None, ...]
    fabric_sizes: tuple[int, ...]
    device_accelerator: Ints
    device_node: Ints
    device_domain: Ints
    device_local: Ints
    domain_fabric: Ints
    domain_nodes: Ints
    node_domain: Ints
    node_group: Ints
    node_devices: Ints
    node_network: Ints
    node_position: Ints
    node_nics: Ints
    node_nic_bytes_per_s: Floats
    node_nic_latency_s: Floats
    node_names: tuple[str, ...]


def layout(file: TopologyFile) -> Layout:
    """The layout of a spelled-out file. Raises TopologyError on names that clash or do not exist."""
    groups = file.nodes
    if not groups:
        raise TopologyError("$.nodes: at least one group of nodes is needed")
    total = sum(group.count * group.devices for group in groups)
    if total > MAX_DEVICES:
        raise TopologyError(f"$.nodes: {total} devices are more than the {MAX_DEVICES} allowed")
    _unique([group.name for group in groups], "$.nodes", ".name")
    _unique([network.name for network in file.networks], "$.networks", ".name")
    accelerators, kinds = _accelerators(file)
    counts = np.array([group.count for group in groups])
    node_group = np.repeat(np.arange(len(groups)), counts)
    node_devices = np.array([group.devices for group in groups])[node_group]
    per_domain = np.array([group.domain_nodes for group in groups])
    domain_counts = counts // per_domain
    node_domain = np.repeat(np.arange(domain_counts.sum()), np.repeat(per_domain, domain_counts))
    device_node = np.repeat(np.arange(len(node_group)), node_devices)
    device_domain = node_domain[device_node]
    first = np.searchsorted(device_domain, np.arange(domain_counts.sum()))
    node_network = np.array([_network(file, i) for i in range(len(groups))])[node_group]
    nics = [group.nics for group in groups]
    names = _node_names(file)
    _fabrics_connect(groups)
    return Layout(
        accelerators=accelerators,
        fabrics=tuple(group.fabric for group in groups),
        fabric_sizes=tuple(group.devices * group.domain_nodes for group in groups),
        device_accelerator=np.array(kinds)[node_group][device_node],
        device_node=device_node,
        device_domain=device_domain,
        device_local=np.arange(len(device_node)) - first[device_domain],
        domain_fabric=np.repeat(np.arange(len(groups)), domain_counts),
        domain_nodes=np.repeat(per_domain, domain_counts),
        node_domain=node_domain,
        node_group=node_group,
        node_devices=node_devices,
        node_network=node_network,
        node_position=_positions(node_network),
        node_nics=np.array([each.count if each else 0 for each in nics])[node_group],
        node_nic_bytes_per_s=np.array([each.bandwidth_bytes_per_s if each else 0.0 for each in nics])[node_group],
        node_nic_latency_s=np.array([each.latency_s if each else 0.0 for each in nics])[node_group],
        node_names=names,
    )


def scaleup_bytes_per_s(arrays: Layout, group: int) -> float:
    """What one device of a node group can send over all its scale-up links; without any, its own memory's rate."""
    fabric = arrays.fabrics[group]
    if fabric is None:
        node = int(np.flatnonzero(arrays.node_group == group)[0])
        kind = int(arrays.device_accelerator[np.searchsorted(arrays.device_node, node)])
        return arrays.accelerators[kind].memory_bytes_per_s
    return device_bandwidth(fabric, arrays.fabric_sizes[group])


def _unique(names: list[str], path: str, what: str = "") -> None:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            raise TopologyError(f"{path}[{i}]{what}: {name!r} is used twice")
        seen.add(name)


def _accelerators(file: TopologyFile) -> tuple[tuple[Accelerator, ...], list[int]]:
    _unique([each.name for each in file.accelerators], "$.accelerators", ".name")
    own = {each.name: each for each in file.accelerators}
    chosen: list[Accelerator] = []
    kinds = []
    for i, group in enumerate(file.nodes):
        try:
            found = own.get(group.accelerator) or accelerator(group.accelerator)
        except TopologyError as error:
            raise TopologyError(f"$.nodes[{i}].accelerator: {error}") from None
        if found not in chosen:
            chosen.append(found)
        kinds.append(chosen.index(found))
    return tuple(chosen), kinds


def _network(file: TopologyFile, i: int) -> int:
    group = file.nodes[i]
    names = [network.name for network in file.networks]
    alone = len(file.nodes) == 1 and group.count == group.domain_nodes
    if group.network and group.network not in names:
        raise TopologyError(
            f"$.nodes[{i}].network: {group.network!r} is none of $.networks ({', '.join(names) or 'empty'})"
        )
    if alone and not group.network:
        return 0
    if group.nics is None:
        raise TopologyError(f"$.nodes[{i}].nics is missing: these nodes reach the others only over a network")
    if not names:
        raise TopologyError("$.networks is missing: there is more than one domain and nothing joins them")
    if not group.network and len(names) > 1:
        raise TopologyError(f"$.nodes[{i}].network is missing: choose one of {', '.join(names)}")
    return names.index(group.network) if group.network else 0


def _positions(node_network: Ints) -> Ints:
    positions = np.zeros_like(node_network)
    for network in np.unique(node_network):
        here = node_network == network
        positions[here] = np.arange(int(here.sum()))
    return positions


def _node_names(file: TopologyFile) -> tuple[str, ...]:
    own = tuple(
        f"{group.name}-{i}" if group.count > 1 else group.name for group in file.nodes for i in range(group.count)
    )
    matrix = file.measured.node_bandwidth if file.measured is not None else None
    hosts = matrix.nodes if matrix is not None else ()
    for names, path in ((file.node_names, "$.node_names"), (hosts, "$.measured.node_bandwidth.nodes")):
        if names:
            if len(names) != len(own):
                raise TopologyError(f"{path}: expected {len(own)} names but got {len(names)}")
            _unique(list(names), path)
            return names
    _unique(list(own), "$.nodes", ".name")
    return own


def _fabrics_connect(groups: tuple[NodeGroup, ...]) -> None:
    for i, group in enumerate(groups):
        if isinstance(group.fabric, MeshFabric):
            matrix = mesh_matrix(group.fabric, group.devices * group.domain_nodes)
            apart = np.argwhere((matrix == 0) & ~np.eye(len(matrix), dtype=bool))
            if len(apart):
                a, b = apart[0].tolist()
                raise TopologyError(
                    f"$.nodes[{i}].fabric: no path joins devices {a} and {b}; add links or host_bandwidth_bytes_per_s"
                )
