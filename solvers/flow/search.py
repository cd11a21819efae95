"""Most flow through a chain over unequal nodes: stages from a menu, annealed against real links, measured exactly."""

from __future__ import annotations

import math
import random

import numpy as np

from ..solution import Gap, Progress, Solution, Status, Stop, Work
from .annealing import WIDEST, Wish, anneal
from .bounds import cover_bound, flow_bound
from .patterns import staged
from .problem import ChainFlow, FlowNetwork, Placement, Stage, place, value

BISECTIONS = 8
MENU_TOLERANCE = 1e-3
ROUNDS = 8
MISSES = 2
CLIMBS = 16
EFFORT_PER_NODE, MOST_EFFORT = 1_700, 32_000
STALLS = 4
STEPS_PER_NODE = 130
ORDER_STEPS_PER_NODE = 100
POLISH_PER_NODE = 20
AIM = 0.5
TOLERANCE = 1e-6
DEFAULT_STOP = Gap(TOLERANCE) | Work(200_000)


def solve(problem: ChainFlow, stop: Stop = DEFAULT_STOP, seed: int = 0) -> Solution[Placement]:
    """The placement of most flow found, and a proven bound on any. The problem is maximized.

    Work counts annealing steps and flows. A bound from capacities alone leaves a gap that no search can close where
    whole nodes or links bind; the status is then FEASIBLE. INFEASIBLE when the nodes cannot hold the chain.
    """
    return _Search(problem, stop, seed).run()


def fewest_hops(problem: ChainFlow) -> int | None:
    """The fewest nodes that can hold the chain one after the other; None when all together cannot."""
    left, hops = problem.layers, 0
    for most in sorted((problem.most_layers(node) for node in range(problem.nodes)), reverse=True):
        if left <= 0:
            break
        left, hops = left - most, hops + 1
    return hops if left <= 0 else None


class _Search:
    def __init__(self, problem: ChainFlow, stop: Stop, seed: int) -> None:
        self.problem, self.stop, self.rng = problem, stop, random.Random(seed)  # noqa: S311 - a search, no secret
        self.progress = Progress()
        self.network = FlowNetwork(problem)
        self.most = [problem.most_layers(node) for node in range(problem.nodes)]
        self.effort = min(EFFORT_PER_NODE * problem.nodes, MOST_EFFORT)
        self.best: list[Stage] = []
        self.value = 0.0
        self.bound = math.inf
        self.measured: dict[tuple[Stage, ...], float] = {}

    def run(self) -> Solution[Placement]:
        problem = self.problem
        needed = fewest_hops(problem)
        if needed is None or (problem.max_hops is not None and problem.max_hops < needed):
            held = sum(problem.most_layers(node) for node in range(problem.nodes))
            reason = (
                f"the nodes hold at most {held} layers together but the chain has {problem.layers}"
                if needed is None
                else f"at most {problem.max_hops} hops are allowed but the chain needs {needed}"
            )
            return Solution(Status.INFEASIBLE, None, bound=-math.inf, seconds=self.progress.seconds, reason=reason)
        bound = self.bound = flow_bound(problem)
        menu, start = self._from_menu(bound)
        if start is not None:
            self._anneal(menu * (1 - TOLERANCE), start, ORDER_STEPS_PER_NODE)
        if self.value < menu * (1 - TOLERANCE) and not self._stopped(bound):
            self._climb(menu if start is not None else bound, start)
        if self.best:
            bound = self.bound = cover_bound(problem, self.value, bound, TOLERANCE / 2)
        if self.value < bound * (1 - TOLERANCE) and not self._stopped(bound):
            self._polish()
        if not self.best:
            reason = "no placement found that passes any flow over the given links"
            return Solution(Status.LIMIT, None, bound=bound, work=self.progress.work, reason=reason)
        placement = place(problem, self.best)
        reached = value(problem, placement)
        proven = reached >= bound * (1 - TOLERANCE)
        status = Status.OPTIMAL if proven else Status.FEASIBLE
        seconds, work = self.progress.seconds, self.progress.work
        return Solution(status, placement, reached, max(bound, reached), seconds, work)

    def _stopped(self, bound: float) -> bool:
        self.progress.value, self.progress.bound = self.value, bound
        return self.stop(self.progress)

    def _from_menu(self, bound: float) -> tuple[float, list[Stage] | None]:
        """The most flow for which stages from the menu cover the chain, by bisection; zero when none do."""
        limit = self.problem.max_hops
        start = staged(self.problem, bound * (1 - TOLERANCE), limit)
        if start is not None:
            return bound, start
        low, high = 0.0, bound
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            stages = staged(self.problem, middle, limit)
            if stages is None:
                high = middle
            else:
                start, low = stages, max(middle, self._weakest(stages))
            if high - low < MENU_TOLERANCE * high:
                break
        return low, start

    def _weakest(self, stages: list[Stage]) -> float:
        passes = self.problem.throughput
        return min(float(sum(passes[node, stage.size - 1] for node in stage.members)) for stage in stages)

    def _climb(self, high: float, start: list[Stage] | None) -> None:
        """Anneal for flows between the best reached and the most imaginable, again and again while work is left.

        Every other climb starts from scattered nodes, so that one order of the stages does not decide the outcome.
        """
        stalls = 0
        for climb in range(CLIMBS):
            before = self.value
            stages = (self.best or start or self._scattered()) if climb % 2 == 0 else self._scattered()
            self._aim_between(high, stages)
            stalls = 0 if self.value > before else stalls + 1
            if self._stopped(self.bound) or self.progress.work >= self.effort or stalls == STALLS:
                return

    def _aim_between(self, high: float, stages: list[Stage]) -> None:
        """Close in on the most flow that annealing can reach, halving the distance to the least it could not."""
        missed = 0
        for _ in range(ROUNDS):
            aim = self.value + AIM * (high - self.value)
            last = self._anneal(aim, stages, STEPS_PER_NODE)
            if self.value < aim:
                high, missed = aim, missed + 1
            if missed == MISSES:
                return
            stages = self.best or last
            if self._stopped(self.bound) or high <= self.value * (1 + MENU_TOLERANCE):
                return

    def _anneal(self, flow: float, start: list[Stage], steps_per_node: int) -> list[Stage]:
        def granted(stages: list[Stage]) -> bool:
            self._keep(stages)
            return self.value >= flow * (1 - TOLERANCE)

        narrow = [stage for stage in start if len(stage.members) <= WIDEST]
        found = anneal(Wish(self.problem, flow, granted), narrow, self.rng, steps_per_node * self.problem.nodes)
        self.progress.work += found.steps
        self._keep(found.stages)
        return found.stages

    def _scattered(self) -> list[Stage]:
        nodes = [node for node in range(self.problem.nodes) if self.problem.most_layers(node)]
        self.rng.shuffle(nodes)
        return [Stage(max(1, self.problem.most_layers(node) // 2), (node,)) for node in nodes]

    def _keep(self, stages: list[Stage]) -> None:
        """Trim to the chain's length, measure the real flow, and keep the best."""
        self.progress.work += 1
        trimmed = self._trim(stages)
        if trimmed is not None and (reached := self._measure(trimmed)) > self.value:
            self.best, self.value = trimmed, reached

    def _trim(self, stages: list[Stage]) -> list[Stage] | None:
        """Give back layers where it helps most until the sizes add up; None when they fall short."""
        sizes = [stage.size for stage in stages]
        passes = self.problem.throughput
        while sum(sizes) > self.problem.layers:
            gains = [
                sum(float(passes[node, size - 2] - passes[node, size - 1]) for node in stage.members)
                if size > 1
                else -math.inf
                for size, stage in zip(sizes, stages, strict=True)
            ]
            if max(gains) == -math.inf:
                return None
            sizes[gains.index(max(gains))] -= 1
        limit = self.problem.max_hops
        if sum(sizes) < self.problem.layers or (limit is not None and len(sizes) > limit):
            return None
        return [Stage(size, stage.members) for size, stage in zip(sizes, stages, strict=True)]

    def _measure(self, stages: list[Stage]) -> float:
        known = self.measured.get(tuple(stages))
        if known is None:
            known = self.measured[tuple(stages)] = self._flow(stages)
        return known

    def _flow(self, stages: list[Stage]) -> float:
        start, end, at = np.zeros(self.problem.nodes, int), np.zeros(self.problem.nodes, int), 0
        for stage in stages:
            members = list(stage.members)
            start[members], end[members] = at, at + stage.size
            at += stage.size
        return self.network.load(start, end)

    def _polish(self) -> None:
        """Small changes judged by the maximum flow itself; equal flow is accepted, so that plateaus are crossed."""
        if not self.best:
            return
        current, reached = self.best, self.value
        for _ in range(POLISH_PER_NODE * self.problem.nodes):
            self.progress.work += 1
            changed = self._changed(current)
            if changed is None:
                continue
            flow = self._measure(changed)
            if flow >= reached * (1 - 1e-12):
                current, reached = changed, flow
                if flow > self.value:
                    self.best, self.value = changed, flow

    def _changed(self, stages: list[Stage]) -> list[Stage] | None:
        """Swap two nodes, move one, or pass a layer from one stage to another; None when that is not possible."""
        rng, most = self.rng, self.most
        sizes, members = [s.size for s in stages], [list(s.members) for s in stages]
        kind = rng.random()
        a = rng.randrange(len(stages))
        if kind < 0.25:
            b = rng.randrange(len(stages))
            sizes[a] += 1
            sizes[b] -= 1
        elif kind < 0.65:
            node = rng.randrange(self.problem.nodes)
            b = next((at for at, nodes in enumerate(members) if node in nodes), -1)
            other = rng.choice(members[a])
            members[a][members[a].index(other)] = node
            if b == a:
                return None
            if b >= 0:
                members[b][members[b].index(node)] = other
        else:
            node = rng.randrange(self.problem.nodes)
            for nodes in members:
                if node in nodes:
                    nodes.remove(node)
            members[a].append(node)
        for size, nodes in zip(sizes, members, strict=True):
            if size < 1 or not nodes or any(most[node] < size for node in nodes):
                return None
        return [Stage(size, tuple(dict.fromkeys(nodes))) for size, nodes in zip(sizes, members, strict=True)]
