"""Slots that a placement leaves free, named, and filled with copies of heavy items."""

from __future__ import annotations

import numpy as np

from .problem import Ints, PlacementProblem
from .slots import SlotPlacement


def with_empty(placement: SlotPlacement, slots: Ints) -> SlotPlacement:
    """The same placement with every empty slot of every device named."""
    total = int(slots.sum())
    owner = np.full((len(placement.owner), total), -1, dtype=np.int64)
    device = np.zeros_like(owner)
    for layer, (owners, devices) in enumerate(zip(placement.owner, placement.device, strict=True)):
        kept = owners >= 0
        used = np.bincount(devices[kept], minlength=len(slots))
        owner[layer, : kept.sum()] = owners[kept]
        device[layer] = np.r_[devices[kept], np.repeat(np.arange(len(slots)), slots - used)]
    return SlotPlacement(owner, device)


def filled(problem: PlacementProblem, placement: SlotPlacement, spare: int) -> SlotPlacement:
    """The placement with `spare` of its empty slots taken, each by the item whose copies are heaviest of those that its
    device does not hold."""
    owner = placement.owner.copy()
    heaviest = problem.loads.max(axis=0)
    for layer, (row, devices) in enumerate(zip(owner, placement.device, strict=True)):
        held = np.zeros((problem.items, problem.devices), dtype=bool)
        held[row[row >= 0], devices[row >= 0]] = True
        for slot in np.flatnonzero(row < 0)[:spare]:
            share = np.where(held[:, devices[slot]], -1.0, heaviest[layer] / held.sum(axis=1))
            item = int(share.argmax())
            if share[item] >= 0:
                row[slot] = item
                held[item, devices[slot]] = True
    return SlotPlacement(owner, placement.device)
