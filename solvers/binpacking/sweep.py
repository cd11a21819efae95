"""The cheapest units that may hold divisible items, by rising cost, as far as anyone asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .lattice import basis
from .levels import Levels
from .problem import COST_UNIT, BinPacking, Floats, cost_step
from .relaxation import Relaxed

MOST_OFFERS = 40
FIRST, WIDER, MUCH_WIDER = 0.1, 1.15, 1.4
"""How much units of the first costs looked at may cost beyond the relaxation, by what one of them is expected at, and
how much more those of the next, much more where the last took less than EASY evaluations."""
EASY = 1000
SHARE = 2
"""Costs are looked at together as long as that takes no more than one in so many of the evaluations left."""
MOST_LEVELS = 256
ONE = 1e-9


@dataclass(frozen=True, slots=True)
class Cheapest:
    """Units by cost, all that may hold the items of those that cost less than `below` and have not been told before."""

    units: Floats
    below: float
    evaluations: int


def rising(
    problem: BinPacking,
    root: Relaxed,
    box: tuple[Floats, Floats],
    costs: tuple[float, Callable[[], float]],
    most: Callable[[], int],
    rng: np.random.Generator,
) -> Iterator[Cheapest]:
    """Look at higher and higher costs from one on to below another, for at most a number of evaluations.

    The problem is separable and without limits. Nothing comes where costs are no whole steps.
    """
    least, cut = costs
    kept = np.flatnonzero(_wanted(problem, root, box, cut()))
    step = cost_step(problem.cost[kept])
    if not (1 < len(kept) <= MOST_OFFERS and step and problem.cost[kept].min() > 0):
        return
    levels = _levels(problem, root, box, kept, (step, cut() - root.bound), rng)
    if levels is None:
        return
    search, room = levels
    first, room = int(np.ceil((least - COST_UNIT) / step - ONE)), FIRST * room
    while first * step < cut():
        last = max(first, int((root.bound + room) / step))
        last = min(last, first + MOST_LEVELS, int(np.ceil(cut() / step - ONE)) - 1)
        before = search.evaluations
        units = search.between(first, last, (most() - before) // (SHARE if last > first else 1))
        spent = search.evaluations - before
        if units is None:
            if last == first:
                return
            room = 0.5 * (first + last) * step - root.bound
            continue
        found = np.tile(box[0], (len(units), 1))
        found[:, kept] = units
        first = last + 1
        room = (WIDER if spent > EASY else MUCH_WIDER) * max(room, last * step - root.bound)
        yield Cheapest(found, first * step, spent)


def _wanted(problem: BinPacking, root: Relaxed, box: tuple[Floats, Floats], cut: float) -> NDArray[np.bool_]:
    """Offers that better units may hold, by their reduced costs; not those of which there is just one number."""
    reduced = problem.cost - problem.capacity.T @ root.prices
    wanted: NDArray[np.bool_] = ((root.bound + reduced < cut) | (box[0] > 0)) & (box[1] > 0)
    return wanted


def _levels(
    problem: BinPacking,
    root: Relaxed,
    box: tuple[Floats, Floats],
    kept: NDArray[np.intp],
    costs: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Levels, float] | None:
    """The search among some offers, and what the cheapest units that hold the items may cost beyond the relaxation."""
    profiles = problem.capacity.argmax(0)[kept]
    size = problem.capacity.max(0)[kept]
    load = problem.load[profiles] * problem.items / size[:, None]
    cost, worth = problem.cost[kept], root.prices[profiles] * size
    lower, upper = box[0][kept], box[1][kept]
    base = np.where((worth < cost) & (lower == 0), cost, np.maximum(worth, COST_UNIT))
    beyond = cost - base
    idle = float(np.minimum(beyond * lower, beyond * upper).sum())
    step, most = costs
    whole = np.round(cost / step).astype(np.int64)
    found = basis(load, base, whole, np.maximum(cost - worth, 0.0), most, rng)
    if found is None:
        return None
    return Levels(load, base, (lower, upper), found[0], (step, root.bound, idle)), found[1]
