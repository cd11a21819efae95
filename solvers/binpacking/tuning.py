"""Whole items into given rooms, exactly: exchange a few items at a time among a few profiles until nothing overflows.

In a packing that overflows by a little, the items that fit in their profile almost as cheaply as in another can be
exchanged in so many ways that some exchange comes as close to any wanted change as one likes. Each step takes a full
profile and a few others, lists what one or two items moved among them change, in two halves that share no item, and
looks up for every member of one half the members of the other that bring the overload of the first profile near zero
(meet in the middle: Horowitz and Sahni 1974). It takes the exchange with the least

    Σ_j max(0, overload_j)²,  and of the sum before it a share that grows with the regret

loads priced. The regret of an item is what it costs beyond its cheapest profile; it uses up the room that is left over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import CAPACITY_TOLERANCE, Floats, Integers

SIZES = (3, 4, 5, 6)
"""How many profiles exchange items at once, chosen anew each time."""
MOVES = (40, 80)
"""How many single moves each half is made of."""
ESCAPES = 24
PAIRS = 12_000
"""Exchanges looked at in one step."""
REGRET = 0.5
LEAST_IDLE = 0.1
SPREAD = 0.5
FULLEST = 0.3
WIDER = 8.0
PATIENCE = 0.4
"""Share of the steps that may change nothing in a row before the search gives up."""
BETTER = 1e-4


@dataclass(frozen=True, slots=True)
class _Half:
    """Exchanges of up to two moves: change of the overloads [exchange, profile], regret, and the moves, -1 for none."""

    change: Floats
    regret: Floats
    moves: Integers


class Tuning:
    """Exchanges within one set of rooms. `load` is infinite where a class cannot go; `prices` make profiles compare."""

    def __init__(self, load: Floats, room: Floats, prices: Floats) -> None:
        prices = np.maximum(prices, 1e-6 * prices.max())
        finite = np.isfinite(load)
        self.priced = prices[:, None] * np.where(finite, load, 0.0)
        self.blocked = np.where(finite, self.priced, np.inf)
        self.regret = self.blocked - self.blocked.min(0)
        self.regret_of_held = np.where(finite, self.regret, 0.0)
        self.room = prices * room
        self.tolerance = 0.5 * CAPACITY_TOLERANCE * float(self.room.max())

    def overload(self, packing: Floats) -> Floats:
        """Priced load of every profile beyond its room."""
        over: Floats = (packing * self.priced).sum(1) - self.room
        return over

    def run(self, packing: Floats, rng: np.random.Generator, steps: int) -> Floats | None:
        """The packing, exchanged in place until it fits; None when the steps are used up or change nothing."""
        over, idle = self.overload(packing), 0
        for _ in range(steps):
            if (over <= self.tolerance).all():
                return packing
            idle = 0 if self._step(packing, over, rng) else idle + 1
            if idle > PATIENCE * steps:
                return None
            over = self.overload(packing)
        return packing if (over <= self.tolerance).all() else None

    def _step(self, packing: Floats, over: Floats, rng: np.random.Generator) -> bool:
        """Make the best exchange among some profiles; False when there is none."""
        among = self._profiles(over, rng)
        held, cls, to = self._moves(packing, among, int(rng.choice(MOVES)), rng)
        if not len(cls):
            return False
        source = held * packing.shape[1] + cls
        cells = np.unique(source)
        side = (rng.random(len(cells)) < 0.5)[np.searchsorted(cells, source)]
        change = np.zeros((len(cls), len(among)))
        rows = np.arange(len(cls))
        change[rows, held] -= self.priced[among[held], cls]
        change[rows, to] += self.priced[among[to], cls]
        regret = self.regret[among[to], cls] - self.regret[among[held], cls]
        several = packing[among[held], cls] >= 2
        halves = [_half(change, regret, source, several, np.flatnonzero(part)) for part in (side, ~side)]
        chosen = _exchange(halves[0], halves[1], over[among], self._idle(packing, over), rng)
        for move in chosen:
            packing[among[held[move]], cls[move]] -= 1
            packing[among[to[move]], cls[move]] += 1
        return bool(chosen)

    def _idle(self, packing: Floats, over: Floats) -> float:
        """Room left over in all, at least a small part of what there would be without regret."""
        spare = -float(over.sum())
        return max(spare, LEAST_IDLE * (spare + float((packing * self.regret_of_held).sum())), self.tolerance)

    def _profiles(self, over: Floats, rng: np.random.Generator) -> Integers:
        """An overfull profile, the fullest more often, and some others."""
        excess = np.maximum(over, 0.0)
        first = int(over.argmax()) if rng.random() < FULLEST else int(rng.choice(len(over), p=excess / excess.sum()))
        others = np.delete(np.arange(len(over)), first)
        count = min(int(rng.choice(SIZES)) - 1, len(others))
        return np.concatenate([[first], rng.choice(others, count, replace=False)])

    def _moves(
        self, packing: Floats, among: Integers, most: int, rng: np.random.Generator
    ) -> tuple[Integers, Integers, Integers]:
        """(from, class, to) of about the moves of least regret among some profiles, twice `most` of them, and of those
        out of the first and into it."""
        held, cls = np.nonzero(packing[among] > 0)
        regret = self.regret[np.ix_(among, cls)] - self.regret[among[held], cls]
        regret[held, np.arange(len(held))] = np.inf
        to, column = np.nonzero(np.isfinite(regret))
        cost = regret[to, column]
        if len(cost) > 2 * most:
            cost = cost + SPREAD * rng.random(len(cost)) * max(float(np.partition(cost, most)[most]), 0.0)
            kept = [np.argpartition(cost, 2 * most)[: 2 * most]]
            for way in (held[column] == 0, to == 0):
                mine = np.flatnonzero(way)
                kept.append(mine[np.argsort(cost[mine], kind="stable")[:ESCAPES]])
            chosen = np.unique(np.concatenate(kept))
            to, column = to[chosen], column[chosen]
        return held[column], cls[column], to


def _half(change: Floats, regret: Floats, source: Integers, several: NDArray[np.bool_], own: Integers) -> _Half:
    """No move, every move and every pair of some moves; two out of one cell only where it holds two items."""
    first, second = np.triu_indices(len(own))
    first, second = own[first], own[second]
    possible = (source[first] != source[second]) | several[first]
    first, second = first[possible], second[possible]
    nothing = np.array([-1])
    return _Half(
        np.concatenate([np.zeros((1, change.shape[1])), change[own], change[first] + change[second]]),
        np.concatenate([[0.0], regret[own], regret[first] + regret[second]]),
        np.stack(
            [np.concatenate([nothing, own, first]), np.concatenate([nothing, np.full(len(own), -1), second])], axis=1
        ),
    )


def _exchange(left: _Half, right: _Half, over: Floats, idle: float, rng: np.random.Generator) -> list[int]:
    """The moves of the best exchange that betters the overloads, none when there is none.

    An exchange that is better leaves no profile with more than all have now, and as the overloads add up to what they
    were and the regret, the first profile no less than the others leave it: that is the range that is looked up, at
    first as narrow as may be.
    """
    now = float(np.square(np.maximum(over, 0.0)).sum())
    reach = float(np.sqrt(now))
    weight = REGRET * now / idle
    order = np.argsort(right.change[:, 0])
    first = right.change[order, 0]
    total = over.sum() + left.regret + right.regret.min()
    narrow = min(reach, 1e-2 * reach + 1e-3 * float(np.abs(over).sum()))
    while True:
        start = np.searchsorted(first, total - (len(over) - 1) * narrow - over[0] - left.change[:, 0])
        end = np.searchsorted(first, narrow - over[0] - left.change[:, 0], side="right")
        count = np.maximum(end - start, 0)
        rows = np.flatnonzero(count)
        if count.sum() > PAIRS:
            rows = rng.permutation(rows)
            rows = rows[: max(1, int(np.searchsorted(np.cumsum(count[rows]), PAIRS)))]
        if len(rows):
            count_of = count[rows]
            a = np.repeat(rows, count_of)
            b = order[np.arange(len(a)) + np.repeat(start[rows] - np.cumsum(count_of) + count_of, count_of)]
            after = np.square(np.maximum(over + left.change[a] + right.change[b], 0.0)).sum(1)
            score = after + weight * (left.regret[a] + right.regret[b])
            best = int(score.argmin())
            if score[best] < now * (1 - BETTER):
                return [int(move) for move in (*left.moves[a[best]], *right.moves[b[best]]) if move >= 0]
        if narrow >= reach or count.sum() > PAIRS:
            return []
        narrow = min(reach, WIDER * narrow)
