"""What one worker really carries within the targets: by simulation, not by formula."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..workload.serving import Load, Targets
from .pools import Phase
from .problem import Problem
from .simulation import Deployment, Outcome, Pool, simulate_within
from .steady import steady_state
from .workers import WorkerType, most_decode_rate, most_prefill_rate, most_rate

REQUESTS = 400
MOST_REQUESTS = 8000
TURNS, LEAST_SECONDS = 6.0, 10.0
PRECISION = 0.03


def capacity(problem: Problem, worker: WorkerType, phase: Phase, expected: float) -> float:
    """Highest Poisson rate one worker carries within the targets, to 3 %; 0 when it misses them at any rate.

    A prefill worker must meet TTFT, a decode worker TPOT. Without a target on waiting, a rate counts as carried while
    the requests of its second half wait no longer than twice those of its first.
    """
    return max((low for low, _ in narrowing(problem, worker, phase, expected)), default=0.0)


def narrowing(problem: Problem, worker: WorkerType, phase: Phase, expected: float) -> Iterator[tuple[float, float]]:
    """The search for a worker's capacity, a run at a time: the highest rate it was seen to carry and the lowest it was
    seen not to (infinite before the first), until they are 3 % apart."""
    most = most_of(problem, worker, phase)
    if expected <= 0 or most <= 0:
        return
    targets = phase_targets(problem.job.targets, phase)
    low, high = 0.0, math.inf
    rate = min(expected, most)
    for _ in range(12):
        if _carries(problem, worker, phase, targets, rate):
            low = rate
            yield low, high
            if high < math.inf or rate >= most:
                break
            rate = min(rate * 1.12, most)
        else:
            high = rate
            yield low, high
            if low:
                break
            rate *= 0.8
    while low and high < math.inf and high / low > 1 + PRECISION:
        middle = (low * high) ** 0.5
        if _carries(problem, worker, phase, targets, middle):
            low = middle
        else:
            high = middle
        yield low, high


def most_of(problem: Problem, worker: WorkerType, phase: Phase) -> float:
    """The rate that no schedule of the worker's steps exceeds in that phase."""
    lengths, targets = problem.setting.lengths, problem.job.targets
    if phase == "prefill":
        return most_prefill_rate(worker, lengths)
    if phase == "decode":
        return most_decode_rate(worker, lengths, targets)
    return most_rate(worker, lengths, targets)


def probe_length(problem: Problem, worker: WorkerType, rate: float) -> int:
    """Requests of a run that lasts several times as long as one of them alone and some seconds, so that queues show."""
    lengths = problem.setting.lengths
    alone = steady_state(worker.cost, worker.schedule, lengths, np.ones(1))
    seconds = max(TURNS * float(alone.e2e_s(lengths.osl)[0]), LEAST_SECONDS)
    return int(min(max(REQUESTS, rate * seconds), MOST_REQUESTS))


def phase_targets(targets: Targets, phase: Phase) -> Targets:
    """The targets a worker of one phase answers for."""
    if phase == "prefill":
        return replace_targets(targets, tpot_s=None, e2e_s=None)
    if phase == "decode":
        return replace_targets(targets, ttft_s=None, e2e_s=None)
    return targets


def replace_targets(targets: Targets, **changes: float | None) -> Targets:
    """The targets with some of them changed."""
    values = {"ttft_s": targets.ttft_s, "tpot_s": targets.tpot_s, "e2e_s": targets.e2e_s} | changes
    return Targets(percentile=targets.percentile, **values)


def _carries(problem: Problem, worker: WorkerType, phase: Phase, targets: Targets, rate: float) -> bool:
    """Whether one worker of one phase meets the targets under Poisson arrivals, its queue not growing."""
    load = problem.job.load
    sampled = Load(
        lengths=load.lengths, rate_per_s=rate, spread=load.spread, cached=load.cached, seed=problem.job.seed
    ).sample(probe_length(problem, worker, rate))
    pool = Pool(worker.table, worker.schedule, 1)
    problem.simulated += 1
    if phase == "prefill":
        sampled = replace(sampled, output_tokens=sampled.output_tokens * 0 + 1)
    alone = Deployment(decode=(pool,)) if phase == "decode" else Deployment(aggregated=(pool,))
    outcome = simulate_within(alone, sampled, targets)
    return outcome is not None and steady(outcome)


def steady(outcome: Outcome) -> bool:
    """Whether waiting does not grow: the later half of the requests waits at most twice as long as the earlier."""
    half = len(outcome.ttft_s) // 2
    first, second = float(outcome.ttft_s[:half].mean()), float(outcome.ttft_s[half:].mean())
    return second <= 2 * first + 0.05
