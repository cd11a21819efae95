"""Packings near the relaxation's optimum: the units that about hold the items, cheapest first, relaxed and packed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .lattice import Valley, nearby, valley
from .problem import BinPacking, Floats
from .relaxation import Relaxed
from .rounding import Effort, fit

FIRST_ROOM = 2e-4
"""What units may cost beyond the relaxation at first, relative to it."""
WIDER = 1.5
ENOUGH = 300
MOST = 1000
CHUNK = 50
CHECKS, CELLS_PER_CHECK, MOST_CHECKS = 20, 10, 300
"""Relaxations at first, and more in larger tables, where a node of the search takes longer."""
TRIES = 5
EASY = 5e-5
"""Share of the room left over with which whole items are packed at once as a rule."""
MORE = 1.2
"""Times the slack that was not enough with which whole items are tried to be packed next."""
PROVEN = 1e-7


def pack_nearby(
    problem: BinPacking,
    root: Relaxed,
    box: tuple[Floats, Floats],
    best: float,
    pack: Callable[[Floats], bool],
    rng: np.random.Generator,
) -> None:
    """Have units that cost less than `best` packed, until some are and cheaper ones have been tried."""
    room = FIRST_ROOM * max(abs(root.bound), 1e-9)
    around = valley(problem, root.prices, room, rng)
    while True:
        points = nearby(around, box, min(room, best - root.bound))
        if len(points) >= ENOUGH or root.bound + room >= best:
            break
        room *= WIDER
    points = points[points @ problem.cost < best][:MOST]
    tight: list[tuple[float, Floats]] = []
    least = EASY
    for units, slack in _fitting(problem, _possible(problem, around, points), rng):
        if slack < least:
            tight.append((-slack, units))
        elif pack(units):
            best = float(units @ problem.cost)
            break
        else:
            least = MORE * slack
    tight = [each for each in tight if float(each[1] @ problem.cost) < best]
    for _, units in sorted(tight, key=lambda each: each[0])[:TRIES]:
        if float(units @ problem.cost) < best and pack(units):
            best = float(units @ problem.cost)


def _possible(problem: BinPacking, around: Valley, points: Floats) -> Floats:
    """The points but for those that the prices most likely to do so show not to hold divisible items."""
    prices = around.prices(points)[:, problem.capacity.argmax(1)] / problem.capacity.max(1)
    needed = np.empty(len(points))
    for first in range(0, len(points), CHUNK):
        with np.errstate(invalid="ignore"):
            priced = prices[first : first + CHUNK, :, None] * np.where(np.isfinite(problem.load), problem.load, np.inf)
        needed[first : first + CHUNK] = np.where(np.isnan(priced), np.inf, priced).min(1) @ problem.items
    held = ((points @ problem.capacity.T) * prices).sum(1)
    kept: Floats = points[held >= needed * (1 - PROVEN)]
    return kept


def _fitting(problem: BinPacking, points: Floats, rng: np.random.Generator) -> Iterator[tuple[Floats, float]]:
    """The points that hold divisible items, with the share of their room that is left.

    Prices that prove that one point does not hold them prove it of others.
    """
    left = np.ones(len(points), dtype=bool)
    for _ in range(min(CHECKS + problem.load.size // CELLS_PER_CHECK, MOST_CHECKS)):
        ahead = np.flatnonzero(left)
        if not len(ahead):
            return
        units = points[ahead[0]]
        left[ahead[0]] = False
        relaxed = fit(problem, units, rng, Effort.RELAX)
        if relaxed.impossible and relaxed.prices is not None:
            with np.errstate(invalid="ignore"):
                priced = np.where(np.isfinite(problem.load), relaxed.prices[:, None] * problem.load, np.inf)
            needed = float(problem.items @ priced.min(0)) * (1 - PROVEN)
            left &= points @ (relaxed.prices @ problem.capacity) >= needed
        elif relaxed.prices is not None and relaxed.slack > 0:
            yield units, relaxed.slack
