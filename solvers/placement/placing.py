"""One door to every way of placing, picked by size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..solution import Solution, Status
from . import chained, exact
from .annealing import Annealed, Schedule, anneal
from .balancing import balance
from .bounds import floor
from .certificate import certify
from .packing import pack
from .problem import Ints, PlacementProblem, Score, fill, score
from .replication import owners, replicate
from .slots import SlotPlacement, even_weights, followed_score, one_copy_each
from .spares import filled, with_empty
from .spectral import spectral_start
from .stacking import beside, stacked, stacked_placement
from .threads import one_blas_thread

CLOSED = 1e-9
WARM = 0.1
AS_GOOD = 5e-4


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to search: proposed swaps in all, the seed, and whether exact solvers may be used.

    `certify` tightens the bound on traffic, which takes minutes for large problems.
    """

    work: int = 100_000_000
    seed: int = 0
    exact: bool = True
    certify: bool = False


def place(problem: PlacementProblem, spare: int = 0, effort: Effort | None = None) -> Solution[SlotPlacement]:
    """The best placement found, its value and a bound on all placements; proven optimal where the layers are small.

    `spare` slots of every layer hold further copies of the heaviest items. Copies share load evenly when nothing flows
    between layers; otherwise every copy sends to the nearest copies, and where no copies found lower the cost, the best
    placement without any is the answer. The bound holds for every choice of copies.
    """
    effort = effort or Effort()
    if spare == 0 and effort.exact:
        for solver in (chained, exact):
            if solver.suits(problem):
                found = solver.solve(problem)
                assert found.point is not None
                point = SlotPlacement(one_copy_each(problem), found.point)
                return Solution(Status.OPTIMAL, point, found.value, found.bound, work=found.work)
    with one_blas_thread():
        found_at = _balance(problem, spare, effort) if not problem.has_traffic else _search(problem, spare, effort)
        bound = floor(problem, spare).value
    value = value_of(problem, found_at.placement).value
    if effort.certify and problem.has_traffic and value > bound * (1 + CLOSED) + CLOSED:
        bound = max(bound, certify(problem, spare).value)
    status = Status.OPTIMAL if value <= bound * (1 + CLOSED) + CLOSED else Status.FEASIBLE
    return Solution(status, found_at.placement, value, min(bound, value), work=found_at.work)


def value_of(problem: PlacementProblem, placement: SlotPlacement) -> Score:
    """The cost of a placement of slots."""
    if placement.owner.shape[1] == problem.items and np.all(placement.owner == np.arange(problem.items)):
        return score(problem, placement.device)
    return followed_score(problem, placement)


def packed(problem: PlacementProblem, spare: int) -> SlotPlacement:
    """Spare slots to the heaviest items, then every slot to the lightest device: balanced, blind to flow."""
    total = int(problem.slots.sum())
    owner = owners(replicate(problem.loads, spare, problem.devices), total) if spare else one_copy_each(problem)
    weights = even_weights(problem, owner).max(axis=0)
    return SlotPlacement(owner, pack(weights, owner, problem.slots, problem.per_fair_share))


def _balance(problem: PlacementProblem, spare: int, effort: Effort) -> Annealed:
    return balance(problem, packed(problem, spare), effort.seed)


def _search(problem: PlacementProblem, spare: int, effort: Effort) -> Annealed:
    if not spare:
        start = packed(problem, 0)
        if problem.equal_devices and problem.slots.sum() == problem.items:
            start = SlotPlacement(start.owner, spectral_start(problem, effort.seed))
            return _annealed(problem, start, effort, WARM)
        return _annealed(problem, SlotPlacement(start.owner, _shuffled(start, effort.seed)), effort)
    part = replace(effort, work=max(1, effort.work // 3))
    alone = _search(replace(problem, slots=fill(problem.slots, problem.items)), 0, part)
    single = with_empty(alone.placement, problem.slots)
    runs = [
        Annealed(single, alone.work),
        _annealed(problem, packed(problem, spare), part),
        _annealed(problem, filled(problem, single, spare), part, WARM),
    ]
    # The first of equals: copies that save nothing still take memory.
    best = min(runs, key=lambda run: value_of(problem, run.placement).value)
    return Annealed(best.placement, sum(run.work for run in runs))


def _annealed(problem: PlacementProblem, start: SlotPlacement, effort: Effort, warm: float | None = None) -> Annealed:
    """The best of as many runs side by side as fill an array operation; a large problem's one run begins `warm`."""
    schedule = Schedule.for_size(problem.layers, start.owner.shape[1], problem.devices, effort.work, effort.seed)
    times = beside(problem, start.owner.shape[1])
    if warm is not None and times == 1:
        schedule = replace(schedule, hot=warm)
    run = anneal(stacked(problem, times), stacked_placement(start, times), schedule)
    rows = np.split(run.placement.device, times)
    return Annealed(_most_even([SlotPlacement(start.owner, row) for row in rows], problem), run.work)


def _most_even(found: list[SlotPlacement], problem: PlacementProblem) -> SlotPlacement:
    """The best placement, or where load counts the most even of those that are as good but for a sliver."""
    scores = [value_of(problem, each) for each in found]
    best = min(score.value for score in scores)
    if problem.load_weight == 0:
        return found[min(range(len(found)), key=lambda at: scores[at].value)]
    near = [at for at, score in enumerate(scores) if score.value <= best * (1 + AS_GOOD)]
    return found[min(near, key=lambda at: scores[at].imbalance)]


def _shuffled(start: SlotPlacement, seed: int) -> Ints:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(row) for row in start.device])
