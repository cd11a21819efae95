"""All whole units of some costs that may hold divisible items, with the proof that no others do.

Let functions of the units be fixed, f_m·n = t_m. Prices w = b - Σ_m μ_m f_m that are not negative prove of every n with
these values that holds the items (weak duality; D as in the module on the lattice)

    cost·n  >=  D(b - Σ_m μ_m f_m)  +  Σ_m μ_m t_m  +  Σ_j min over [l_j, u_j] of (cost_j - b_j) n_j

whatever b and μ are; the best μ make it the relaxation's value with these functions fixed, and it is linear in each
t_m, so that μ which cut off one value cut off all beyond it. Functions of a reduced basis are fixed one after the
other, many units at a time; μ starts where the quadratic has it and climbs by Newton steps of the same quadratic. One
such proof costs as much as pricing the items once, a hundredth of a relaxation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .lattice import Basis
from .problem import Floats

CHUNK = 64
MARGIN = 1e-8
"""Relative excess over a cost that counts as above it."""
WIDER = 1.3
"""How much farther than the quadratic says the ends are looked for."""
INSIDE = 0.999
"""Share of a price that multipliers may take away."""
STEPS, LAST_STEPS = 5, 16
LONGER, SHORTER = 1.2, 0.35
"""Length of the next step after one that rises, and after one that does not."""
NEARER, FAR, FARTHEST = 4, 4.0, 1e6
"""How often an end is looked for nearer, once it lies so many values away, and how far at most."""
FLAT = 1e-9


class _TooManyError(Exception):
    """More evaluations than allowed."""


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Units of which only the cost, in steps, and some functions are fixed."""

    cost: Floats
    fixed: Floats

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Prefixes:
        return Prefixes(self.cost[rows], self.fixed[rows])

    def extended(self, value: Floats) -> Prefixes:
        """With one more function fixed."""
        return replace(self, fixed=np.column_stack([self.fixed, value]))


class Levels:
    """The units of one separable problem by cost. `evaluations` counts how often the items were priced.

    `load` is by offer, infinite where a class cannot go; `base` are prices and `idle` the least that the units can cost
    beyond them; `step` is what a step of the cost is worth and `floor` the relaxation's bound.
    """

    def __init__(
        self, load: Floats, base: Floats, box: tuple[Floats, Floats], basis: Basis, costs: tuple[float, float, float]
    ) -> None:
        self.load, self.base, self.box, self.basis = load, base, box, basis
        self.step, self.floor, self.idle = costs
        self.evaluations, self.limit = 0, math.inf
        depths = range(len(basis.gram) + 1)
        self.inverses = [np.linalg.inv(basis.gram[:depth, :depth]) for depth in depths]
        variance = [1.0 / self.inverses[depth][-1, -1] for depth in depths[1:]]
        self.spread = np.sqrt(np.maximum(variance, 0.0))
        self.start_usage = self._used(base[None, :])[0]
        self.start_bound = self._bounds(base[None, :])[0]

    def between(self, first: int, last: int, most: int) -> Floats | None:
        """Units that cost from `first` to `last` steps and are not proven to hold less than the items, by cost.

        None where finding them takes more than `most` evaluations.
        """
        self.limit = self.evaluations + most
        try:
            return self._between(first, last)
        except _TooManyError:
            return None

    def _between(self, first: int, last: int) -> Floats:
        found = Prefixes(np.arange(first, last + 1, dtype=float), np.zeros((last + 1 - first, 0)))
        for depth in range(len(self.basis.gram)):
            children = self._children(found, depth)
            steps = STEPS if depth + 1 < len(self.basis.gram) else LAST_STEPS
            found = children[~self._climb(children, 0, steps)[0]]
        units = np.round(self._units(found))
        within = ((units >= self.box[0]) & (units <= self.box[1])).all(1)
        return units[within][np.argsort(found.cost[within], kind="stable")]

    def _units(self, prefixes: Prefixes) -> Floats:
        """What the values of the first functions make of the units, the others zero."""
        depth = prefixes.fixed.shape[1]
        values = prefixes.fixed + np.outer(prefixes.cost, self.basis.shares[:depth])
        units: Floats = np.column_stack([prefixes.cost, values]) @ self.basis.inverse[:, : depth + 1].T
        return units

    def _children(self, parents: Prefixes, depth: int) -> Prefixes:
        """All values of one more function that are not cut off at either end."""
        share = self.basis.shares[depth] * parents.cost
        tilt = parents.fixed @ self.inverses[depth]
        room = self._most(parents) - self.floor - 0.5 * (tilt * parents.fixed).sum(1)
        reach = WIDER * self.spread[depth] * np.sqrt(2 * np.maximum(room, 0.0))
        middle = share + tilt @ self.basis.gram[:depth, depth]
        ends = [np.minimum(np.floor(middle - reach), np.ceil(middle) - 1),
                np.maximum(np.ceil(middle + reach), np.floor(middle) + 1)]  # fmt: skip
        for at, side in enumerate((-1, 1)):
            ends[at] = self._end(parents, share, ends[at], side)
        if depth + 1 == len(self.basis.gram):
            least, most = self._last(parents)
            ends = [np.maximum(ends[0], least), np.minimum(ends[1], most)]
        count = np.maximum(ends[1] - ends[0] + 1, 0.0)
        if not count.sum() <= self.limit - self.evaluations:
            raise _TooManyError
        rows = np.repeat(np.arange(len(count)), count.astype(int))
        value = ends[0][rows] + np.arange(len(rows)) - (np.cumsum(count) - count)[rows]
        return parents[rows].extended(value - share[rows])

    def _end(self, parents: Prefixes, share: Floats, guess: Floats, side: int) -> Floats:
        """The last value of one more function that is not cut off, from a guess at the first that is."""
        beyond = self._climb(parents.extended(guess - share), side, STEPS)[1] - 1
        for _ in range(NEARER):
            far = np.flatnonzero(beyond > FAR)
            if not len(far):
                break
            tried = np.floor(np.minimum(beyond[far], FARTHEST) / FAR)
            again = parents[far].extended(guess[far] + side * tried - share[far])
            beyond[far] = np.minimum(beyond[far], tried + self._climb(again, side, STEPS)[1] - 1)
        return guess + side * beyond

    def _last(self, parents: Prefixes) -> tuple[Floats, Floats]:
        """Between what values of the last function the units lie within their bounds."""
        units, per_value = self._units(parents), self.basis.inverse[:, -1]
        moved = np.flatnonzero(per_value)
        limits = [(bound[moved] - units[:, moved]) / per_value[moved] for bound in self.box]
        return np.ceil(np.minimum(*limits).max(1) - FLAT), np.floor(np.maximum(*limits).min(1) + FLAT)

    def _most(self, prefixes: Prefixes) -> Floats:
        """What prices must prove of units for them to be cut off."""
        most: Floats = prefixes.cost * self.step * (1 + MARGIN)
        return most

    def _climb(self, rows: Prefixes, side: int, steps: int) -> tuple[NDArray[np.bool_], Floats]:
        """Which rows are cut off, and how much farther to one side the last function is so for sure."""
        fixed, most = rows.fixed, self._most(rows)
        inverse = self.inverses[fixed.shape[1]]
        best, best_bound = np.zeros_like(fixed), np.full(len(fixed), self.start_bound)
        functions = self.basis.functions[: fixed.shape[1]]
        slope = fixed - functions @ self.start_usage
        size, beyond = np.ones(len(fixed)), np.full(len(fixed), np.inf)
        trial, left = self._priced(fixed @ inverse, functions), np.arange(len(fixed))
        for step in range(steps + 1):
            prices = self.base - trial @ functions
            bound = self._bounds(prices) + (trial * fixed[left]).sum(1)
            cut, rising = bound > most[left], side * trial[:, -1]
            with np.errstate(divide="ignore", invalid="ignore"):
                farther = np.floor((most[left] - bound) / rising) + 1
            farther = np.where(cut, 0.0, farther)
            beyond[left] = np.where(
                cut & (rising >= 0) | (rising > FLAT), np.minimum(beyond[left], farther), beyond[left]
            )
            better = bound > best_bound[left]
            size[left] = np.where(better, np.minimum(LONGER * size[left], 1.0), SHORTER * size[left])
            best[left[better]], best_bound[left[better]] = trial[better], bound[better]
            going = beyond[left] > 0 if side else ~cut
            if step == steps or not going.any():
                break
            moved = better & going
            slope[left[moved]] = fixed[left[moved]] - self._used(prices[moved]) @ functions.T
            left = left[going]
            trial = self._priced(best[left] + size[left, None] * (slope[left] @ inverse), functions)
        return best_bound > most, beyond

    def _priced(self, multipliers: Floats, functions: Floats) -> Floats:
        """Multipliers, scaled so that no price is negative."""
        taken = (multipliers @ functions) / self.base
        scaled: Floats = multipliers * (INSIDE / np.maximum(taken.max(1, initial=0.0), INSIDE))[:, None]
        return scaled

    def _bounds(self, prices: Floats) -> Floats:
        """The least worth of the items at rows of prices, and what units cost beyond them."""
        if self.evaluations + len(prices) > self.limit:
            raise _TooManyError
        self.evaluations += len(prices)
        worth = np.empty(len(prices))
        for first in range(0, len(prices), CHUNK):
            part = prices[first : first + CHUNK]
            least = np.multiply(self.load[0], part[:, :1])
            spent = np.empty_like(least)
            for offer in range(1, len(self.load)):
                np.multiply(self.load[offer], part[:, offer : offer + 1], out=spent)
                np.minimum(least, spent, out=least)
            worth[first : first + CHUNK] = least.sum(1)
        return worth + self.idle

    def _used(self, prices: Floats) -> Floats:
        """How much of every offer the items use, each where it is cheapest: the slope of their worth."""
        offers, classes = self.load.shape
        used = np.empty(prices.shape)
        for first in range(0, len(prices), CHUNK):
            part = prices[first : first + CHUNK]
            least = np.multiply(self.load[0], part[:, :1])
            spent, where = np.empty_like(least), np.zeros(least.shape, dtype=np.int64)
            for offer in range(1, offers):
                np.multiply(self.load[offer], part[:, offer : offer + 1], out=spent)
                np.copyto(where, offer, where=spent < least)
                np.minimum(least, spent, out=least)
            taken = self.load[where, np.arange(classes)]
            place = where + offers * np.arange(len(part))[:, None]
            used[first : first + CHUNK] = np.bincount(place.ravel(), taken.ravel(), offers * len(part)).reshape(
                -1, offers
            )
        return used
