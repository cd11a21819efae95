"""How many workers of each kind: an exact integer program.

Aggregated workers add their rates; prefill and decode workers together carry the smaller of their pools' rates. On one
kind of device the program is solved by dynamic programming over devices (an unbounded knapsack per phase, then the
best split), on several by a mixed-integer solver; both are exact.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Rates = NDArray[np.float64]
Places = NDArray[np.int64]

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
        self.alone = {phase: _fill(options, fastest, supply) for phase, fastest in _fastest(options, supply).items()}
        prefill, decode = self.alone["prefill"][0], self.alone["decode"][0]
        self.pair, self.split = _best_split(np.minimum, prefill, decode)
        self.best, self.share = _best_split(np.add, self.alone["aggregated"][0], self.pair)

    def counts(self, devices: int) -> Counts:
        """The workers behind the best rate with that many devices."""
        workers = [0] * len(self.options)
        aggregated = int(self.share[devices])
        rest = devices - aggregated
        prefill = int(self.split[rest]) if self.pair[rest] > 0 else 0
        decode = rest - prefill if self.pair[rest] > 0 else 0
        parts: tuple[tuple[Phase, int], ...] = (("aggregated", aggregated), ("prefill", prefill), ("decode", decode))
        for phase, most in parts:
            _, taken = self.alone[phase]
            while most > 0:
                place = int(taken[most])
                if place < 0:
                    most -= 1
                    continue
                workers[place] += 1
                most -= self.options[place].devices
        return counted(self.options, workers)


def _fastest(options: Sequence[Option], supply: int) -> dict[Phase, dict[int, int]]:
    """The best option of every phase and number of devices: no other is ever taken."""
    fastest: dict[Phase, dict[int, int]] = {"aggregated": {}, "prefill": {}, "decode": {}}
    for place, option in enumerate(options):
        if option.rate > 0 and option.devices <= supply:
            same = fastest[option.phase]
            before = same.get(option.devices)
            if before is None or option.rate > options[before].rate:
                same[option.devices] = place
    return fastest


def _fill(options: Sequence[Option], fastest: dict[int, int], supply: int) -> tuple[Rates, Places]:
    """Highest rate with at most so many devices, and the option last taken (-1: one device less)."""
    sizes = sorted(fastest)
    best, taken = _filled(supply, tuple(sizes), tuple(options[fastest[size]].rate for size in sizes))
    return best, np.array([*(fastest[size] for size in sizes), -1])[taken]


@lru_cache(maxsize=64)
def _filled(supply: int, sizes: tuple[int, ...], rates: tuple[float, ...]) -> tuple[Rates, Places]:
    """The unbounded knapsack of workers of ascending sizes: highest rates, and which of the sizes is last taken."""
    best = np.zeros(supply + 1)
    taken = np.full(supply + 1, -1, dtype=np.int64)
    size, rate = np.array(sizes, dtype=np.int64), np.array(rates)
    for devices in range(1, supply + 1):
        best[devices] = best[devices - 1]
        fitting = bisect_right(sizes, devices)
        if fitting:
            totals = best[devices - size[:fitting]] + rate[:fitting]
            chosen = int(totals.argmax())
            if totals[chosen] > best[devices] * (1 + 1e-12):
                best[devices], taken[devices] = totals[chosen], chosen
    return best, taken


def _best_split(joined: np.ufunc, first: Rates, second: Rates) -> tuple[Rates, Places]:
    """The best of `joined(first[k], second[d - k])` for every number of devices d, and the k of it."""
    number = len(first)
    apart = sliding_window_view(np.append(second[::-1], np.full(number - 1, -np.inf)), number)[::-1]
    best, place = np.empty(number), np.empty(number, dtype=np.int64)
    rows = max(1, 65_536 // number)
    for start in range(0, number, rows):
        part = slice(start, start + rows)
        both = joined(first, apart[part])
        place[part] = both.argmax(axis=1)
        best[part] = both.max(axis=1)
    return best, place


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
