"""The best deployment for a Poisson rate: workers' capacities by simulation, their counts by the integer program.

Capacities start from the closed form and are replaced by simulated ones for the workers that the program picks, until
it picks only those (a lazy evaluation: what is never picked is never simulated). The bound comes from the same program
with rates that no schedule can exceed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import Infeasible
from .capacity import narrowing
from .deployments import PoolOf, Proposal, joules_per_token
from .pools import Counts, Option, Phase, fewest, most_rate
from .problem import Problem
from .runs import attempt, run
from .simulation import Outcome
from .steady import Steady, spaced, steady_state
from .workers import (
    WorkerType,
    bound_steps,
    decode_rate,
    expected_rate,
    most_decode_rate,
    most_prefill_rate,
    prefill_rate,
)
from .workers import most_rate as most_worker_rate

KEPT = 24
TRIES = 8
RESCUES = 20


@dataclass
class Choice:
    """A worker in one phase, its rates, and whether the rate is simulated.

    Until it is `certain`, `rate` is what the closed form expects, or a rate that the worker was seen not to carry.
    """

    worker: WorkerType
    phase: Phase
    rate: float
    most: float
    certain: bool = False
    carried: float = 0.0
    runs: Iterator[tuple[float, float]] | None = None

    def sharpen(self, problem: Problem) -> None:
        """Simulate the worker until its rate is certain, or known to be lower than it was thought to be."""
        if self.runs is None:
            self.runs = narrowing(problem, self.worker, self.phase, self.rate)
        for carried, missed in self.runs:
            self.carried = carried
            if missed < self.rate:
                self.rate = missed
                return
        self.rate, self.certain = self.carried, True

    def option(self, most: bool = False) -> Option:
        """The choice as the integer program sees it."""
        price = (self.worker.kind.usd_per_hour or 0.0) * self.worker.devices
        rate = self.most if most else self.rate
        return Option(self.phase, self.worker.kind.index, self.worker.devices, rate, price)


@dataclass(frozen=True)
class Found:
    """The winner, how it ran, the objective's value and a bound on any plan's."""

    proposal: Proposal
    outcome: Outcome
    value: float
    bound: float
    candidates: int
    feasible: int
    alternatives: tuple[tuple[str, float, str], ...] = ()


def search_rate(problem: Problem) -> Found:
    """The best deployment for the job's rate. Raises Infeasible with the nearest attainable change."""
    rate = problem.job.load.rate_per_s or 0.0
    if problem.job.goal in ("latency", "energy"):
        return _by_load(problem, rate)
    choices = choices_of(problem)
    goal = problem.job.goal
    if goal == "throughput":
        found = _most(problem, choices)
        if found.outcome.requests_per_s < rate * 0.97 and found.value < rate:
            raise Infeasible(_too_fast(problem, found.value, rate))
        return found
    return _fewest(problem, choices, rate)


def choices_of(problem: Problem) -> list[Choice]:
    """Every worker in every phase the mode allows, with what the closed form expects of it."""
    lengths, targets, mode = problem.setting.lengths, problem.job.targets, problem.job.mode
    found: list[Choice] = []
    for worker in problem.types:
        steps = bound_steps(worker, lengths)
        if mode in ("auto", "aggregated"):
            rate = expected_rate(worker, lengths, targets)
            found.append(Choice(worker, "aggregated", rate, most_worker_rate(worker, lengths, targets, steps)))
        if mode in ("auto", "disaggregated") and lengths.osl > 1:
            rate = prefill_rate(worker, lengths, targets)
            found.append(Choice(worker, "prefill", rate, most_prefill_rate(worker, lengths)))
            rate = decode_rate(worker, lengths, targets)
            found.append(Choice(worker, "decode", rate, most_decode_rate(worker, lengths, targets, steps)))
    return found


def solve(problem: Problem, choices: Sequence[Choice], rate: float | None) -> tuple[Counts, list[Choice]] | None:
    """Counts over the choices worth keeping, capacities simulated where used; None when the rate cannot be carried."""
    pool = _kept(choices)
    for _ in range(200):
        options = [choice.option() for choice in pool]
        counts = most_rate(options, problem.supply) if rate is None else fewest(options, problem.supply, rate)
        if counts is None or counts.rate <= 0:
            return None
        unsure = [choice for choice, number in zip(pool, counts.workers, strict=True) if number and not choice.certain]
        if not unsure:
            return counts, pool
        for choice in unsure:
            choice.sharpen(problem)
    return None


def bound_of(problem: Problem, choices: Sequence[Choice], rate: float | None) -> float:
    """No plan beats this: the program with rates that no schedule exceeds, over all choices."""
    best: dict[tuple[Phase, int, int], Option] = {}
    for choice in choices:
        option = choice.option(most=True)
        key = (option.phase, option.kind, option.devices)
        if key not in best or best[key].rate < option.rate:
            best[key] = option
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
    phases: tuple[Phase, ...] = ("aggregated", "prefill", "decode")
    for phase in phases:
        mine = [choice for choice in choices if choice.phase == phase and choice.rate > 0]
        mine.sort(key=lambda each: (-each.rate / each.worker.devices, each.worker.devices))
        for choice in mine[:KEPT]:
            kept[id(choice)] = choice
        seen: dict[tuple[int, int], int] = {}
        for choice in mine:
            key = (choice.worker.kind.index, choice.worker.devices)
            seen[key] = seen.get(key, 0) + 1
            if seen[key] <= 3:
                kept[id(choice)] = choice
    return [choice for choice in choices if id(choice) in kept]


def proposal_of(counts: Counts, pool: Sequence[Choice]) -> Proposal:
    """The pools behind counts, prefill before decode."""
    order = {"aggregated": 0, "prefill": 1, "decode": 2}
    used = [
        PoolOf(choice.worker, choice.phase, number, choice.rate)
        for choice, number in zip(pool, counts.workers, strict=True)
        if number
    ]
    return Proposal(tuple(sorted(used, key=lambda each: order[each.phase])), expected=counts.rate)


def _most(problem: Problem, choices: list[Choice]) -> Found:
    """The highest rate: the program's counts, run together at falling rates until the targets hold.

    Rates fall slowly at first, then fast: what fails at a hundredth of what the workers carry alone is infeasible.
    """
    bound = bound_of(problem, choices, None)
    found = solve(problem, choices, None)
    if found is None:
        raise Infeasible(nearest_target(problem))
    counts, pool = found
    proposal = proposal_of(counts, pool)
    rate = counts.rate
    for tries in range(TRIES + RESCUES):
        outcome = attempt(problem, proposal, rate)
        if outcome is not None:
            others = _others(problem, choices, counts, pool)
            return Found(proposal, outcome, rate, max(bound, rate), len(choices), _useful(choices), others)
        rate *= 0.96 if tries < TRIES else 0.8
    raise Infeasible(nearest_target(problem))


def _fewest(problem: Problem, choices: list[Choice], rate: float) -> Found:
    """The fewest devices, or the lowest price, that carry a rate; what fails together is solved again for more."""
    bound = bound_of(problem, choices, rate)
    wanted = rate * (problem.trace.burst() if problem.trace is not None else 1.0)
    best: Counts | None = None
    for _ in range(2 * TRIES):
        found = solve(problem, choices, wanted)
        if found is None:
            break
        best, pool = found
        proposal = proposal_of(best, pool)
        outcome = attempt(problem, proposal, rate)
        if outcome is not None:
            value = best.cost if problem.job.goal == "cost" else float(best.devices)
            others = _others(problem, choices, best, pool)
            return Found(proposal, outcome, value, min(bound, value), len(choices), _useful(choices), others)
        wanted *= 1.08
    most = solve(problem, choices, None)
    if most is None or best is None:
        reachable = most[0].rate if most else 0.0
        if reachable <= 0:
            raise Infeasible(nearest_target(problem))
        raise Infeasible(_too_fast(problem, reachable, rate))
    if most[0].rate > rate:
        proposal = proposal_of(*most)
        outcome = attempt(problem, proposal, rate)
        if outcome is not None:
            value = most[0].cost if problem.job.goal == "cost" else float(most[0].devices)
            return Found(proposal, outcome, value, min(bound, value), len(choices), _useful(choices))
        if problem.trace is not None:
            raise Infeasible(_bursts(problem, run(problem, proposal, rate)))
    raise Infeasible(_too_fast(problem, most[0].rate / 1.08, rate))


def _by_load(problem: Problem, rate: float) -> Found:
    """Lowest latency or energy at a rate: equal workers on as many devices as help, best expectations run first."""
    lengths = problem.setting.lengths
    ranked: list[tuple[float, float, Proposal]] = []
    for worker in problem.types:
        most = problem.supply[problem.kinds.index(worker.kind)] // worker.devices
        capacity_ = expected_rate(worker, lengths, problem.job.targets)
        if not most or capacity_ * most < rate:
            continue
        grid = np.unique(np.rint(spaced(max(worker.schedule.max_sequences, 2), 40)))
        found = steady_state(worker.cost, worker.schedule, lengths, grid)
        least = max(1, int(np.ceil(rate / capacity_)))
        numbers = {most, least} if problem.job.goal == "latency" else set(np.linspace(least, most, 6).astype(int))
        for number in sorted(numbers):
            value, low = _expectation(problem, worker, int(number), rate, found)
            proposal = Proposal((PoolOf(worker, "aggregated", int(number), capacity_),), value, low)
            ranked.append((value, low, proposal))
    ranked.sort(key=lambda each: (each[0], each[2].devices, each[2].label()))
    bound = min((low for _, low, _ in ranked), default=float("inf"))
    return first_good(problem, ranked, bound, rate)


def first_good(problem: Problem, ranked: Sequence[tuple[float, float, Proposal]], bound: float, rate: float) -> Found:
    """Run the most promising and return the best of those that meet the targets."""
    best: Found | None = None
    lost: list[tuple[str, float, str]] = []
    for tries, (_, low, proposal) in enumerate(ranked[: TRIES + RESCUES]):
        if best is not None and tries >= TRIES:
            break
        if best is not None and low >= best.value:
            continue
        outcome = run(problem, proposal, rate)
        value = value_of(problem, proposal, outcome)
        if not outcome.meets(problem.job.targets):
            lost.append((proposal.label(), value, "misses a target"))
        elif best is None or value < best.value:
            if best is not None:
                lost.append((best.proposal.label(), best.value, "not the lowest"))
            best = Found(proposal, outcome, value, min(bound, value), len(ranked), len(ranked))
        else:
            lost.append((proposal.label(), value, "not the lowest"))
    if best is None:
        raise Infeasible(nearest_target(problem))
    return replace(best, alternatives=tuple(lost[:5]))


def value_of(problem: Problem, proposal: Proposal, outcome: Outcome) -> float:
    """The objective of a run."""
    goal = problem.job.goal
    if goal == "energy":
        return joules_per_token(proposal, outcome) or float("inf")
    if goal == "latency":
        return outcome.mean("e2e")
    if goal == "cost":
        return proposal.usd_per_hour() or float("inf")
    return float(proposal.devices) if goal == "gpus" else outcome.output_tokens_per_s


def _expectation(problem: Problem, worker: WorkerType, number: int, rate: float, found: Steady) -> tuple[float, float]:
    """What the closed form expects of the objective, and what it cannot fall below."""
    lengths = problem.setting.lengths
    held = np.maximum.accumulate(found.requests_per_s)
    each = rate / number
    e2e = float(np.interp(each, held, found.e2e_s(lengths.osl)))
    if problem.job.goal == "latency":
        return e2e, float(found.step_s[0] * (lengths.osl - 1) / worker.cost.tokens_per_step)
    busy = min(1.0, each / float(held[-1]))
    proposal = Proposal((PoolOf(worker, "aggregated", number),))
    tokens = rate * lengths.osl
    return (proposal.watts(busy) or np.inf) / tokens, (proposal.watts(0.0) or np.inf) / tokens


def _others(
    problem: Problem, choices: Sequence[Choice], counts: Counts, pool: Sequence[Choice]
) -> tuple[tuple[str, float, str], ...]:
    """Single kinds of worker beside the winner: what they would carry, and why they lost."""
    used = {id(choice) for choice, number in zip(pool, counts.workers, strict=True) if number}
    lost = []
    mine = [choice for choice in choices if choice.phase == "aggregated" and id(choice) not in used and choice.rate > 0]
    for choice in sorted(mine, key=lambda each: -each.rate / each.worker.devices)[:5]:
        number = problem.supply[problem.kinds.index(choice.worker.kind)] // choice.worker.devices
        per_device = choice.rate / choice.worker.devices
        sure = "simulated" if choice.certain else "expected" if choice.runs is None else "not reached in simulation"
        why = f"{per_device:.3g} requests/s and device {sure}; fewer than the winner's mix"
        lost.append((f"{number} × {choice.worker.label()}", choice.rate * number, why))
    return tuple(lost)


def _useful(choices: Sequence[Choice]) -> int:
    return sum(choice.rate > 0 for choice in choices)


def _too_fast(problem: Problem, reachable: float, rate: float) -> str:
    limits = ", ".join(f"{name} {value * 1e3:g} ms" for name, value in problem.job.targets.limits().items())
    within = f" within {limits} at p{problem.job.targets.percentile:g}" if limits else ""
    return (
        f"{problem.model.name} on {problem.topology.name}: {rate:g} requests/s cannot be carried{within} by "
        f"{sum(problem.supply)} devices; the nearest attainable rate is {reachable:.3g} requests/s"
    )


def _bursts(problem: Problem, outcome: Outcome) -> str:
    at = problem.job.targets.percentile
    limits = problem.job.targets.limits()
    asked = ", ".join(f"{name} {limit * 1e3:g} ms" for name, limit in limits.items())
    reached = ", ".join(f"{name} {outcome.percentile(name, at) * 1e3:.3g} ms" for name in limits)
    return (
        f"{problem.model.name} on {problem.topology.name}: {asked} at p{at:g} cannot be met under the bursts of trace "
        f"{problem.trace.name if problem.trace else ''}; with all {sum(problem.supply)} devices it is {reached}"
    )


def nearest_target(problem: Problem) -> str:
    """The latencies of the deployment that comes nearest to the targets at one request at a time."""
    targets = problem.job.targets
    lengths = problem.setting.lengths
    limits = targets.limits()
    best: tuple[float, str] = (float("inf"), "")
    for worker in problem.types:
        found = steady_state(worker.cost, worker.schedule, lengths, np.ones(1))
        reached = {
            "ttft": float(found.ttft_s[0]),
            "tpot": float(found.tpot_s[0]),
            "e2e": float(found.e2e_s(lengths.osl)[0]),
        }
        ratio = max((reached[name] / limit for name, limit in limits.items()), default=0.0)
        if ratio < best[0]:
            values = ", ".join(f"{name} {reached[name] * 1e3:.3g} ms" for name in limits)
            best = (ratio, f"{values} with {worker.label()}")
    asked = ", ".join(f"{name} {value * 1e3:g} ms" for name, value in limits.items())
    return (
        f"{problem.model.name} on {problem.topology.name}: {asked} at p{targets.percentile:g} cannot be met at this "
        f"load; the nearest attainable, one request at a time, is {best[1]}"
    )
