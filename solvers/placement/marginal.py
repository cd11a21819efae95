"""What every slot would cost on every device while its neighbours stand still, kept up to date as they move."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .problem import Floats, Ints
from .slots import Flow

Singles = NDArray[np.float32]
RENEWED = 16


class MarginalCost:
    """`of(parity, device)` is the cost [layers, devices, slots] of the layers of one parity, the other parity standing.

    Layers of one parity do not see each other, so that it is exact for any number of moves among them. Between two
    calls only the slots that moved are accounted for; every `RENEWED` calls all of it is added up anew, which keeps
    single precision from drifting. `stay` is added wherever a slot is not at `home`.
    """

    def __init__(self, link_cost: Floats, home: Ints, stay: float) -> None:
        self.layers, self.slots = home.shape
        self.toward = link_cost.astype(np.float32)
        self.back = np.ascontiguousarray(self.toward.T)
        self.away: Singles | None = None
        if stay:
            self.away = np.full((self.layers, len(link_cost), self.slots), stay, dtype=np.float32)
            self.away[np.arange(self.layers)[:, None], home, np.arange(self.slots)] = 0.0
        self.forward: Singles | None = None
        self.turned: Singles
        self.kept: list[Singles | None] = [None, None]
        self.seen: list[Ints] = [home, home]
        self.calls = [0, 0]

    def follow(self, flow: Flow) -> None:
        """Take the flow between slots anew."""
        self.forward = flow.transitions
        if flow.transitions is not None:
            self.turned = np.ascontiguousarray(flow.transitions.transpose(0, 2, 1))
        self.kept = [None, None]

    def of(self, parity: int, device: Ints) -> Singles:
        """Cost of every slot of the layers of this parity on every device."""
        kept = self.kept[parity]
        if kept is None or self.calls[parity] % RENEWED == 0:
            kept = self._anew(parity, device)
        else:
            self._moved(kept, parity, device)
        self.calls[parity] += 1
        self.kept[parity] = kept
        self.seen[parity] = device.copy()
        return kept

    def _sides(self, parity: int) -> list[tuple[slice, slice, Singles, Singles]]:
        """Where in the kept cost, which layers beside, their flow to the slots, link cost from each device to them."""
        assert self.forward is not None
        ahead, behind = slice(parity + 1, None, 2), slice(1 - parity, self.layers - 1, 2)
        last = len(range(parity + 1, self.layers, 2))
        return [
            (slice(0, last), ahead, self.turned[parity::2], self.toward),
            (slice(1 - parity, None), behind, self.forward[1 - parity :: 2], self.back),
        ]

    def _anew(self, parity: int, device: Ints) -> Singles:
        count = len(range(parity, self.layers, 2))
        out = np.zeros((count, len(self.toward), self.slots), dtype=np.float32)
        if self.away is not None:
            out += self.away[parity::2]
        if self.forward is not None:
            for where, beside, flow, cost in self._sides(parity):
                out[where] += np.moveaxis(cost[:, device[beside]], 0, 1) @ flow
        return out

    def _moved(self, kept: Singles, parity: int, device: Ints) -> None:
        if self.forward is None:
            return
        before = self.seen[parity]
        for where, beside, flow, cost in self._sides(parity):
            old, new = before[beside], device[beside]
            changed = old != new
            most = int(changed.sum(axis=1).max(initial=0))
            if most == 0:
                continue
            slot = np.argsort(~changed, axis=1, kind="stable")[:, :most]
            old, new = np.take_along_axis(old, slot, axis=1), np.take_along_axis(new, slot, axis=1)
            rows = flow[np.arange(len(slot))[:, None], slot]
            kept[where] += np.moveaxis(cost[:, new] - cost[:, old], 0, 1) @ rows
