"""Whole items into given capacities: round the relaxation's shares, then repair by moving one or two items at a time.

With the units fixed what is left is a feasibility question. The relaxation that shrinks all capacities together
(min θ: Σ_i load_i x_i <= θ room) says no at once when θ > 1, and its prices say which moves cost room: moving an item
of class i to profile j costs the regret w_j load_ji - min_k w_k load_ki. The repair takes the single move or the pair
of moves that lowers Σ_j max(0, priced overload_j)² most, among the moves of least regret, and kicks when it is stuck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .problem import CAPACITY_TOLERANCE, BinPacking, Floats, Integers
from .relaxation import Relaxation, Relaxed

MOVES = 300
ESCAPES = 24
DESCENTS = 400
"""Steps of descent in all rounds together."""
KICKS = (2, 6)
STEEPEST_KICK = 200
ROUNDS = 8
FRESH_START_EVERY = 10
SHARE_TOLERANCE = 1e-7
ROUTING_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Fit:
    """`packing` when one was found; `impossible` when the relaxation proves that there is none; else the profiles'
    `prices` at which the items fill the room most."""

    packing: Floats | None
    impossible: bool = False
    prices: Floats | None = None


def fit(problem: BinPacking, units: Floats, rng: np.random.Generator, rounds: int = ROUNDS) -> Fit:
    """Try to pack every item into the capacities that `units` buy."""
    room = problem.capacity @ units
    used = room > 0
    load = np.where(used[:, None], problem.load, np.inf)
    if not np.isfinite(load).any(0).all():
        return Fit(None, impossible=True)
    load = load[used]
    shrunk = _shrink(load, problem.items, room[used])
    if not shrunk.solved or shrunk.bound > 1 + ROUTING_TOLERANCE:
        return Fit(None, impossible=shrunk.bound > 1 + ROUTING_TOLERANCE)
    shares, prices = shrunk.shares, shrunk.prices
    shares = np.where(np.isfinite(load), shares, 0.0)
    shares = np.where(shares < SHARE_TOLERANCE, 0.0, shares)
    shares /= shares.sum(0)
    packing = np.zeros_like(problem.load)
    if problem.fractional:
        packing[used] = shares * problem.items
        over = (np.where(np.isfinite(load), load, 0.0) * packing[used]).sum(1) > room[used] * (1 + ROUTING_TOLERANCE)
        return Fit(None if over.any() else packing)
    whole = _Repair(load, room[used], prices).run(shares, problem.items, rng, rounds)
    if whole is None:
        everywhere = np.zeros(len(room))
        everywhere[used] = prices
        return Fit(None, prices=everywhere)
    packing[used] = whole
    return Fit(packing if problem.fits(units, packing) else None)


def _shrink(load: Floats, items: Integers, room: Floats) -> Relaxed:
    """Shares and prices of the least θ, left unsolved once θ must exceed 1."""
    together = BinPacking(
        cost=np.ones(1),
        capacity=room[:, None],
        load=load,
        items=items,
        lower=np.zeros(1),
        upper=np.full(1, 4.0),
        limit_matrix=np.zeros((0, 1)),
        limit=np.zeros(0),
        fractional=True,
    )
    return Relaxation(together).solve(np.zeros(1), together.upper, cut=1 + 2 * ROUTING_TOLERANCE, shares=True)


class _Repair:
    """Local search over whole packings; loads, room and overload are in priced units, so that all profiles compare."""

    def __init__(self, load: Floats, room: Floats, prices: Floats) -> None:
        prices = np.maximum(prices, 1e-6 * prices.max())
        finite = np.isfinite(load)
        self.priced = prices[:, None] * np.where(finite, load, 0.0)
        blocked = np.where(finite, self.priced, np.inf)
        self.regret = blocked - blocked.min(0)
        self.room = prices * room
        self.tolerance = 0.5 * CAPACITY_TOLERANCE * self.room.max()
        self.left = DESCENTS

    def run(self, shares: Floats, items: Integers, rng: np.random.Generator, rounds: int) -> Floats | None:
        best, kept = np.inf, None
        packing = _rounded(shares, items, None)
        for turn in range(rounds):
            score = self._descend(packing)
            if score == 0.0:
                return packing
            if score < best or kept is None:
                best, kept = score, packing
            packing = kept.copy()
            if turn % FRESH_START_EVERY == FRESH_START_EVERY - 1:
                packing = _rounded(shares, items, rng)
            else:
                self._kick(packing, rng)
        return None

    def _descend(self, packing: Floats) -> float:
        """Improve in place until nothing helps; the remaining penalty, zero when everything fits."""
        over = (packing * self.priced).sum(1) - self.room
        while True:
            if (over <= self.tolerance).all():
                return 0.0
            if self.left <= 0:
                break
            self.left -= 1
            held, cls, to = self._moves(packing, over)
            if not len(cls):
                break
            change = np.zeros((len(cls), len(over)))
            rows = np.arange(len(cls))
            change[rows, held] -= self.priced[held, cls]
            change[rows, to] += self.priced[to, cls]
            after = over + change
            single = _penalty(after).sum(1)
            left, right = after[:, held], after[:, to]
            pair = single[:, None] - _penalty(left) - _penalty(right)
            pair += _penalty(left - self.priced[held, cls]) + _penalty(right + self.priced[to, cls])
            source = held * packing.shape[1] + cls
            pair[(source[:, None] == source) & (packing[held, cls] < 2)] = np.inf
            first = int(single.argmin())
            second, third = np.unravel_index(int(pair.argmin()), pair.shape)
            chosen = [first] if single[first] <= pair[second, third] else [int(second), int(third)]
            now = _penalty(over).sum()
            if min(single[first], pair[second, third]) >= now * (1 - 1e-9):
                return float(now)
            for move in chosen:
                packing[held[move], cls[move]] -= 1
                packing[to[move], cls[move]] += 1
            over = over + change[chosen].sum(0)
        return float(_penalty(over).sum())

    def _moves(self, packing: Floats, over: Floats) -> tuple[Integers, Integers, Integers]:
        """(from, class, to) of the moves of least regret, and of the cheapest out of every overloaded profile."""
        held, cls = np.nonzero(packing)
        regret = self._regret_of(held, cls)
        flat = _smallest(regret, MOVES)
        for profile in np.flatnonzero(over > self.tolerance):
            columns = np.flatnonzero(held == profile)
            to, column = np.unravel_index(_smallest(regret[:, columns], ESCAPES), (len(regret), len(columns)))
            flat = np.concatenate([flat, to * len(held) + columns[column]])
        to, column = np.unravel_index(np.unique(flat), regret.shape)
        possible = np.isfinite(regret[to, column])
        to, column = to[possible], column[possible]
        return held[column], cls[column], to

    def _kick(self, packing: Floats, rng: np.random.Generator) -> None:
        for _ in range(int(rng.integers(*KICKS))):
            held, cls = np.nonzero(packing)
            regret = self._regret_of(held, cls)
            to, column = np.unravel_index(int(rng.choice(_smallest(regret, STEEPEST_KICK))), regret.shape)
            if np.isfinite(regret[to, column]):
                packing[held[column], cls[column]] -= 1
                packing[to, cls[column]] += 1

    def _regret_of(self, held: Integers, cls: Integers) -> Floats:
        regret: Floats = self.regret[:, cls] - self.regret[held, cls]
        regret[held, np.arange(len(held))] = np.inf
        return regret


def _rounded(shares: Floats, items: Integers, rng: np.random.Generator | None) -> Floats:
    """Whole items nearest to the shares, each class complete; `rng` shakes which remainders are rounded up."""
    exact = shares * items
    whole = np.floor(exact + SHARE_TOLERANCE)
    remainder = exact - whole
    if rng is not None:
        remainder = remainder + 0.5 * rng.random(remainder.shape)
    remainder = np.where(shares > 0, remainder, -1.0)
    order = np.argsort(-remainder, axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(len(shares))[:, None], 0)
    rounded: Floats = whole + (rank < np.round(items - whole.sum(0)))
    return rounded


def _penalty(over: Floats) -> Floats:
    squared: Floats = np.square(np.maximum(over, 0.0))
    return squared


def _smallest(values: Floats, count: int) -> Integers:
    flat = values.ravel()
    chosen: Integers = np.argpartition(flat, count)[:count] if len(flat) > count else np.arange(len(flat))
    return chosen
