"""The topology file, schema `shardwright.topology/1`: records, checks, reading and writing.

    schema: shardwright.topology/1
    name: two-nodes
    nodes:
      - name: a
        count: 2
        accelerator: H100-SXM5-80GB
        devices: 8
        fabric: {kind: switch, bandwidth_bytes_per_s: 450 GB/s, latency_s: 1 us}
        nics: {count: 8, bandwidth_bytes_per_s: 400 Gb/s, latency_s: 2 us, kind: ib}
    networks:
      - {kind: rail, name: fabric, pod_nodes: 32, latency_s: 1 us}

Every bandwidth is for one direction. A missing one is an error, never a default.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

from .accelerators import Accelerator
from .errors import TopologyError
from .units import LEAST, MOST, check_positive, check_seconds, si_quantities

SCHEMA = "shardwright.topology/1"
MAX_DEVICES = 1_048_576
MAX_MESH = 512

NicKind = Literal["ib", "roce", "ethernet", "efa", "slingshot", "omnipath"]
Op = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What every record of a topology file shares."""


class _Tagged(_Record, frozen=True, tag_field="kind"):
    """A record that says in `kind` which one it is."""


def _positive(record: msgspec.Struct, *fields: str) -> None:
    for field in fields:
        value = getattr(record, field)
        if value is not None:
            check_positive(field, value)


def _counted(record: msgspec.Struct, *fields: str) -> None:
    for field in fields:
        value = getattr(record, field)
        if not 1 <= value <= MAX_DEVICES:
            raise TopologyError(f"{field} must be at least 1 and at most {MAX_DEVICES} but got {value}")


def _latency(record: msgspec.Struct, *fields: str) -> None:
    for field in fields:
        check_seconds(field, getattr(record, field))


def _oversubscription(value: float) -> None:
    if not 1 <= value <= MOST:
        raise TopologyError(f"oversubscription must be from 1 to {MOST:g} but got {value}")


class SwitchFabric(_Tagged, frozen=True, kw_only=True, tag="switch"):
    """Every device has its full bandwidth to every other (NVSwitch, UB plane).

    `in_network_reduction` says the switch can add (NVLink SHARP).
    """

    bandwidth_bytes_per_s: float
    latency_s: float
    in_network_reduction: bool = False

    def __post_init__(self) -> None:
        _positive(self, "bandwidth_bytes_per_s")
        _latency(self, "latency_s")


class MeshFabric(_Tagged, frozen=True, kw_only=True, tag="mesh"):
    """Direct links between devices, `[i, j, count]`; no list means one link between every two.

    Devices without a link between them go over one other device (as NCCL does), else over the host at
    `host_bandwidth_bytes_per_s`.
    """

    link_bandwidth_bytes_per_s: float
    latency_s: float
    links: tuple[tuple[int, int, int], ...] | None = None
    host_bandwidth_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "link_bandwidth_bytes_per_s", "host_bandwidth_bytes_per_s")
        _latency(self, "latency_s")
        seen = set()
        for i, j, count in self.links or ():
            if i < 0 or j < 0 or i == j or not 1 <= count <= MAX_MESH:
                raise TopologyError(
                    f"links must join two different devices by 1 to {MAX_MESH} links but got [{i}, {j}, {count}]"
                )
            if (min(i, j), max(i, j)) in seen:
                raise TopologyError(f"links names the pair [{i}, {j}] twice")
            seen.add((min(i, j), max(i, j)))


class PcieFabric(_Tagged, frozen=True, kw_only=True, tag="pcie"):
    """A PCIe tree: devices under switches, switches under sockets, sockets joined.

    All devices of a switch share its uplink to the socket, all traffic between sockets shares the socket link.
    """

    bandwidth_bytes_per_s: float
    latency_s: float
    devices_per_switch: int
    uplink_bytes_per_s: float
    switches_per_socket: int
    socket_bytes_per_s: float

    def __post_init__(self) -> None:
        _positive(self, "bandwidth_bytes_per_s", "uplink_bytes_per_s", "socket_bytes_per_s")
        _counted(self, "devices_per_switch", "switches_per_socket")
        _latency(self, "latency_s")


class TorusFabric(_Tagged, frozen=True, kw_only=True, tag="torus"):
    """A torus (or, without `wrap`, a grid) of devices, numbered with the last dimension fastest."""

    dims: tuple[int, ...]
    link_bandwidth_bytes_per_s: float
    latency_s: float
    wrap: bool = True

    def __post_init__(self) -> None:
        _positive(self, "link_bandwidth_bytes_per_s")
        _latency(self, "latency_s")
        if not self.dims or any(dim < 1 for dim in self.dims):
            raise TopologyError(f"dims must be positive but got {list(self.dims)}")


Fabric = SwitchFabric | MeshFabric | PcieFabric | TorusFabric


class Nics(_Record, frozen=True, kw_only=True):
    """The NICs of one node that carry the accelerators' traffic; the bandwidth is one NIC's, one direction."""

    count: int
    bandwidth_bytes_per_s: float
    latency_s: float
    kind: NicKind

    def __post_init__(self) -> None:
        _counted(self, "count")
        _positive(self, "bandwidth_bytes_per_s")
        _latency(self, "latency_s")


class NodeGroup(_Record, frozen=True, kw_only=True):
    """`count` equal nodes (hosts), named `name-0`, `name-1`, …; `domain_nodes` of them share one scale-up fabric."""

    name: str
    count: int
    accelerator: str
    devices: int
    fabric: Fabric | None = None
    nics: Nics | None = None
    network: str = ""
    domain_nodes: int = 1

    def __post_init__(self) -> None:
        if not self.name:
            raise TopologyError("name must not be empty")
        _counted(self, "count", "devices", "domain_nodes")
        if self.count % self.domain_nodes:
            raise TopologyError(f"count {self.count} must be a multiple of domain_nodes {self.domain_nodes}")
        size = self.devices * self.domain_nodes
        if size > 1 and self.fabric is None:
            raise TopologyError(f"fabric is missing: {size} devices share it")
        if isinstance(self.fabric, TorusFabric) and math.prod(self.fabric.dims) != size:
            raise TopologyError(f"fabric.dims {list(self.fabric.dims)} must hold {size} devices")
        if isinstance(self.fabric, MeshFabric) and size > MAX_MESH:
            raise TopologyError(f"a mesh may join at most {MAX_MESH} devices but got {size}")
        if isinstance(self.fabric, MeshFabric) and any(max(i, j) >= size for i, j, _ in self.fabric.links or ()):
            raise TopologyError(f"fabric.links names a device beyond {size - 1}")


class RailNetwork(_Tagged, frozen=True, kw_only=True, tag="rail"):
    """Rail-optimized: NIC i of every node of a pod meets leaf switch i; pods and rails meet in the spine."""

    name: str
    pod_nodes: int
    latency_s: float
    spine_latency_s: float = 0.0
    oversubscription: float = 1.0

    def __post_init__(self) -> None:
        _counted(self, "pod_nodes")
        _latency(self, "latency_s", "spine_latency_s")
        _oversubscription(self.oversubscription)


class Level(_Record, frozen=True, kw_only=True):
    """One level of a fat tree: switches over `nodes` nodes each, uplinks narrower by `oversubscription`."""

    nodes: int
    latency_s: float
    oversubscription: float = 1.0

    def __post_init__(self) -> None:
        _counted(self, "nodes")
        _latency(self, "latency_s")
        _oversubscription(self.oversubscription)


class FatTree(_Tagged, frozen=True, kw_only=True, tag="fat_tree"):
    """Switch levels from the leaves up; nodes that no listed level joins meet in one core above the last."""

    name: str
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        if not self.levels:
            raise TopologyError("levels must name at least one level")
        for below, above in zip(self.levels, self.levels[1:], strict=False):
            if above.nodes % below.nodes or above.nodes == below.nodes:
                raise TopologyError(f"a level of {above.nodes} nodes must hold several whole levels of {below.nodes}")


class Dragonfly(_Tagged, frozen=True, kw_only=True, tag="dragonfly"):
    """Groups of nodes joined all to all; `global_bandwidth_bytes_per_s` is one group's to all the others together."""

    name: str
    group_nodes: int
    latency_s: float
    global_bandwidth_bytes_per_s: float
    global_latency_s: float

    def __post_init__(self) -> None:
        _counted(self, "group_nodes")
        _positive(self, "global_bandwidth_bytes_per_s")
        _latency(self, "latency_s", "global_latency_s")


Network = RailNetwork | FatTree | Dragonfly


class NetworkLink(_Record, frozen=True, kw_only=True):
    """What joins two networks (sites, or islands of different NICs).

    The bandwidth is shared by all their traffic, or with `shared: false` each node's own.
    """

    between: tuple[str, str]
    bandwidth_bytes_per_s: float
    latency_s: float
    shared: bool = True

    def __post_init__(self) -> None:
        _positive(self, "bandwidth_bytes_per_s")
        _latency(self, "latency_s")
        if self.between[0] == self.between[1]:
            raise TopologyError("between must name two different networks")


class Degraded(_Record, frozen=True, kw_only=True):
    """A slow node (`node`) or pair of nodes (`between`): the fraction of nominal that is left."""

    node: str | None = None
    between: tuple[str, str] | None = None
    network: float = 1.0
    compute: float = 1.0

    def __post_init__(self) -> None:
        if (self.node is None) == (self.between is None):
            raise TopologyError("give either node or between")
        for field in ("network", "compute"):
            value = getattr(self, field)
            if not LEAST <= value <= 1:
                raise TopologyError(f"{field} must be above 0 and at most 1 but got {value}")
        if self.between is not None and self.compute != 1:
            raise TopologyError("compute belongs to a node, not to a pair")


Row = list[float | None]


class Matrix(_Record, frozen=True, kw_only=True):
    """Measured bandwidths from row to column; the diagonal is not used and may be null."""

    unit: Literal["bytes/s", "MB/s", "GB/s", "MiB/s", "GiB/s", "Gb/s"]
    matrix: list[Row]
    source: str = ""


class NodeMatrix(Matrix, frozen=True, kw_only=True):
    """Node to node; `scope` says what was measured: one NIC to one NIC, or all NICs of a node together.

    `nodes` are the host names of the rows; they name the nodes where the file gives no `node_names`.
    """

    scope: Literal["nic", "node"]
    nodes: tuple[str, ...] = ()


class LatencyMatrix(_Record, frozen=True, kw_only=True):
    """Measured latencies from row to column, in `unit`; the diagonal is not used and may be null."""

    unit: Literal["s", "ms", "us", "ns"]
    matrix: list[Row]
    source: str = ""


class Curve(_Record, frozen=True, kw_only=True):
    """Measured times of one collective on one group shape; sizes as nccl-tests counts them, rising."""

    op: Op
    ranks_per_domain: int
    size_bytes: tuple[float, ...]
    time_s: tuple[float, ...]
    domains: int = 1
    source: str = ""

    def __post_init__(self) -> None:
        _counted(self, "ranks_per_domain", "domains")
        if len(self.size_bytes) != len(self.time_s) or not self.size_bytes:
            raise TopologyError(
                f"size_bytes and time_s must have equal length, at least 1, but have {len(self.size_bytes)} and "
                f"{len(self.time_s)} values"
            )
        for field in ("size_bytes", "time_s"):
            for i, value in enumerate(getattr(self, field)):
                check_positive(f"{field}[{i}]", value)
        for i, (low, high) in enumerate(zip(self.size_bytes, self.size_bytes[1:], strict=False)):
            if high <= low:
                raise TopologyError(f"size_bytes must rise but [{i + 1}] is {high} after {low}")


class Measured(_Record, frozen=True, kw_only=True):
    """What was measured on the real machines; it overrides nominal values.

    `fabric_bandwidth` is device to device inside one scale-up domain and holds for every domain.
    """

    node_bandwidth: NodeMatrix | None = None
    device_bandwidth: Matrix | None = None
    fabric_bandwidth: Matrix | None = None
    node_latency: LatencyMatrix | None = None
    curves: tuple[Curve, ...] = ()


class TopologyFile(_Record, frozen=True, kw_only=True):
    """A whole topology file, either spelled out in `nodes` or a catalog `cluster` with overrides."""

    schema: Literal["shardwright.topology/1"]
    name: str = ""
    cluster: str | None = None
    accelerators: tuple[Accelerator, ...] = ()
    nodes: Annotated[tuple[NodeGroup, ...], msgspec.Meta(max_length=4096)] = ()
    networks: tuple[Network, ...] = ()
    links: tuple[NetworkLink, ...] = ()
    node_names: tuple[str, ...] = ()
    degraded: tuple[Degraded, ...] = ()
    measured: Measured | None = None


def read_file(document: object) -> TopologyFile:
    """The checked records of a decoded YAML or JSON document; TopologyError names the place of what is wrong."""
    if not isinstance(document, dict):
        raise TopologyError(f"a topology file must be a mapping but is {type(document).__name__}")
    if document.get("schema") != SCHEMA:
        raise TopologyError(f"$.schema must be {SCHEMA!r} but got {document.get('schema')!r}")
    try:
        return msgspec.convert(si_quantities(document), TopologyFile)
    except msgspec.ValidationError as error:
        raise TopologyError(_plain(str(error))) from None


def write_file(file: TopologyFile) -> dict[str, Any]:
    """The document that `read_file` reads back as the same records."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(file))
    return document


def _plain(message: str) -> str:
    """msgspec's `what - at `$.where`` as `$.where: what`, on one line."""
    what, found, where = message.replace("\n", " ").partition(" - at `")
    return f"{where.rstrip('`')}: {what}" if found else what
