"""Heaviest first onto the lightest device: a start for balancing that never puts two copies on one device."""

from __future__ import annotations

import heapq

import numpy as np

from .problem import Floats, Ints


def pack(weights: Floats, owner: Ints, slots: Ints, unit: Floats) -> Ints:
    """Device of every slot, [layers, slots]: slots by falling weight, each to the least loaded device with room.

    `weights[l, s]` is a slot's load, `unit[g]` what a unit of load counts for on device g. When every device with room
    already holds a copy of the item, another slot makes room. Graham, "Bounds on multiprocessing timing anomalies"
    (1969), with the slot limit of EPLB's balanced packing.
    """
    sizes, units = [int(size) for size in slots], [float(value) for value in unit]
    rows = zip(weights.tolist(), owner.tolist(), strict=True)
    return np.array([_pack_layer(row, owners, sizes, units) for row, owners in rows], dtype=np.int64)


def _pack_layer(weights: list[float], owner: list[int], slots: list[int], unit: list[float]) -> list[int]:
    device = [-1] * len(owner)
    free = list(slots)
    held: list[set[int]] = [set() for _ in slots]
    heap = [(0.0, target) for target, size in enumerate(slots) if size]
    for slot in sorted(range(len(owner)), key=lambda s: -weights[s]):
        item = owner[slot]
        passed = []
        while heap and item >= 0 and item in held[heap[0][1]]:
            passed.append(heapq.heappop(heap))
        if heap:
            load, target = heapq.heappop(heap)
        else:
            load, target = passed.pop(0)
            _make_room(item, target, device, owner, held)
        device[slot] = target
        free[target] -= 1
        if item >= 0:
            held[target].add(item)
        if free[target]:
            passed.append((load + weights[slot] * unit[target], target))
        for entry in passed:
            heapq.heappush(heap, entry)
    return device


def _make_room(item: int, target: int, device: list[int], owner: list[int], held: list[set[int]]) -> None:
    """Move the copy of the item on `target` to a device without one, whose slot comes to `target` instead."""
    mine = next(slot for slot, where in enumerate(device) if where == target and owner[slot] == item)
    for slot, where in enumerate(device):
        other = owner[slot]
        if where >= 0 and item not in held[where] and (other < 0 or other not in held[target]):
            device[slot], device[mine] = target, where
            held[where].discard(other)
            held[target].discard(item)
            held[where].add(item)
            if other >= 0:
                held[target].add(other)
            return
    raise ArithmeticError(f"item {item} has more copies than there are devices to hold them")
