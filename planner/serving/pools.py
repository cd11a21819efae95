"""How many workers of each kind: an exact integer program.

Aggregated workers add their rates; prefill and decode workers together carry the smaller of their pools' rates. On one
kind of device the program is solved by dynamic programming over devices (an unbounded knapsack per phase, then the
best split), on several by a mixed-integer solver; both are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Phase = Literal["aggregated", "prefill", "decode"]


@dataclass(frozen=True, slots=True)
class Option:
    """One worker that may be used any number of times: devices of a kind, rate it carries, what it costs."""

    phase: Phase
    kind: int
    devices: int
    rate: float
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Workers of every option and the rate they carry together."""

    workers: tuple[int, ...]
    rate: float
    devices: int
    cost: float


def most_rate(options: Sequence[Option], supply: Sequence[int]) -> Counts:
    """Counts that carry the highest rate on the devices there are; of equal rates the fewest devices."""
    if len(supply) == 1:
        program = _Knapsack(options, supply[0])
        best = program.best
        devices = int(np.flatnonzero(best >= best[-1] * (1 - 1e-12))[0])
        return program.counts(devices)
    return _integer(options, supply, None)


def fewest(options: Sequence[Option], supply: Sequence[int], rate: float) -> Counts | None:
    """Counts that carry a rate at the lowest cost (devices on one kind); None when the devices cannot carry it."""
    if len(supply) == 1:
        program = _Knapsack(options, supply[0])
        enough = np.flatnonzero(program.best >= rate * (1 - 1e-12))
        return program.counts(int(enough[0])) if enough.size else None
    found = _integer(options, supply, rate)
    return found if found.rate >= rate * (1 - 1e-6) else None


class _Knapsack:
    """Best rates by devices on one kind, and the counts behind them."""

    def __init__(self, options: Sequence[Option], supply: int) -> None:
        self.options = options
        self.supply = supply
        self.alone = {phase: self._fill(phase) for phase in ("aggregated", "prefill", "decode")}
        prefill, decode = self.alone["prefill"][0], self.alone["decode"][0]
        self.pair = np.zeros(supply + 1)
        self.split = np.zeros(supply + 1, dtype=np.int64)
        if prefill[-1] > 0 and decode[-1] > 0:
            for devices in range(2, supply + 1):
                both = np.minimum(prefill[: devices + 1], decode[devices::-1])
                self.split[devices] = int(both.argmax())
                self.pair[devices] = both[self.split[devices]]
        aggregated = self.alone["aggregated"][0]
        self.best = np.zeros(supply + 1)
        self.share = np.zeros(supply + 1, dtype=np.int64)
        for devices in range(supply + 1):
            total = aggregated[: devices + 1] + self.pair[devices::-1]
            self.share[devices] = int(total.argmax())
            self.best[devices] = total[self.share[devices]]

    def _fill(self, phase: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Highest rate with at most so many devices, and the option last taken (-1: one device less)."""
        best = np.zeros(self.supply + 1)
        taken = np.full(self.supply + 1, -1, dtype=np.int64)
        fastest: dict[int, int] = {}  # the best option of every number of devices: no other is ever taken
        for place, option in enumerate(self.options):
            if option.phase == phase and option.rate > 0 and option.devices <= self.supply:
                before = fastest.get(option.devices)
                if before is None or option.rate > self.options[before].rate:
                    fastest[option.devices] = place
        sizes = np.array(sorted(fastest), dtype=np.int64)
        places = np.array([fastest[size] for size in sizes.tolist()], dtype=np.int64)
        rates = np.array([self.options[place].rate for place in places.tolist()])
        for devices in range(1, self.supply + 1):
            best[devices] = best[devices - 1]
            fitting = int(np.searchsorted(sizes, devices, side="right"))
            if fitting:
                totals = best[devices - sizes[:fitting]] + rates[:fitting]
                chosen = int(totals.argmax())
                if totals[chosen] > best[devices] * (1 + 1e-12):
                    best[devices], taken[devices] = totals[chosen], places[chosen]
        return best, taken

    def counts(self, devices: int) -> Counts:
        """The workers behind the best rate with that many devices."""
        workers = [0] * len(self.options)
        aggregated = int(self.share[devices])
        rest = devices - aggregated
        prefill = int(self.split[rest]) if self.pair[rest] > 0 else 0
        decode = rest - prefill if self.pair[rest] > 0 else 0
        for phase, most in (("aggregated", aggregated), ("prefill", prefill), ("decode", decode)):
            _, taken = self.alone[phase]
            while most > 0:
                place = int(taken[most])
                if place < 0:
                    most -= 1
                    continue
                workers[place] += 1
                most -= self.options[place].devices
        return counted(self.options, workers)


def counted(options: Sequence[Option], workers: Sequence[int]) -> Counts:
    """The rate, devices and cost of given counts."""
    sums = {"aggregated": 0.0, "prefill": 0.0, "decode": 0.0}
    for option, number in zip(options, workers, strict=True):
        sums[option.phase] += option.rate * number
    return Counts(
        workers=tuple(int(number) for number in workers),
        rate=sums["aggregated"] + min(sums["prefill"], sums["decode"]),
        devices=sum(option.devices * number for option, number in zip(options, workers, strict=True)),
        cost=sum(option.cost * number for option, number in zip(options, workers, strict=True)),
    )


def _integer(options: Sequence[Option], supply: Sequence[int], rate: float | None) -> Counts:
    """Highest rate, or lowest cost for a rate, on several kinds of device."""
    from ortools.linear_solver import pywraplp

    solver = pywraplp.Solver.CreateSolver("SCIP")
    counts = [
        solver.IntVar(0, supply[option.kind] // option.devices, f"n{place}") for place, option in enumerate(options)
    ]
    paired = solver.NumVar(0, solver.infinity(), "paired")
    for kind, most in enumerate(supply):
        mine = [option.devices * counts[p] for p, option in enumerate(options) if option.kind == kind]
        if mine:
            solver.Add(sum(mine) <= most)
    for phase in ("prefill", "decode"):
        solver.Add(paired <= sum(o.rate * counts[p] for p, o in enumerate(options) if o.phase == phase))
    total = paired + sum(o.rate * counts[p] for p, o in enumerate(options) if o.phase == "aggregated")
    cost = sum((o.cost or o.devices) * counts[p] for p, o in enumerate(options))
    if rate is None:
        solver.Maximize(total)
    else:
        solver.Add(total >= rate)
        solver.Minimize(cost)
    if solver.Solve() not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
        return counted(options, [0] * len(options))
    return counted(options, [round(each.solution_value()) for each in counts])
