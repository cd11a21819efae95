"""Branch and bound over the number of units, best bound first, each node one relaxation; also units by rising cost.

With the items divisible, the program lives in as many integer variables as there are offers, however many classes of
items there are. What a few nodes leave open is looked at by rising cost as long as that is quick, then branched on. A
node whose relaxed units are whole is a candidate fleet; for whole items it must also be packed (rounding, laying class
by class, SCIP). A fleet proven unpackable is cut off; one that stays open keeps its cost in the bound. When many fleets
near the optimum are unpackable (few large items), the program itself is put to SCIP within the window that is left.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..solution import Gap, Progress, Solution, Status, Stop, Work
from .exact import pack_cheapest, pack_exactly, worth_using
from .filling import Filling
from .lagrangian import Lagrangian, Priced, separable
from .problem import COST_UNIT, BinPacking, Floats, Packed, cost_step, why_impossible
from .relaxation import Relaxation, Relaxed
from .rounding import Effort, fit
from .starts import first_units
from .sweep import rising

WHOLE = 1e-4
DIVE_EVERY = 32
PACK_CELL_NODES = 4_000_000
MOST_PACK_NODES = 300
SMALL_PACK_NODES = 500
PROGRAM_CELL_NODES = 4_000_000
OPEN_FLEETS = 6
SMALL_PROGRAM_CELLS = 500
TOP_UPS = 12
FIRST_BRANCHING = 100
"""Relaxations solved in branching before units are looked at by cost: enough to prove what is easy."""
SWEEP, LONGER = 500_000_000, 4
"""Loads priced in all while units are looked at by cost, and times as many once some hold divisible items."""
EVALUATIONS = 256
"""Pricings of the items that count as one relaxation."""
ROOT_ASCENT, NODE_ASCENT = (300, 1.0), (40, 0.25)
"""Steps, and the share of the way to the cut that the first ones aim at."""
WORTH_PRICING = 0.05
"""Share of the gap at the root that the Lagrangian bound must close for nodes to be priced."""
SLOW_CELLS = 4_000
PATIENT_NODES = 32
MORE_PATIENT_NODES = 400
DEFAULT_STOP = Gap(1e-4) | Work(20_000)


def solve(problem: BinPacking, stop: Stop = DEFAULT_STOP, seed: int = 0) -> Solution[Packed]:
    """The cheapest units and a packing into them, with a proven bound on every other.

    Work is counted in relaxations solved. Status INFEASIBLE carries the reason; LIMIT means that the stop came before
    any packing was found.
    """
    progress = Progress()
    reason = why_impossible(problem)
    if reason:
        return Solution(Status.INFEASIBLE, None, bound=math.inf, seconds=progress.seconds, reason=reason)
    search = _Search(problem, stop, progress, np.random.default_rng(seed))
    return search.run()


@dataclass(order=True, slots=True)
class _Node:
    bound: float
    number: int
    lower: Floats
    upper: Floats
    units: Floats
    solved: bool
    prices: Floats | None = None


class _Search:
    def __init__(self, problem: BinPacking, stop: Stop, progress: Progress, rng: np.random.Generator) -> None:
        self.problem, self.stop, self.progress, self.rng = problem, stop, progress, rng
        self.relaxation = Relaxation(problem)
        self.cost = problem.cost
        self.step = cost_step(self.cost)
        self.units: Floats | None = None
        self.packing: Floats | None = None
        self.tried: set[bytes] = set()
        self.dearest = math.inf
        self.open_bound = math.inf
        self.open_fleets, self.by_program = 0, False
        self.root: Relaxed | None = None
        self.lagrangian: Lagrangian | None = None
        self.priced: Priced | None = None
        self.filtered_at = math.inf
        self.floor = -math.inf
        self.separable, self.price_nodes = separable(problem), False
        self.numbers = self.expanded = 0
        self.gain = np.zeros((2, len(self.cost)))
        self.branched = np.zeros((2, len(self.cost)))

    @property
    def value(self) -> float:
        """Cost of the best packing known."""
        return math.inf if self.units is None else float(self.cost @ self.units)

    @property
    def cut(self) -> float:
        """What another packing must cost less than: an improvement, and no more than every unit there is."""
        return min(self.value - self.step + COST_UNIT if self.step else self.value, self.dearest)

    def run(self) -> Solution[Packed]:
        lower, upper = self.problem.lower, self._finite_upper()
        self.dearest = float(self.cost @ upper) * (1 + COST_UNIT) + COST_UNIT
        self.root = self._relax(lower, upper)
        if self.root.bound >= self.dearest:
            return self._end(math.inf)
        for units in first_units(self.problem, self.root.prices, upper):
            self._offer(units)
        heap = [self._node(self.root, lower, upper, -math.inf)]
        self._dive(heap[0])
        known = self.root.bound
        if self._branch(heap, known, self.relaxation.solves + FIRST_BRANCHING):
            known = self._sweep((lower, upper), max(heap[0].bound, known))
            self._branch(heap, known, math.inf)
        left = min(max(min((node.bound for node in heap), default=math.inf), known), self.open_bound)
        return self._finish_by_program(left) if self.by_program else self._end(left)

    def _branch(self, heap: list[_Node], known: float, most: float) -> bool:
        """Expand nodes, the lowest bound first; whether that took more than a number of relaxations."""
        patience = 0 if self.problem.load.size <= SMALL_PROGRAM_CELLS else OPEN_FLEETS
        while heap:
            self.progress.value, self.progress.work = self.value, self.relaxation.solves
            floor = max(heap[0].bound, known)
            self.progress.bound = self._lift(min(floor, self.open_bound, self.value))
            self.floor = floor - COST_UNIT
            if min(floor, self.open_bound) >= self.cut or self.stop(self.progress):
                break
            if self.relaxation.solves >= most:
                return True
            if self.open_fleets > patience and not self.problem.fractional:
                self.by_program = True
                break
            if floor >= self.cut:
                break
            node = heapq.heappop(heap)
            if not self._priced(node, self.expanded):
                continue
            self.expanded += 1
            for child in self._expand(node):
                heapq.heappush(heap, child)
                if self.expanded % DIVE_EVERY == 0:
                    self._dive(child)
        return False

    def _finish_by_program(self, floor: float) -> Solution[Packed]:
        assert self.root is not None
        allowed = worth_using(self.problem, self.root.bound, self.root.prices, self.cut)
        window = (self._lift(floor) - COST_UNIT, self.cut)
        answer = pack_cheapest(self.problem, allowed, window, self._nodes(PROGRAM_CELL_NODES))
        if answer.units is not None and answer.packing is not None:
            self.units, self.packing = answer.units, answer.packing
        bound = self.value if answer.proven else max(floor, answer.bound)
        return self._end(bound)

    def _end(self, left: float) -> Solution[Packed]:
        bound = self._lift(min(left, self.value))
        seconds, work = self.progress.seconds, self.relaxation.solves
        if self.units is None or self.packing is None or self.root is None:
            status = Status.INFEASIBLE if math.isinf(left) else Status.LIMIT
            reason = (
                "no units within the bounds and limits hold the items" if math.isinf(left) else "stopped at a limit"
            )
            return Solution(status, None, bound=bound, seconds=seconds, work=work, reason=reason)
        packed = Packed(self.units, self.packing, self.root.prices, self.root.limit_prices)
        proven = bound >= self.value * (1 - 1e-12)
        status = Status.OPTIMAL if proven else Status.FEASIBLE
        return Solution(status, packed, self.value, self.value if proven else bound, seconds, work)

    def _relax(self, lower: Floats, upper: Floats) -> Relaxed:
        return self.relaxation.solve(lower, upper, cut=self.cut, tolerance=1e-5)

    def _node(self, relaxed: Relaxed, lower: Floats, upper: Floats, parent: float) -> _Node:
        self.numbers += 1
        return _Node(max(relaxed.bound, parent), self.numbers, lower, upper, relaxed.units, relaxed.solved)

    def _finite_upper(self) -> Floats:
        """More units than everything that could go there fills are never useful."""
        problem = self.problem
        total = (np.where(np.isfinite(problem.load), problem.load, 0.0) * problem.items).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.where(problem.capacity > 0, total[:, None] / problem.capacity, 0.0).max(0)
        enough: Floats = np.maximum(np.minimum(problem.upper, np.ceil(needed) + len(problem.load)), problem.lower)
        return enough

    def _expand(self, node: _Node) -> list[_Node]:
        below = np.floor(node.units + WHOLE)
        part = node.units - below
        free = node.upper > node.lower
        fractional = free & (part > WHOLE)
        if node.solved and not fractional.any():
            return self._settle(node, below)
        if not node.solved and not fractional.any():
            fractional = free
            if not free.any():
                return self._settle(node, node.lower)
        known = self.branched.sum()
        mean = self.gain.sum() / known if known else 1.0
        rate = np.where(self.branched > 0, self.gain / np.maximum(self.branched, 1), mean)
        score = np.maximum(rate[0] * part, 1e-9) * np.maximum(rate[1] * (1 - part), 1e-9)
        offer = int(np.where(fractional, score, -1.0).argmax())
        split = min(max(math.floor(node.units[offer]), node.lower[offer]), node.upper[offer] - 1)
        children = []
        for side, (low, high) in enumerate(((node.lower[offer], split), (split + 1, node.upper[offer]))):
            child = self._child(node, offer, low, high)
            width = max(part[offer] if side == 0 else 1 - part[offer], 1e-6)
            if child is not None:
                self.gain[side, offer] += (child.bound - node.bound) / width
                self.branched[side, offer] += 1
                children.append(child)
        return children

    def _settle(self, node: _Node, units: Floats) -> list[_Node]:
        """A node whose relaxed units are whole: pack them, or split the box around them."""
        self._offer(units)
        free = np.flatnonzero(node.upper > node.lower)
        if len(free) == 0 and node.bound < self.cut:
            self._close(units)
        if len(free) == 0 or node.bound >= self.cut:
            return []
        offer = int(free[np.argmax((node.upper - node.lower)[free])])
        low, high, at = node.lower[offer], node.upper[offer], units[offer]
        parts = ((low, at - 1), (at, at), (at + 1, high))
        children = [self._child(node, offer, a, b) for a, b in parts if a <= b]
        return [child for child in children if child is not None]

    def _child(self, node: _Node, offer: int, low: float, high: float) -> _Node | None:
        lower, upper = node.lower.copy(), node.upper.copy()
        lower[offer], upper[offer] = low, high
        floor, prices = node.bound, node.prices
        if self.lagrangian is not None and prices is not None:
            found = self.lagrangian.ascend(prices, (lower, upper), self.cut, NODE_ASCENT)
            if found.bound >= self.cut:
                return None
            floor, prices, lower, upper = max(floor, found.bound), found.prices, found.lower, found.upper
            if self.problem.load.size > SMALL_PROGRAM_CELLS:
                self.relaxation.solves += 1
                self.numbers += 1
                return _Node(floor, self.numbers, lower, upper, found.units, True, prices)
        child = self._node(self._relax(lower, upper), lower, upper, floor)
        child.prices = prices
        return None if child.bound >= self.cut else child

    def _priced(self, node: _Node, expanded: int) -> bool:
        """Tighten a node by the prices of the root, once that may pay; False when nothing is left of it."""
        cells = self.problem.load.size
        wait = 0 if cells > SLOW_CELLS else PATIENT_NODES if cells > SMALL_PROGRAM_CELLS else MORE_PATIENT_NODES
        if math.isinf(self.value) or expanded < wait or not self.separable:
            return True
        if self.lagrangian is None or self.priced is None:
            self.lagrangian, self.priced = self._price_root()
        elif self.cut < self.filtered_at:
            self.priced = self.lagrangian.tightened(self.priced, self.cut)
        self.filtered_at = self.cut
        node.bound = max(node.bound, self.priced.bound)
        if self.price_nodes and node.prices is None:
            node.prices = self.priced.prices
        node.lower = np.maximum(node.lower, self.priced.lower)
        node.upper = np.minimum(node.upper, self.priced.upper)
        node.units = np.clip(node.units, node.lower, np.maximum(node.lower, node.upper))
        return bool((node.lower <= node.upper).all()) and node.bound < self.cut

    def _price_root(self) -> tuple[Lagrangian, Priced]:
        assert self.root is not None
        lagrangian = Lagrangian(self.problem, self.root.limit_prices)
        load = self.relaxation.load
        with np.errstate(invalid="ignore"):
            prices = np.where(np.isfinite(load), self.root.prices[:, None] * load, np.inf).min(0)
        priced = lagrangian.ascend(prices, (self.problem.lower, self._finite_upper()), self.cut, ROOT_ASCENT)
        self.price_nodes = priced.bound - self.root.bound > WORTH_PRICING * (self.cut - self.root.bound)
        return lagrangian, priced

    def _close(self, units: Floats) -> None:
        """Decide a single fleet for good, or leave it open with its cost as the bound."""
        if not self.floor <= float(self.cost @ units) < self.cut or not self.problem.allows(units):
            return
        found = fit(self.problem, units, self.rng, Effort.LAY_WIDELY)
        proven, packing = found.impossible, found.packing
        if packing is None and found.prices is not None and not proven:
            most = SMALL_PACK_NODES if self.problem.load.size <= SMALL_PROGRAM_CELLS else MOST_PACK_NODES
            answer = pack_exactly(self.problem, units, found.prices, min(self._nodes(PACK_CELL_NODES), most))
            proven, packing = answer.proven, answer.packing
        if packing is not None:
            self.units, self.packing = units, packing
        elif not proven:
            self.open_bound = min(self.open_bound, float(self.cost @ units))
            self.open_fleets += 1

    def _nodes(self, cell_nodes: int) -> int:
        return max(cell_nodes // self.problem.load.size, 20)

    def _offer(self, units: Floats, effort: Effort = Effort.ROUND) -> bool:
        """Try to pack a candidate; True when it became the best."""
        spent = float(self.cost @ units)
        if not self.floor <= spent < self.cut or units.tobytes() in self.tried:
            return False
        self.tried.add(units.tobytes())
        if not self.problem.allows(units):
            return False
        found = fit(self.problem, units, self.rng, effort)
        if found.packing is None:
            return False
        self.units, self.packing = units, found.packing
        return True

    def _sweep(self, box: tuple[Floats, Floats], known: float) -> float:
        """Have the cheapest units packed that may hold the items; from what cost on there may be others."""
        if self.root is None or not self.separable or len(self.problem.limit) or math.isinf(self.cut):
            return known
        filling, before = Filling(self.problem, self.rng), self.open_bound
        known, self.open_bound = min(known, before), math.inf
        if not self._told(known, filling):
            most = partial(self._most, filling)
            for found in rising(self.problem, self.root, box, (known, lambda: self.cut), most, self.rng):
                self.relaxation.solves += found.evaluations // EVALUATIONS
                known = found.below
                self._fill(filling.add(found.units, self.cut))
                if known > filling.near:
                    self._fill(filling.settle(self.cut)[1])
                if self._told(known, filling):
                    break
        going = True
        while going and not self._told(known, filling):
            going, packed = filling.settle(self.cut)
            self._fill(packed)
        self.open_bound = min(max(before, known), filling.least)
        self.open_fleets += len(filling.open) if self.problem.load.size <= SMALL_PROGRAM_CELLS else 0
        self.relaxation.solves += filling.work
        return known

    def _most(self, filling: Filling) -> int:
        """How often the items may be priced to look at units by cost."""
        return (LONGER if filling.open else 1) * SWEEP // self.problem.load.size

    def _fill(self, packed: tuple[Floats, Floats] | None) -> None:
        if packed is not None and float(self.cost @ packed[0]) < self.cut:
            self.units, self.packing = packed

    def _told(self, known: float, filling: Filling) -> bool:
        """Report the bound; True when no better units are left or the search is to stop."""
        least = min(known, filling.least)
        self.progress.value, self.progress.work = self.value, self.relaxation.solves + filling.work
        self.progress.bound = self._lift(min(least, self.value))
        return least >= self.cut or self.stop(self.progress)

    def _dive(self, node: _Node) -> None:
        """Fix one offer after the other at the nearest whole number, then try what comes out, topped up if need be."""
        lower, upper, units, solved = node.lower.copy(), node.upper.copy(), node.units, node.solved
        while solved:
            if not self.problem.fractional or self.problem.allows(np.ceil(units - WHOLE)):
                self._offer(np.clip(np.ceil(units - WHOLE), lower, upper))
            part = units - np.floor(units + WHOLE)
            free = (upper > lower) & (part > WHOLE)
            if not free.any():
                self._top_up(np.round(units))
                return
            offer = int(np.where(free, np.minimum(part, 1 - part) * (self.cost + COST_UNIT), np.inf).argmin())
            nearest = float(np.clip(np.round(units[offer]), lower[offer], upper[offer]))
            other = (lower[offer], nearest - 1) if nearest > units[offer] else (nearest + 1, upper[offer])
            for low, high in ((nearest, nearest), other):
                if low > high:
                    return
                tight, wide = lower.copy(), upper.copy()
                tight[offer], wide[offer] = low, high
                relaxed = self._relax(tight, wide)
                if relaxed.bound < self.cut:
                    break
            else:
                return
            lower, upper, units, solved = tight, wide, relaxed.units, relaxed.solved

    def _top_up(self, units: Floats) -> None:
        """Add the unit that relieves most per cost until the items go in or it stops paying."""
        upper = self._finite_upper()
        prices = self.problem.capacity.T @ (self.root.prices if self.root is not None else np.ones(len(units)))
        for _ in range(TOP_UPS):
            if self._offer(units) or self.problem.fractional:
                return
            able = (units < upper) & (prices > 0) & (self.cost @ units + self.cost < self.cut)
            if not able.any():
                return
            units = units.copy()
            units[int(np.where(able, self.cost, np.inf).argmin())] += 1

    def _lift(self, bound: float) -> float:
        """The least cost that whole units can have at or above a bound."""
        if not self.step or not math.isfinite(bound):
            return bound
        return max(bound, self.step * math.ceil((bound - COST_UNIT) / self.step))
