"""The best deployment for a Poisson rate: workers and their counts by the integer program, run together at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import Infeasible
from .choices import GAP, Choice, bound_of, choices_of, solve, useful
from .deployments import PoolOf, Proposal, joules_per_token
from .pools import Counts
from .problem import Problem
from .runs import attempt, lasting, lasts, run, run_within
from .simulation import Outcome
from .steady import OPEN_POINTS, Steady, rows_of_spaced, steady_state
from .workers import WorkerType, expected_rates

MIXES = 3
TRIES = 8
RESCUES = 20
TOLD = 5  # alternatives of a plan at most
FALL, FAST_FALL = 0.98, 0.8


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


def proposal_of(counts: Counts, pool: Sequence[Choice]) -> Proposal:
    """The pools behind counts, prefill before decode."""
    order = {"aggregated": 0, "prefill": 1, "decode": 2}
    used = [
        PoolOf(choice.worker, choice.phase, number, choice.lasting)
        for choice, number in zip(pool, counts.workers, strict=True)
        if number
    ]
    return Proposal(tuple(sorted(used, key=lambda each: order[each.phase])), expected=counts.rate)


def _most(problem: Problem, choices: list[Choice]) -> Found:
    """The highest rate: the program's counts run together, and those of its next best while they may carry more.

    What workers together carry less than alone is taken from all of their kind and size before the next is asked for.
    """
    bound = bound_of(problem, choices, None)
    best: Found | None = None
    for _ in range(MIXES):
        found = solve(problem, choices, None)
        least = best.value * (1 + GAP) if best is not None else 0.0
        if found is None or found[0].rate <= least:
            break
        counts, pool = found
        proposal = proposal_of(counts, pool)
        rate, outcome = _together(problem, proposal, least)
        if outcome is not None:
            others = _others(problem, choices, counts, pool)
            best = Found(proposal, outcome, rate, max(bound, rate), len(choices), useful(choices), others)
        if rate >= counts.rate:
            break
        places = {choice.place for choice, number in zip(pool, counts.workers, strict=True) if number}
        for choice in choices:
            if choice.place in places:
                choice.discount(rate / counts.rate)
    if best is None:
        raise Infeasible(nearest_target(problem))
    return best


def _together(problem: Problem, proposal: Proposal, least: float) -> tuple[float, Outcome | None]:
    """The highest rate above the least that a deployment carries, and its run.

    Rates fall slowly at first, then fast: what fails at a hundredth of what the workers carry alone is infeasible.
    """
    rate = proposal.expected
    for tries in range(TRIES + RESCUES):
        outcome = attempt(problem, proposal, rate)
        if outcome is not None:
            return rate, outcome
        rate *= FALL if tries < TRIES else FAST_FALL
        if rate <= least:
            break
    return rate, None


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
            return Found(proposal, outcome, value, min(bound, value), len(choices), useful(choices), others)
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
            return Found(proposal, outcome, value, min(bound, value), len(choices), useful(choices))
        if problem.trace is not None:
            raise Infeasible(_bursts(problem, run(problem, proposal, rate)))
    raise Infeasible(_too_fast(problem, most[0].rate / 1.08, rate))


def _by_load(problem: Problem, rate: float) -> Found:
    """Lowest latency or energy at a rate: equal workers on as many devices as help, best expectations run first.

    Where none of them carries the rate, or pools are asked for, it is what does on the fewest devices.
    """
    ranked = _equal_workers(problem, rate) if problem.job.mode != "disaggregated" else []
    bound = min((low for _, low, _ in ranked), default=float("inf"))
    good = _first_good(problem, ranked, bound, rate)
    if good is not None:
        return good
    good = _fewest(problem, choices_of(problem), rate)
    value = value_of(problem, good.proposal, good.outcome)
    tried, promising = len(ranked) + good.candidates, len(ranked) + good.feasible
    return replace(good, value=value, bound=min(_floor(problem, rate), value), candidates=tried, feasible=promising)


def _equal_workers(problem: Problem, rate: float) -> list[tuple[float, float, Proposal]]:
    """Deployments of one kind of worker that are expected to carry a rate, the lowest expectation first: what is
    expected of the objective, and what it cannot fall below."""
    lengths = problem.setting.lengths
    ranked: list[tuple[float, float, Proposal]] = []
    stack = problem.stack
    rates = stack.each(OPEN_POINTS, lambda rows: expected_rates(rows, lengths, problem.job.targets))
    grid = np.rint(rows_of_spaced(np.maximum(stack.schedule.max_sequences, 2.0), 40))
    states = steady_state(stack.cost, stack.schedule, lengths, grid)
    for place, (worker, capacity_) in enumerate(zip(problem.types, rates, strict=True)):
        most = problem.supply[problem.kinds.index(worker.kind)] // worker.devices
        if not most or capacity_ * most < rate:
            continue
        found = states.row(place)
        least = max(1, int(np.ceil(rate / capacity_)))
        numbers = {most, least} if problem.job.goal == "latency" else set(np.linspace(least, most, 6).astype(int))
        for number in sorted(numbers):
            value, low = _expectation(problem, worker, int(number), rate, found)
            proposal = Proposal((PoolOf(worker, "aggregated", int(number), capacity_),), value, low)
            ranked.append((value, low, proposal))
    return sorted(ranked, key=lambda each: (each[0], each[2].devices, each[2].label()))


def _floor(problem: Problem, rate: float) -> float:
    """What no deployment falls below: in latency the fastest worker's steps, in energy the smallest one that waits."""
    lengths = problem.setting.lengths
    if problem.job.goal == "latency":
        steps = (
            float(worker.cost.decode_seconds(1.0, lengths.context)) / worker.cost.tokens_per_step
            for worker in problem.types
        )
        return min(steps) * max(lengths.osl - 1, 0)
    watts = (Proposal((PoolOf(worker, "aggregated", 1),)).watts(0.0) or 0.0 for worker in problem.types)
    return min(watts) / (rate * lengths.osl)


def _first_good(
    problem: Problem, ranked: Sequence[tuple[float, float, Proposal]], bound: float, rate: float
) -> Found | None:
    """Run the most promising and return the best of those that meet the targets; once enough is known of others, runs
    end as soon as they miss one."""
    best: Found | None = None
    lost: list[tuple[str, float, str]] = []
    for tries, (_, low, proposal) in enumerate(ranked[: TRIES + RESCUES]):
        if best is not None and tries >= TRIES:
            break
        if best is not None and low >= best.value:
            continue
        outcome = run(problem, proposal, rate) if len(lost) < TOLD else run_within(problem, proposal, rate)
        if outcome is None:
            continue
        value = value_of(problem, proposal, outcome)
        better = best is None or value < best.value
        if not outcome.meets(problem.job.targets):
            lost.append((proposal.label(), value, "misses a target"))
        elif better and not (lasting(problem, outcome) and lasts(problem, proposal, rate)):
            lost.append((proposal.label(), value, "misses a target in the long run"))
        elif better:
            if best is not None:
                lost.append((best.proposal.label(), best.value, "not the lowest"))
            best = Found(proposal, outcome, value, min(bound, value), len(ranked), len(ranked))
        else:
            lost.append((proposal.label(), value, "not the lowest"))
    return replace(best, alternatives=tuple(lost[:TOLD])) if best is not None else None


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
    for choice in sorted(mine, key=lambda each: -each.rate / each.worker.devices)[:TOLD]:
        number = problem.supply[problem.kinds.index(choice.worker.kind)] // choice.worker.devices
        per_device = choice.rate / choice.worker.devices
        sure = "simulated" if choice.certain else "expected" if choice.runs is None else "not reached in simulation"
        why = f"{per_device:.3g} requests/s and device {sure}; fewer than the winner's mix"
        lost.append((f"{number} × {choice.worker.label()}", choice.rate * number, why))
    return tuple(lost)


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
    mode = "" if problem.job.mode == "auto" else f" in mode {problem.job.mode}"
    where = f"{problem.model.name} on {problem.topology.name}"
    missed = f"{where}: {asked} at p{targets.percentile:g} cannot be met at this load{mode}"
    if best[0] <= 1:
        return f"{missed}; the nearest change is a lower load: one request at a time reaches {best[1]}"
    return f"{missed}; the nearest attainable, one request at a time, is {best[1]}"
