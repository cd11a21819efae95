"""Nested groups of devices under any link costs: a floor on every cost that bounds can work with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .problem import Floats, Ints

MOST_LEVELS = 3


@dataclass(frozen=True, slots=True)
class Level:
    """Crossing between two groups costs at least `step` more than staying in one; `group[g]` is device g's group."""

    step: float
    group: Ints

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.group.max()) + 1


def levels(link_cost: Floats) -> list[Level]:
    """Levels whose steps add up to at most the cost of every link, finest first.

    The largest ultrametric below the costs (the dearest link on the cheapest path: Gower and Ross, "Minimum spanning
    trees and single linkage cluster analysis", 1969), its values rounded down to the three with the widest steps.
    """
    cost = np.minimum(link_cost, link_cost.T)
    if len(cost) < 2:
        return []
    paths = cost.copy()
    for via in range(len(paths)):
        paths = np.minimum(paths, np.maximum(paths[:, via, None], paths[None, via, :]))
    values = np.unique(paths[~np.eye(len(paths), dtype=bool)])
    values = values[values > 0]
    steps = np.diff(np.r_[0.0, values])
    kept = np.sort(values[np.argsort(-steps, kind="stable")[:MOST_LEVELS]])
    out = []
    below = 0.0
    for value in kept:
        group = _components(paths < value - 1e-12)
        out.append(Level(float(value - below), group))
        below = float(value)
    return out


def _components(joined: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Ints:
    np.fill_diagonal(joined, True)
    return np.asarray(np.unique(joined.argmax(axis=1), return_inverse=True)[1], dtype=np.int64)
