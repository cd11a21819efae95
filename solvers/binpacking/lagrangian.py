"""A bound above the linear relaxation's: every class of items priced, every profile left to choose whole units.

With a price π_i on class i as a whole, the program falls apart by profile (Lagrangian duality, Geoffrion 1974):

    Σ_i π_i  +  Σ_j min over whole y in [l_j, u_j] of ( c_j y - K_j(y) )

bounds it from below, K_j(y) being the most worth of divisible classes that y units of profile j hold (a knapsack filled
in order of worth by load). K_j is concave, so the term is convex in y: the best whole y stands beside the best real
one, and the y whose term is too dear for a better answer lie outside an interval. Units are whole here where the linear
relaxation divides them, which is what makes a unit that is hardly used pay for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .problem import BinPacking, Floats, Integers

WINDOW = 128
"""Numbers of units on either side of the best that the filter looks at."""
SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Priced:
    """A proven bound, the prices of the classes that prove it, the bounds on the units that it leaves, and the mean of
    the units that the last prices chose."""

    bound: float
    prices: Floats
    lower: Floats
    upper: Floats
    units: Floats


def separable(problem: BinPacking) -> bool:
    """Whether every profile is bought by one offer and every offer buys one profile."""
    bought = problem.capacity > 0
    return bool((bought.sum(0) == 1).all() and (bought.sum(1) == 1).all())


class Lagrangian:
    """The bound of one separable problem under other prices and bounds on the units, again and again.

    Limits are priced once and for all by `limit_prices`.
    """

    def __init__(self, problem: BinPacking, limit_prices: Floats) -> None:
        self.offers = problem.capacity.argmax(1)
        load = problem.load * problem.items / problem.capacity.max(1)[:, None]
        able = np.isfinite(load)
        load = np.where(able, np.maximum(load, SMALLEST), 0.0)
        per_load = np.divide(1.0, load, out=np.zeros_like(load), where=able)
        cost = (problem.cost + problem.limit_matrix.T @ limit_prices)[self.offers]
        self.tables = (load, per_load, cost)
        self.constant = -float(problem.limit @ limit_prices)
        self.order: Integers = np.tile(np.arange(load.shape[1]), (len(load), 1))

    def ascend(self, prices: Floats, bounds: tuple[Floats, Floats], cut: float, effort: tuple[int, float]) -> Priced:
        """Raise the bound by subgradient steps from given prices until it reaches `cut`, then tighten the bounds.

        `effort` is the number of steps and the share of the way to `cut` that they first aim at (Polyak 1969); they
        follow a running mean of subgradients, and aim nearer whenever they get no further.
        """
        from .ascent import climb

        lower, upper = bounds
        box = lower[self.offers], upper[self.offers]
        bound, prices, mean = climb(self.tables, prices, box, self.order, (cut - self.constant, *effort))
        units = np.zeros_like(lower)
        units[self.offers] = mean
        return self.tightened(Priced(bound + self.constant, prices, lower, upper, units), cut)

    def tightened(self, priced: Priced, cut: float) -> Priced:
        """Leave out the units, at either end, that cost too much at these prices."""
        if priced.bound >= cut:
            return priced
        load, per_load, costs = self.tables
        worth = priced.prices * per_load
        order = np.argsort(-worth, axis=1)
        worth, load = np.take_along_axis(worth, order, 1), np.take_along_axis(load, order, 1)
        low, high = priced.lower[self.offers], priced.upper[self.offers]
        wanted = np.where(worth > costs[:, None], load, 0.0).sum(1)
        span = int(min((high - low).max() + 1, 2 * WINDOW + 2))
        first = np.clip(np.floor(wanted) - WINDOW, low, np.maximum(high - span + 1, low))
        units = np.clip(first[:, None] + np.arange(span), low[:, None], high[:, None])
        filled, earned = load.cumsum(1), (load * worth).cumsum(1)
        held = [
            np.interp(row, np.append(0.0, full), np.append(0.0, sums))
            for row, full, sums in zip(units, filled, earned, strict=True)
        ]
        terms = costs[:, None] * units - np.stack(held)
        kept = priced.bound + terms - terms.min(1)[:, None] < cut
        least, most = np.where(kept, units, np.inf).min(1), np.where(kept, units, -np.inf).max(1)
        lower, upper = priced.lower.copy(), priced.upper.copy()
        lower[self.offers] = np.where((first <= low) | (least > first), least, low)
        upper[self.offers] = np.where(most < units[:, -1], most, high)
        return Priced(priced.bound, priced.prices, lower, upper, np.clip(priced.units, lower, upper))
