"""How many layers whole nodes cover at a flow, by column generation: what a program of every cover is too large for.

A cover is a set of slots (kind of node, layers held) that pass the flow together; a node with s layers stands in s
covers of one layer each. The most layers that covers may fill is a linear program with one column per cover. Prices π
of the slots bound it (weak duality): no more layers than Σ_kind nodes · max_s s π_s over the price of the cheapest
cover, a knapsack (Gilmore and Gomory 1961, the cutting stock's).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .problem import ChainFlow, Floats

GRID = 800
"""Parts of the flow in the knapsack: what a slot passes is rounded up to one, so that covers are only ever too many."""
ROUNDS = 60
SURE = 1e-6


def most_covered(problem: ChainFlow, flow: float, enough: float) -> float:
    """More layers than whole nodes can cover with the flow, as near as ROUNDS of columns come; it ends below `enough`.

    Links, order and how often a cover may use a kind of node are left out.
    """
    rows, stock = np.unique(problem.throughput, axis=0, return_counts=True)
    kind, size = np.nonzero(rows > 0)
    if not len(kind):
        return 0.0
    parts = np.minimum(np.ceil(rows[kind, size] * (GRID / flow) - SURE), GRID).astype(np.int64)
    master = _Master(kind, size + 1, stock)
    for slot, part in enumerate(parts.tolist()):
        master.add({slot: -(-GRID // part)})
    best = math.inf
    for _ in range(ROUNDS):
        prices = master.prices()
        price, cover = _cheapest(prices, parts)
        worth = np.zeros(len(stock))
        np.maximum.at(worth, kind, (size + 1) * prices)
        if price > 0:
            best = min(best, float(stock @ worth) / price)
        if best < enough or price >= 1 - SURE:
            break
        master.add(cover)
    return best


def _cheapest(prices: Floats, parts: NDArray[np.int64]) -> tuple[float, dict[int, int]]:
    """The cheapest slots whose parts add up to the grid, each as often as needed, and their price."""
    cost, chosen = np.zeros(GRID + 1), np.zeros(GRID + 1, np.int64)
    for need in range(1, GRID + 1):
        options = prices + cost[np.maximum(need - parts, 0)]
        chosen[need] = options.argmin()
        cost[need] = options[chosen[need]]
    cover: dict[int, int] = {}
    need = GRID
    while need > 0:
        slot = int(chosen[need])
        cover[slot] = cover.get(slot, 0) + 1
        need -= int(parts[slot])
    return float(cost[GRID]), cover


class _Master:
    """The program of the covers found so far: layers of every cover, and nodes of every kind by layers held."""

    def __init__(self, kind: NDArray[np.int64], size: NDArray[np.int64], stock: NDArray[np.int64]) -> None:
        from ortools.linear_solver import pywraplp

        self.solver: Any = pywraplp.Solver.CreateSolver("GLOP")
        none = -self.solver.infinity()
        self.objective = self.solver.Objective()
        self.objective.SetMaximization()
        limits = [self.solver.Constraint(none, float(count)) for count in stock]
        self.held = [self.solver.Constraint(none, 0.0) for _ in kind]
        for slot, (which, layers) in enumerate(zip(kind.tolist(), size.tolist(), strict=True)):
            nodes = self.solver.NumVar(0.0, self.solver.infinity(), "")
            limits[which].SetCoefficient(nodes, 1.0)
            self.held[slot].SetCoefficient(nodes, -float(layers))

    def add(self, cover: dict[int, int]) -> None:
        """One more cover: slots and how many of each."""
        layers = self.solver.NumVar(0.0, self.solver.infinity(), "")
        self.objective.SetCoefficient(layers, 1.0)
        for slot, count in cover.items():
            self.held[slot].SetCoefficient(layers, float(count))

    def prices(self) -> Floats:
        """What one more layer held in every slot is worth."""
        self.solver.Solve()
        return np.maximum([row.dual_value() for row in self.held], 0.0)
