"""Annealing of many orders at once: every step prices all swaps with one place of each chain by incremental deltas.

The search minimizes the sum of what exceeds a floor, for every line that adds up and every edge of the others, instead
of the worst one alone: equal to the true value when one line and one edge exceed, it has no plateaus. With the term's
lower bound as the floor, an order at the floor is optimal for that term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mapping_grid import Floats, Ints, Lines, MappingProblem, lines_of

TINY = 1e-30


class Chains:
    """Orders of several independent searches, with the edge and group costs of every term kept up to date.

    `values` are the problem's, `smooth` those that the search minimizes.
    """

    def __init__(self, problem: MappingProblem, orders: Ints, floors: list[float]) -> None:
        self.problem = problem
        self.floors = floors
        self.lines = [lines_of(problem, term) for term in problem.terms]
        self.tables = [
            lines.cost if lines.adds else _excess(lines.cost, floor)
            for lines, floor in zip(self.lines, floors, strict=True)
        ]
        self.chain = np.arange(len(orders))
        self.orders = orders.copy()
        self.refresh()

    def refresh(self) -> None:
        """Price all orders anew."""
        self.edges = [lines.edges(self.orders) for lines in self.lines]
        groups = [lines.groups(edges) for lines, edges in zip(self.lines, self.edges, strict=True)]
        self.groups = groups
        self.values = np.sum([group.max(axis=1) for group in groups], axis=0)
        self.smooth = np.sum(
            [floor + _excess(group, floor).sum(axis=1) for group, floor in zip(groups, self.floors, strict=True)],
            axis=0,
        )

    def swap_values(self, place: Ints) -> Floats:
        """Smooth value of each chain after swapping `place` with every place, shape [chains, items]."""
        total = np.repeat(self.smooth[:, None], self.orders.shape[1], axis=1)
        for i, lines in enumerate(self.lines):
            priced = (self.tables[i], self.edges[i], self.groups[i], self.floors[i])
            total += _swap_deltas(self.orders, lines, priced, place[:, None])
        total[self.chain, place] = self.smooth
        if self.problem.blocks is not None:
            total[self.problem.blocks[place][:, None] != self.problem.blocks] = np.inf
        return total

    def swap(self, place: Ints, other: Ints) -> None:
        """Swap two places of every chain."""
        moved = self.orders[self.chain, place]
        self.orders[self.chain, place] = self.orders[self.chain, other]
        self.orders[self.chain, other] = moved
        self.refresh()

    def critical_places(self, random: np.random.Generator) -> Ints:
        """A place of every chain on a random term's worst line or edge."""
        choice = np.empty((len(self.lines), len(self.chain)), dtype=np.int64)
        for k, (lines, groups) in enumerate(zip(self.lines, self.groups, strict=True)):
            worst = groups.argmax(axis=1)
            if lines.adds:
                choice[k] = lines.members[worst, random.integers(lines.members.shape[1], size=len(worst))]
            else:
                choice[k] = np.where(random.random(len(worst)) < 0.5, worst, lines.next[worst])
        return np.asarray(choice[random.integers(len(self.lines), size=len(self.chain)), self.chain])


def _excess(cost: Floats, floor: float) -> Floats:
    return np.maximum(cost - floor, 0.0)


def _swap_deltas(orders: Ints, lines: Lines, priced: tuple[Floats, Floats, Floats, float], p: Ints) -> Floats:
    """One term's change of excess by swapping place p [chains, 1] with every place q, shape [chains, items].

    Four edges change: out of and into p, out of and into q; where p and q are neighbours two of them are the same.
    `priced` are the costs of edges, or what they exceed the floor by where edges do not add up; those of every chain's
    edges and groups; and the floor.
    """
    table, edges, groups, floor = priced
    rows, n = np.arange(len(orders))[:, None], lines.items
    after, before = lines.next[p], lines.previous[p]
    item, row = orders[rows, p], orders * n
    out_p, into_p = table[row + orders[rows, after]], table[row[rows, before] + orders]
    out_p[rows, after] = table[row[rows, after] + item]
    into_p[rows, before] = table[item * n + orders[rows, before]]
    old = edges if lines.adds else _excess(edges, floor)
    out_q = lines.has_next * (table[item * n + orders.take(lines.next, axis=1)] - old)
    into_q = lines.has_previous * (table[row.take(lines.previous, axis=1) + item] - old.take(lines.previous, axis=1))
    out_q[rows, before] = into_q[rows, after] = 0.0  # those between p and a neighbour are p's
    delta_p = lines.has_next[p] * (out_p - old[rows, p]) + lines.has_previous[p] * (into_p - old[rows, before])
    delta_q = out_q + into_q
    if not lines.adds:
        return np.asarray(delta_p + delta_q)
    over = np.concatenate([groups - floor, np.full((len(orders), 1), -floor)], axis=1)
    line_p, line_q = over[rows, lines.line[p]], over.take(lines.line, axis=1)
    both = np.maximum(line_p + delta_p + delta_q, 0.0)
    apart = np.maximum(line_p + delta_p, 0.0) + np.maximum(line_q + delta_q, 0.0) - np.maximum(line_q, 0.0)
    return np.asarray(np.where(lines.line[p] == lines.line, both, apart) - np.maximum(line_p, 0.0))


@dataclass(frozen=True, slots=True)
class Cooling:
    """One annealing run: so many steps, from the first to the last share of the usual change of value by a swap."""

    steps: int
    first: float = 0.15
    last: float = 0.03


def anneal(chains: Chains, cooling: Cooling, random: np.random.Generator, stop: Callable[[Chains], bool]) -> bool:
    """Cool all chains together; `stop` is asked after every step, and whether it said so is returned."""
    usual = _usual_change(chains, random)
    for step in range(cooling.steps):
        temperature = usual * cooling.first * (cooling.last / cooling.first) ** (step / cooling.steps)
        if step % 8 == 7:
            _move_segments(chains, temperature, random)
        else:
            _swap_by_heat_bath(chains, temperature, random)
        if stop(chains):
            return True
    return False


def _usual_change(chains: Chains, random: np.random.Generator) -> float:
    """Median change of value that a swap makes, where it makes one."""
    place = random.integers(chains.problem.items, size=len(chains.chain))
    change = np.abs(chains.swap_values(place) - chains.smooth[:, None])
    change = change[np.isfinite(change) & (change > 0)]
    return float(np.median(change)) if change.size else 0.0


def _swap_by_heat_bath(chains: Chains, temperature: float, random: np.random.Generator) -> None:
    """Swap one place with another drawn with probability ∝ exp(-value / temperature); half the places are critical."""
    count, items = chains.orders.shape
    anywhere = random.integers(items, size=count)
    place = np.where(random.random(count) < 0.5, anywhere, chains.critical_places(random))
    noise = np.log(random.standard_exponential((count, items), dtype=np.float32) + np.float32(TINY))
    chains.swap(place, (chains.swap_values(place) + temperature * noise).argmin(axis=1))


def _move_segments(chains: Chains, temperature: float, random: np.random.Generator) -> None:
    """Reverse or rotate a stretch of each chain's grid along one axis, on one line or on all lines at once.

    Rotating a stretch by one is an insertion, by more a block move.
    """
    problem, count = chains.problem, len(chains.chain)
    places = problem.members((int(random.integers(len(problem.shape))),))
    length = places.shape[1]
    if length < 2:
        return
    low, high = np.sort(random.integers(length, size=(2, count)), axis=0)[:, :, None]
    x = np.arange(length)
    if random.random() < 0.5:
        shifted = low + high - x
    else:
        shifted = low + (x - low + random.integers(1, length, size=(count, 1))) % (high - low + 1)
    source = np.where((x >= low) & (x <= high), shifted, x)
    moved = np.repeat(source[:, None, :], len(places), axis=1)
    if random.random() < 0.5:
        line = random.integers(len(places), size=(count, 1, 1))
        moved = np.where(np.arange(len(places))[:, None] == line, moved, x)
    take = np.repeat(np.arange(problem.items)[None, :], count, axis=0)
    take[:, places] = places[np.arange(len(places))[:, None], moved]
    _accept(chains, take, temperature * random.standard_exponential(count))


def _accept(chains: Chains, take: Ints, slack: Floats) -> None:
    """Rearrange each chain's places by `take`, where that raises its value by no more than its slack."""
    proposal = Chains(chains.problem, np.take_along_axis(chains.orders, take, axis=1), chains.floors)
    good: NDArray[np.bool_] = proposal.smooth <= chains.smooth + slack
    blocks = chains.problem.blocks
    if blocks is not None:
        good &= (blocks[take] == blocks).all(axis=1)
    chains.orders[good] = proposal.orders[good]
    chains.refresh()
