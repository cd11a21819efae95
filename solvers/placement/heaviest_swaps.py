"""The inner loop that levels the flow between pairs of devices. Loads numba."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled


@compiled
def _shift(
    flow: NDArray[np.float64], device: NDArray[np.int64], layer: int, a: int, b: int, change: NDArray[np.float64]
) -> None:
    """Fill change[0, g] with what a sends to device g more than b does in the next layer, change[1, g] from behind."""
    change[:] = 0.0
    if layer < device.shape[0] - 1:
        for other in range(device.shape[1]):
            change[0, device[layer + 1, other]] += flow[layer, a, other] - flow[layer, b, other]
    if layer > 0:
        for other in range(device.shape[1]):
            change[1, device[layer - 1, other]] += flow[layer - 1, other, a] - flow[layer - 1, other, b]


@compiled
def level_pairs(
    flow: NDArray[np.float64],
    device: NDArray[np.int64],
    between: NDArray[np.float64],
    link_cost: NDArray[np.float64],
    power: float,
    schedule: tuple[NDArray[np.float64], int, int],
) -> None:
    """Swap items within layers to lower the sum over pairs of (link cost × flow) to a power; all in place.

    A high power approaches the heaviest pair. `schedule` is temperatures, proposals at each, and the seed.
    """
    temperatures, proposals, seed = schedule
    layers, items = device.shape
    devices = len(between)
    bits = np.uint64(seed)
    change = np.zeros((2, devices))
    for temperature in temperatures:
        for _ in range(proposals):
            bits ^= bits << np.uint64(13)
            bits ^= bits >> np.uint64(7)
            bits ^= bits << np.uint64(17)
            layer = int((bits >> np.uint64(48)) % np.uint64(layers))
            a = int((bits & np.uint64(0xFFFFFF)) * np.uint64(items) >> np.uint64(24))
            b = int((bits >> np.uint64(24) & np.uint64(0xFFFFFF)) * np.uint64(items) >> np.uint64(24))
            here, there = device[layer, a], device[layer, b]
            if here == there:
                continue
            _shift(flow, device, layer, a, b, change)
            delta = 0.0
            for g in range(devices):
                for source, target, moved in (
                    (here, g, -change[0, g]),
                    (there, g, change[0, g]),
                    (g, here, -change[1, g]),
                    (g, there, change[1, g]),
                ):
                    old = link_cost[source, target] * between[source, target]
                    new = link_cost[source, target] * max(0.0, between[source, target] + moved)
                    delta += new**power - old**power
            bits_ = bits * np.uint64(0x2545F4914F6CDD1D)
            draw = np.float64(bits_ >> np.uint64(41)) / 8388608.0
            if delta < 0.0 or (temperature > 0.0 and draw < math.exp(-delta / temperature)):
                device[layer, a], device[layer, b] = there, here
                for g in range(devices):
                    between[here, g] -= change[0, g]
                    between[there, g] += change[0, g]
                    between[g, here] -= change[1, g]
                    between[g, there] += change[1, g]
