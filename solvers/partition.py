"""Exact contiguous partition of a chain of units over stages that may be unequal, by dynamic programming.

Every stage takes the next few units; what a stage costs depends on the stage, on the kind of it (where there are
several to choose from) and on its first and last unit. The value is `weight` × the most expensive stage + the sum of
all, or the most expensive stage first and the sum second. With m micro-batches in a pipeline the weight is m - 1: one
micro-batch passes all stages and the others follow at the slowest one's pace. No unit is left out, and no stage is
empty unless its cost says that it may be.

The programs are those of PipeDream (Narayanan et al., SOSP'19, Sec. 3.1) and, over kinds of stages that use up
different devices, of Metis (Um et al., ATC'24) and AMP (Li et al., NeurIPS'22), here without their heuristics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .solution import Progress, Solution, Status

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BOTTLENECK_FIRST = math.inf


@dataclass(frozen=True, slots=True)
class PartitionProblem:
    """Costs of all possible stages: `cost[kind, stage, i, j]` of units i … j - 1, infinite where it is not allowed.

    Shape [kinds, stages, units + 1, units + 1]; without kinds [stages, units + 1, units + 1]. A stage of a kind takes
    `uses[kind]` of the `available` resources (shapes [kinds, resources] and [resources]); what is left over may stay.
    `switch[kind, next kind]` is added to the sum between consecutive stages.
    """

    cost: Floats
    uses: Ints | None = None
    available: Ints | None = None
    switch: Floats | None = None

    def __post_init__(self) -> None:
        shape = self.cost.shape
        if self.cost.ndim not in (3, 4) or shape[-1] != shape[-2] or 0 in shape:
            raise ValueError(f"stage costs must have shape [kinds,] stages, units + 1, units + 1 but have {shape}")
        if (self.uses is None) != (self.available is None):
            raise ValueError("uses and available resources must be given together")
        wanted = (self.kinds, 0 if self.available is None else len(self.available))
        if self.uses is not None and (self.uses.shape != wanted or self.uses.min() < 0):
            raise ValueError(f"uses must be {wanted[0]} × {wanted[1]} and not negative")
        if self.switch is not None and self.switch.shape != (self.kinds, self.kinds):
            raise ValueError(f"switch costs must be {self.kinds} × {self.kinds} but are {self.switch.shape}")
        if np.isnan(self.cost).any():
            raise ValueError("stage costs must be numbers")

    @property
    def kinds(self) -> int:
        """Kinds of stages to choose from."""
        return self.cost.shape[0] if self.cost.ndim == 4 else 1

    @property
    def stages(self) -> int:
        """Stages to fill."""
        return int(self.cost.shape[-3])

    @property
    def units(self) -> int:
        """Units of the chain."""
        return int(self.cost.shape[-1]) - 1

    @property
    def table(self) -> Floats:
        """The costs with their kinds."""
        return self.cost if self.cost.ndim == 4 else self.cost[None]


@dataclass(frozen=True, slots=True)
class Partition:
    """Units of stage s: ends[s - 1] … ends[s] - 1, from 0; the stage's kind and cost; and what switches cost."""

    ends: Ints
    kinds: Ints
    costs: Floats
    switches: float = 0.0

    @property
    def sizes(self) -> Ints:
        """Units of every stage."""
        return np.diff(self.ends, prepend=0)

    @property
    def bottleneck(self) -> float:
        """Cost of the most expensive stage."""
        return float(self.costs.max())

    @property
    def total(self) -> float:
        """Cost of all stages and switches."""
        return float(self.costs.sum()) + self.switches


def solve(problem: PartitionProblem, weight: float = BOTTLENECK_FIRST) -> Solution[Partition]:
    """The best partition, proven; infeasible with the reason.

    Value: weight × bottleneck + total; with an infinite weight the least bottleneck, and of all partitions that have
    it one of the least total. Work counts sweeps of the dynamic program.
    """
    progress = Progress()
    least = _sweep(problem, problem.table, bottleneck=True)
    if least is None:
        return Solution(Status.INFEASIBLE, None, work=1, seconds=progress.seconds, reason=_reason(problem))
    floor = least.bottleneck
    progress.work = 1
    if math.isinf(weight):
        best = _sweep(problem, np.where(problem.table <= floor, problem.table, np.inf), bottleneck=False)
        assert best is not None, "the least bottleneck is one that can be had"
        value, progress.work = floor, 2
    else:
        best, value = least, math.inf
        for partition in _front(problem):
            progress.work += 1
            if weight * floor + partition.total >= value:
                break
            if weight * partition.bottleneck + partition.total < value:
                best, value = partition, weight * partition.bottleneck + partition.total
    return Solution(Status.OPTIMAL, best, value, value, progress.seconds, progress.work)


def least_value(problem: PartitionProblem, weight: float) -> float:
    """What the value of `solve` is at least in every partition, by the least bottleneck and the least total; infinite
    where there is none."""
    least = _sweep(problem, problem.table, bottleneck=True)
    if least is None:
        return math.inf
    if math.isinf(weight):
        return least.bottleneck
    shortest = _sweep(problem, problem.table, bottleneck=False)
    assert shortest is not None, "there is a partition"
    return weight * least.bottleneck + shortest.total


def _front(problem: PartitionProblem) -> Iterator[Partition]:
    """Partitions of least total among those with ever smaller bottlenecks: every good trade between the two."""
    table = problem.table
    partition = _sweep(problem, table, bottleneck=False)
    while partition is not None:
        yield partition
        table = np.where(table < partition.bottleneck, table, np.inf)
        partition = _sweep(problem, table, bottleneck=False)


State = tuple[tuple[int, ...], int]
"""Resources taken so far, and the kind of the last stage; -1 before the first."""

Step = dict[State, tuple[Ints, list[State], Ints]]
"""Of every state after a stage, and for every end of it: its first unit; and for every first unit, which state was
best before (an index into the list)."""


def _sweep(problem: PartitionProblem, table: Floats, *, bottleneck: bool) -> Partition | None:
    """One dynamic program: the least bottleneck, or the least total, of the first units on the first stages."""
    best: Floats = np.full(problem.units + 1, np.inf)
    best[0] = -np.inf if bottleneck else 0.0
    layer: dict[State, Floats] = {((0,) * _resources(problem), -1): best}
    steps: list[Step] = []
    ends = np.arange(problem.units + 1)
    for stage in range(problem.stages):
        before: dict[State, list[tuple[State, Floats]]] = {}
        for (taken, last), best in layer.items():
            for kind, after in _choices(problem, taken):
                extra = 0.0 if problem.switch is None or last < 0 or bottleneck else float(problem.switch[last, kind])
                before.setdefault((after, kind), []).append(((taken, last), best + extra))
        layer, step = {}, {}
        for (after, kind), origins in before.items():
            values = np.array([value for _, value in origins])
            which = values.argmin(axis=0)
            begun = values[which, ends][:, None]
            ways = np.maximum(begun, table[kind, stage]) if bottleneck else begun + table[kind, stage]
            first = ways.argmin(axis=0)
            layer[after, kind] = ways[first, ends]
            step[after, kind] = (first, [state for state, _ in origins], which)
        steps.append(step)
    return _trace(problem, layer, steps)


def _trace(problem: PartitionProblem, layer: dict[State, Floats], steps: list[Step]) -> Partition | None:
    """The partition that the dynamic program's best last value came from."""
    state = min(layer, key=lambda each: float(layer[each][-1]), default=None)
    if state is None or not layer[state][-1] < np.inf:
        return None
    end, ends, kinds = problem.units, [], []
    for step in reversed(steps):
        first, origins, which = step[state]
        ends.append(end)
        kinds.append(state[1])
        end = int(first[end])
        state = origins[int(which[end])]
    ends.reverse()
    kinds.reverse()
    begins = [0, *ends[:-1]]
    costs = problem.table[kinds, np.arange(problem.stages), begins, ends]
    switches = 0.0 if problem.switch is None else float(sum(problem.switch[pair] for pair in pairwise(kinds)))
    return Partition(np.array(ends), np.array(kinds), costs, switches)


def _resources(problem: PartitionProblem) -> int:
    return 0 if problem.available is None else len(problem.available)


def _choices(problem: PartitionProblem, taken: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Kinds the next stage may have, and the resources taken then."""
    for kind in range(problem.kinds):
        if problem.uses is None or problem.available is None:
            yield kind, taken
            continue
        after = tuple(int(a + b) for a, b in zip(taken, problem.uses[kind], strict=True))
        if all(a <= b for a, b in zip(after, problem.available.tolist(), strict=True)):
            yield kind, after


def _reason(problem: PartitionProblem) -> str:
    """What stands in the way, in one line."""
    allowed = np.asarray(np.isfinite(problem.table).any(axis=(0, 1)))
    held = [bool(allowed[: unit + 1, unit + 1 :].any()) for unit in range(problem.units)]
    if not all(held):
        return f"unit {held.index(False)} fits on no stage"
    may_be_empty = np.isfinite(np.diagonal(problem.table, axis1=2, axis2=3)).any(axis=(0, 2)).sum()
    if problem.units < problem.stages - may_be_empty:
        return f"{problem.units} units cannot fill {problem.stages} stages of which {may_be_empty} may be empty"
    uses, available = problem.uses, problem.available
    if uses is not None and available is not None and (problem.stages * uses.min(axis=0) > available).any():
        return f"{problem.stages} stages take more than the {available.tolist()} resources available"
    most = [(end - np.arange(end + 1))[allowed[: end + 1, end]].max(initial=0) for end in range(problem.units + 1)]
    return (
        f"no cut of {problem.units} units into {problem.stages} stages is allowed; the largest allowed stage has"
        f" {max(most)} units"
    )
