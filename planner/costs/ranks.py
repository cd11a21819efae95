"""Which device plays which rank before links are looked at, and how unequal devices share a pipeline.

Domains of devices stand in order of their speed, fastest first, so that slow ones fall to the last pipeline ranks,
which keep the fewest micro-batches alive. A pipeline rank goes at the pace of its slowest device and holds what its
smallest can (Metis, Um et al. 2024, keeps device types apart in the same way).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Topology

from ..workload.strategy_table import Ints
from ..workload.training import TrainingJob
from .coefficients import coefficients
from .compute import Device, device_of
from .keys import Floats


@dataclass(frozen=True)
class DeviceRanks:
    """For every rank in the cluster's own order: the device, how many times longer it takes than the fastest, and the
    smallest device's memory as a share of its own."""

    devices: Ints
    slowness: Floats
    tightness: Floats

    @functools.cached_property
    def alike(self) -> bool:
        """Whether every device is as fast and as large as any other."""
        return bool(np.all(self.slowness == 1.0) and np.all(self.tightness == 1.0))

    def in_order(self, devices: Ints) -> DeviceRanks:
        """The same devices in another order."""
        place = np.empty_like(self.devices)
        place[self.devices] = np.arange(len(place))
        return DeviceRanks(devices, self.slowness[place[devices]], self.tightness[place[devices]])

    def of_stages(self, pp: int) -> tuple[Floats, Floats]:
        """Slowness and tightness of every pipeline rank."""
        if self.alike or len(self.devices) % pp:
            return np.ones(pp), np.ones(pp)
        return self.slowness.reshape(pp, -1).max(axis=1), self.tightness.reshape(pp, -1).max(axis=1)


ALIKE = DeviceRanks(np.zeros(0, np.int64), np.ones(0), np.ones(0))


def fastest_device(topology: Topology, job: TrainingJob, dropout: bool | None = None) -> tuple[Device, DeviceRanks]:
    """The accelerator that compute and memory are counted in, and how the others compare.

    Of mixed accelerators it is the fastest, with the memory of the smallest. `dropout` says whether the model drops
    activations, and so keeps masks of them; None leaves it to the generation of software. Raises TopologyError when
    one has no known peak at the job's precision.
    """
    kinds = [_device(topology, job, index, dropout) for index in range(len(topology.accelerators))]
    rates = np.array([kind.peak_flops * kind.coefficients.kernels.gemm_fraction for kind in kinds])
    memory = np.array([kind.memory_bytes for kind in kinds])
    present = np.unique(topology.device_accelerator)
    best = int(present[np.argmax(rates[present])])
    speed = rates[topology.device_accelerator] / rates[best] * topology.device_speed
    smallest = float(memory[present].min())
    order = _by_speed(topology, speed)
    ranks = DeviceRanks(order, 1.0 / speed[order], smallest / memory[topology.device_accelerator][order])
    chosen = kinds[best]
    device = Device(
        peak_flops=chosen.peak_flops,
        low_precision_peak_flops=chosen.low_precision_peak_flops,
        memory_bytes_per_s=chosen.memory_bytes_per_s,
        memory_bytes=smallest,
        coefficients=chosen.coefficients,
        low_precision=chosen.low_precision,
        element_bytes=chosen.element_bytes,
        frozen=chosen.frozen,
        together=topology.n_devices,
    )
    return device, ranks


def _device(topology: Topology, job: TrainingJob, index: int, dropout: bool | None) -> Device:
    kind = topology.accelerators[index]
    chosen = coefficients(kind.architecture, job.precision, job.framework, kind.name)
    load = job.expert_load
    imbalance = job.expert_imbalance if load is None else load.imbalance
    said = {"expert_imbalance": imbalance, "dropout": dropout, "placed": load}
    framework = msgspec.structs.replace(
        chosen.framework, **{name: each for name, each in said.items() if each is not None}
    )
    chosen = msgspec.structs.replace(chosen, framework=framework)
    return device_of(kind, job.precision, chosen, job.trained == "adapters")


def _by_speed(topology: Topology, speed: Floats) -> NDArray[np.int64]:
    """Devices in order of their domain's slowest member, fastest domain first, each domain kept together."""
    slowest = np.full(topology.n_domains, np.inf)
    np.minimum.at(slowest, topology.device_domain, speed)
    return np.lexsort((np.arange(topology.n_devices), topology.device_domain, -slowest[topology.device_domain]))


def domain_size(topology: Topology) -> int:
    """Devices per scale-up domain; of unequal domains the largest number that divides them all."""
    return int(np.gcd.reduce(np.bincount(topology.device_domain)))
