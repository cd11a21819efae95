"""The topology as a networkx graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .document import TopologyFile
from .layout import Layout

if TYPE_CHECKING:
    import networkx

    from .topology import Topology


def topology_graph(topology: Topology, file: TopologyFile, arrays: Layout) -> networkx.Graph[str]:
    """Nodes carry `kind` (device, nic, switch); edges `bandwidth_bytes_per_s` and `latency_s`."""
    import networkx

    graph: networkx.Graph[str] = networkx.Graph(name=topology.name)
    names = topology.device_names
    for i, name in enumerate(names):
        graph.add_node(name, kind="device", device=i)
    return graph
