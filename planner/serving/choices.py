"""Workers a search for a Poisson rate chooses among, and how many of each by the integer program.

What a worker carries starts as the closed form expects it and is replaced by what it was seen to carry in simulation
for the workers that the program picks, until it picks only those (a lazy evaluation: what is never picked is never
simulated). The bound comes from the same program with rates that no schedule can exceed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..costs.serving.formulas import Array
from .capacity import PRECISION, RAISED, narrowing, phase_targets
from .deployments import hand_over
from .pools import Counts, Option, Phase, fewest, most_rate
from .probe import LONG, MOST_AMONG, Probe
from .problem import Problem
from .stack import Stack
from .steady import OPEN_POINTS, Lengths
from .workers import (
    BOUND_POINTS,
    HAND_POINTS,
    WorkerType,
    bound_steps,
    decode_rates,
    expected_rates,
    most_decode_rate,
    most_prefill_rate,
    prefill_rate,
)
from .workers import most_rate as most_worker_rate

Level = Literal["most", "rate", "carried", "lasting"]
PHASES: tuple[Phase, ...] = ("aggregated", "prefill", "decode")
KEPT = 24
STEP_DOWN = 0.98
NO_BETTER = 0.999
GAP = 0.02


@dataclass
class Choice:
    """A worker in one phase, its rates, and whether the rate is simulated.

    Until it is `certain`, `rate` is what the closed form expects, or a rate that the worker was seen not to carry.
    `lasting` is the highest rate that it carried in a long run too.
    """

    worker: WorkerType
    phase: Phase
    rate: float
    most: float
    certain: bool = False
    lasting: float = 0.0
    carried: float = 0.0
    expected: float = 0.0
    part: float = 0.0
    runs: Iterator[tuple[float, float]] | None = None
    alone: Probe | None = None

    def sharpen(self, problem: Problem, rival: Choice | None = None, part: float = 1.0) -> None:
        """Simulate the worker until its rate is certain, or known to be lower than it was thought to be.

        It is thought to carry a `part` of what the closed form expects. A worker that does not exceed a `rival`, of its
        phase on as many devices, by more than the precision of all rates is taken to carry a little less.
        """
        if self.runs is None:
            start = self.rate * part
            if rival is not None and rival.carried > 0:
                better = rival.carried * (1 + PRECISION)
                if better >= self.rate or not self.probe(problem).carries(better):
                    self.rate = min(self.rate, NO_BETTER * min(rival.carried, rival.rate))
                    return
                self.carried, start = better, max(start, better * RAISED)
            self.expected = self.rate
            self.runs = narrowing(self.probe(problem), start, self.most, self.carried)
        for carried, missed in self.runs:
            self.carried = carried
            if missed < self.rate:
                self.rate = missed
                return
        self.rate, self.certain = self.carried, True
        self.part = self.carried / self.expected

    def settle(self, problem: Problem, share: float, rival: Choice | None = None) -> None:
        """Carry what the worker is to carry in a long run of other requests too, or lower its rate until it does."""
        if rival is not None and rival.lasting > self.lasting and self.rate <= rival.lasting * (1 + PRECISION):
            self.rate = max(min(self.rate, rival.lasting * NO_BETTER), self.lasting)
            return
        probe = self.probe(problem)
        while share > 0 and not probe.carries(share, LONG):
            share *= STEP_DOWN
            self.rate = share
        self.lasting = share

    def discount(self, factor: float) -> None:
        """Lower every rate that the worker was thought or seen to carry."""
        self.rate, self.carried, self.lasting = self.rate * factor, self.carried * factor, self.lasting * factor

    def probe(self, problem: Problem) -> Probe:
        """The worker as one of those that its phase may have: on all devices, or on half of them beside another phase.

        Of its TTFT target a prefill worker leaves what the hand-over to another takes.
        """
        if self.alone is not None:
            return self.alone
        supply, spent = problem.supply[problem.kinds.index(self.worker.kind)], 0.0
        if self.phase == "prefill":
            over = hand_over(problem.setting, problem.topology, self.worker, self.worker)
            spent = over.exposed_s + problem.setting.engine.hand_over_s
        among = supply // self.worker.devices if self.phase == "aggregated" else supply // 2 // self.worker.devices
        targets = phase_targets(problem.job.targets, self.phase, spent)
        self.alone = Probe(problem, self.worker, self.phase, targets, max(1, min(among, MOST_AMONG)))
        return self.alone

    def option(self, level: Level = "rate") -> Option:
        """The choice as the integer program sees it, with one of its rates."""
        price = (self.worker.kind.usd_per_hour or 0.0) * self.worker.devices
        return Option(self.phase, self.worker.kind.index, self.worker.devices, getattr(self, level), price)

    @property
    def place(self) -> tuple[Phase, int, int]:
        """What choices have in common of which only the fastest is ever taken."""
        return self.phase, self.worker.kind.index, self.worker.devices


def choices_of(problem: Problem) -> list[Choice]:
    """Every worker in every phase the mode allows, with what the closed form expects of it."""
    lengths, targets, mode = problem.setting.lengths, problem.job.targets, problem.job.mode
    stack = problem.stack
    together, apart = mode in ("auto", "aggregated"), mode in ("auto", "disaggregated") and lengths.osl > 1
    rates = stack.each(OPEN_POINTS, lambda rows: expected_rates(rows, lengths, targets)) if together else []
    decoding = stack.each(HAND_POINTS, lambda rows: decode_rates(rows, lengths, targets)) if apart else []
    found: list[Choice] = []
    for place, (worker, steps) in enumerate(zip(problem.types, _bound_steps(stack, lengths), strict=True)):
        if together:
            most = most_worker_rate(worker, lengths, targets, steps)
            found.append(Choice(worker, "aggregated", rates[place], most))
        if apart:
            rate = prefill_rate(worker, lengths, targets)
            found.append(Choice(worker, "prefill", rate, most_prefill_rate(worker, lengths)))
            most = most_decode_rate(worker, lengths, targets, steps)
            found.append(Choice(worker, "decode", decoding[place], most))
    return found


def _bound_steps(stack: Stack, lengths: Lengths) -> Iterator[tuple[Array, Array]]:
    """What `bound_steps` gives of every row."""
    for _, rows in stack.blocks(BOUND_POINTS):
        yield from zip(*bound_steps(rows, lengths), strict=True)


def solve(problem: Problem, choices: Sequence[Choice], rate: float | None) -> tuple[Counts, list[Choice]] | None:
    """Counts over the choices worth keeping, of rates that last; None when the rate cannot be carried.

    What the program picks by the rates that the choices may have is simulated, until it does no better than with those
    that they are known to have: for the highest rate within `GAP`.
    """
    pool = _kept(choices)
    for _ in range(400):
        hoped = _program(problem, [choice.option() for choice in pool], rate)
        if hoped is None or hoped.rate <= 0:
            return None
        known = _program(problem, [choice.option("lasting") for choice in pool], rate and rate * (1 - 1e-6))
        if known is not None and known.rate > 0 and _as_good(problem, known, hoped, rate):
            return known, pool
        used = [(choice, number) for choice, number in zip(pool, hoped.workers, strict=True) if number]
        unsure = [choice for choice, _ in used if not choice.certain]
        for choice in unsure:
            _sharpen(problem, pool, choice)
        for choice, share in _shares(used, rate or hoped.rate) if not unsure else ():
            if choice.lasting < share:
                choice.settle(problem, share, _rival(pool, choice, "lasting"))
    return None


def _sharpen(problem: Problem, pool: Sequence[Choice], choice: Choice) -> None:
    """Sharpen a choice from the part of its expected rate that others of its phase carried; the first of them whole."""
    known = [each.part for each in pool if each.phase == choice.phase and each.certain]
    part = min(1.0, max(known, default=1.0) * (1 + PRECISION))
    choice.sharpen(problem, _rival(pool, choice, "carried"), part)
    while not known and not choice.certain:
        choice.sharpen(problem)


def _program(problem: Problem, options: Sequence[Option], rate: float | None) -> Counts | None:
    return most_rate(options, problem.supply) if rate is None else fewest(options, problem.supply, rate)


def _as_good(problem: Problem, known: Counts, hoped: Counts, rate: float | None) -> bool:
    if rate is None:
        return hoped.rate <= known.rate * (1 + GAP)
    priced = problem.job.goal == "cost"
    return known.cost <= hoped.cost * (1 + 1e-9) if priced else known.devices <= hoped.devices


def _rival(pool: Sequence[Choice], choice: Choice, level: Level) -> Choice | None:
    """The choice of the phase on as many devices that has been seen to carry most."""
    others = [each for each in pool if each is not choice and each.place == choice.place]
    return max(others, key=lambda each: getattr(each, level), default=None)


def _shares(used: Sequence[tuple[Choice, int]], rate: float) -> list[tuple[Choice, float]]:
    """What each worker is to carry of a rate, a little rounded down: in proportion to what it can."""
    sums = {phase: sum(choice.rate * number for choice, number in used if choice.phase == phase) for phase in PHASES}
    paired = min(sums["prefill"], sums["decode"])
    part = min(1.0, rate / (sums["aggregated"] + paired)) * (1 - 1e-9)
    busy = {phase: part if phase == "aggregated" else part * paired / (sums[phase] or 1.0) for phase in PHASES}
    return [(choice, choice.rate * busy[choice.phase]) for choice, _ in used]


def bound_of(problem: Problem, choices: Sequence[Choice], rate: float | None) -> float:
    """No plan beats this: the program with rates that no schedule exceeds, over all choices."""
    best: dict[tuple[Phase, int, int], Option] = {}
    for choice in choices:
        option = choice.option("most")
        if choice.place not in best or best[choice.place].rate < option.rate:
            best[choice.place] = option
    options = list(best.values())
    if rate is None:
        return most_rate(options, problem.supply).rate
    counts = fewest(options, problem.supply, rate)
    if counts is None:
        return float("inf")
    return counts.cost if problem.job.goal == "cost" else float(counts.devices)


def _kept(choices: Sequence[Choice]) -> list[Choice]:
    """The best of every phase and number of devices, and the best by rate per device beside them."""
    kept: dict[int, Choice] = {}
    for phase in PHASES:
        mine = [choice for choice in choices if choice.phase == phase and choice.rate > 0]
        mine.sort(key=lambda each: (-each.rate / each.worker.devices, each.worker.devices))
        for choice in mine[:KEPT]:
            kept[id(choice)] = choice
        seen: dict[tuple[Phase, int, int], int] = {}
        for choice in mine:
            seen[choice.place] = seen.get(choice.place, 0) + 1
            if seen[choice.place] <= 3:
                kept[id(choice)] = choice
    return [choice for choice in choices if id(choice) in kept]


def useful(choices: Sequence[Choice]) -> int:
    """How many of the choices are expected to carry anything within the targets."""
    return sum(choice.rate > 0 for choice in choices)
