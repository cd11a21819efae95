"""The inner loop of fan-out annealing: swaps within one layer, counted set by set. Loads numba."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled


class Sets(NamedTuple):
    """Sets of items that are asked for together: members [sets, k], how often, and the sets of every item (CSR)."""

    members: NDArray[np.int64]
    weight: NDArray[np.float64]
    first: NDArray[np.int64]
    rows: NDArray[np.int64]


class Groups(NamedTuple):
    """Nested groups of devices, [levels, devices], and what reaching one more group of a level costs."""

    group: NDArray[np.int64]
    step: NDArray[np.float64]


@compiled
def _moved(sets: Sets, groups: Groups, count: NDArray[np.int16], swap: NDArray[np.int64], commit: bool) -> float:
    """Cost change of moving item swap[0] from device swap[2] to swap[3] where swap[1] is not in the set."""
    change = 0.0
    for at in range(sets.first[swap[0]], sets.first[swap[0] + 1]):
        row = sets.rows[at]
        both = False
        for member in sets.members[row]:
            both = both or member == swap[1]
        if both:
            continue
        for level in range(len(groups.step)):
            here, there = groups.group[level, swap[2]], groups.group[level, swap[3]]
            if here == there:
                continue
            if count[level, row, here] == 1:
                change -= groups.step[level] * sets.weight[row]
            if count[level, row, there] == 0:
                change += groups.step[level] * sets.weight[row]
            if commit:
                count[level, row, here] -= 1
                count[level, row, there] += 1
    return change


@compiled
def anneal_layer(
    sets: Sets,
    groups: Groups,
    device: NDArray[np.int64],
    loads: tuple[NDArray[np.float64], NDArray[np.float64], float],
    temperatures: NDArray[np.float64],
    proposals: NDArray[np.uint64],
) -> float:
    """Swap items of one layer in place; returns the change of the cost. `loads` are item weights, device loads in fair
    shares (kept up to date) and the weight of their squared excess over one.
    """
    items, levels = len(device), len(groups.step)
    count = np.zeros((levels, len(sets.weight), groups.group.max() + 1), dtype=np.int16)
    for row in range(len(sets.weight)):
        for member in sets.members[row]:
            for level in range(levels):
                count[level, row, groups.group[level, device[member]]] += 1
    weights, carried, hinge = loads
    bits = proposals[1]
    swap, back = np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64)
    total = 0.0
    for temperature in temperatures:
        for _ in range(proposals[0]):
            bits ^= bits << np.uint64(13)
            bits ^= bits >> np.uint64(7)
            bits ^= bits << np.uint64(17)
            a = np.int64((bits & np.uint64(0xFFFFFF)) * np.uint64(items) >> np.uint64(24))
            b = np.int64((bits >> np.uint64(24) & np.uint64(0xFFFFFF)) * np.uint64(items) >> np.uint64(24))
            here, there = device[a], device[b]
            if here == there:
                continue
            swap[0], swap[1], swap[2], swap[3] = a, b, here, there
            back[0], back[1], back[2], back[3] = b, a, there, here
            change = _moved(sets, groups, count, swap, False) + _moved(sets, groups, count, back, False)
            shift = weights[a] - weights[b]
            pressed = hinge * (
                max(0.0, carried[here] - shift - 1.0) ** 2
                + max(0.0, carried[there] + shift - 1.0) ** 2
                - max(0.0, carried[here] - 1.0) ** 2
                - max(0.0, carried[there] - 1.0) ** 2
            )
            step = change + pressed
            draw = np.float64(bits >> np.uint64(41)) / 8388608.0
            if step < -1e-12 or (temperature > 0 and draw < math.exp(-max(0.0, step) / temperature)):
                _moved(sets, groups, count, swap, True)
                _moved(sets, groups, count, back, True)
                device[a], device[b] = there, here
                carried[here] -= shift
                carried[there] += shift
                total += change
    return total
