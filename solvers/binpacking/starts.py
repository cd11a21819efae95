"""Units to start from: the relaxation's cheapest assignment rounded up, and every single profile that holds all."""

from __future__ import annotations

import math

import numpy as np

from .problem import BinPacking, Floats


def first_units(problem: BinPacking, prices: Floats, upper: Floats) -> list[Floats]:
    """Whole units that cover the cheapest assignment at prices of the profiles, and each profile alone, by cost."""
    load = problem.load * problem.items
    with np.errstate(invalid="ignore"):
        cheapest = np.where(np.isfinite(load), prices[:, None] * load, np.inf).argmin(0)
    needs: list[Floats] = [np.bincount(cheapest, load[cheapest, np.arange(load.shape[1])], len(load)).astype(float)]
    for profile in np.flatnonzero(np.isfinite(load).all(1)):
        needs.append(np.where(np.arange(len(load)) == profile, load.sum(1, where=np.isfinite(load)), 0.0))
    points = [_cover(problem, need, upper) for need in needs]
    return sorted(points, key=lambda point: float(problem.cost @ point))


def _cover(problem: BinPacking, need: Floats, upper: Floats) -> Floats:
    """Whole units whose capacity covers each profile's need, cheapest offer first within its bounds."""
    units = problem.lower.copy()
    for profile in np.flatnonzero(need):
        row = problem.capacity[profile]
        with np.errstate(divide="ignore", invalid="ignore"):
            order = np.argsort(np.where(row > 0, problem.cost / row, np.inf), kind="stable")
        for offer in order[: int((row > 0).sum())]:
            short = need[profile] - row @ units
            if short <= 1e-9 * need[profile]:
                break
            units[offer] = min(units[offer] + math.ceil(short / row[offer] - 1e-9), upper[offer])
    return units
