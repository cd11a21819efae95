"""Units that hold divisible items, packed with whole ones or ruled out, in the order that settles the most.

About how many packings of whole items there are into some units tells which are worth a search and which a proof. Until
some are packed, those with most packings are tried first. Then what is left open below keeps the bound down: of the
units that cost no more than the cheapest open ones but for a ten-thousandth, those with most packings are searched
again, each time at random and more widely, and if that finds nothing the cheapest are to be proven not to hold the
items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .exact import choices, pack_exactly
from .problem import BinPacking, Floats
from .rounding import Effort, fit, packings, proof

LIKELY, SURE, HOPEFUL = 5.0, 8.0, 0.0
"""Log of the number of packings from which a first search is worth while, a wide one, and that after a proof failed."""
AT_FIRST, WIDE_SEARCHES = 6, 2
"""Units tried as soon as they are found, of those found together, and wide searches in the same units."""
DISCOURAGED = 20.0
"""Log of the number of packings that a wide search without result makes units worth less."""
NEAR = 1e-4
SEARCH_WORK, WIDE_WORK, NODES_PER_WORK = 10, 50, 4
"""Searches and nodes of proofs, in relaxations that take as long."""
FEW_CHOICES, SMALL_CELLS = 400, 500
"""Cells beyond one per class that SCIP is asked about, before any search in tables of more cells than these."""
NODES = (300, 600)
"""Of its search, for each time that it is."""


@dataclass(eq=False, slots=True)
class Open:
    """Units that hold divisible items at some prices, about how many packings they have (its log), and what has been
    tried with them."""

    cost: float
    units: Floats
    prices: Floats
    log: float
    searches: int = 0
    proofs: int = 0


class Filling:
    """The open units of one problem. `work` counts relaxations solved here, and what takes as long as one."""

    def __init__(self, problem: BinPacking, rng: np.random.Generator) -> None:
        self.problem, self.rng = problem, rng
        self.open: list[Open] = []
        self.proofs: list[tuple[Floats, float]] = []
        self.work = 0

    @property
    def least(self) -> float:
        """Cost of the cheapest units that are open."""
        return min((each.cost for each in self.open), default=math.inf)

    @property
    def near(self) -> float:
        """What units may cost whose packing settles all open ones."""
        return self.least * (1 + NEAR)

    def add(self, points: Floats, cut: float) -> tuple[Floats, Floats] | None:
        """Take in units that cost less than `cut`, unless a proof or the relaxation rules them out; those with most
        packings are searched at once. The first units packed, and the packing."""
        found = []
        for units in points:
            cost = float(self.problem.cost @ units)
            if cost >= cut:
                break
            if any(worth @ units < needed for worth, needed in self.proofs):
                continue
            relaxed = fit(self.problem, units, self.rng, Effort.RELAX)
            self.work += 1
            if relaxed.prices is None:
                continue
            if relaxed.impossible:
                self.proofs.append(proof(self.problem, relaxed.prices))
                continue
            if self.problem.fractional:
                packing = fit(self.problem, units, self.rng, Effort.ROUND).packing
                if packing is not None:
                    return units, packing
                self.open.append(Open(cost, units, relaxed.prices, -math.inf, proofs=len(NODES)))
                continue
            log = packings(self.problem, units, relaxed.prices, relaxed.slack)
            found.append(Open(cost, units, relaxed.prices, log))
        self.open += found
        for each in found if self.problem.load.size > SMALL_CELLS else []:
            if choices(self.problem, each.units, each.prices) <= FEW_CHOICES:
                packing = self._prove(each)
                if packing is not None:
                    return each.units, packing
        found = [each for each in found if not each.proofs]
        likely = [each for each in found if each.log >= LIKELY]
        for each in sorted(likely, key=lambda each: -each.log)[:AT_FIRST]:
            packing = self._search(each, Effort.LAY)
            if packing is not None:
                return each.units, packing
        return None

    def settle(self, cut: float) -> tuple[bool, tuple[Floats, Floats] | None]:
        """Search or prove once more among units that cost less than `cut`: whether there was anything left to do, and
        units with their packing if that found one."""
        self.open = [each for each in self.open if each.cost < cut]
        hopeful = [each for each in self.open if each.searches < WIDE_SEARCHES and _hope(each) >= HOPEFUL]
        near = [each for each in hopeful if each.cost <= self.near]
        sure = [each for each in near if _hope(each) >= SURE]
        unsure = [each for each in self.open if each.cost <= self.near and each.proofs < len(NODES)]
        packing: Floats | None = None
        fresh = [each for each in unsure if not each.proofs]
        if fresh and not sure:
            chosen = min(fresh, key=lambda each: each.cost)
            packing = self._prove(chosen)
        elif near:
            chosen = max(near, key=_hope)
            packing = self._search(chosen, Effort.LAY_WIDELY)
        elif unsure:
            chosen = min(unsure, key=lambda each: (each.proofs, each.cost))
            packing = self._prove(chosen)
        elif hopeful:
            chosen = min(hopeful, key=lambda each: each.cost)
            packing = self._search(chosen, Effort.LAY_WIDELY)
        else:
            return False, None
        return True, None if packing is None else (chosen.units, packing)

    def _search(self, each: Open, effort: Effort) -> Floats | None:
        each.searches += effort is Effort.LAY_WIDELY
        self.work += WIDE_WORK if effort is Effort.LAY_WIDELY else SEARCH_WORK
        return fit(self.problem, each.units, self.rng, effort).packing

    def _prove(self, each: Open) -> Floats | None:
        few = choices(self.problem, each.units, each.prices) <= FEW_CHOICES
        nodes = NODES[each.proofs] if few else 0
        answer = pack_exactly(self.problem, each.units, each.prices, nodes)
        self.work += SEARCH_WORK + nodes // NODES_PER_WORK
        each.proofs = each.proofs + 1 if few else len(NODES)
        if answer.proven and answer.packing is None:
            self.open.remove(each)
        return answer.packing


def _hope(each: Open) -> float:
    return each.log - DISCOURAGED * each.searches
