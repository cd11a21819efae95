"""The topology in memory: devices, nodes and domains as arrays, link rates by formula or from measured matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .accelerators import Accelerator
from .document import Curve, Fabric, Measured, Network, Nics, TopologyFile, read_file, write_file
from .errors import TopologyError
from .fabrics import pair_bandwidth, pair_latency
from .layout import Floats, Ints, Layout, layout, scaleup_bytes_per_s
from .measured import Measurements, measurements
from .networks import Paths, paths

if TYPE_CHECKING:
    import networkx


class Topology:
    """Immutable devices and links, made by `cluster` or `parse_topology`.

    Devices are numbered node by node, and nodes domain by domain. A node is one host; a domain is what one scale-up
    fabric joins (NVLink, XGMI, ICI), which may be part of a host, a host, or many. Every rate is for one direction.
    No matrix over devices is ever made, and one over nodes only when `node_bandwidth_bytes_per_s` is read.
    """

    __slots__ = (
        "_file",
        "_layout",
        "_measured",
        "_node_bandwidth",
        "_paths",
        "_scaleup",
        "device_speed",
        "homogeneous",
    )

    def __init__(self, file: TopologyFile) -> None:
        self._file = file
        self._layout: Layout = layout(file)
        self._paths: Paths = paths(file, self._layout)
        self._measured: Measurements = measurements(file.measured, self._layout)
        self._scaleup = np.array([scaleup_bytes_per_s(self._layout, i) for i in range(len(file.nodes))])
        self._node_bandwidth: NDArray[np.float64] | None = None
        self.device_speed: Floats = self._speeds()
        self.homogeneous: bool = self._alike()

    @property
    def name(self) -> str:
        """The name the file gives, or the catalog entry's."""
        return self._file.name

    @property
    def n_devices(self) -> int:
        """Accelerators in all nodes together."""
        return len(self._layout.device_node)

    @property
    def n_nodes(self) -> int:
        """Hosts."""
        return len(self._layout.node_domain)

    @property
    def n_domains(self) -> int:
        """Scale-up domains."""
        return len(self._layout.domain_fabric)

    @property
    def document(self) -> dict[str, Any]:
        """What `parse_topology` accepts and reads back as this topology."""
        return write_file(self._file)

    @property
    def accelerators(self) -> tuple[Accelerator, ...]:
        """The kinds of device."""
        return self._layout.accelerators

    @property
    def device_accelerator(self) -> Ints:
        """Index into `accelerators`, per device."""
        return self._layout.device_accelerator

    @property
    def device_node(self) -> Ints:
        """Node of each device."""
        return self._layout.device_node

    @property
    def device_domain(self) -> Ints:
        """Scale-up domain of each device."""
        return self._layout.device_domain

    @property
    def device_local(self) -> Ints:
        """Number of each device within its domain."""
        return self._layout.device_local

    @property
    def node_domain(self) -> Ints:
        """Scale-up domain of each node."""
        return self._layout.node_domain

    @property
    def node_devices(self) -> Ints:
        """Devices of each node."""
        return self._layout.node_devices

    @property
    def node_network(self) -> Ints:
        """Index into `networks` of each node."""
        return self._layout.node_network

    @property
    def node_names(self) -> tuple[str, ...]:
        """Host names, in node order."""
        return self._layout.node_names

    @property
    def device_names(self) -> tuple[str, ...]:
        """`node/number` of each device."""
        starts = np.searchsorted(self.device_node, np.arange(self.n_nodes))
        number = np.arange(self.n_devices) - starts[self.device_node]
        names = self.node_names
        return tuple(f"{names[n]}/{i}" for n, i in zip(self.device_node.tolist(), number.tolist(), strict=True))

    @property
    def networks(self) -> tuple[Network, ...]:
        """Scale-out networks."""
        return self._file.networks

    @property
    def measured(self) -> Measured | None:
        """The measured section, as written in the file."""
        return self._file.measured

    @property
    def curves(self) -> tuple[Curve, ...]:
        """Measured collective curves."""
        return self._measured.curves

    @property
    def has_measured_links(self) -> bool:
        """Whether some link rate was measured rather than nominal."""
        m = self._measured
        return any(each is not None for each in (m.node_fraction, m.device_bytes_per_s, m.fabric_bytes_per_s))

    def with_measured(self, measured: Measured | dict[str, Any]) -> Topology:
        """The same topology with another measured section (a record, or the `measured` mapping of a file)."""
        if isinstance(measured, dict):
            measured = read_file({"schema": self._file.schema, "measured": measured}).measured or Measured()
        return Topology(msgspec.structs.replace(self._file, measured=measured))

    @property
    def has_measured_network(self) -> bool:
        """Whether rates between nodes were measured."""
        return self._measured.node_fraction is not None or self._measured.device_bytes_per_s is not None

    def domain_fabric(self, domain: int) -> tuple[Fabric | None, int]:
        """The scale-up fabric of a domain and the number of devices it joins."""
        group = int(self._layout.domain_fabric[domain])
        return self._layout.fabrics[group], self._layout.fabric_sizes[group]

    @property
    def domain_nodes(self) -> Ints:
        """Nodes of each domain."""
        return self._layout.domain_nodes

    @property
    def device_fabric(self) -> Ints:
        """Number of each device's node group, whose domains all have the same fabric."""
        return self._layout.domain_fabric[self.device_domain]

    @property
    def fabric_domains(self) -> Ints:
        """The first domain of every node group."""
        return np.searchsorted(self._layout.domain_fabric, np.arange(len(self._layout.fabrics)))

    @property
    def node_group(self) -> Ints:
        """Number of each node's group in the file."""
        return self._layout.node_group

    @property
    def group_nics(self) -> tuple[Nics | None, ...]:
        """The NICs of the nodes of every group."""
        return tuple(group.nics for group in self._file.nodes)

    @property
    def node_nics(self) -> Ints:
        """NICs of each node."""
        return self._layout.node_nics

    def measured_share(self, domain: int, members: tuple[int, ...]) -> float:
        """Least measured over nominal rate along the ring over members of a domain; infinite when none was measured."""
        fabric, size = self.domain_fabric(domain)
        measured = self._measured
        if fabric is None or (measured.device_bytes_per_s is None and measured.fabric_bytes_per_s is None):
            return np.inf
        ring = np.array(members)
        after = np.roll(ring, -1)
        nominal = pair_bandwidth(fabric, size, ring, after)
        if measured.device_bytes_per_s is not None:
            start = int(np.searchsorted(self.device_domain, domain))
            return float((measured.device_bytes_per_s[start + ring, start + after] / nominal).min())
        assert measured.fabric_bytes_per_s is not None
        return float((measured.fabric_bytes_per_s[ring, after] / nominal).min())

    @property
    def measured_devices(self) -> bool:
        """Whether rates between single devices were measured, so that no two domains need be alike."""
        return self._measured.device_bytes_per_s is not None

    def device_nic_bytes_per_s(self, node: ArrayLike) -> Floats:
        """What one device of a node can send over NICs: its own share, or one whole NIC where devices share NICs."""
        arrays = self._layout
        index = np.asarray(node)
        per_device = np.maximum(1.0, arrays.node_nics[index] / arrays.node_devices[index])
        return cast(Floats, arrays.node_nic_bytes_per_s[index] * per_device)

    def bandwidth_bytes_per_s(self, src: ArrayLike, dst: ArrayLike) -> Floats:
        """Point-to-point rate from devices to devices, broadcast; infinite from a device to itself.

        A measured rate wins over a nominal one. Nominal network rates are what is left while every node sends, so
        that oversubscription counts.
        """
        src, dst = self._devices(src, dst)
        rates = np.full(src.shape, np.inf)
        if self._measured.device_bytes_per_s is not None:
            rates = self._measured.device_bytes_per_s[src, dst]
        else:
            same = self.device_domain[src] == self.device_domain[dst]
            rates[~same] = self._network_rate(src[~same], dst[~same])
            self._fill_inside(rates, same, src, dst, latency=False)
        rates[src == dst] = np.inf
        return rates

    def latency_s(self, src: ArrayLike, dst: ArrayLike) -> Floats:
        """Hardware latency from devices to devices, broadcast; zero from a device to itself."""
        src, dst = self._devices(src, dst)
        delays = np.zeros(src.shape)
        same = self.device_domain[src] == self.device_domain[dst]
        a, b = self.device_node[src[~same]], self.device_node[dst[~same]]
        measured = self._measured.node_latency_s
        delays[~same] = measured[a, b] if measured is not None else self._paths.way(a, b).latency_s
        self._fill_inside(delays, same, src, dst, latency=True)
        delays[src == dst] = 0.0
        return delays

    def node_rate_bytes_per_s(self, src: ArrayLike, dst: ArrayLike) -> Floats:
        """What all NICs of a node send to another node together, broadcast, one direction.

        Between nodes of one domain the scale-up fabric's rate of all the node's devices; from a node to itself the
        scale-up rate of one device.
        """
        first, second = np.broadcast_arrays(np.asarray(src, dtype=np.intp), np.asarray(dst, dtype=np.intp))
        a, b = first.ravel(), second.ravel()
        arrays = self._layout
        total = arrays.node_nics * arrays.node_nic_bytes_per_s
        fraction, limit = self._way(a, b)
        rates = np.minimum(np.minimum(total[a], total[b]) * fraction, limit)
        same = arrays.node_domain[a] == arrays.node_domain[b]
        scaleup = self._scaleup[arrays.node_group[a]]
        rates = np.where(same, scaleup * arrays.node_devices[a], rates)
        return np.asarray(np.where(a == b, scaleup, rates).reshape(first.shape))

    @property
    def node_bandwidth_bytes_per_s(self) -> NDArray[np.float64]:
        """`node_rate_bytes_per_s` between every two nodes, made on first use; do not write to it."""
        if self._node_bandwidth is None:
            nodes = np.arange(self.n_nodes)
            matrix = np.empty((self.n_nodes, self.n_nodes))
            for rows in np.array_split(nodes, 1 + self.n_nodes**2 // 200_000):
                matrix[rows] = self.node_rate_bytes_per_s(rows[:, None], nodes[None, :])
            matrix.flags.writeable = False
            self._node_bandwidth = matrix
        return self._node_bandwidth

    def link_is_shared(self, src: ArrayLike, dst: ArrayLike) -> NDArray[np.bool_]:
        """Whether the way between two nodes' networks is one link that all their traffic shares."""
        home, away = self.node_network[np.asarray(src)], self.node_network[np.asarray(dst)]
        return cast(NDArray[np.bool_], self._paths.link_shared[home, away])

    def graph(self) -> networkx.Graph[str]:
        """Devices, NICs, switches and links as a graph; edges carry `bandwidth_bytes_per_s` and `latency_s`."""
        from .graph import topology_graph

        return topology_graph(self, self._file)

    def __repr__(self) -> str:
        kinds = ", ".join(each.name for each in self.accelerators)
        return f"<Topology {self.name}: {self.n_devices} × {kinds} in {self.n_nodes} nodes>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topology) and self._file == other._file

    def __hash__(self) -> int:
        return hash((self.name, self.n_devices, self.n_nodes))

    def _devices(self, src: ArrayLike, dst: ArrayLike) -> tuple[Ints, Ints]:
        a, b = np.broadcast_arrays(np.asarray(src, dtype=np.intp), np.asarray(dst, dtype=np.intp))
        if a.size and (min(a.min(), b.min()) < 0 or max(a.max(), b.max()) >= self.n_devices):
            raise TopologyError(f"devices are numbered 0 to {self.n_devices - 1}")
        return a, b

    def _way(self, a: Ints, b: Ints) -> tuple[Floats, Floats]:
        """Fraction of the NICs' rate and absolute limit between nodes, measured before nominal."""
        measured = self._measured
        if measured.node_fraction is not None:
            return measured.node_fraction[a, b], np.full(a.shape, np.inf)
        way = self._paths.way(a, b)
        if measured.device_node_fraction is not None:
            return measured.device_node_fraction[a, b], way.limit_bytes_per_s
        return way.fraction, way.limit_bytes_per_s

    def _network_rate(self, src: Ints, dst: Ints) -> Floats:
        if not src.size:
            return np.empty(0)
        a, b = self.device_node[src], self.device_node[dst]
        fraction, limit = self._way(a, b)
        nominal = np.minimum(self.device_nic_bytes_per_s(a), self.device_nic_bytes_per_s(b))
        return np.minimum(nominal * fraction, limit)

    def _fill_inside(self, out: Floats, same: NDArray[np.bool_], src: Ints, dst: Ints, *, latency: bool) -> None:
        arrays = self._layout
        groups = arrays.domain_fabric[self.device_domain[src]]
        for group, (fabric, size) in enumerate(zip(arrays.fabrics, arrays.fabric_sizes, strict=True)):
            here = same & (groups == group)
            if fabric is None or not here.any():
                continue
            i, j = arrays.device_local[src[here]], arrays.device_local[dst[here]]
            measured = self._measured.fabric_bytes_per_s
            if latency:
                out[here] = pair_latency(fabric, size, i, j)
            elif measured is not None:
                out[here] = measured[i, j]
            else:
                out[here] = pair_bandwidth(fabric, size, i, j)

    def _speeds(self) -> Floats:
        speeds = np.ones(self.n_devices)
        numbers = {name: i for i, name in enumerate(self.node_names)}
        for degraded in self._file.degraded:
            if degraded.node is not None:
                speeds[self.device_node == numbers[degraded.node]] *= degraded.compute
        return speeds

    def _alike(self) -> bool:
        nodes = self._file.nodes
        kinds = {(n.accelerator, n.devices, n.fabric, n.nics, n.network, n.domain_nodes) for n in nodes}
        return len(kinds) == 1 and not self._file.degraded


def parse_topology(document: object) -> Topology:
    """The topology of a decoded YAML or JSON document of schema `shardwright.topology/1`.

    Raises TopologyError, with the path of what is wrong, on anything that is not usable.
    """
    file = read_file(document)
    if file.cluster is not None:
        from .clusters import expanded

        file = expanded(file)
    return Topology(file)


def topology_document(topology: Topology) -> dict[str, Any]:
    """The document that `parse_topology` reads back as the same topology."""
    return topology.document
