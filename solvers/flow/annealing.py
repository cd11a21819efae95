"""Annealing of stages: who is in which stage, how many layers it holds, and in which order the stages stand.

The wanted flow F is fixed and the penalty is what is missing: for every boundary between two stages, the share of F
that cannot cross it (the minimum cut of the two stages and their links, exact for the pair), and a fine for every layer
not covered and every stage above the limit. At zero every boundary passes F; whether all of them do at the same time is
for the maximum flow to say.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from .problem import ChainFlow, Stage

LAYER_FINE = 0.25
STAGE_FINE = 0.5
HOT, COLD = 0.05, 0.003
WIDEST = 4
DONE = 1e-9


@dataclass(frozen=True, slots=True)
class Wish:
    """The flow wanted of a problem, and the judge of stages without penalty: True when they really pass it."""

    problem: ChainFlow
    flow: float
    granted: Callable[[list[Stage]], bool]


@dataclass(slots=True)
class Annealed:
    """The best stages met, their penalty, and the steps taken."""

    stages: list[Stage]
    penalty: float
    steps: int


def anneal(wish: Wish, start: list[Stage], rng: random.Random, steps: int) -> Annealed:
    """Lower the penalty of `start` by random moves; ends early when the wish is granted."""
    return _Annealing(wish, start, rng).run(steps)


class _Annealing:
    def __init__(self, wish: Wish, start: list[Stage], rng: random.Random) -> None:
        problem = wish.problem
        n = problem.nodes
        self.n, self.layers, self.flow, self.rng = n, problem.layers, wish.flow, rng
        self.granted = wish.granted
        self.limit = problem.max_hops if problem.max_hops is not None else problem.layers
        self.most = [problem.most_layers(node) for node in range(n)]
        self.able = [node for node in range(n) if self.most[node] > 0]
        self.passes: list[list[float]] = [[0.0, *row] for row in problem.throughput.tolist()]
        self.columns: list[list[float]] = [list(column) for column in zip(*self.passes, strict=True)]
        self.link: list[list[float]] = problem.link.tolist()
        self.entry = self.link[n]
        self.exit = [self.link[node][n + 1] for node in range(n)]
        self.changes = 0
        self.cuts: dict[tuple[int, ...], float] = {}
        self.size = [stage.size for stage in start]
        self.members = [list(stage.members) for stage in start]
        self.stage_of = [-1] * n
        self._index()
        self.short = [self._boundary(at) for at in range(len(self.members) + 1)]
        self.covered = sum(self.size)
        self.penalty = sum(self.short) + self._fine(self.covered, len(self.size))

    def run(self, steps: int) -> Annealed:
        random_ = self.rng.random
        best, kept = math.inf, self._stages()
        step, judged = 0, -1
        while step < steps:
            if self.penalty < best - 1e-12:
                best, kept = self.penalty, self._stages()
            if self.penalty <= DONE and self.changes != judged:
                judged = self.changes
                if self.granted(self._stages()):
                    return Annealed(self._stages(), 0.0, step)
            step += 1
            heat = HOT * (1 - step / steps) ** 2 + COLD
            kind = random_()
            if kind < 0.3:
                self._swap(heat)
            elif kind < 0.5:
                self._shift(heat)
            elif kind < 0.7:
                self._resize(heat)
            else:
                self._restructure(heat, kind)
        return Annealed(kept, best, step)

    def _stages(self) -> list[Stage]:
        return [Stage(size, tuple(nodes)) for size, nodes in zip(self.size, self.members, strict=True)]

    def _index(self) -> None:
        self.stage_of = [-1] * self.n
        for at, nodes in enumerate(self.members):
            for node in nodes:
                self.stage_of[node] = at

    def _fine(self, covered: int, stages: int) -> float:
        return LAYER_FINE * max(0, self.layers - covered) + STAGE_FINE * max(0, stages - self.limit)

    def _boundary(self, at: int) -> float:
        """The share of the wanted flow that cannot pass from stage at-1 to stage at."""
        if at == 0:
            size = self.size[0]
            passed = sum([min(self.entry[node], self.passes[node][size]) for node in self.members[0]])
        elif at == len(self.members):
            size = self.size[-1]
            passed = sum([min(self.exit[node], self.passes[node][size]) for node in self.members[-1]])
        else:
            passed = self._cut(self.members[at - 1], self.size[at - 1], self.members[at], self.size[at])
        return (self.flow - passed) / self.flow if passed < self.flow else 0.0

    def _cut(self, left: list[int], left_size: int, right: list[int], right_size: int) -> float:
        """Minimum cut between two stages: over the left nodes kept with the source, the cheapest rest."""
        passes, link = self.passes, self.link
        if len(left) == 1:
            node = left[0]
            row, whole = link[node], passes[node][left_size]
            if len(right) == 1:
                return min(row[right[0]], passes[right[0]][right_size], whole)
            return min(sum([min(row[b], passes[b][right_size]) for b in right]), whole)
        if len(right) == 1:
            node = right[0]
            return min(sum([min(link[a][node], passes[a][left_size]) for a in left]), passes[node][right_size])
        key = (left_size, right_size, *left, -1, *right)
        known = self.cuts.get(key)
        if known is None:
            known = self.cuts[key] = self._least_cut(left, left_size, right, right_size)
        return known

    def _least_cut(self, left: list[int], left_size: int, right: list[int], right_size: int) -> float:
        """Over the subsets of the smaller side, the cheapest cut: links are cut or the node at their other end is."""
        link, left_passes, right_passes = self.link, self.columns[left_size], self.columns[right_size]
        if len(left) <= len(right):
            few = [(left_passes[a], [link[a][b] for b in right]) for a in left]
            rest = [right_passes[b] for b in right]
        else:
            few = [(right_passes[b], [link[a][b] for a in left]) for b in right]
            rest = [left_passes[a] for a in left]
        if len(few) == 2:
            (one, from_one), (two, from_two) = few
            first = second = both = 0.0
            for a, b, whole in zip(from_one, from_two, rest, strict=True):
                first += a if a < whole else whole
                second += b if b < whole else whole
                both += a + b if a + b < whole else whole
            return min(one + two, two + first, one + second, both)
        least = math.inf
        for kept in range(1 << len(few)):
            open_links, cut = [], 0.0
            for position, (whole, links) in enumerate(few):
                if kept >> position & 1:
                    open_links.append(links)
                else:
                    cut += whole
            if cut < least and open_links:
                for joined, whole in zip(map(sum, zip(*open_links, strict=True)), rest, strict=True):
                    cut += joined if joined < whole else whole
            if cut < least:
                least = cut
        return least

    def _accept(self, change: float, heat: float) -> bool:
        accepted = change <= 0 or self.rng.random() < math.exp(-change / heat)
        self.changes += accepted
        return accepted

    def _try(self, touched: tuple[int, ...], heat: float, fine: float = 0.0) -> bool:
        """Price the boundaries around touched stages; keep the change or say that it must be undone."""
        around = {at for stage in touched if stage >= 0 for at in (stage, stage + 1)}
        fresh = {at: self._boundary(at) for at in around}
        change = sum(fresh.values()) - sum([self.short[at] for at in around]) + fine
        if not self._accept(change, heat):
            return False
        for at, short in fresh.items():
            self.short[at] = short
        self.penalty += change
        return True

    def _node(self) -> int:
        return self.able[int(self.rng.random() * len(self.able))]

    def _swap(self, heat: float) -> None:
        """Two nodes change places; one of them may have had none."""
        a, b = self._node(), self._node()
        of_a, of_b = self.stage_of[a], self.stage_of[b]
        if of_a == of_b:
            return
        if (of_a >= 0 and self.size[of_a] > self.most[b]) or (of_b >= 0 and self.size[of_b] > self.most[a]):
            return
        self._exchange(a, of_a, b, of_b)
        if not self._try((of_a, of_b), heat):
            self._exchange(b, of_a, a, of_b)

    def _exchange(self, a: int, of_a: int, b: int, of_b: int) -> None:
        if of_a >= 0:
            nodes = self.members[of_a]
            nodes[nodes.index(a)] = b
        if of_b >= 0:
            nodes = self.members[of_b]
            nodes[nodes.index(b)] = a
        self.stage_of[a], self.stage_of[b] = of_b, of_a

    def _shift(self, heat: float) -> None:
        """A node leaves its stage for another one or for none, or joins one."""
        node = self._node()
        old = self.stage_of[node]
        if old >= 0 and len(self.members[old]) == 1:
            return
        stages = len(self.members)
        new = int(self.rng.random() * (stages + 1)) - 1
        if new == old or (new >= 0 and (len(self.members[new]) >= WIDEST or self.size[new] > self.most[node])):
            return
        self._move(node, old, new)
        if not self._try((old, new), heat):
            self._move(node, new, old)

    def _move(self, node: int, old: int, new: int) -> None:
        if old >= 0:
            self.members[old].remove(node)
        if new >= 0:
            self.members[new].append(node)
        self.stage_of[node] = new

    def _resize(self, heat: float) -> None:
        """A stage takes or gives a layer, half of the time from or to another stage."""
        random_ = self.rng.random
        stages = len(self.members)
        first, by = int(random_() * stages), 1 if random_() < 0.5 else -1
        second = int(random_() * stages) if random_() < 0.5 else -1
        if first == second or not self._fits(first, by) or (second >= 0 and not self._fits(second, -by)):
            return
        change = by if second < 0 else 0
        fine = self._fine(self.covered + change, stages) - self._fine(self.covered, stages)
        self.size[first] += by
        if second >= 0:
            self.size[second] -= by
        if self._try((first, second), heat, fine):
            self.covered += change
            return
        self.size[first] -= by
        if second >= 0:
            self.size[second] += by

    def _fits(self, stage: int, by: int) -> bool:
        size = self.size[stage] + by
        return size >= 1 and all(self.most[node] >= size for node in self.members[stage])

    def _restructure(self, heat: float, kind: float) -> None:
        """Swap two stages, turn a run of them around, start a new one, or drop one."""
        stages = len(self.members)
        a, b = sorted((int(self.rng.random() * stages), int(self.rng.random() * stages)))
        if kind < 0.87 and a == b:
            return
        if kind < 0.8:
            self._trade(a, b)
            if self._try((a, b), heat):
                self._index()
            else:
                self._trade(a, b)
            return
        old = self.size, self.members, self.short, self.covered, self.penalty
        self.size, self.members = list(self.size), list(self.members)
        if kind < 0.87:
            turned = slice(a, b + 1)
            self.size[turned], self.members[turned] = self.size[turned][::-1], self.members[turned][::-1]
        elif kind < 0.95:
            self._open()
        elif stages > 1:
            del self.size[a], self.members[a]
        self._reprice(old[1], old[2])
        if self._accept(self.penalty - old[4], heat):
            self._index()
        else:
            self.size, self.members, self.short, self.covered, self.penalty = old

    def _reprice(self, members: list[list[int]], short: list[float]) -> None:
        """Price the boundaries anew where the stages at their sides are no longer the same two neighbours."""
        ends = [None, *members, None]
        known = {(id(left), id(right)): price for left, right, price in zip(ends, ends[1:], short, strict=False)}
        ends = [None, *self.members, None]
        pairs = enumerate(itertools.pairwise(ends))
        self.short = [
            price if (price := known.get((id(left), id(right)))) is not None else self._boundary(at)
            for at, (left, right) in pairs
        ]
        self.covered = sum(self.size)
        self.penalty = sum(self.short) + self._fine(self.covered, len(self.size))

    def _trade(self, a: int, b: int) -> None:
        self.size[a], self.size[b] = self.size[b], self.size[a]
        self.members[a], self.members[b] = self.members[b], self.members[a]

    def _open(self) -> None:
        """One node leaves where it is and becomes a stage of its own somewhere."""
        node = self._node()
        old = self.stage_of[node]
        if old >= 0 and len(self.members[old]) == 1:
            del self.size[old], self.members[old]
        elif old >= 0:
            self.members[old] = [other for other in self.members[old] if other != node]
        at = int(self.rng.random() * (len(self.members) + 1))
        self.members.insert(at, [node])
        self.size.insert(at, 1 + int(self.rng.random() * self.most[node]))
