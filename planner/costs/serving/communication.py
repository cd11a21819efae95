"""Transfers between the ranks of one copy of a model, on the links they really have."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Accelerator, Collectives, Topology

from ...errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fabric:
    """The devices a copy runs on: their kind, and how many of them share a scale-up domain.

    `domain_devices` counts the devices of a domain that one copy may use. Times are kept: a search asks for the same
    group and sizes once per layout.
    """

    accelerator: Accelerator
    collectives: Collectives
    domain_devices: int
    node_devices: int
    topology: Topology
    known: dict[tuple[str, int, int, bytes], Array] = field(default_factory=dict, compare=False, repr=False)

    def seconds(self, op: str, size_bytes: Array, ranks: int) -> Array:
        """Time of a collective of `ranks` contiguous ranks, by size (as nccl-tests counts it)."""
        if ranks == 1:
            return np.zeros_like(size_bytes)
        inside = min(ranks, self.domain_devices)
        return self._kept(op, size_bytes, inside, -(-ranks // inside))

    def _kept(self, op: str, size_bytes: Array, inside: int, outside: int) -> Array:
        key = (op, inside, outside, size_bytes.tobytes())
        found = self.known.get(key)
        if found is None:
            found = np.asarray(self.collectives.uniform_seconds(op, size_bytes, inside, outside), dtype=float)
            self.known[key] = found
        return found

    def all_reduce_seconds(
        self, size_bytes: Array, ranks: int, small_reduce_s: float, rates: tuple[float, float] = (1.0, 0.7)
    ) -> Array:
        """All-reduce as an engine does it: its own one-kernel reduction where that is faster than the library's.

        Within a domain of direct device memory access the kernel takes a start and 2 (n − 1) / n of the bytes at a
        share of the link rate (two-shot; vLLM and TensorRT-LLM custom all-reduce, measured by AIConfigurator). `rates`
        are what multiplies the library's time, and that share.
        """
        library, share = rates
        seconds = self.seconds("all_reduce", size_bytes, ranks) * library
        if ranks == 1 or ranks > self.domain_devices:
            return seconds
        rate = share * self.accelerator.scaleup_bytes_per_s
        own = small_reduce_s * (1 + 0.15 * np.log2(ranks)) + 2 * (ranks - 1) / ranks * size_bytes / rate
        return np.asarray(np.minimum(seconds, own), dtype=float)

    def send_seconds(self, size_bytes: Array, across: bool) -> Array:
        """Time to pass a tensor to the next pipeline stage, inside the domain or across."""
        inside, outside = (1, 2) if across else (2, 1)
        return self._kept("send_recv", size_bytes, inside, outside)


def fabric(topology: Topology, accelerator: int = 0) -> Fabric:
    """The fabric of the devices of one kind in a topology. Raises InputError when there is no such kind."""
    mine = topology.device_accelerator == accelerator
    if not mine.any():
        raise InputError(f"topology {topology.name} has no device of kind {accelerator}")
    _, per_domain = np.unique(topology.device_domain[mine], return_counts=True)
    _, per_node = np.unique(topology.device_node[mine], return_counts=True)
    return Fabric(
        accelerator=topology.accelerators[accelerator],
        collectives=Collectives(topology),
        domain_devices=int(per_domain.max()),
        node_devices=int(per_node.max()),
        topology=topology,
    )
