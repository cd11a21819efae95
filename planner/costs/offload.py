"""What moving states or activations off the device costs: the tiers behind it as bandwidth and capacity.

Optimizer states on the host are updated there (ZeRO-Offload, Ren et al. 2021), gradients going down, the update and
the new weights coming up all at once in a pipeline of subgroups (Deep Optimizer States, Maurya et al. 2024); on NVMe
the states pass through the host as well (ZeRO-Infinity, Rajbhandari et al. 2021, section 5.1; Fuyou, Liao et al.
2024). Activations go out during forward and come back before their backward, layer by layer (SSDTrain, Wu et al.
2024); what the compute of the same micro-batch does not cover is exposed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Topology

from ..errors import InputError
from ..strategy import OFFLOADS
from ..workload.strategy_table import Ints
from ..workload.training import Tier, TrainingJob
from .keys import Floats
from .memory import StateBytes

CPU, NVME = OFFLOADS.index("cpu"), OFFLOADS.index("nvme")
ASSUMED_HOST_BYTES = 128e9
ASSUMED_LINK_FRACTION = 0.8


@dataclass(frozen=True, slots=True)
class Tiers:
    """The host's memory and, where given, NVMe; `assumptions` says what was not given."""

    cpu: Tier | None
    nvme: Tier | None
    assumptions: tuple[str, ...] = ()

    def rate(self, where: Ints) -> Floats:
        """Bytes per second between a device and the tier of each entry; infinite where nothing is offloaded."""
        cpu, nvme = self._needed(where)
        return np.select(
            [where == CPU, where == NVME], [cpu.bytes_per_s, min(cpu.bytes_per_s, nvme.bytes_per_s)], np.inf
        )

    def fits(
        self, optimizer_at: Ints, optimizer: Floats, activations_at: Ints, activations: Floats
    ) -> NDArray[np.bool_]:
        """Which entries the tiers have room for."""
        held = [
            np.where(optimizer_at == tier, optimizer, 0.0) + np.where(activations_at == tier, activations, 0.0)
            for tier in (CPU, NVME)
        ]
        room = [tier.bytes_per_device if tier is not None else 0.0 for tier in (self.cpu, self.nvme)]
        result: NDArray[np.bool_] = (held[0] <= room[0]) & (held[1] <= room[1])
        return result

    def optimizer_s(self, where: Ints, parameters: Floats, states: StateBytes, on_device_s: Floats) -> Floats:
        """Seconds of the optimizer step over that many parameters per device."""
        if not np.any(where):
            return on_device_s
        cpu, nvme = self._needed(where)
        moved = parameters * max(states.gradients, 2.0) / cpu.bytes_per_s
        updated = parameters * states.touched / cpu.update_bytes_per_s
        host = np.maximum(moved, updated)
        disk = np.maximum(host, parameters * 2 * states.optimizer / nvme.bytes_per_s)
        return np.select([where == CPU, where == NVME], [host, disk], on_device_s)

    def _needed(self, where: Ints) -> tuple[Tier, Tier]:
        nothing = Tier(bytes_per_device=1.0, bytes_per_s=1.0)
        if self.cpu is None and np.any(where):
            raise InputError("offload needs job.cpu_tier: the catalog knows no host link of this accelerator")
        if self.nvme is None and np.any(where == NVME):
            raise InputError("offload to nvme needs job.nvme_tier")
        return self.cpu or nothing, self.nvme or nothing


def tiers_of(topology: Topology, job: TrainingJob) -> Tiers:
    """The job's tiers; a host that is not described is assumed from the accelerator's own link to it."""
    if job.cpu_tier is not None:
        return Tiers(job.cpu_tier, job.nvme_tier)
    links = [accelerator.pcie_bytes_per_s for accelerator in topology.accelerators]
    if not all(links):
        return Tiers(None, job.nvme_tier)
    rate = min(link for link in links if link is not None) * ASSUMED_LINK_FRACTION
    note = (
        f"offload takes {ASSUMED_HOST_BYTES / 1e9:.0f} GB of host memory per device at {rate / 1e9:.1f} GB/s, "
        "assumed: job.cpu_tier overrides"
    )
    return Tiers(Tier(bytes_per_device=ASSUMED_HOST_BYTES, bytes_per_s=rate), job.nvme_tier, (note,))
