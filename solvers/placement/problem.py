"""Layered placement: items of consecutive layers on devices, with traffic between layers and load within one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PlacementProblem:
    """Minimize traffic_weight · traffic + load_weight · imbalance over placements of every layer's items.

    `transitions[l, e, f]` is the share of flow from item e of layer l to item f of layer l + 1 (None: no traffic);
    `loads[k, l, e]` the share of layer l's load on item e in scenario k; `link_cost[g, h]` the cost of moving one unit
    between devices, zero on the diagonal; `slots[g]` how many items of one layer device g can hold. Traffic is averaged
    over the transitions. Imbalance is, per layer, the largest over devices and scenarios of load over fair load, where
    the fair load of a device follows its speed; it is averaged over the layers.
    """

    loads: Floats
    link_cost: Floats
    slots: Ints
    transitions: Floats | None = None
    speeds: Floats = field(default_factory=lambda: np.empty(0))
    traffic_weight: float = 1.0
    load_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.loads.ndim != 3:
            raise ValueError(f"loads must be [scenarios, layers, items] but has shape {self.loads.shape}")
        if self.link_cost.shape != (self.devices, self.devices) or np.any(np.diag(self.link_cost) != 0):
            raise ValueError(f"link_cost must be square over {self.devices} devices with a zero diagonal")
        if self.slots.sum() < self.items:
            raise ValueError(f"{self.items} items need as many slots but the devices have {int(self.slots.sum())}")
        shape = (self.layers - 1, self.items, self.items)
        if self.transitions is not None and self.transitions.shape != shape:
            raise ValueError(f"transitions must have shape {shape} but has {self.transitions.shape}")
        if self.speeds.size == 0:
            object.__setattr__(self, "speeds", np.ones(self.devices))
        if self.speeds.shape != (self.devices,) or np.any(self.speeds <= 0):
            raise ValueError(f"speeds must be {self.devices} positive numbers")

    @property
    def devices(self) -> int:
        """Number of devices."""
        return len(self.slots)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.loads.shape[1])

    @property
    def items(self) -> int:
        """Number of items in each layer."""
        return int(self.loads.shape[2])

    @property
    def per_fair_share(self) -> Floats:
        """What one unit of load on each device counts for: the inverse of the device's fair share of a layer."""
        return np.asarray(self.speeds.sum() / self.speeds, dtype=np.float64)

    @property
    def has_traffic(self) -> bool:
        """Whether moving flow costs anything."""
        return self.transitions is not None and self.traffic_weight > 0 and bool(np.any(self.link_cost > 0))

    @property
    def uniform_links(self) -> bool:
        """Whether every two devices are the same distance apart."""
        off = self.link_cost[~np.eye(self.devices, dtype=bool)]
        return off.size == 0 or bool(np.all(off == off[0]))

    @property
    def equal_devices(self) -> bool:
        """Whether devices differ in neither speed nor slots."""
        return bool(np.all(self.slots == self.slots[0]) and np.all(self.speeds == self.speeds[0]))


@dataclass(frozen=True, slots=True)
class Score:
    """What a placement costs: the weighted value and its parts. `peaks` is the imbalance of every layer."""

    value: float
    traffic: float
    peaks: Floats

    @property
    def imbalance(self) -> float:
        """Imbalance averaged over the layers."""
        return float(self.peaks.mean())


def score(problem: PlacementProblem, assignment: Ints) -> Score:
    """Cost of placing item e of layer l on device `assignment[l, e]`, one device per item."""
    traffic = 0.0
    if problem.transitions is not None and len(problem.transitions):
        pairs = zip(problem.transitions, assignment[:-1], assignment[1:], strict=True)
        traffic = sum(float((t * problem.link_cost[a][:, b]).sum()) for t, a, b in pairs) / len(problem.transitions)
    peaks = peaks_of(device_loads(problem.loads, assignment, problem.devices), problem.per_fair_share)
    value = problem.traffic_weight * traffic + problem.load_weight * float(peaks.mean())
    return Score(value, traffic, peaks)


def device_loads(loads: Floats, assignment: Ints, devices: int) -> Floats:
    """Load of every device, [scenarios, layers, devices], when item e of layer l sits on `assignment[l, e]`."""
    scenarios, layers, _ = loads.shape
    out = np.zeros((scenarios, layers, devices))
    rows = np.arange(layers)[:, None]
    for scenario in range(scenarios):
        np.add.at(out[scenario], (rows, assignment), loads[scenario])
    return out


def peaks_of(loads: Floats, per_fair_share: Floats) -> Floats:
    """Per layer the largest load over fair load, worst scenario; a layer without load counts as balanced."""
    peaks = (loads * per_fair_share).max(axis=(0, 2))
    return np.where(loads.sum(axis=(0, 2)) > 0, peaks, 1.0)


def contiguous(problem: PlacementProblem) -> Ints:
    """Items in order, filling the devices in order: what frameworks do by default."""
    fair = fill(problem.slots, problem.items)
    row = np.repeat(np.arange(problem.devices), fair)
    return np.tile(row, (problem.layers, 1)).astype(np.int64)


def fill(slots: Ints, items: int) -> Ints:
    """How many items each device gets when they are spread as evenly as the slots allow."""
    counts = np.zeros(len(slots), dtype=np.int64)
    left = items
    while left:
        open_devices = np.flatnonzero(counts < slots)
        step = max(1, left // len(open_devices))
        for device in open_devices:
            take = min(step, int(slots[device] - counts[device]), left)
            counts[device] += take
            left -= take
    return counts
