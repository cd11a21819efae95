"""The GPUs that experts are placed on: what moving a token between them costs, how fast and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..plan.base import Input

if TYPE_CHECKING:
    from shardwright.topologies import Topology

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAX_GPUS = 1024


@dataclass(frozen=True, slots=True)
class ExpertCluster:
    """`link_cost[g, h]` is the time of moving a byte from GPU g to h over that of the fastest link.

    `node[g]` is the node of GPU g; `speeds` and `memory_bytes` are relative to nothing, only their ratios matter.
    `fastest_bytes_per_s` is the speed of a link of cost one (None when only ratios are known); `link_ratio` is that of
    equal GPUs.
    """

    name: str
    link_cost: Floats
    node: Ints
    speeds: Floats
    memory_bytes: Floats
    fastest_bytes_per_s: float | None = None
    source: Input | None = None
    link_ratio: float | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return len(self.node)

    @property
    def gpus_per_node(self) -> int:
        """GPUs of the fullest node."""
        return int(np.bincount(self.node).max())

    def slots(self, experts: int, redundant: int) -> Ints:
        """Experts each GPU holds per layer: even shares, or shares by memory when GPUs differ in it.

        Shares are rounded up where they do not divide, so that some slots stay empty.
        """
        wanted = experts + redundant
        share = wanted * self.memory_bytes / self.memory_bytes.sum()
        return np.asarray(np.maximum(1, np.ceil(share - 1e-9)), dtype=np.int64)


def flat_cluster(gpus: int, gpus_per_node: int | None = None, link_ratio: float = 1.0) -> ExpertCluster:
    """Equal GPUs in equal nodes; a link between nodes costs `link_ratio` times one inside. Raises InputError."""
    per_node = gpus if gpus_per_node is None else gpus_per_node
    if not 1 <= gpus <= MAX_GPUS:
        raise InputError(f"gpus must be from 1 to {MAX_GPUS} but got {gpus}")
    if per_node < 1 or gpus % per_node:
        raise InputError(f"gpus-per-node must divide the {gpus} GPUs but got {per_node}")
    if not (np.isfinite(link_ratio) and link_ratio >= 1):
        raise InputError(f"link-ratio must be a number of at least 1 but got {link_ratio}")
    node = np.arange(gpus) // per_node
    cost = np.where(node[:, None] == node, 1.0, float(link_ratio))
    np.fill_diagonal(cost, 0.0)
    shape = f"{gpus} GPUs" if per_node == gpus else f"{gpus} GPUs in nodes of {per_node}, links {link_ratio:g}:1"
    return ExpertCluster(
        shape,
        cost,
        node,
        np.ones(gpus),
        np.ones(gpus),
        link_ratio=float(link_ratio),
        assumptions=(f"equal GPUs: {shape}",),
    )


def cluster_of(topology: Topology, source: Input | None = None) -> ExpertCluster:
    """The GPUs of a topology, links priced by their measured or nominal bandwidth. Raises InputError when too many.

    Speed is bf16 peak where every accelerator has one, else memory bandwidth: experts are matrix products.
    """
    from shardwright.topologies import TopologyError

    gpus = topology.n_devices
    if gpus > MAX_GPUS:
        raise InputError(f"experts are placed on at most {MAX_GPUS} GPUs but {topology.name} has {gpus}")
    devices = np.arange(gpus)
    cost = np.zeros((gpus, gpus))
    fastest = None
    if gpus > 1:
        off = ~np.eye(gpus, dtype=bool)
        source_of, target_of = np.nonzero(off)
        bandwidth = topology.bandwidth_bytes_per_s(devices[source_of], devices[target_of])
        fastest = float(bandwidth.max())
        cost[off] = fastest / bandwidth
    kinds = [topology.accelerators[int(kind)] for kind in topology.device_accelerator]
    try:
        speeds = np.array([kind.peak("bf16") for kind in kinds])
    except TopologyError:
        speeds = np.array([kind.memory_bytes_per_s for kind in kinds])
    memory = np.array([float(kind.memory_bytes) for kind in kinds])
    node = np.asarray(topology.device_node, dtype=np.int64)
    return ExpertCluster(topology.name, cost, node, speeds / speeds.mean(), memory, fastest, source)


def cluster_for(
    cluster: str | None, measured: str | None, gpus: int | None, gpus_per_node: int | None, link_ratio: float
) -> ExpertCluster:
    """The cluster that a user names: a topology, or a number of equal GPUs. Raises InputError when both or neither."""
    if (cluster is None) == (gpus is None):
        raise InputError("cluster: give either --cluster or --gpus")
    if cluster is not None:
        from ..inputs import load_topology

        topology, source = load_topology(cluster, measured)
        return cluster_of(topology, source)
    assert gpus is not None
    return flat_cluster(gpus, gpus_per_node, link_ratio)
