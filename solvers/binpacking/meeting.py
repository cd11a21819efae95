"""Whether whole items fit into given rooms, exactly, where little room is left: all that it affords, met halfway.

In units of worth, a packing's regret (what items cost beyond their cheapest profiles) and the room it leaves unused add
up to the slack, Σ_j room_j - Σ_i n_i min_j load_ij. So few ways to share out a class are affordable, and the loads of
every profile must end within one slack below its room. The classes are split into two halves, all affordable choices of
each are listed, and for every member of one half those of the other that fill the rest of the rooms are looked up in a
grid of that width (meet in the middle; Horowitz and Sahni 1974).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import CAPACITY_TOLERANCE, Floats, Integers

MOST_LISTED = 200_000
MOST_WAYS = 4_000
MOST_PAIRS = 2_000_000
GRID = 3
"""Profiles that the grid is made of."""
FINEST = 1e6
"""Cells of the grid along one profile, at most: their numbers must not overflow."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A packing, or whether it is proven that there is none."""

    packing: Floats | None
    proven: bool


UNDECIDED = Verdict(None, proven=False)


@dataclass(frozen=True, slots=True)
class _Ways:
    """Affordable ways to share out one class, cheapest first: items by profile and regret."""

    cls: int
    items: Floats
    regret: Floats


class _Half:
    """All affordable choices for some classes: what each loads, its regret, and how it came about."""

    def __init__(self, profiles: int) -> None:
        self.load, self.regret = np.zeros((1, profiles)), np.zeros(1)
        self.steps: list[tuple[_Ways, NDArray[np.intp], NDArray[np.intp]]] = []

    def extend(self, ways: _Ways, load: Floats, slack: float) -> bool:
        """Choose for one more class in all affordable ways; False where there are too many."""
        count = np.searchsorted(ways.regret, slack - self.regret, side="right")
        if count.sum() > MOST_LISTED:
            return False
        before, way = _ranges(np.zeros_like(count), count)
        self.load = self.load[before] + (ways.items * load)[way]
        self.regret = self.regret[before] + ways.regret[way]
        self.steps.append((ways, before, way))
        return True

    def write(self, row: int, packing: Floats) -> None:
        """The items of one choice."""
        for ways, before, way in reversed(self.steps):
            packing[:, ways.cls] = ways.items[way[row]]
            row = int(before[row])


def decide(load: Floats, room: Floats, items: Integers) -> Verdict:
    """A packing into the rooms or the proof that there is none, unless too much is affordable to be listed.

    `load` is infinite where a class cannot go. Any units of load are sound; the relaxation's prices leave least slack.
    """
    room = room * (1 + CAPACITY_TOLERANCE)
    cheapest = load.min(0)
    slack = float(room.sum() - items @ cheapest) + CAPACITY_TOLERANCE * float(room.sum())
    if not 0 <= slack < np.inf:
        return Verdict(None, proven=slack < 0)
    finite = np.where(np.isfinite(load), load, 0.0)
    flexible, base = [], np.zeros(len(room))
    for cls, number in enumerate(items):
        ways = _affordable(cls, load[:, cls] - cheapest[cls], int(number), slack)
        if ways is None:
            return UNDECIDED
        if len(ways.regret) == 1:
            base += ways.items[0] * finite[:, cls]
        else:
            flexible.append(ways)
    halves = _Half(len(room)), _Half(len(room))
    for ways in sorted(flexible, key=lambda each: len(each.regret)):
        shorter = min(halves, key=lambda half: len(half.regret))
        if not shorter.extend(ways, finite[:, ways.cls], slack):
            return UNDECIDED
    pair = _meet(halves[0], halves[1], room - base, slack)
    if isinstance(pair, Verdict):
        return pair
    packing = np.zeros_like(load)
    packing[load.argmin(0), np.arange(len(items))] = items
    for half, row in zip(halves, pair, strict=True):
        half.write(row, packing)
    return Verdict(packing, proven=True)


def _affordable(cls: int, regret: Floats, number: int, slack: float) -> _Ways | None:
    first = int(regret.argmin())
    items, spent = np.zeros((1, len(regret))), np.zeros(1)
    items[0, first] = number
    for profile in map(int, np.flatnonzero(regret <= slack)):
        if profile == first:
            continue
        most = np.minimum(items[:, first], np.floor((slack - spent) / max(regret[profile], 1e-300)))
        before, moved = _ranges(np.zeros(len(spent), dtype=np.int64), most.astype(np.int64) + 1)
        if len(before) > MOST_WAYS:
            return None
        items, spent = items[before], spent[before] + moved * regret[profile]
        items[:, profile] += moved
        items[:, first] -= moved
    order = np.argsort(spent, kind="stable")
    return _Ways(cls, items[order], spent[order])


def _ranges(first: Integers, count: Integers) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row by row a number of successive places: the row of each, and the place."""
    row = np.repeat(np.arange(len(count)), count)
    return row, np.arange(len(row)) + np.repeat(first - np.cumsum(count) + count, count)


def _meet(one: _Half, other: _Half, room: Floats, slack: float) -> tuple[int, int] | Verdict:
    """A choice of each half that together fit in the room, or the verdict that there is none, or too many near it."""
    wanted = room - one.load
    spread = np.ptp(other.load, axis=0)
    axes = np.argsort(-spread, kind="stable")[:GRID]
    lowest, width = other.load.min(0)[axes], max(slack, float(spread.max()) / FINEST)
    cells = np.floor((other.load[:, axes] - lowest) / width).astype(np.int64)
    most = cells.max(0)
    place = np.floor((wanted[:, axes] - lowest) / width).astype(np.int64)
    stride = np.append(np.cumprod((most + 1)[:0:-1])[::-1], 1)
    key = cells @ stride
    order = np.argsort(key, kind="stable")
    key = key[order]
    seen = 0
    for shift in itertools.product((0, 1), repeat=len(axes) - 1):
        outer = place[:, :-1] - np.array(shift, dtype=np.int64)
        low, high = np.maximum(place[:, -1] - 1, 0), np.minimum(place[:, -1], most[-1])
        near = np.flatnonzero(((outer >= 0) & (outer <= most[:-1])).all(1) & (low <= high))
        start = outer[near] @ stride[:-1]
        first = np.searchsorted(key, start + low[near])
        count = np.searchsorted(key, start + high[near], side="right") - first
        seen += int(count.sum())
        if seen > MOST_PAIRS:
            return UNDECIDED
        row, at = _ranges(first, count)
        fits = (other.load[order[at]] <= wanted[near[row]]).all(1)
        if fits.any():
            found = int(fits.argmax())
            return int(near[row[found]]), int(order[at[found]])
    return Verdict(None, proven=True)
