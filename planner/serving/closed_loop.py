"""The best deployment for a closed loop: so many requests always in hand, as published benchmarks run it.

Copies share the requests evenly, so the closed form gives every deployment's throughput and latencies at once; the
most promising are simulated in turn until no other can beat the best of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from ..costs.serving.formulas import Array
from ..errors import Infeasible
from ..workload.serving import Trace
from .deployments import PoolOf, Proposal, deployment, hand_over
from .loop_bound import throughput_bound
from .open_loop import Found, nearest_target, value_of
from .problem import Problem
from .simulation import Outcome, simulate, simulate_within
from .steady import Lengths, batched_prefill_seconds, lone_prefill_seconds, steady_state
from .workers import (
    HAND_POINTS,
    WorkerType,
    decode_rates,
    hand_grid,
    prefill_rate,
)

TRIES = 10
RESCUES = 40
MARGIN = 1.05
KEPT = 6
MOST_REQUESTS = 6000


@dataclass(frozen=True)
class Expectation:
    """What the closed form says of a deployment at the job's concurrency.

    `first_s` is how long all requests of the first round, which come at once, take to prefill.
    """

    proposal: Proposal
    ttft_s: float
    tpot_s: float
    tokens_per_s: float
    first_s: float

    def excess(self, problem: Problem) -> float:
        """The largest ratio of an expected latency to its target.

        A percentile beyond the later rounds falls in the first, whose waits grow evenly up to `first_s`.
        """
        targets = problem.job.targets
        place = 1 - (1 - targets.percentile / 100) * problem.job.load.rounds
        ttft = max(self.ttft_s, place * self.first_s)
        e2e = ttft + self.tpot_s * (problem.setting.lengths.osl - 1)
        values = {"ttft": ttft, "tpot": self.tpot_s, "e2e": e2e}
        return max((values[name] / limit for name, limit in targets.limits().items()), default=0.0)


def search_concurrency(problem: Problem) -> Found:
    """The best deployment for the job's concurrency. Raises Infeasible with the nearest attainable targets."""
    users = problem.job.load.concurrency or 1
    expected = [*_aggregated(problem, users), *_disaggregated(problem, users)]
    rising = problem.job.goal == "throughput"
    good = [each for each in expected if each.excess(problem) <= MARGIN]
    ranked = sorted(good, key=lambda each: (_score(problem, each), each.proposal.devices, each.proposal.label()))
    bound = _bound(problem, users)
    best: Found | None = None
    lost: list[tuple[str, float, str]] = []
    nearest: tuple[float, str] = (np.inf, "")
    for tries, each in enumerate(_turns(problem, ranked, expected)):
        limit = _score(problem, each) - 0.1 * abs(_score(problem, each))
        if best is not None and (tries >= TRIES or limit >= (-best.value if rising else best.value)):
            break
        outcome = _run_within(problem, each.proposal, users, 1.0 if best is not None else max(nearest[0], 1.0))
        if outcome is None or not outcome.meets(problem.job.targets):
            lost.append((each.proposal.label(), abs(_score(problem, each)), "expected; misses a target in simulation"))
            if outcome is not None:
                nearest = min(nearest, (_excess(problem, outcome), _reached(problem, each.proposal, outcome)))
            continue
        value = value_of(problem, each.proposal, outcome)
        if best is None or (value > best.value if rising else value < best.value):
            if best is not None:
                lost.append((best.proposal.label(), best.value, "another does better"))
            best = Found(each.proposal, outcome, value, bound, len(expected), len(good))
        else:
            lost.append((each.proposal.label(), value, "another does better"))
    if best is None:
        raise Infeasible(_nearest(problem, nearest[1], users))
    reached = max(bound, best.value) if rising else min(bound, best.value)
    return replace(best, bound=reached, alternatives=tuple(lost[:5]))


def _turns(problem: Problem, ranked: list[Expectation], expected: list[Expectation]) -> list[Expectation]:
    """The most promising by the objective, then, as long as none of them meets the targets, those nearest to them."""
    first = ranked[:TRIES]
    chosen = {id(each) for each in first}
    rest = [each for each in expected if id(each) not in chosen]
    rest.sort(key=lambda each: (each.excess(problem), each.proposal.label()))
    return first + rest[:RESCUES]


def _excess(problem: Problem, outcome: Outcome) -> float:
    """The largest ratio of a simulated latency to its target."""
    targets = problem.job.targets
    limits = targets.limits().items()
    return max((outcome.percentile(name, targets.percentile) / limit for name, limit in limits), default=0.0)


def run(problem: Problem, proposal: Proposal, users: int) -> Outcome:
    """A deployment in a closed loop of that many requests."""
    problem.simulated += 1
    return simulate(deployment(proposal, problem.setting, problem.topology), _load(problem, users), users)


def _run_within(problem: Problem, proposal: Proposal, users: int, excess: float) -> Outcome | None:
    """The same; None as soon as it is certain that a target is exceeded so many times."""
    if not np.isfinite(excess):
        return run(problem, proposal, users)
    problem.simulated += 1
    joined = deployment(proposal, problem.setting, problem.topology)
    return simulate_within(joined, _load(problem, users), problem.job.targets.scaled(excess), users)


def _load(problem: Problem, users: int) -> Trace:
    rounds = max(2, min(problem.job.load.rounds, MOST_REQUESTS // users))
    return problem.trace if problem.trace is not None else problem.job.load.sample(users * rounds)


def _score(problem: Problem, each: Expectation) -> float:
    """Lower is better."""
    goal = problem.job.goal
    if goal == "throughput":
        return -each.tokens_per_s
    if goal == "latency":
        return each.ttft_s + each.tpot_s * (problem.setting.lengths.osl - 1)
    if goal == "energy":
        return (each.proposal.watts(1.0) or np.inf) / each.tokens_per_s
    if goal == "cost":
        return each.proposal.usd_per_hour() or np.inf
    return float(each.proposal.devices)


@dataclass(frozen=True)
class _Shares:
    """One kind of worker by how many workers the requests in hand are shared among, from 1 to as many as there are
    devices: what the closed form says of each of them."""

    worker: WorkerType
    requests_per_s: Array
    ttft_s: Array
    tpot_s: Array
    first_s: Array


def _shares(problem: Problem, users: int) -> Iterator[_Shares]:
    """Every kind of worker in turn."""
    lengths, rounds = problem.setting.lengths, float(problem.job.load.rounds)
    among = np.arange(1, sum(problem.supply) + 1)
    each = np.maximum(users / among, 1.0)
    for part, rows in problem.stack.blocks(len(among)):
        found = steady_state(rows.cost, rows.schedule, lengths, each, rounds=rounds)
        rates = found.requests_per_s * np.minimum(1.0, users / among)
        for place, worker in enumerate(problem.types[part]):
            first = each * batched_prefill_seconds(worker.cost, worker.schedule, lengths)
            yield _Shares(worker, rates[place], found.ttft_s[place], found.tpot_s[place], first)


def _aggregated(problem: Problem, users: int) -> list[Expectation]:
    """Equal copies on as many devices as there are (any number, where fewer may be better), and mixes of two kinds.

    A mix fills what equal copies leave over; requests go where fewest are in hand, so every worker holds the same.
    """
    if problem.job.mode not in ("auto", "aggregated"):
        return []
    fewer = problem.job.goal in ("gpus", "cost", "energy", "latency")
    found: list[Expectation] = []
    lone: list[tuple[float, _Shares]] = []
    for shares in _shares(problem, users):
        most = problem.supply[problem.kinds.index(shares.worker.kind)] // shares.worker.devices
        if not most:
            continue
        found += [_expect(problem, ((shares, number),)) for number in (range(1, most + 1) if fewer else (most,))]
        lone.append((found[-1].tokens_per_s / found[-1].proposal.devices, shares))
    if not fewer:
        found += _mixes(problem, lone)
    return found


def _mixes(problem: Problem, lone: Sequence[tuple[float, _Shares]]) -> list[Expectation]:
    ranked = sorted(lone, key=lambda each: (-each[0], each[1].worker.label()))[: 2 * KEPT]
    found: list[Expectation] = []
    for (_, one), (_, two) in permutations(ranked, 2):
        first, second = one.worker, two.worker
        supply = problem.supply[problem.kinds.index(first.kind)]
        other = problem.supply[problem.kinds.index(second.kind)]
        same = second.kind is first.kind
        for number in range(1, supply // first.devices + 1):
            rest = other - number * first.devices if same else other
            count = rest // second.devices
            if count > 0 and (not same or rest - count * second.devices < min(first.devices, second.devices)):
                found.append(_expect(problem, ((one, number), (two, count))))
    return found


def _expect(problem: Problem, parts: Sequence[tuple[_Shares, int]]) -> Expectation:
    among = sum(number for _, number in parts) - 1
    rates, ttft, tpot, first = 0.0, 0.0, 0.0, 0.0
    for each, number in parts:
        share = float(each.requests_per_s[among]) * number
        rates += share
        ttft += share * float(each.ttft_s[among])
        tpot += share * float(each.tpot_s[among])
        first = max(first, float(each.first_s[among]))
    pools = tuple(PoolOf(each.worker, "aggregated", number) for each, number in parts)
    return Expectation(Proposal(pools), ttft / rates, tpot / rates, rates * problem.setting.lengths.osl, first)


def _disaggregated(problem: Problem, users: int) -> list[Expectation]:
    """Every split of the devices between the best prefill and the best decode workers."""
    lengths, targets = problem.setting.lengths, problem.job.targets
    if problem.job.mode not in ("auto", "disaggregated") or lengths.osl <= 1:
        return []
    decoding = problem.stack.each(HAND_POINTS, lambda rows: decode_rates(rows, lengths, targets))
    decodes = _best(problem, list(zip(decoding, problem.types, strict=True)))
    prefills = _best(problem, [(prefill_rate(worker, lengths, targets), worker) for worker in problem.types])
    found: list[Expectation] = []
    for decode in decodes:
        curve = _decode_curve(decode, lengths)
        for prefill in prefills:
            found += _expect_splits(problem, (prefill, decode), curve, users)
    return found


def _best(problem: Problem, rated: Sequence[tuple[float, WorkerType]]) -> list[WorkerType]:
    """The best by rate per device, and the best of every number of devices."""
    ranked = sorted((each for each in rated if each[0] > 0), key=lambda each: -each[0] / each[1].devices)
    kept = [worker for _, worker in ranked[:KEPT]]
    sizes: set[tuple[int, int]] = set()
    for _, worker in ranked:
        key = (worker.kind.index, worker.devices)
        if key not in sizes and len(kept) < 2 * KEPT:
            sizes.add(key)
            kept += [worker] if worker not in kept else []
    return kept


def _decode_curve(worker: WorkerType, lengths: Lengths) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    grid = hand_grid(worker)
    held = lengths.isl + (lengths.osl if worker.schedule.reserve_output else lengths.osl / 2)
    grid = grid[: max(1, int((grid * held <= worker.schedule.cache_tokens).sum()))]
    return grid, worker.cost.decode_seconds(grid, lengths.context) / worker.cost.tokens_per_step


def _splits(problem: Problem, prefill: WorkerType, decode: WorkerType) -> NDArray[np.int64]:
    """Numbers of prefill and of decode workers, a row each: all decoders that still fit, or any number of them where
    fewer may be better."""
    fewer = problem.job.goal in ("gpus", "cost", "energy")
    same = prefill.kind is decode.kind
    supply = problem.supply[problem.kinds.index(prefill.kind)]
    other = problem.supply[problem.kinds.index(decode.kind)]
    rows: list[tuple[int, int]] = []
    for number in range(1, supply // prefill.devices + 1):
        most = (other - number * prefill.devices if same else other) // decode.devices
        rows += [(number, count) for count in range(1 if fewer else max(most, 1), most + 1)]
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


def _expect_splits(
    problem: Problem, workers: tuple[WorkerType, WorkerType], curve: tuple[Array, Array], users: int
) -> list[Expectation]:
    """Little's law around the loop: users = rate · (TTFT + hand-over + decode), decoders at one point of `curve`."""
    prefill, decode = workers
    lengths, (grid, step) = problem.setting.lengths, curve
    numbers = _splits(problem, prefill, decode)
    first, second = numbers[:, :1], numbers[:, 1:]
    decoding = step * (lengths.osl - 1)
    capacity = prefill_rate(prefill, lengths, problem.job.targets) * first / 0.95
    rate = np.minimum(second * grid / decoding, 0.97 * capacity)
    busy = rate / capacity
    lone = lone_prefill_seconds(prefill.cost, prefill.schedule, lengths) * (1 + prefill.cost.fill)
    exposed = hand_over(problem.setting, problem.topology, prefill, decode).exposed_s
    exposed += problem.setting.engine.hand_over_s
    ttft = lone + prefill.cost.request_s + exposed + lone * busy / (2 * np.maximum(1 - busy, 0.03))
    inside = rate * (ttft + decoding)
    at = np.minimum((inside < users).sum(axis=1), len(grid) - 1)
    row = np.arange(len(numbers))
    waited = ttft[row, at] + np.maximum(0.0, users / inside[row, at] - 1) * (ttft[row, at] + decoding[at])
    tokens = np.minimum(users / (waited + decoding[at]), rate[row, at]) * lengths.osl
    bursts = users / first[:, 0] * batched_prefill_seconds(prefill.cost, prefill.schedule, lengths)
    figures = zip(*(each.tolist() for each in (numbers, waited, step[at], tokens, bursts)), strict=True)
    return [
        Expectation(Proposal((PoolOf(prefill, "prefill", one), PoolOf(decode, "decode", two))), *rest)
        for (one, two), *rest in figures
    ]


def _bound(problem: Problem, users: int) -> float:
    """What no deployment of these workers can beat: for throughput see `throughput_bound`, otherwise the value of the
    smallest worker, or of the fastest one alone."""
    lengths, goal = problem.setting.lengths, problem.job.goal
    if goal == "throughput":
        return throughput_bound(problem, users) * lengths.osl
    if goal == "latency":
        lone = [
            float(worker.cost.decode_seconds(1.0, lengths.context)) / worker.cost.tokens_per_step
            for worker in problem.types
        ]
        return min(lone) * max(lengths.osl - 1, 0)
    if goal == "gpus":
        return float(min(worker.devices for worker in problem.types))
    if goal == "cost":
        return min((worker.kind.usd_per_hour or 0.0) * worker.devices for worker in problem.types)
    return 0.0


def _reached(problem: Problem, proposal: Proposal, outcome: Outcome) -> str:
    """In words, what a deployment reaches of what the targets ask."""
    at = problem.job.targets.percentile
    reached = (f"{name} {outcome.percentile(name, at) * 1e3:.3g} ms" for name in problem.job.targets.limits())
    return f"{', '.join(reached)} with {proposal.label()}"


def _nearest(problem: Problem, reached: str, users: int) -> str:
    """The targets that the deployment nearest to them reaches at this concurrency."""
    if not reached:
        return nearest_target(problem)
    targets = problem.job.targets
    asked = ", ".join(f"{name} {limit * 1e3:g} ms" for name, limit in targets.limits().items())
    return (
        f"{problem.model.name} on {problem.topology.name}: {asked} at p{targets.percentile:g} cannot be met "
        f"with {users} requests in hand; the nearest attainable is {reached}"
    )
