"""Which item stands at which position of a grid, when lines of the grid cost what their neighbours cost each other.

A quadratic assignment with a bottleneck: positions form a grid, every term looks at the lines along one axis, adds up
(or takes the worst of) the costs between neighbours on each line, and charges its worst line. The value is the sum of
the terms. Pipelines that hand on activations are lines that add up, rings that reduce are cyclic lines whose slowest
link counts (Pipette, DATE'24, Sec. V, whose simulated annealing this generalizes).
"""

from __future__ import annotations

import numpy as np

from .mapping_bounds import problem_bound, term_bounds
from .mapping_grid import Floats, Ints, MappingProblem, Term, evaluate
from .mapping_search import Chains, Cooling, anneal
from .solution import Gap, Progress, Solution, Status, Stop

__all__ = ["MappingProblem", "Term", "evaluate", "solve"]

CHAINS = 24
STEPS = 2000
PROVEN = 1e-9


def solve(problem: MappingProblem, stop: Stop | None = None, *, seed: int = 0, steps: int = STEPS) -> Solution[Ints]:
    """The best order found by annealing, with a lower bound on the value of every order.

    One chain starts from the identity, the others from greedy chains of cheap neighbours; `work` counts annealing
    steps. The same seed and steps give the same order. Without `stop` it ends early only when the bound is met.
    """
    random = np.random.default_rng(seed)
    floors = term_bounds(problem)
    bound = problem_bound(problem, floors)
    chains = Chains(problem, _starts(problem, random), floors)
    progress = Progress(bound=bound)
    rule = Gap(PROVEN) if stop is None else Gap(PROVEN) | stop
    best = int(chains.values.argmin())
    order, value = chains.orders[best].copy(), float(chains.values[best])

    def look(now: Chains) -> bool:
        nonlocal order, value
        least = int(now.values.argmin())
        if now.values[least] < value:
            order, value = now.orders[least].copy(), float(now.values[least])
        progress.value, progress.work = value, progress.work + 1
        return rule(progress)

    if problem.items > 1:
        anneal(chains, Cooling(steps), random, look)
    exact = value <= bound * (1 + PROVEN)
    return Solution(
        status=Status.OPTIMAL if exact else Status.FEASIBLE,
        point=order,
        value=value,
        bound=min(bound, value),
        seconds=progress.seconds,
        work=progress.work,
    )


def _starts(problem: MappingProblem, random: np.random.Generator) -> Ints:
    """The identity, then greedy orders along the last axis from random first items."""
    items = problem.items
    starts = np.tile(np.arange(items), (CHAINS, 1))
    if problem.blocks is not None:
        return starts
    cost: Floats = np.sum([term.cost / max(float(np.median(term.cost)), 1e-300) for term in problem.terms], axis=0)
    for chain in range(1, CHAINS):
        left = np.ones(items, dtype=bool)
        item = int(random.integers(items))
        for place in range(items):
            starts[chain, place] = item
            left[item] = False
            if left.any():
                noise = 1 + 0.1 * random.random(items)
                item = int(np.where(left, cost[item] * noise, np.inf).argmin())
    return starts
