"""Where the workers stand: tp inside a scale-up domain, stages next to each other, copies on different nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.topologies import Topology

from .workers import WorkerType


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of every worker, in the order the workers were given."""

    devices: tuple[tuple[int, ...], ...]

    def nodes(self, topology: Topology) -> list[set[int]]:
        """The nodes every worker stands on."""
        return [{int(topology.device_node[device]) for device in worker} for worker in self.devices]


def place(topology: Topology, workers: Sequence[WorkerType]) -> Placement | None:
    """Devices for every worker, or None when the domains cannot hold them.

    Workers larger than a domain take whole free ones; the others follow, largest first. Each goes into the emptiest
    domain that holds it, so that copies spread over nodes and one lost node costs few of them; where that leaves no
    room for the last of them, each goes into the fullest domain instead.
    """
    return _packed(topology, workers, emptiest=True) or _packed(topology, workers, emptiest=False)


def _packed(topology: Topology, workers: Sequence[WorkerType], emptiest: bool) -> Placement | None:
    free: dict[int, list[int]] = {}
    for device in range(topology.n_devices):
        free.setdefault(int(topology.device_domain[device]), []).append(device)
    sizes = {domain: len(devices) for domain, devices in free.items()}
    kind = {domain: int(topology.device_accelerator[devices[0]]) for domain, devices in free.items()}
    found: dict[int, tuple[int, ...]] = {}
    for each in sorted(range(len(workers)), key=lambda place: (-workers[place].devices, place)):
        need = workers[each].devices
        mine = [domain for domain in free if kind[domain] == workers[each].kind.index]
        holding = [domain for domain in mine if len(free[domain]) >= need]
        if holding:
            sign = -1 if emptiest else 1
            chosen = [min(holding, key=lambda domain: (sign * len(free[domain]), domain))]
        else:
            chosen = _whole(free, sizes, mine, need)
        taken: list[int] = []
        for domain in chosen:
            part = free[domain][: need - len(taken)]
            free[domain] = free[domain][len(part) :]
            taken += part
        if len(taken) < need:
            return None
        found[each] = tuple(taken)
    return Placement(tuple(found[each] for each in range(len(workers))))


def _whole(free: dict[int, list[int]], sizes: dict[int, int], domains: list[int], devices: int) -> list[int]:
    """Untouched domains, next to each other, that together hold a worker larger than one of them."""
    chosen: list[int] = []
    held = 0
    for domain in domains:
        if len(free[domain]) == sizes[domain] and held < devices:
            chosen.append(domain)
            held += sizes[domain]
    return chosen if held >= devices else []


def crosses(topology: Topology, devices: Sequence[int]) -> bool:
    """Whether a worker spans several scale-up domains."""
    return len(np.unique(topology.device_domain[list(devices)])) > 1
