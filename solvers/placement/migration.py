"""Re-balancing from the placement in force with few moves: one copy replaced or two exchanged at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .problem import Floats, PlacementProblem

Held = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Move:
    """What a device loads: the items it did not hold before, the excess that is left, and the new holders."""

    loaded: int
    excess: float
    held: Held


def rebalance(problem: PlacementProblem, held: Held, target: float, budget: int) -> tuple[Held, int]:
    """New holders, [layers, items, devices], and the number of copies loaded.

    `held[l, e, g]` says that device g holds item e now. Every layer is improved, the one furthest above `target` first,
    by the step with the largest cut of squared excess load per copy loaded, until all peaks are at most `target`, no
    step helps, or `budget` copies are loaded. Slots in use never grow.
    """
    held = held.copy()
    spent = 0
    stuck = np.zeros(problem.layers, dtype=bool)
    peaks = np.array([_loads(problem, layer, held[layer]).max() for layer in range(problem.layers)])
    while True:
        open_ = np.where(stuck, -np.inf, peaks)
        layer = int(open_.argmax())
        if open_[layer] <= target * (1 + 1e-12):
            return held, spent
        move = _best_step(problem, layer, held[layer], target, budget - spent)
        if move is None:
            stuck[layer] = True
            continue
        held[layer] = move.held
        spent += move.loaded
        peaks[layer] = _loads(problem, layer, held[layer]).max()


def _loads(problem: PlacementProblem, layer: int, held: Held) -> Floats:
    """Load of every device in fair shares, [scenarios, devices], copies sharing evenly."""
    share = problem.loads[:, layer] / np.maximum(held.sum(axis=1), 1)
    return np.asarray(share @ held * problem.per_fair_share, dtype=np.float64)


def _excess(loads: Floats, target: float) -> Floats:
    return np.asarray((np.maximum(0.0, loads - target) ** 2).sum(axis=(-2, -1)), dtype=np.float64)


def _best_step(problem: PlacementProblem, layer: int, held: Held, target: float, budget: int) -> Move | None:
    now = float(_excess(_loads(problem, layer, held), target))
    steps = []
    if budget >= 1:
        steps.append(_replacement(problem, layer, held, target))
    if budget >= 2:
        steps.append(_exchange(problem, layer, held, target))
    gains = [((now - step.excess) / step.loaded, step) for step in steps if step is not None]
    best = max(gains, key=lambda pair: pair[0], default=None)
    return best[1] if best is not None and best[0] > 1e-12 else None


def _replacement(problem: PlacementProblem, layer: int, held: Held, target: float) -> Move | None:
    """The best way to overwrite one of several copies of an item by a further copy of another."""
    counts = held.sum(axis=1)
    weights, unit = problem.loads[:, layer], problem.per_fair_share
    base = _loads(problem, layer, held)
    best: Move | None = None
    grown = (weights / np.maximum(counts + 1, 1) - weights / np.maximum(counts, 1))[:, :, None] * held * unit
    for out, device in np.argwhere(held & (counts[:, None] > 1)):
        row = held[out].copy()
        row[device] = False
        share = weights[:, out] / counts[out]
        less = weights[:, out] / (counts[out] - 1)
        change = (less[:, None] * row - share[:, None] * held[out]) * unit
        after = (base + change)[:, None, :] + grown
        after[:, :, device] += weights / (counts + 1) * unit[device]
        excess = (np.maximum(0.0, after - target) ** 2).sum(axis=(0, 2))
        excess[held[:, device]] = np.inf
        into = int(excess.argmin())
        if np.isfinite(excess[into]) and (best is None or excess[into] < best.excess):
            new = held.copy()
            new[out, device], new[into, device] = False, True
            best = Move(1, float(excess[into]), new)
    return best


def _exchange(problem: PlacementProblem, layer: int, held: Held, target: float) -> Move | None:
    """The best exchange of a copy on the fullest device with one elsewhere."""
    unit = problem.per_fair_share
    base = _loads(problem, layer, held)
    full = int(np.unravel_index(base.argmax(), base.shape)[1])
    share = problem.loads[:, layer] / np.maximum(held.sum(axis=1), 1)
    mine = np.flatnonzero(held[:, full])
    best: Move | None = None
    for device in range(problem.devices):
        if device == full:
            continue
        theirs = np.flatnonzero(held[:, device])
        shift = share[:, mine][:, :, None] - share[:, theirs][:, None, :]
        loads = base.copy()
        loads[:, [full, device]] = 0.0
        rest = float(_excess(loads, target))
        here = np.maximum(0.0, base[:, full, None, None] - shift * unit[full] - target) ** 2
        there = np.maximum(0.0, base[:, device, None, None] + shift * unit[device] - target) ** 2
        excess = rest + (here + there).sum(axis=0)
        excess[held[mine, device]] = np.inf
        excess[:, held[theirs, full]] = np.inf
        a, b = np.unravel_index(int(excess.argmin()), excess.shape)
        if np.isfinite(excess[a, b]) and (best is None or excess[a, b] < best.excess):
            new = held.copy()
            new[mine[a], full], new[mine[a], device] = False, True
            new[theirs[b], device], new[theirs[b], full] = False, True
            best = Move(2, float(excess[a, b]), new)
    return best
