"""Which item stands at which position of a grid, when lines of the grid cost what their neighbours cost each other.

A quadratic assignment with a bottleneck: positions form a grid, every term looks at the lines along some axes, adds up
(or takes the worst of) the costs between neighbours on each line, and charges its worst line. The value is the sum of
the terms. Pipelines that hand on activations are lines that add up; rings that reduce gradients are cyclic lines whose
slowest link counts (Pipette, DATE'24, whose simulated annealing over worker orders this generalizes).
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from .mapping_bounds import problem_bound, term_bounds
from .mapping_grid import Ints, MappingProblem, Term, evaluate
from .mapping_search import Chains, Cooling, anneal
from .mapping_starts import tiled_starts
from .solution import AnyOf, Gap, Progress, Solution, Status, Stop, Work

__all__ = ["MappingProblem", "Term", "default_work", "evaluate", "solve", "solve_in_units"]

CANDIDATES = 4096
"""Orders priced in one step, over all chains: enough to make numpy's own time small."""
MOST_CHAINS, FEWEST_CHAINS = 256, 4
HEAT = 2.4
"""First temperature × items, in usual changes of value by a swap; a fifth of it is the last (found by trial)."""
RACE_STEPS = 100
PROVEN = 1e-12


def default_work(problem: MappingProblem) -> int:
    """Orders priced by one annealing run of the usual length."""
    return CANDIDATES * (530 + 6 * problem.items)


def solve(
    problem: MappingProblem, stop: Stop | None = None, seed: int = 0, start: Ints | None = None
) -> Solution[Ints]:
    """The best order found, the item at each position and then the items left over, with a bound on every order.

    Work is counted in orders priced; by default one annealing run, and a limit below that is one shorter run. Further
    runs begin with the better half of what the one before ended with. `start` joins the hierarchical starts, and is
    the only one where the problem has blocks (the bound then holds for all orders, blocks or not). The same seed and
    work give the same order.
    """
    progress = Progress()
    floors = term_bounds(problem)
    progress.bound = problem_bound(problem, floors)
    first = np.arange(problem.items) if start is None else np.asarray(start, dtype=np.int64)
    starts = first[None, :]
    if problem.blocks is None:
        starts = np.concatenate([starts, tiled_starts(problem)])
    search = _Search(problem, floors, stop or Work(default_work(problem)), progress, np.random.default_rng(seed))
    search.run(starts)
    best = search.best
    proven = progress.value <= progress.bound * (1 + PROVEN)
    return Solution(
        status=Status.OPTIMAL if proven else Status.FEASIBLE,
        point=best,
        value=progress.value,
        bound=min(progress.bound, progress.value),
        seconds=progress.seconds,
        work=progress.work,
    )


def _work_limit(stop: Stop) -> int:
    """Work that a rule allows: an annealing run that is not going to finish had better cool faster."""
    if isinstance(stop, Work):
        return stop.limit
    return (
        min((_work_limit(rule) for rule in stop.rules), default=sys.maxsize) if isinstance(stop, AnyOf) else sys.maxsize
    )


class _Search:
    """One call of the solver: the best order so far, and when to stop."""

    def __init__(
        self, problem: MappingProblem, floors: list[float], stop: Stop, progress: Progress, random: np.random.Generator
    ) -> None:
        self.problem, self.floors, self.progress, self.random = problem, floors, progress, random
        self.stop = Gap(PROVEN) | stop
        self.allowance = min(default_work(problem), _work_limit(stop))
        self.best: Ints = np.empty(0, dtype=np.int64)

    def run(self, starts: Ints) -> None:
        """Race the starts, keep as many as are worth carrying on, and anneal those until told to stop."""
        items = self.problem.items
        width = min(MOST_CHAINS, max(FEWEST_CHAINS, CANDIDATES // items))
        chains = Chains(self.problem, starts, self.floors)
        finished = self._seen(chains) or items < 3
        last = 0.2 * HEAT / items
        while not finished and len(chains.chain) > width:
            finished = self._anneal(chains, Cooling(RACE_STEPS, last, last))
            chains = self._better(chains, len(chains.chain) // 2)
        steps = max(1, (self.allowance - self.progress.work) // (width * items))
        while not finished:
            chains = self._better(chains, width)
            finished = self._anneal(chains, Cooling(steps, HEAT / items, last))
            chains = self._better(chains, width // 2)

    def _anneal(self, chains: Chains, cooling: Cooling) -> bool:
        return anneal(chains, cooling, self.random, self._step)

    def _step(self, chains: Chains) -> bool:
        self.progress.work += chains.orders.size
        return self._seen(chains)

    def _seen(self, chains: Chains) -> bool:
        """Note the best order; whether to stop."""
        best = int(chains.values.argmin())
        if chains.values[best] < self.progress.value:
            self.progress.value = float(chains.values[best])
            self.best = chains.orders[best].copy()
        return self.stop(self.progress)

    def _better(self, chains: Chains, count: int) -> Chains:
        """So many of the best chains, each as often as it takes."""
        ranked = np.argsort(chains.values, kind="stable")
        return Chains(self.problem, chains.orders[np.resize(ranked[:count], count)], self.floors)


def solve_in_units(problem: MappingProblem, unit: Ints, stop: Stop | None = None, seed: int = 0) -> Solution[Ints]:
    """First which unit (a node) stands where, then which of its items (devices) at which of its positions.

    `unit` labels every item; all units are equally large and stand on the positions of the grid's last axes, as many
    as multiply to their size. Between units a term costs the mean over their items. The bound holds for all orders,
    units or not.
    """
    labels, sizes = np.unique(unit, return_counts=True)
    size = int(sizes[0])
    split = next((k for k in range(len(problem.shape) + 1) if np.prod(problem.shape[k:]) == size), None)
    if split is None or (sizes != size).any():
        raise ValueError(f"units of {sizes.tolist()} items must fill the last axes of the shape {problem.shape}")
    members = np.argsort(unit, kind="stable").reshape(len(labels), size)
    outer = tuple(
        replace(term, axis=axes, cost=_between(term, members))
        for term in problem.terms
        if (axes := tuple(axis for axis in term.axes if axis < split))
    )
    order, work = np.arange(len(labels)), 0
    if outer and len(labels) > 1:
        coarse = solve(MappingProblem((*problem.shape[:split], 1)[: max(split, 1)], outer), stop, seed)
        assert coarse.point is not None, "a mapping problem always has an order"
        order, work = coarse.point, coarse.work
    blocks = np.repeat(np.arange(len(labels)), size)
    fine = solve(replace(problem, blocks=blocks), stop, seed, start=members[order].ravel())
    return replace(fine, work=work + fine.work)


def _between(term: Term, members: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Mean cost from the items of one unit to those of another."""
    size = members.shape[1]
    cost = term.cost[members.ravel()][:, members.ravel()].reshape(len(members), size, len(members), size)
    return np.asarray(cost.mean(axis=(1, 3)))
