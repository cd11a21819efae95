"""The inner loop of the Lagrangian bound: subgradient steps on the prices of the classes. Loads numba.

Loops over single numbers only: they compile in a fraction of the time that array expressions take.
"""

from __future__ import annotations

import math

import numpy as np

from ..placement.compiled import compiled
from .problem import Floats, Integers

EDGE = 1e-9
SHRINK = 0.6
PATIENCE = 12
SMOOTH = 0.6
MEAN = 0.9
FAR = 4
"""Shifts per class after which a profile's classes are sorted from scratch."""
GAPS = (1750, 701, 301, 132, 57, 23, 10, 4, 1)
"""Of Shell's sort (Ciura 2001)."""


@compiled
def insert(order: Integers, worth: Floats, gap: int, most: int) -> bool:
    """Insertion sort of every gap-th class by worth, most first; False when it takes more shifts than allowed."""
    shifts = 0
    for at in range(gap, len(order)):
        cls = order[at]
        place = at
        while place >= gap and worth[order[place - gap]] < worth[cls]:
            order[place] = order[place - gap]
            place -= gap
            shifts += 1
        order[place] = cls
        if shifts > most:
            return False
    return True


@compiled
def held(order: Integers, worth: Floats, load: Floats, units: float) -> float:
    """The most worth that units of a profile hold, classes divided where they must be."""
    left, earned = units, 0.0
    for at in range(len(order)):
        cls = order[at]
        if left <= 0.0 or worth[cls] <= 0.0:
            break
        taken = min(load[cls], left)
        earned += taken * worth[cls]
        left -= taken
    return earned


@compiled
def best_units(order: Integers, worth: Floats, load: Floats, cost: float, low: float, high: float) -> float:
    """The whole units, within bounds, whose cost less the worth they hold is least."""
    wanted = 0.0
    for at in range(len(order)):
        if worth[order[at]] <= cost:
            break
        wanted += load[order[at]]
    below = min(max(math.floor(wanted + EDGE), low), high)
    above = min(below + 1.0, high)
    more = held(order, worth, load, above) - held(order, worth, load, below)
    return above if more > cost * (above - below) else below


@compiled
def evaluate(
    tables: tuple[Floats, Floats, Floats],
    prices: Floats,
    box: tuple[Floats, Floats],
    order: Integers,
    out: tuple[Floats, Floats, Floats],
) -> float:
    """The bound without its constant; `out` receives a subgradient and the units chosen, and is given scratch space."""
    load, per_load, cost = tables
    gradient, units, worth = out
    bound = 0.0
    for cls in range(len(prices)):
        bound += prices[cls]
        gradient[cls] = 1.0
    for profile in range(len(cost)):
        for cls in range(len(prices)):
            worth[cls] = prices[cls] * per_load[profile, cls]
        mine = order[profile]
        if not insert(mine, worth, 1, FAR * len(prices)):
            for gap in GAPS:
                insert(mine, worth, gap, len(prices) * len(prices))
        left = best_units(mine, worth, load[profile], cost[profile], box[0][profile], box[1][profile])
        units[profile] = left
        bound += cost[profile] * left
        for at in range(len(mine)):
            cls = mine[at]
            if left <= 0.0 or worth[cls] <= 0.0:
                break
            taken = min(load[profile, cls], left)
            left -= taken
            bound -= taken * worth[cls]
            gradient[cls] -= taken * per_load[profile, cls]
    return bound


@compiled
def climb(
    tables: tuple[Floats, Floats, Floats],
    first: Floats,
    box: tuple[Floats, Floats],
    order: Integers,
    goal: tuple[float, int, float],
) -> tuple[float, Floats, Floats]:
    """The best bound without its constant within a number of steps towards a goal, its prices, and the mean units."""
    cut, steps, scale = goal
    classes, profiles = len(first), len(tables[2])
    prices, best_prices, direction = first.copy(), first.copy(), np.zeros(classes)
    gradient, units, mean = np.zeros(classes), np.zeros(profiles), np.zeros(profiles)
    out = (gradient, units, np.zeros(classes))
    best, stalled, fresh = -math.inf, 0, True
    for step in range(steps + 1):
        bound = evaluate(tables, prices, box, order, out)
        kept = MEAN if step else 0.0
        for profile in range(profiles):
            mean[profile] = kept * mean[profile] + (1.0 - kept) * units[profile]
        stalled += 1
        if bound > best:
            if bound > best + EDGE * abs(best):
                stalled = 0
            best = bound
            for cls in range(classes):
                best_prices[cls] = prices[cls]
        if best >= cut:
            break
        if stalled > PATIENCE:
            scale, stalled, fresh = scale * SHRINK, 0, True
            for cls in range(classes):
                prices[cls] = best_prices[cls]
            bound = evaluate(tables, prices, box, order, out)
        kept = 0.0 if fresh else SMOOTH
        fresh, length = False, 0.0
        for cls in range(classes):
            direction[cls] = kept * direction[cls] + (1.0 - kept) * gradient[cls]
            length += direction[cls] * direction[cls]
        if length <= EDGE:
            break
        for cls in range(classes):
            prices[cls] = max(prices[cls] + scale * (cut - bound) / length * direction[cls], 0.0)
    return best, best_prices, mean
