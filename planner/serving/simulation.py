"""Discrete-event simulation of a deployment: workers with continuous batching, routing, and the phases' hand-over."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

import numpy as np
from numpy.typing import NDArray

from ..workload.serving import Load, Metric, Targets, Trace
from .alone import Alone
from .lone import allowed_misses
from .running import Requests
from .schedule import Schedule, StepTable
from .worker import Worker

_ARRIVAL, _HANDED = -1, -2  # kinds of events; the others carry the stamp of a worker's plan
_NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal workers; `weight` is the pool's share of new requests, 0 where they go to whoever has fewest in hand."""

    table: StepTable
    schedule: Schedule
    workers: int
    weight: float = 0.0


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
    found = run.outcome() if run.advance(Misses(run, targets)) else None
    return found if found is not None and found.meets(targets) else None


def simulate_load(deployment: Deployment, load: Load, requests: int | None = None) -> Outcome:
    """Run a sampled load: `load.rounds` times its concurrency in all, or 2,000 requests of an open one."""
    if load.concurrency is not None:
        return simulate(deployment, load.sample(requests or load.concurrency * load.rounds), load.concurrency)
    return simulate(deployment, load.sample(requests or 2000))


class Turns:
    """Whose turn it is: pools take requests in proportion to their weights, each when it is furthest behind, and of its
    workers the one with the fewest in hand; `hands` are those of every worker."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        total = sum(pool.weight for pool in pools)
        weighted = len(pools) > 1 and all(pool.weight > 0 for pool in pools)
        self.shares = [pool.weight / total for pool in pools] if weighted else []
        self.behind = [0.0] * len(pools)
        ends = np.cumsum([pool.workers for pool in pools]).tolist()
        self.ranges = [(end - pool.workers, end) for pool, end in zip(pools, ends, strict=True)]
        self.hands = [0] * sum(pool.workers for pool in pools)

    def next(self) -> int:
        """The worker that takes the next request."""
        hands = self.hands
        if not self.shares:
            return hands.index(min(hands))
        behind = self.behind
        for place, share in enumerate(self.shares):
            behind[place] += share
        chosen = behind.index(max(behind))
        behind[chosen] -= 1
        start, end = self.ranges[chosen]
        return hands.index(min(hands[start:end]), start)


class Misses:
    """Counts requests that miss a target until no percentile of the whole run can meet it any more."""

    def __init__(self, run: Simulation, targets: Targets) -> None:
        self.run, limits = run, targets.limits()
        self.ttft_s, self.tpot_s, self.e2e_s = (limits.get(name, math.inf) for name in ("ttft", "tpot", "e2e"))
        self.request_s = (run.front + run.back)[0].table.cost.request_s
        several = sum(each > 1 for each in run.requests.output[run.begun :])
        counted = {name: several if name == "tpot" else len(run.arrival) - run.begun for name in limits}
        self.left = {name: allowed_misses(n, targets.percentile) for name, n in counted.items() if n}

    def lost(self, done: Sequence[int]) -> bool:
        """Whether the run is lost with these requests, which have ended."""
        run, requests = self.run, self.run.requests
        for request in done:
            if request < run.begun:
                continue
            arrival, first, finish = run.arrival[request], requests.first[request], requests.finish[request]
            steps = run.trace_output[request] - 1
            if (
                (first - arrival + self.request_s > self.ttft_s and self._lost("ttft"))
                or (finish - arrival + self.request_s > self.e2e_s and self._lost("e2e"))
                or (steps and (finish - first) / steps > self.tpot_s and self._lost("tpot"))
            ):
                return True
        return False

    def _lost(self, name: Metric) -> bool:
        self.left[name] -= 1
        return self.left[name] <= 0


class Simulation:
    """One run of a trace through a deployment."""

    def __init__(self, deployment: Deployment, trace: Trace, concurrency: int | None, begun: int = 0) -> None:
        self.deployment, self.trace, self.begun = deployment, trace, begun
        self.trace_output: list[int] = trace.output_tokens.tolist()
        self.requests = Requests(trace.prompt_tokens.tolist(), self.trace_output, trace.cached_tokens.tolist())
        self.front = self._workers(deployment.aggregated, True, True) + self._workers(deployment.prefill, True, False)
        self.turns = Turns((*deployment.aggregated, *deployment.prefill))
        self.back_turns = Turns(deployment.decode)
        self.back = self._workers(deployment.decode, False, True)
        self.workers = self.front + self.back
        self.events: list[tuple[float, int, int, int]] = []  # (time, order, kind or stamp, who)
        self.order = count()
        self.arrival: list[float] = trace.arrival_s.tolist()
        self.next = 0
        self.closed = concurrency is not None
        if concurrency is not None:
            self.arrival = [0.0] * len(trace)
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
        if self.next < len(self.arrival):
            self.arrival[self.next] = now
            heappush(self.events, (now, next(self.order), _ARRIVAL, self.next))
            self.next += 1

    def advance(self, misses: Misses | None = None) -> bool:
        """Run to the end, or until too many requests have missed a target: whether it came to its end.

        Requests of an open loop arrive before anything else that happens at the same time.
        """
        if len(self.workers) == 1 and not self.closed:
            return self._advance_alone(self.workers[0], misses)
        workers, events, arrival = self.workers, self.events, self.arrival
        number = 0 if self.closed else len(arrival)
        while True:
            if self.next < number and (not events or arrival[self.next] <= events[0][0]):
                self.next += 1
                self._enter(self.next - 1, arrival[self.next - 1])
                continue
            if not events:
                return True
            now, _, stamp, who = heappop(events)
            if stamp == _ARRIVAL:
                self._enter(who, now)
            elif stamp == _HANDED:
                self._arrive(who, now, self.back, self.back_turns, len(self.front))
            elif workers[who].stamp == stamp and self._finish(workers[who], who, now, misses):
                return False

    def _advance_alone(self, worker: Worker, misses: Misses | None) -> bool:
        """The same for one worker, whose requests go through it in order as long as none is preempted."""
        left = dict(misses.left) if misses is not None else {}
        self._forget()
        run = Alone(worker, self.arrival)
        ended = run.advance(misses.lost if misses is not None else None)
        if ended is not None:
            worker.busy_s = run.busy_s
            return ended
        self._forget()
        if misses is not None:
            misses.left = left
        return self._walk_alone(worker, misses)

    def _forget(self) -> None:
        """No token has come yet; where nothing computes prompts, they are there with the request."""
        self.requests.first = [math.nan] * len(self.arrival) if self.front else list(self.arrival)

    def _walk_alone(self, worker: Worker, misses: Misses | None) -> bool:
        """The same for one worker that may preempt: it needs no queue of events, its own next step is the next."""
        arrival, waiting = self.arrival, worker.waiting
        now, place, number = 0.0, 0, len(arrival)
        while True:
            end = worker.plan(now)
            if end == _NEVER:
                if place == number:
                    return True
                end = arrival[place]
            elif place < number and arrival[place] <= end:
                waiting.append(place)
                place += 1
                end = worker.interrupt(arrival[place - 1])
            if place < number and arrival[place] <= end:
                begun, place = place, bisect_right(arrival, end, place)
                waiting.extend(range(begun, place))
            if worker.end != _NEVER:
                done = worker.commit()
                if done and misses is not None and misses.lost(done):
                    return False
            now = end

    def _enter(self, request: int, now: float) -> None:
        if self.front:
            self._arrive(request, now, self.front, self.turns)
        else:
            self.requests.first[request] = now
            self._arrive(request, now, self.back, self.back_turns)

    def _arrive(self, request: int, now: float, workers: list[Worker], turns: Turns, offset: int = 0) -> None:
        place = turns.next() if len(workers) > 1 else 0
        worker = workers[place]
        if request < self.begun and not worker.decodes:
            self.requests.first[request] = now
            self._arrive(request, now, self.back, self.back_turns, len(self.front))
            return
        worker.waiting.append(request)
        turns.hands[place] += 1
        before = worker.end
        end = worker.wake(now) if before == _NEVER else worker.interrupt(now)
        if end != before:
            worker.stamp = stamp = next(self.order)
            heappush(self.events, (end, stamp, stamp, offset + place))

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
        requests, front = self.requests, len(self.front)
        turns, place = (self.turns, who) if who < front else (self.back_turns, who - front)
        turns.hands[place] -= len(done)
        if worker.decodes:
            for _ in done if self.closed else ():
                self._send(worker.end)
            return misses is not None and misses.lost(done)
        start, token = self.deployment.transfer_start_s, self.deployment.transfer_token_s
        for request in done:
            if requests.output[request] <= 1:
                if self.closed:
                    self._send(worker.end)
                if misses is not None and misses.lost((request,)):
                    return True
            else:
                ready = requests.first[request] + (start + token * requests.prompt[request])
                requests.first[request] = ready
                heappush(self.events, (ready, next(self.order), _HANDED, request))
        return False

    def outcome(self) -> Outcome:
        """Latencies and rates of a run that came to its end."""
        trace, workers = self.trace.part(slice(self.begun, None)), self.workers
        times = (self.arrival, self.requests.first, self.requests.finish)
        arrival, first, finish = (np.array(each[self.begun :]) for each in times)
        request_s = workers[0].table.cost.request_s
        with np.errstate(divide="ignore", invalid="ignore"):
            tpot = np.where(trace.output_tokens > 1, (finish - first) / (trace.output_tokens - 1), np.nan)
        duration = float(finish.max()) - min(self.arrival)
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
