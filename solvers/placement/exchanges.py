"""Slots sorted by device, all layers in one table, so that many exchanges are one array operation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .problem import PlacementProblem
from .slots import SlotPlacement, copies

Singles = NDArray[np.float32]
Whole = NDArray[np.int64]
VOID = -2


class Table:
    """Slots sorted by device: `weights[k, r, j]`, `owner[r, j]` and `slot[r, j]` of place j on device r of all layers.

    Without copies owners are not kept up to date. Row r is device r mod devices of layer r // devices. Devices with
    fewer slots end in void places, which hold nothing and never move.
    """

    def __init__(self, problem: PlacementProblem, start: SlotPlacement, weights: NDArray[np.float64]) -> None:
        layers, slots = start.owner.shape
        self.layers, self.count, self.devices_ = layers, slots, problem.devices
        rows = np.arange(layers)[:, None] * problem.devices + start.device
        order = np.argsort(rows, axis=None, kind="stable")
        held = np.bincount(rows.ravel(), minlength=layers * problem.devices)
        self.places = int(held.max())
        first = np.cumsum(held) - held
        row = rows.ravel()[order]
        at = (row, np.arange(layers * slots) - first[row])
        shape = (layers * problem.devices, self.places)
        self.weights: Singles = np.zeros((len(weights), *shape), dtype=np.float32)
        self.weights[(slice(None), *at)] = weights.reshape(len(weights), -1)[:, order]
        self.owner = np.full(shape, VOID, dtype=np.int32)
        self.owner[at] = start.owner.ravel()[order]
        self.slot = np.full(shape, -1, dtype=np.int64)
        self.slot[at] = np.broadcast_to(np.arange(slots), (layers, slots)).ravel()[order]
        self.unit = np.tile(problem.per_fair_share.astype(np.float32), layers)
        self.value = np.float32(problem.devices) / self.unit
        self.ragged = bool(np.any(held != self.places))
        self.copied = bool(np.any(copies(start.owner, problem.items) > 1))
        self.loads: Singles = self.weights.sum(axis=2) * self.unit

    def peaks(self) -> NDArray[np.float64]:
        """The fullest device of every layer, worst scenario."""
        return np.asarray(self.loads.reshape(len(self.loads), self.layers, -1).max(axis=(0, 2)), dtype=np.float64)

    def devices(self) -> Whole:
        """Device of every slot, [layers, slots]."""
        out = np.empty((self.layers, self.count), dtype=np.int64)
        row, place = np.nonzero(self.slot >= 0)
        out[row // self.devices_, self.slot[row, place]] = row % self.devices_
        return out

    def barred(self, mine: Whole, theirs: Whole) -> NDArray[np.bool_] | None:
        """Exchanges of `mine` for `theirs` (owners, [..., i] and [..., j]) that may not be, [..., i, j]; None: any."""
        out = None
        if self.copied:
            same = (mine[..., :, None] == theirs[..., None, :]) & (mine >= 0)[..., :, None]
            out = same.any(axis=-1)[..., :, None] | same.any(axis=-2)[..., None, :]
        if self.ragged:
            void = (mine == VOID)[..., :, None] | (theirs == VOID)[..., None, :]
            out = void if out is None else out | void
        return out

    def exchange(self, here: Whole, i: Whole, there: Whole, j: Whole) -> None:
        """Exchange place i of row `here` with place j of row `there`, for many disjoint pairs of rows at once."""
        for table in (*([self.owner] if self.copied else []), self.slot, *self.weights):
            kept = table[here, i]
            table[here, i] = table[there, j]
            table[there, j] = kept
        for row in (here, there):
            self.loads[:, row] = self.weights[:, row].sum(axis=2) * self.unit[row]
