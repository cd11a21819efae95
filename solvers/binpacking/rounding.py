"""Whole items into given capacities: round the relaxation's shares and exchange what overflows, or lay class by class.

With the units fixed what is left is a feasibility question. The relaxation that shrinks all capacities together
(min θ: Σ_i load_i x_i <= θ room) says no at once when θ > 1. Otherwise its shares are rounded, and what overflows is
tuned, which does where a good deal of room is left. Where little is, how many packings there are about tells whether
it is worth while to lay the items class by class, with few partial packings kept or with many.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .beam import NARROW, WIDE, lay
from .counting import count
from .problem import BinPacking, Floats, Integers
from .relaxation import Relaxation, Relaxed
from .tuning import Tuning

PARTS = 10
"""Parts of the classes that are rounded one after the other."""
QUICK, THOROUGH = 15, 80
"""Steps of tuning from shares that were rounded at once, and from those that were rounded a part at a time."""
MANY = 12
"""Profiles beyond which what is laid class by class leaves some of them overfull in the end."""
TIGHT, LOOSE = 1e-6, 1e-4
"""Tolerances of the first relaxation, and of those after it."""
HOPELESS = 0.0
"""Log of the number of packings there are about below which none is looked for class by class."""
MOST_SHRINK = 4.0
SHARE_TOLERANCE = 1e-7
ROUTING_TOLERANCE = 1e-6
PROVEN = 1e-7


@dataclass(frozen=True, slots=True)
class Fit:
    """`packing` when one was found; `impossible` when the relaxation proves that there is none; else the profiles'
    `prices` at which the items fill the room most, of which they leave the share `slack`.

    Prices of an impossible fit prove that it is one."""

    packing: Floats | None
    impossible: bool = False
    prices: Floats | None = None
    slack: float = 0.0


class Effort(IntEnum):
    """How hard to try: relax only, round and tune, or lay class by class too, from few partial packings or many."""

    RELAX = 0
    ROUND = 1
    LAY = 2
    LAY_WIDELY = 3


def fit(problem: BinPacking, units: Floats, rng: np.random.Generator, effort: Effort = Effort.LAY) -> Fit:
    """Try to pack every item into the capacities that `units` buy."""
    room = problem.capacity @ units
    used = room > 0
    load = np.where(used[:, None], problem.load, np.inf)
    if not np.isfinite(load).any(0).all():
        return Fit(None, impossible=True)
    load = load[used]
    once = effort is Effort.RELAX or not problem.fractional
    shrunk = _shrink(load, problem.items, room[used], 1 + 2 * ROUTING_TOLERANCE, once=once)
    if not shrunk.solved or shrunk.bound > 1 + ROUTING_TOLERANCE:
        return Fit(None, impossible=shrunk.bound > 1 + ROUTING_TOLERANCE, prices=_everywhere(shrunk.prices, used))
    shares, prices = _clean(shrunk.shares, load), shrunk.prices
    packing = np.zeros_like(problem.load)
    if problem.fractional and effort is not Effort.RELAX:
        packing[used] = shares * problem.items
        over = (np.where(np.isfinite(load), load, 0.0) * packing[used]).sum(1) > room[used] * (1 + ROUTING_TOLERANCE)
        return Fit(None if over.any() else packing)
    whole = _packed(Tuning(load, room[used], prices), (shares, problem.items, 1.0 - shrunk.bound), rng, effort)
    if whole is not None:
        packing[used] = whole
        return Fit(packing if problem.fits(units, packing) else None)
    return Fit(None, prices=_everywhere(prices, used), slack=1.0 - shrunk.bound)


def proof(problem: BinPacking, prices: Floats) -> tuple[Floats, float]:
    """What units are worth at prices of the profiles, and what they must be worth to hold the items."""
    with np.errstate(invalid="ignore"):
        priced = np.where(np.isfinite(problem.load), prices[:, None] * problem.load, np.inf)
    return prices @ problem.capacity, float(problem.items @ priced.min(0)) * (1 - PROVEN)


def packings(problem: BinPacking, units: Floats, prices: Floats, slack: float) -> float:
    """About the log of how many packings of whole items the units have, of which divisible ones leave a share."""
    room = problem.capacity @ units
    used = room > 0
    if slack <= 0 or not prices[used].any():
        return -np.inf
    tuning = Tuning(problem.load[used], room[used], prices[used])
    counted = count(tuning.blocked, tuning.room, problem.items, slack * float(tuning.room.sum()))
    return -np.inf if counted is None else counted.log


def _packed(
    tuning: Tuning, divided: tuple[Floats, Integers, float], rng: np.random.Generator, effort: Effort
) -> Floats | None:
    """Whole items from shares, items and the share of the room that they leave."""
    shares, items, slack = divided
    whole = tuning.run(_rounded(shares, items), rng, QUICK) if effort >= Effort.ROUND else None
    if whole is not None or effort < Effort.LAY or slack <= 0:
        return whole
    counted = count(tuning.blocked, tuning.room, items, slack * float(tuning.room.sum()))
    if counted is None or counted.log < HOPELESS:
        return None
    if len(tuning.room) > MANY:
        return tuning.run(_fixed(tuning, shares, items), rng, THOROUGH)
    for beam in (NARROW, WIDE)[: effort - Effort.ROUND]:
        whole = lay(tuning.blocked, tuning.room, items, counted, beam, rng)
        if whole is not None:
            return whole
    return None


def _everywhere(prices: Floats, used: NDArray[np.bool_]) -> Floats:
    everywhere = np.zeros(len(used))
    everywhere[used] = prices
    return everywhere


def _fixed(tuning: Tuning, shares: Floats, items: Integers) -> Floats:
    """Round the classes of the largest items, relax the rest in the room that is left, and so on."""
    load, room = tuning.blocked, tuning.room
    finite = np.where(np.isfinite(load), load, 0.0)
    size = load.min(0)
    rest = np.argsort(-size, kind="stable")
    packing, left, shares = np.zeros_like(load), room.copy(), shares[:, rest]
    for part in np.array_split(rest, min(PARTS, len(rest))):
        count = len(part)
        packing[:, part] = _rounded(shares[:, :count], items[part])
        left = left - (finite[:, part] * packing[:, part]).sum(1)
        rest = rest[count:]
        if not len(rest):
            break
        found = _shrink(load[:, rest], items[rest], np.maximum(left, 1e-6 * room), np.inf, LOOSE, once=True)
        shares = _clean(found.shares if found.solved else shares[:, count:], load[:, rest])
    return packing


def _clean(shares: Floats, load: Floats) -> Floats:
    """Shares that add up to one, without traces and forbidden cells."""
    shares = np.where(np.isfinite(load) & (shares >= SHARE_TOLERANCE), shares, 0.0)
    cleaned: Floats = shares / shares.sum(0)
    return cleaned


def _shrink(
    load: Floats, items: Integers, room: Floats, cut: float, tolerance: float = TIGHT, *, once: bool
) -> Relaxed:
    """Shares and prices of the least θ, left unsolved once θ must exceed the cut."""
    together = BinPacking(
        cost=np.ones(1),
        capacity=room[:, None],
        load=load,
        items=items,
        lower=np.zeros(1),
        upper=np.full(1, MOST_SHRINK),
        limit_matrix=np.zeros((0, 1)),
        limit=np.zeros(0),
        fractional=True,
    )
    return Relaxation(together).solve(np.zeros(1), together.upper, cut, tolerance, shares=True, once=once)


def _rounded(shares: Floats, items: Integers) -> Floats:
    """Whole items nearest to the shares, each class complete."""
    exact = shares * items
    whole = np.floor(exact + SHARE_TOLERANCE)
    remainder = exact - whole
    remainder = np.where(shares > 0, remainder, -1.0)
    order = np.argsort(-remainder, axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(len(shares))[:, None], 0)
    rounded: Floats = whole + (rank < np.round(items - whole.sum(0)))
    return rounded
