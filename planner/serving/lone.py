"""One worker that only prefills, under requests that come at their own times.

Its steps are those of `Worker`, which `simulation` runs. As prompts are taken in order and leave when they are done,
sums over all prompts say what each step takes, so that the work grows with steps and not with requests.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

from ..workload.serving import Trace
from .schedule import Schedule, StepTable

Array = NDArray[np.float64]


def allowed_misses(requests: int, percentile: float) -> int:
    """As many misses of a target as its percentile over so many requests cannot bear.

    A percentile p of n values lies between the two around place (n − 1) p, so that it exceeds the target once as many
    values do as are not below the lower of them.
    """
    return requests - math.floor((requests - 1) * percentile / 100)


def prefill_ttft(
    table: StepTable, schedule: Schedule, trace: Trace, limit: float = math.inf, percentile: float = 99.0
) -> Array | None:
    """TTFT of every request at a worker that only prefills; None, as soon as it is certain, where the limit is missed.

    Prompts are taken in order, so that sums over all before them say what a step takes: of prompts that lie wholly in
    it, only where they begin and end is looked up.
    """
    arrival, cost = trace.arrival_s.tolist(), table.cost
    request_s, groups, fill, pp = cost.request_s, cost.groups, cost.fill, cost.pp
    work, loaded = _PromptSums(table, trace), table.loaded
    tokens, held, pairs_s = work.tokens, work.held, work.pairs_s
    headroom = 0.0 if schedule.reserve_output else 0.01 * schedule.cache_tokens
    free, budget = schedule.cache_tokens - headroom, schedule.token_budget
    left = allowed_misses(len(arrival), percentile)
    firsts: list[float] = []
    counts: list[int] = []
    now, arrived, admitted, head, done, number = 0.0, 0, 0, 0, 0, len(arrival)
    while head < number:
        if arrived == head and arrival[head] > now:
            now = arrival[head]
        if arrived < number and arrival[arrived] <= now:
            arrived = bisect_right(arrival, now, arrived)
        most = min(arrived, head + schedule.max_sequences)
        if most > admitted:
            if held[most] > held[head] + free:
                most = bisect_right(held, held[head] + free, head) - 1
            admitted = max(admitted, most, head + 1)
        if not done and tokens[admitted] - tokens[head] <= budget:
            end, rest, taken, seconds = admitted, 0, tokens[admitted] - tokens[head], pairs_s[admitted] - pairs_s[head]
            several = admitted - head
        else:
            end, rest, taken = work.step(schedule, head, done, admitted)
            several, seconds = end - head + (rest > 0), work.attention(head, done, end, rest)
        seconds = loaded(0, taken, several) + seconds * (-(-several // groups) / several)
        now += seconds
        if end > head:
            first = now + fill / min(several, pp) * seconds + request_s
            firsts.append(first)
            counts.append(end - head)
            if first - limit > arrival[head]:
                left -= bisect_left(arrival, first - limit, head, end) - head
                if left <= 0:
                    return None
        head, done = end, rest
    return np.repeat(firsts, counts) - trace.arrival_s


class _PromptSums:
    """Sums over all prompts before each: tokens to compute, cache tokens to hold, seconds of attention."""

    __slots__ = ("cached", "held", "pairs_s", "table", "tokens")

    def __init__(self, table: StepTable, trace: Trace) -> None:
        self.table = table
        self.cached: list[int] = trace.cached_tokens.tolist()
        left = (trace.prompt_tokens - trace.cached_tokens).astype(float)
        whole = table.cost.pair_seconds(left, left * (trace.cached_tokens + left / 2))
        self.tokens: list[int] = [0, *np.cumsum(trace.prompt_tokens - trace.cached_tokens).tolist()]
        self.held: list[int] = [0, *np.cumsum(trace.prompt_tokens + 1).tolist()]
        self.pairs_s: list[float] = [0.0, *np.cumsum(whole).tolist()]

    def step(self, schedule: Schedule, head: int, done: int, admitted: int) -> tuple[int, int, int]:
        """The prompt after the last that a step ends, how much of that one it takes, and the step's tokens.

        `head` is the first prompt not ended, `done` how much of it is, `admitted` the prompt after the last that may
        be taken.
        """
        tokens, budget = self.tokens, schedule.token_budget
        if schedule.whole_prompts:
            end = bisect_right(tokens, tokens[head] + budget, head, admitted + 1) - 1
            end = max(end, head + 1)
            return end, 0, tokens[end] - tokens[head]
        start = tokens[head] + done
        stop = min(start + budget, tokens[admitted])
        end = bisect_right(tokens, stop, head, admitted + 1) - 1
        return end, stop - tokens[end], stop - start

    def attention(self, head: int, done: int, end: int, rest: int) -> float:
        """Prefill attention of a step: of the prompts from `head`, part of which is done, up to `end`, and the rest."""
        pairs, cached = self.table.pairs_seconds, self.cached
        if end == head:
            return pairs(cached[head] + done, rest - done)
        seconds = self.pairs_s[end] - self.pairs_s[head]
        if done:
            length = self.tokens[head + 1] - self.tokens[head]
            whole = self.pairs_s[head + 1] - self.pairs_s[head]
            seconds += pairs(cached[head] + done, length - done) - whole
        return seconds + pairs(cached[end], rest) if rest else seconds
