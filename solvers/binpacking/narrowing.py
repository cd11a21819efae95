"""Which offers can be part of a better fleet, by the closed relaxation.

Without caps a class costs π_i = min_j c_j load_ji, c_j the cheapest capacity of profile j, and every fleet costs at
least Σ_i n_i π_i. One unit of an offer adds at least its cost less the most that its capacity earns at those prices,
filled with the classes that earn most first, each no further than there is of it (Dantzig 1957, the divisible
knapsack). What adds more than a known fleet leaves is in no better one; caps only forbid more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..solution import Gap, Solution, Status, Stop, Work
from .problem import COST_UNIT, BinPacking, Floats, Packed
from .search import solve

FEW = 16
START = Gap(1e-3) | Work(400)
TINY = 1e-300


def earned(rates: Floats, demand: Floats, prices: Floats, size: Floats | float = 1.0) -> Floats:
    """The most that `size` bins earn of classes that there is `demand` of (endless, where infinite) at given prices.

    One bin carries `rates[..., i]` of class i alone.
    """
    density = np.where(rates > 0, rates * prices, 0.0)
    with np.errstate(divide="ignore"):
        needed = np.where(rates > 0, demand / rates, 0.0)
    order = np.argsort(-density, axis=-1, kind="stable")
    needed, density = (np.take_along_axis(each, order, -1) for each in (needed, density))
    before = np.cumsum(needed, -1)
    before = np.concatenate([np.zeros_like(before[..., :1]), before[..., :-1]], -1)
    spent = np.clip(np.asarray(size)[..., None] - before, 0.0, needed)
    most: Floats = (spent * density).sum(-1)
    return most


def closed(packing: BinPacking) -> tuple[float, Floats]:
    """The closed relaxation's bound, and the least that one unit of every offer adds to it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(packing.capacity > 0, packing.cost / packing.capacity, np.inf).min(1, initial=np.inf)
        prices = np.where(np.isfinite(packing.load), each[:, None] * packing.load, np.inf).min(0)
        rates = np.where(np.isfinite(packing.load), 1 / np.maximum(packing.load, TINY), 0.0)
    profile = packing.capacity.argmax(0)
    finite = np.where(np.isfinite(prices), prices, 0.0)
    worth = earned(rates[profile], packing.items.astype(float), finite, packing.capacity.max(0))
    return float(prices @ packing.items), packing.cost - worth


def replaced(packing: BinPacking) -> NDArray[np.bool_]:
    """Offers that another one replaces unit by unit: it costs no more, takes every item for no more of a unit, and
    counts for no more in any limit. Of equals the first stays."""
    profile, size = packing.capacity.argmax(0), packing.capacity.max(0)
    with np.errstate(divide="ignore"):
        share = packing.load[profile] / size[:, None]
    better = np.isinf(packing.upper)[None, :] & (packing.cost[None, :] <= packing.cost[:, None])
    for each in (*share.T, *packing.limit_matrix):
        better &= each[None, :] <= each[:, None]
    before = np.tri(len(size), k=-1, dtype=bool)
    found: NDArray[np.bool_] = (better & (~better.T | before)).any(1)
    return found


def solve_narrowed(packing: BinPacking, stop: Stop, seed: int = 0) -> Solution[Packed]:
    """The same answer as solving the whole packing, from the few offers that can be part of it.

    Offers that others replace are left out; a packing into the FEW of the rest that add least says how much another may
    add.
    """
    every = np.ones(len(packing.cost), bool)
    if len(every) <= FEW or (packing.capacity > 0).sum(0).max() > 1 or packing.lower.any():
        return _solved(packing, every, stop, seed)
    bound, added = closed(packing)
    needed = ~replaced(packing)
    first = np.zeros(len(every), bool)
    first[np.argsort(np.where(needed, added, np.inf), kind="stable")[:FEW]] = True
    start = _solved(packing, first, START, seed)
    if start.point is None or not np.isfinite(bound):
        return _solved(packing, needed, stop, seed)
    kept = needed & (bound + added <= start.value + COST_UNIT) | (start.point.units > 0)
    found = _solved(packing, kept, stop, seed)
    work = start.work + found.work
    if found.point is None or found.value > start.value:
        proven = min(max(found.bound, bound), start.value)
        return replace(start, status=Status.FEASIBLE, bound=proven, work=work)
    return replace(found, work=work)


def _solved(packing: BinPacking, kept: NDArray[np.bool_], stop: Stop, seed: int) -> Solution[Packed]:
    """The packing with some of its offers, told in terms of all; profiles left out cost what they are sold at."""
    offers = np.flatnonzero(kept)
    profiles = np.flatnonzero(packing.capacity[:, offers].any(1))
    part = replace(
        packing,
        cost=packing.cost[offers],
        capacity=packing.capacity[np.ix_(profiles, offers)],
        load=packing.load[profiles],
        lower=packing.lower[offers],
        upper=packing.upper[offers],
        limit_matrix=packing.limit_matrix[:, offers],
    )
    found = solve(part, stop, seed)
    if found.point is None:
        return found
    units, bins = np.zeros(len(packing.cost)), np.zeros(packing.load.shape)
    units[offers], bins[profiles] = found.point.units, found.point.packing
    rent = packing.cost + packing.limit_matrix.T @ found.point.limit_prices
    with np.errstate(divide="ignore", invalid="ignore"):
        prices = np.where(packing.capacity > 0, rent / packing.capacity, np.inf).min(1, initial=np.inf)
    prices = np.where(np.isfinite(prices), np.maximum(prices, 0.0), float(np.abs(rent).sum()))
    prices[profiles] = found.point.prices
    return replace(found, point=Packed(units, bins, prices, found.point.limit_prices))
