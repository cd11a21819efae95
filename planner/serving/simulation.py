"""Discrete-event simulation of a deployment: workers with continuous batching, routing, and the phases' hand-over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count

import numpy as np
from numpy.typing import NDArray

from ..workload.serving import Load, Targets, Trace
from .alone import Alone
from .misses import Misses
from .running import Requests
from .turns import Pool, Turns
from .worker import Worker

_ARRIVAL, _HANDED = -1, -2  # kinds of events; the others carry the stamp of a worker's plan
_NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Deployment:
    """Aggregated workers, or prefill and decode pools, or both together.

    `transfer_s` is the delay of the KV hand-over per request and per token of its prompt.
    """

    aggregated: tuple[Pool, ...] = ()
    prefill: tuple[Pool, ...] = ()
    decode: tuple[Pool, ...] = ()
    transfer_start_s: float = 0.0
    transfer_token_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Latencies of every request of a run, in order of arrival, and what the workers did."""

    ttft_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    e2e_s: NDArray[np.float64]
    output_tokens: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    duration_s: float
    preemptions: int
    busy_share: float

    @property
    def output_tokens_per_s(self) -> float:
        """Generated tokens over the whole run, ramp and tail included, as benchmarks count them."""
        return float(self.output_tokens.sum()) / self.duration_s

    @property
    def requests_per_s(self) -> float:
        """Finished requests per second of the run."""
        return len(self.ttft_s) / self.duration_s

    def percentile(self, metric: str, at: float) -> float:
        """A percentile of `ttft`, `tpot` or `e2e` in seconds; requests of one token have no TPOT."""
        values = getattr(self, f"{metric}_s")
        values = values[np.isfinite(values)]
        return float(np.percentile(values, at)) if values.size else 0.0

    def mean(self, metric: str) -> float:
        """Mean of `ttft`, `tpot` or `e2e` in seconds."""
        values = getattr(self, f"{metric}_s")
        values = values[np.isfinite(values)]
        return float(values.mean()) if values.size else 0.0

    def goodput_per_s(self, targets: Targets) -> float:
        """Requests per second that met every target."""
        good = np.ones(len(self.ttft_s), dtype=bool)
        for metric, limit in targets.limits().items():
            values = getattr(self, f"{metric}_s")
            good &= ~(values > limit)
        return float(good.sum()) / self.duration_s

    def meets(self, targets: Targets) -> bool:
        """Whether every target holds at its percentile."""
        return all(self.percentile(metric, targets.percentile) <= limit for metric, limit in targets.limits().items())


def simulate(deployment: Deployment, trace: Trace, concurrency: int | None = None, begun: int = 0) -> Outcome:
    """Run a trace through a deployment: at its arrival times, or in a closed loop of `concurrency` requests.

    A request goes to the worker with the fewest requests in hand, of the pool whose turn it is where pools have
    weights. In a closed loop a request is sent when another one ends. The first requests, `begun` of them, are on their
    way already: they skip prefill workers, and no outcome counts them.
    """
    run = Simulation(deployment, trace, concurrency, begun)
    run.advance()
    return run.outcome()


def simulate_within(
    deployment: Deployment, trace: Trace, targets: Targets, concurrency: int | None = None, begun: int = 0
) -> Outcome | None:
    """The same; None, as soon as it is certain, where a target is missed."""
    run = Simulation(deployment, trace, concurrency, begun)
    misses = Misses(run.requests, targets, run.workers[0].table.cost.request_s)
    found = run.outcome() if run.advance(misses) else None
    return found if found is not None and found.meets(targets) else None


def simulate_load(deployment: Deployment, load: Load, requests: int | None = None) -> Outcome:
    """Run a sampled load: `load.rounds` times its concurrency in all, or 2,000 requests of an open one."""
    if load.concurrency is not None:
        return simulate(deployment, load.sample(requests or load.concurrency * load.rounds), load.concurrency)
    return simulate(deployment, load.sample(requests or 2000))


Coming = tuple[float, int]  # when, and which request


@dataclass(frozen=True, slots=True)
class Side:
    """Workers that requests arrive at, whose turn it is, and how many workers of the run are before them."""

    workers: list[Worker]
    turns: Turns
    offset: int


class Simulation:
    """One run of a trace through a deployment."""

    def __init__(self, deployment: Deployment, trace: Trace, concurrency: int | None, begun: int = 0) -> None:
        self.deployment, self.trace, self.begun = deployment, trace, begun
        self.requests = Requests(trace, begun)
        front = self._workers(deployment.aggregated, True, True) + self._workers(deployment.prefill, True, False)
        self.front = Side(front, Turns((*deployment.aggregated, *deployment.prefill)), 0)
        self.back = Side(self._workers(deployment.decode, False, True), Turns(deployment.decode), len(front))
        self.workers = [*front, *self.back.workers]
        self.events: list[tuple[float, int, int, int]] = []  # (time, order, kind or stamp, who)
        self.order = count()
        self.handed: list[Coming] = []
        self.next = 0
        self.closed = concurrency is not None
        if concurrency is not None:
            self.requests.arrival = [0.0] * len(trace)
            for _ in range(min(concurrency, len(trace))):
                self._send(0.0)

    def _workers(self, pools: Sequence[Pool], prefills: bool, decodes: bool) -> list[Worker]:
        return [
            Worker(pool.table, pool.schedule, self.requests, prefills=prefills, decodes=decodes)
            for pool in pools
            for _ in range(pool.workers)
        ]

    def _send(self, now: float) -> None:
        """Put the next request of a closed loop among the events."""
        if self.next < len(self.requests.arrival):
            self.requests.arrival[self.next] = now
            heappush(self.events, (now, next(self.order), _ARRIVAL, self.next))
            self.next += 1

    def advance(self, misses: Misses | None = None) -> bool:
        """Run to the end, or until too many requests have missed a target: whether it came to its end."""
        return self._advance_closed(misses) if self.closed else self._advance_open(misses)

    def _advance_closed(self, misses: Misses | None) -> bool:
        workers, events = self.workers, self.events
        while events:
            now, _, stamp, who = heappop(events)
            if stamp == _ARRIVAL and self.front.workers:
                self._arrive(who, now, self.front)
            elif stamp == _ARRIVAL:
                self.requests.first[who] = now
                self._arrive(who, now, self.back)
            elif stamp == _HANDED:
                self._arrive(who, now, self.back)
            elif workers[who].stamp == stamp and self._finish(workers[who], who, now, misses):
                return False
        return True

    def _advance_open(self, misses: Misses | None) -> bool:
        """Phase by phase, as no prompt waits for what decodes, and pool by pool where weights share the requests."""
        coming: list[Coming] = list(zip(self.requests.arrival, range(len(self.trace)), strict=True))
        if self.front.workers:
            if not self._advance_side(self.front, coming, misses):
                return False
            coming = sorted(self.handed)
            if misses is not None and misses.late(self.requests, [request for _, request in coming]):
                return False
        else:
            self.requests.first = list(self.requests.arrival)
        return not coming or self._advance_side(self.back, coming, misses)

    def _advance_side(self, side: Side, coming: Sequence[Coming], misses: Misses | None) -> bool:
        turns = side.turns
        if not turns.weighted:
            return self._advance_pool(side, None, coming, misses)
        parts: list[list[Coming]] = [[] for _ in turns.ranges]
        for each in coming:
            parts[turns.next_pool()].append(each)
        return all(self._advance_pool(side, pool, part, misses) for pool, part in enumerate(parts))

    def _advance_pool(self, side: Side, pool: int | None, coming: Sequence[Coming], misses: Misses | None) -> bool:
        """Requests of a side, or of one of its pools, which arrive before anything else that happens at the time."""
        start, end = (0, len(side.workers)) if pool is None else side.turns.ranges[pool]
        ended = self._advance_alone(side.workers[start], coming, misses) if end - start == 1 else None
        if ended is not None:
            return ended
        for now, request in coming:
            if self._lost_before(now, misses):
                return False
            self._arrive(request, now, side, pool)
        return not self._lost_before(_NEVER, misses)

    def _lost_before(self, time: float, misses: Misses | None) -> bool:
        """Carry out what happens before a time; whether the run is lost with that."""
        workers, events = self.workers, self.events
        while events and events[0][0] < time:
            now, _, stamp, who = heappop(events)
            if workers[who].stamp == stamp and self._finish(workers[who], who, now, misses):
                return True
        return False

    def _advance_alone(self, worker: Worker, coming: Sequence[Coming], misses: Misses | None) -> bool | None:
        """The same for one worker, whose requests go through it in order; None where one would have to be preempted."""
        requests, left = self.requests, dict(misses.left) if misses is not None else {}
        ahead = [each for each in coming if each[1] < self.begun] if not worker.decodes else []
        coming = coming[len(ahead) :]
        chosen = [request for _, request in coming]
        part = requests.part(chosen)
        run = Alone(worker, part, [now for now, _ in coming])
        ended = run.advance(partial(misses.lost, part) if misses is not None else None)
        if ended is None and misses is not None:
            misses.left = left
        if ended:
            for request, first, finish in zip(chosen, part.first, part.finish, strict=True):
                requests.first[request], requests.finish[request] = first, finish
            worker.busy_s = run.busy_s
            for now, request in ahead:
                requests.first[request] = now
            self.handed += ahead
            self._hand_over(chosen if not worker.decodes else ())
        return ended

    def _arrive(self, request: int, now: float, side: Side, pool: int | None = None) -> None:
        turns = side.turns
        place = turns.next() if pool is None else turns.least(pool)
        worker = side.workers[place]
        if request < self.begun and not worker.decodes:
            self.requests.first[request] = now
            self.handed.append((now, request))
            return
        worker.waiting.append(request)
        turns.hands[place] += 1
        before = worker.end
        end = worker.wake(now) if before == _NEVER else worker.interrupt(now)
        if end != before:
            worker.stamp = stamp = next(self.order)
            heappush(self.events, (end, stamp, stamp, side.offset + place))

    def _finish(self, worker: Worker, who: int, now: float, misses: Misses | None) -> bool:
        """Carry out what a worker has done and let it go on; whether the run is lost with that."""
        done = worker.commit()
        if done and self._released(worker, who, done, misses):
            return True
        end = worker.plan(now)
        if end != _NEVER:
            worker.stamp = stamp = next(self.order)
            heappush(self.events, (end, stamp, stamp, who))
        return False

    def _released(self, worker: Worker, who: int, done: Sequence[int], misses: Misses | None) -> bool:
        """Pass on or end what has left a worker; whether the run is lost with that."""
        side = self.front if who < self.back.offset else self.back
        side.turns.hands[who - side.offset] -= len(done)
        if not worker.decodes:
            self._hand_over(done)
            done = [request for request in done if self.requests.output[request] <= 1]
        for _ in done if self.closed else ():
            self._send(worker.end)
        return misses is not None and misses.lost(self.requests, done)

    def _hand_over(self, done: Sequence[int]) -> None:
        """Send the caches of prompts on their way to the workers that decode; first tokens come with them."""
        requests, start, token = self.requests, self.deployment.transfer_start_s, self.deployment.transfer_token_s
        for request in done:
            if requests.output[request] > 1:
                ready = requests.first[request] + (start + token * requests.prompt[request])
                requests.first[request] = ready
                if self.closed:
                    heappush(self.events, (ready, next(self.order), _HANDED, request))
                else:
                    self.handed.append((ready, request))

    def outcome(self) -> Outcome:
        """Latencies and rates of a run that came to its end."""
        trace, workers = self.trace.part(slice(self.begun, None)), self.workers
        times = (self.requests.arrival, self.requests.first, self.requests.finish)
        arrival, first, finish = (np.array(each[self.begun :]) for each in times)
        request_s = workers[0].table.cost.request_s
        with np.errstate(divide="ignore", invalid="ignore"):
            tpot = np.where(trace.output_tokens > 1, (finish - first) / (trace.output_tokens - 1), np.nan)
        duration = float(finish.max()) - min(self.requests.arrival)
        return Outcome(
            ttft_s=first - arrival + request_s,
            tpot_s=tpot,
            e2e_s=finish - arrival + request_s,
            output_tokens=trace.output_tokens,
            prompt_tokens=trace.prompt_tokens,
            duration_s=duration,
            preemptions=sum(worker.preemptions for worker in workers),
            busy_share=sum(worker.busy_s for worker in workers) / (duration * len(workers)),
        )
