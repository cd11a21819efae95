"""Stages from a menu: sets of equal nodes that together pass a wanted flow, chosen to cover the chain exactly.

Ignoring single links, a chain of stages passes F when every stage does. Nodes with the same throughput in the same
well-connected region are one class, so a stage is a size and a count per class; the program that picks stages covering
the chain is a small integer program (a cutting stock: nodes are the stock, layers the orders).
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from .problem import ChainFlow, Stage

WIDE_CROSSINGS = 3
MAX_PATTERNS = 20_000
NODES = 2_000


@dataclass(frozen=True, slots=True)
class Pattern:
    """A stage of `size` layers with `count` nodes of each class."""

    size: int
    counts: tuple[tuple[int, int], ...]


def staged(problem: ChainFlow, flow: float, most_stages: int | None) -> list[Stage] | None:
    """Stages that each pass `flow` and cover the chain exactly, in no useful order; None when there are none."""
    regions = _regions(problem.link[: problem.nodes, : problem.nodes], flow)
    members: dict[tuple[bytes, int], list[int]] = defaultdict(list)
    for node in range(problem.nodes):
        members[problem.throughput[node].tobytes(), regions[node]].append(node)
    classes = list(members.values())
    menu = _menu(problem, flow, classes, [regions[nodes[0]] for nodes in classes])
    picked = _cover(menu, [len(nodes) for nodes in classes], problem.layers, most_stages, crossing=max(regions) > 0)
    if picked is None:
        return None
    free = [list(nodes) for nodes in classes]
    return [Stage(p.size, tuple(free[cls].pop() for cls, count in p.counts for _ in range(count))) for p in picked]


def _regions(link: Any, flow: float) -> list[int]:
    """Connected components over links that pass the whole flow."""
    strong = np.maximum(link, link.T) >= flow
    label = [-1] * len(link)
    for seed in range(len(link)):
        if label[seed] < 0:
            label[seed], stack = max(label) + 1, [seed]
            while stack:
                for other in map(int, np.flatnonzero(strong[stack.pop()])):
                    if label[other] < 0:
                        label[other] = label[seed]
                        stack.append(other)
    return label


def _menu(problem: ChainFlow, flow: float, classes: list[list[int]], region: list[int]) -> list[Pattern]:
    menu: set[Pattern] = set()
    split = len(set(region)) > 1
    for place in sorted(set(region)):
        here = [cls for cls in range(len(classes)) if region[cls] == place]
        for size in range(1, problem.throughput.shape[1] + 1):
            passes = {cls: float(problem.throughput[classes[cls][0], size - 1]) for cls in here}
            usable = [(cls, passes[cls], len(classes[cls])) for cls in here if passes[cls] > 0]
            for counts in _minimal(usable, flow):
                menu.add(Pattern(size, counts))
            if split:
                menu.update(Pattern(size, counts) for counts in _wide(usable, flow))
            if len(menu) > MAX_PATTERNS:
                return sorted(menu, key=lambda p: (p.size, p.counts))
    return sorted(menu, key=lambda p: (p.size, p.counts))


def _minimal(usable: list[tuple[int, float, int]], flow: float) -> list[tuple[tuple[int, int], ...]]:
    """Counts that reach the flow and would not without any one node."""
    found: list[tuple[tuple[int, int], ...]] = []

    def extend(at: int, need: float, counts: tuple[tuple[int, int], ...]) -> None:
        if need <= 1e-9 * flow:
            spare = -need
            lightest = min(passes for cls, passes, _ in usable if any(cls == used for used, _ in counts))
            if spare < lightest:
                found.append(counts)
            return
        if at == len(usable) or len(found) > MAX_PATTERNS:
            return
        cls, passes, stock = usable[at]
        for count in range(min(stock, math.ceil(need / passes - 1e-12)), 0, -1):
            extend(at + 1, need - count * passes, (*counts, (cls, count)))
        extend(at + 1, need, counts)

    extend(0, flow, ())
    return found


def _wide(usable: list[tuple[int, float, int]], flow: float) -> list[tuple[tuple[int, int], ...]]:
    """Pairs and triples that pass the flow with room to spare: where thin links join regions, more ends help."""
    found: list[tuple[tuple[int, int], ...]] = []
    for (a, first, stock), (b, second, _) in itertools.combinations_with_replacement(usable, 2):
        if first + second >= flow and (a != b or stock >= 2):
            found.append(((a, 2),) if a == b else ((a, 1), (b, 1)))
    found += [((a, WIDE_CROSSINGS),) for a, passes, stock in usable if 3 * passes >= flow and stock >= WIDE_CROSSINGS]
    return found


def _cover(
    menu: list[Pattern], stock: list[int], layers: int, most_stages: int | None, crossing: bool
) -> list[Pattern] | None:
    """Patterns whose sizes add up to the chain within the stock; the widest of them when regions must be crossed."""
    from ortools.linear_solver import pywraplp

    if not menu:
        return None
    solver = pywraplp.Solver.CreateSolver("SCIP")
    picks = [solver.IntVar(0, layers, "") for _ in menu]
    left = [solver.Constraint(0, count) for count in stock]
    length = solver.Constraint(layers, layers)
    stages = solver.Constraint(0, most_stages if most_stages is not None else layers)
    objective = solver.Objective()
    objective.SetMaximization()
    for pick, pattern in zip(picks, menu, strict=True):
        length.SetCoefficient(pick, pattern.size)
        stages.SetCoefficient(pick, 1)
        for cls, count in pattern.counts:
            left[cls].SetCoefficient(pick, count)
        objective.SetCoefficient(pick, sum(count for _, count in pattern.counts) - 1 if crossing else 0)
    solver.SetSolverSpecificParametersAsString(f"limits/nodes = {NODES}\n")
    if solver.Solve() not in (solver.OPTIMAL, solver.FEASIBLE):
        return None
    return [p for p, pick in zip(menu, picks, strict=True) for _ in range(round(pick.solution_value()))]
