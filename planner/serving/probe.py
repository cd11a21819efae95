"""One worker alone under the job's load: whether it keeps up with a rate, in a run that starts as busy as it ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..workload.serving import Load, Targets, Trace
from .lone import prefill_ttft
from .pools import Phase
from .problem import Problem
from .simulation import Deployment, Outcome, simulate, simulate_within
from .steady import batched_prefill_seconds, open_states
from .turns import Pool
from .workers import WorkerType, hand_grid, most_in_hand

MOST_REQUESTS = 8000
MOST_AMONG = 8
GOLDEN = (5**0.5 - 1) / 2
# Shares of what a worker does at most at which waiting settles within runs as long as here: relaxation times grow with
# (1 − share)⁻², for prefill in units of a prompt, for decode, many requests at a time, in far shorter ones.
STABLE: dict[Phase, float] = {"prefill": 0.955, "decode": 0.98}


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is: requests at least, requests beyond the percentile, times a request's life, prompts of prefill.

    Its requests are those of a seed so many steps from the job's. Where it is `safe`, targets hold with what the
    percentile may be off.
    """

    requests: int
    beyond: int
    lives: float
    prompts: int
    seed: int = 0
    safe: bool = False

    def least(self, percentile: float) -> int:
        """Requests of a run whose percentile is known well enough."""
        return min(max(self.requests, int(self.beyond / (1 - percentile / 100))), MOST_REQUESTS)


BATCHES, ERRORS = 8, 2.0
SHORT = Length(requests=400, beyond=10, lives=1.5, prompts=2000)
LONG = Length(requests=2000, beyond=60, lives=4.0, prompts=5000, seed=1, safe=True)


@dataclass(frozen=True)
class Probe:
    """A worker in a phase, with the targets it answers for alone: prefill for TTFT, decode for TPOT.

    It is one of `among` equal workers, who take requests in turn: one in so many Poisson arrivals comes to it, which is
    steadier than as many arrivals of its own.
    """

    problem: Problem
    worker: WorkerType
    phase: Phase
    targets: Targets
    among: int = 1

    def carries(self, rate: float, length: Length = SHORT) -> bool:
        """Whether the targets hold at a Poisson rate and waiting does not grow."""
        self.problem.simulated += 1
        if self.phase != "aggregated" and rate > STABLE[self.phase] * self.saturated:
            return False
        if self.phase == "prefill":
            return self._prefills(rate, length)
        life = self.life_s(rate)
        least = length.least(self.targets.percentile)
        number = int(min(max(least, length.lives * rate * life), MOST_REQUESTS))
        begun = int(min(rate * life, most_in_hand(self.worker, self.problem.setting.lengths)))
        load = warmed(self._sampled(rate, number, length.seed), begun)
        outcome = simulate_within(self._alone, load, self.targets, begun=begun)
        if outcome is None or not steady(outcome.ttft_s):
            return False
        return not length.safe or safely_within(outcome, self.targets)

    def _prefills(self, rate: float, length: Length) -> bool:
        at = self.targets.percentile
        load = self._sampled(rate, max(length.prompts, length.least(at)), length.seed)
        limit = self.targets.limits().get("ttft", np.inf)
        ttft = prefill_ttft(self.worker.table, self.worker.schedule, load, limit, at)
        if ttft is None or not steady(ttft):
            return False
        return float(np.percentile(ttft, at)) + (ERRORS * error_of(ttft, at) if length.safe else 0.0) <= limit

    @cached_property
    def saturated(self) -> float:
        """Requests per second of a worker of one phase that always has more to do; infinite for a decode worker that
        would miss its target long before, so that its latencies show that it cannot keep up."""
        if self.phase == "prefill":
            return 1 / batched_prefill_seconds(self.worker.cost, self.worker.schedule, self.problem.setting.lengths)
        lengths, pace = self.problem.setting.lengths, self.worker.cost.tokens_per_step
        room = most_in_hand(self.worker, lengths)
        full = float(self.worker.cost.decode_seconds(room, lengths.context)) / pace
        if full > 1.1 * self.targets.limits().get("tpot", np.inf):
            return np.inf
        number = int(room)
        load = warmed(self._sampled(1e9, 2 * number, 0), number)
        ends = np.sort(simulate(self._alone, load).e2e_s)
        first, last = number // 2, 2 * number
        return float((last - first) / (ends[last] - ends[first]))

    def life_s(self, rate: float) -> float:
        """How long a request stays at a rate, by the closed form."""
        return float(np.interp(rate, *self._lives))

    @property
    def _alone(self) -> Deployment:
        pool = Pool(self.worker.table, self.worker.schedule, 1)
        return Deployment(decode=(pool,)) if self.phase == "decode" else Deployment(aggregated=(pool,))

    @cached_property
    def _lives(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rates, and how long a request stays at each of them by the closed form."""
        worker, lengths = self.worker, self.problem.setting.lengths
        if self.phase == "aggregated":
            found, rates = open_states(worker.cost, worker.schedule, lengths)
            return rates, found.e2e_s(lengths.osl)
        grid = hand_grid(worker)
        life = worker.cost.decode_seconds(grid, lengths.context) / worker.cost.tokens_per_step * max(lengths.osl - 1, 1)
        return np.maximum.accumulate(grid / life), life

    def _sampled(self, rate: float, number: int, seed: int) -> Trace:
        """The first requests of one sample of the job's load, stretched so that they come at the rate on average."""
        size = 1 << max(number - 1, 1023).bit_length()
        samples, key = self.problem.samples, (size, seed, self.among)
        if key not in samples:
            load, origin = self.problem.job.load, (self.problem.job.seed + seed) % 2**63
            unit = Load(lengths=load.lengths, rate_per_s=1.0, spread=load.spread, cached=load.cached, seed=origin)
            samples[key] = unit.sample(size * self.among).part(slice(0, None, self.among))
        part = samples[key].part(slice(0, number))
        return replace(part, arrival_s=part.arrival_s * (number / part.arrival_s[-1] / rate))


def warmed(load: Trace, begun: int) -> Trace:
    """The load with requests before it that are on their way at its start, at ages as mixed as in the long run.

    The longer an output the likelier it is met on its way, at any of its tokens alike; what has been generated of it
    counts as prompt that is in the cache.
    """
    if not begun:
        return load
    places = np.arange(begun)
    output = np.cumsum(load.output_tokens)
    chosen = np.searchsorted(output, (places * GOLDEN) % 1 * output[-1], side="right")
    done = ((places[::-1] + 0.5) / begun * (load.output_tokens[chosen] - 1)).astype(np.int64)
    prompt = load.prompt_tokens[chosen] + done
    return Trace(
        arrival_s=np.concatenate([np.zeros(begun), load.arrival_s]),
        prompt_tokens=np.concatenate([prompt, load.prompt_tokens]),
        output_tokens=np.concatenate([load.output_tokens[chosen] - done, load.output_tokens]),
        cached_tokens=np.concatenate([prompt - 1, load.cached_tokens]),
    )


def safely_within(outcome: Outcome, targets: Targets, errors: float = ERRORS) -> bool:
    """Whether every target holds with so many standard errors of its percentile."""
    at = targets.percentile
    return all(
        outcome.percentile(name, at) + errors * error_of(getattr(outcome, f"{name}_s"), at) <= limit
        for name, limit in targets.limits().items()
    )


def error_of(values: NDArray[np.float64], at: float) -> float:
    """The standard error of a percentile of successive values, by the method of batch means (Law & Kelton, chapter 9):
    what is waited for in one batch says little of the next."""
    known = values[np.isfinite(values)]
    if len(known) < 2 * BATCHES:
        return 0.0
    batches = [float(np.percentile(batch, at)) for batch in np.array_split(known, BATCHES)]
    return float(np.std(batches, ddof=1) / np.sqrt(BATCHES))


def steady(ttft_s: NDArray[np.float64]) -> bool:
    """Whether waiting does not grow: the later half of the requests waits at most twice as long as the earlier."""
    half = len(ttft_s) // 2
    return float(ttft_s[half:].mean()) <= 2 * float(ttft_s[:half].mean()) + 0.05
