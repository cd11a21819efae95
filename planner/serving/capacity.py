"""What one worker really carries within the targets: by simulation, not by formula."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..workload.serving import Targets
from .pools import Phase
from .probe import Probe
from .problem import Problem
from .workers import WorkerType, most_decode_rate, most_prefill_rate, most_rate

PRECISION = 0.03
RAISED, LOWERED = 1.06, 0.9


def capacity(problem: Problem, worker: WorkerType, phase: Phase, expected: float) -> float:
    """Highest Poisson rate one worker carries within the targets, to 3 %; 0 when it misses them at any rate.

    A prefill worker must meet TTFT, a decode worker TPOT. Without a target on waiting, a rate counts as carried while
    the requests of its second half wait no longer than twice those of its first.
    """
    probe = Probe(problem, worker, phase, phase_targets(problem.job.targets, phase))
    runs = narrowing(probe, expected, most_of(problem, worker, phase))
    return max((low for low, _ in runs), default=0.0)


def narrowing(probe: Probe, expected: float, most: float, low: float = 0.0) -> Iterator[tuple[float, float]]:
    """The search for a worker's capacity, a run at a time: the highest rate it was seen to carry (`low` before the
    first run) and the lowest it was seen not to (infinite before the first), until they are 3 % apart. No schedule
    carries more than `most`."""
    if expected <= 0 or most <= 0:
        return
    high = math.inf
    rate = min(expected, most)
    for _ in range(20):
        if probe.carries(rate):
            low = rate
            yield low, high
            if high < math.inf or rate >= most:
                break
            rate = min(rate * RAISED, most)
        else:
            high = rate
            yield low, high
            if low:
                break
            rate *= LOWERED
    while low and high < math.inf and high / low > 1 + PRECISION:
        middle = (low * high) ** 0.5
        if probe.carries(middle):
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


def phase_targets(targets: Targets, phase: Phase, spent_s: float = 0.0) -> Targets:
    """The targets a worker of one phase answers for; of TTFT what is not spent after prefill."""
    if phase == "prefill":
        left = None if targets.ttft_s is None else max(targets.ttft_s - spent_s, 1e-9)
        return replace_targets(targets, ttft_s=left, tpot_s=None, e2e_s=None)
    if phase == "decode":
        return replace_targets(targets, ttft_s=None, e2e_s=None)
    return targets


def replace_targets(targets: Targets, **changes: float | None) -> Targets:
    """The targets with some of them changed."""
    values = {"ttft_s": targets.ttft_s, "tpot_s": targets.tpot_s, "e2e_s": targets.e2e_s} | changes
    return Targets(percentile=targets.percentile, **values)
