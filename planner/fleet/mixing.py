"""Replicas under the mix of requests that a plan routes to them, in simulation: percentiles, and what they carry less.

A plan adds loads up: a share of a replica for each class. Mixed, long prompts wait before short ones, so percentiles
may miss the targets that every class keeps alone. Such a replica's throughputs are lowered to what it carries of the
mix, and the fleet is planned again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from shardwright.solvers import Stop, relative_gap

from ..errors import LimitReached
from ..plan.fleet import Latencies, Rental, Replica
from ..serving.deployments import Link
from ..serving.probe import steady
from ..serving.replica import PoolUse, replica_outcome
from ..serving.simulation import Outcome
from ..workload.fleet import ServedModel
from ..workload.serving import LengthBin, Load
from .candidates import Candidate
from .columns import Columns, serving_job
from .machines import machine_topology
from .network import uplink
from .offers import name_of
from .planning import CLOSE, PROOF_GAP, Answer, packs, rented
from .program import PROOF

TURNS = 24
HALVINGS = 6
LEAST_SHARE = 0.02
LOWERED = "throughputs of {names} were lowered to what they carry in simulation of the mix routed to them"
MISSED = (
    "fleet: the mix routed to {names} still misses a target in simulation, throughputs lowered {turns} times; "
    "relax the targets, or leave the simulation out (simulate: false)"
)

UNTRIED = (
    "replicas that were in none of the plans simulated may carry as much as the cost model says: the bound is that of "
    "a fleet with them"
)


class Renting(Protocol):
    """Finds the best fleet of the replicas made, each lowered to what is known of it, until a search stops."""

    made: list[Candidate]

    def __call__(self, lowered: Callable[[Candidate], Candidate], stop: Stop) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Share:
    """Requests per second that reach one replica of a kind, in all and of every class, and their sizes."""

    rate: float
    lengths: tuple[LengthBin, ...]
    rates: tuple[float, ...] = ()


def shares_of(rental: Rental) -> list[Share | None]:
    """What reaches one replica of every kind in the hour where that is most, as if its units were always there."""
    hours = [(rental.routing, [each.count for each in rental.rented], 1.0)]
    if rental.schedule is not None:
        most = max(hour.multiple for hour in rental.schedule.hours)
        hours = [(hour.routing, list(hour.counts), hour.multiple / most) for hour in rental.schedule.hours]
    found: list[Share | None] = []
    for kind, replica in enumerate(rental.replicas):
        best, load = None, 0.0
        for routing, counts, factor in hours:
            rows = zip(rental.rented, counts, strict=True)
            room = sum(count * each.copies * each.available for each, count in rows if each.replica == kind)
            rates = [
                share * factor * each.rate_per_s for share, each in zip(routing[kind], rental.classes, strict=True)
            ]
            busy = sum(rate / most for rate, most in zip(rates, replica.requests_per_s, strict=True) if rate > 0)
            if room and busy / room > load:
                load = busy / room
                best = Share(sum(rates) / room, _lengths(rental, rates), tuple(each / room for each in rates))
        found.append(best)
    return found


def _lengths(rental: Rental, rates: Sequence[float]) -> tuple[LengthBin, ...]:
    return tuple(
        LengthBin(isl=each.isl or 1, osl=each.osl or 1, weight=rate)
        for each, rate in zip(rental.classes, rates, strict=True)
        if rate > 0
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """A fleet that keeps the targets under the mix of each of its kinds, and what is seen of them.

    `outside` is the best value of a fleet whose replicas were not looked into further, None where all were.
    """

    answer: Answer
    rental: Rental
    latencies: list[Latencies | None]
    outside: float | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A pool of a replica, wherever it stands."""

    model: str
    phase: str
    name: str


@dataclass
class Settling:
    """Plans made and simulated one after the other; what was learnt of replicas, and the best fleet that held.

    `carried` is the share of what a pool was made with that it was seen to carry, 1 where it kept the targets: a
    prefill pool answers for TTFT and a decode pool for TPOT, whatever stands beside it.
    """

    columns: Columns
    rent: Renting
    best: Settled | None = None
    carried: dict[Part, float] = field(default_factory=dict)

    def settle(self, turns: int = TURNS) -> None:
        """Lower throughputs that do not hold under the mix, plan after plan, until one cannot be bettered.

        A plan counts on replicas as they were seen, and on others as they were made, so that it costs no more than any
        fleet of them does. Where none of so many turns holds, others are counted on as the like of them that were seen,
        and the bound stays. Raises LimitReached where as many plans more find no fleet.
        """
        outside, stop = None, self._first_stop()
        for turn in range(2 * turns):
            hopeful = turn < turns
            answer = self.rent(self.known if hopeful else self.expected, stop)
            if self.best is not None and not self._better(answer.found.value, self.best.answer.found.value):
                self._close(answer.found.bound if hopeful else outside)
                return
            outside = answer.found.bound if hopeful else outside
            rental = rented(self.columns.job, answer)
            seen = _seen(self.columns, rental)
            held = self._learn(rental, seen)
            if held:
                latencies = [each.latencies for each in seen]
                self.best = Settled(answer, rental, latencies, None if hopeful else outside)
            if held and (stop is PROOF or not hopeful):
                return
            stop = PROOF if held else self._first_stop()
        if self.best is None:
            names = ", ".join(replica.name for replica in rental.replicas)
            raise LimitReached(MISSED.format(names=names, turns=2 * turns))
        self._close(outside)

    def notes(self) -> tuple[str, ...]:
        """What was lowered in the best fleet's problem, and what its proof rests on."""
        assert self.best is not None
        slower = [part.name for part, share in self.carried.items() if share < 1]
        told = (LOWERED.format(names=", ".join(slower)),) if slower else ()
        return told + ((UNTRIED,) if self.best.outside is not None else ())

    def _first_stop(self) -> Stop:
        return CLOSE if packs(self.columns.job) else PROOF

    def _better(self, value: float, other: float) -> bool:
        sign = -1.0 if self.columns.job.objective == "throughput" else 1.0
        return sign * (value - other) < -1e-9 * max(abs(other), 1.0)

    def _close(self, bound: float | None) -> None:
        """The best fleet with a bound that now holds for it."""
        assert self.best is not None
        if bound is None:
            return
        value = self.best.answer.found.value
        bound = bound if self._better(bound, value) else value
        found = replace(self.best.answer.found, bound=bound)
        open_ = relative_gap(value, bound) > PROOF_GAP
        self.best = replace(self.best, answer=replace(self.best.answer, found=found), outside=bound if open_ else None)

    def _learn(self, rental: Rental, seen: Sequence[Seen]) -> bool:
        """Take what pools were seen to carry of what they were counted on; whether all kept the targets."""
        made = {(each.model, name_of(each)): each for each in self.rent.made}
        for replica, each in zip(rental.replicas, seen, strict=True):
            candidate = made[replica.model, replica.name]
            for part, rates in zip(parts_of(candidate), candidate.pool_rates or (candidate.rates,), strict=True):
                known = self.carried.setdefault(part, 1.0)
                if each.share is not None and part.phase in each.late:
                    used = [rate / most for rate, most in zip(each.share.rates, rates.tolist(), strict=True) if rate]
                    self.carried[part] = min(known, each.carried * sum(used))
        return all(not each.late for each in seen)

    def known(self, candidate: Candidate) -> Candidate:
        """With what its pools were seen to carry."""
        return candidate.carrying([self.carried.get(part, 1.0) for part in parts_of(candidate)])

    def expected(self, candidate: Candidate) -> Candidate:
        """With what its pools were seen to carry, or else the median of those seen in their phase."""
        if _measured(candidate):
            return candidate
        shares = []
        for part in parts_of(candidate):
            alike = [share for other, share in self.carried.items() if other.phase == part.phase]
            shares.append(self.carried.get(part, statistics.median(alike) if alike else 1.0))
        return candidate.carrying(shares)


def parts_of(candidate: Candidate) -> list[Part]:
    """The pools of a replica as they are known wherever they stand."""
    pools = candidate.pools
    if len(pools) == 1:
        return [Part(candidate.model, pools[0].phase, name_of(candidate))]
    return [
        Part(candidate.model, pool.phase, f"{pool.workers} × {pool.degrees} {candidate.format} on {pool.gpu}")
        for pool in pools
    ]


def _measured(candidate: Candidate) -> bool:
    return any(pool.degrees is None for pool in candidate.pools)


@dataclass(frozen=True, slots=True)
class Seen:
    """What requests see of a kind of replica, None where it was measured or is routed nothing.

    `late` are the phases of the pools behind a target that is missed, and `carried` is the share of the load at which
    none is.
    """

    share: Share | None = None
    latencies: Latencies | None = None
    late: tuple[str, ...] = ()
    carried: float = 1.0


def _seen(columns: Columns, rental: Rental) -> list[Seen]:
    """What requests see of every kind."""
    served = {each.model: each for each in columns.job.models}
    found = []
    for replica, share in zip(rental.replicas, shares_of(rental), strict=True):
        if share is None or any(pool.degrees is None for pool in replica.pools):
            found.append(Seen())
            continue
        model = served[replica.model]
        told = latencies_of(model, share, _outcome(columns, model, replica, share))
        if told.met:
            found.append(Seen(share, told))
        else:
            found.append(Seen(share, told, _late(replica, told, model), _carried(columns, model, replica, share)))
    return found


def _late(replica: Replica, told: Latencies, served: ServedModel) -> tuple[str, ...]:
    """The phases of the pools behind the target that is missed; all, where it may be any."""
    phases = tuple(pool.phase for pool in replica.pools)
    limits = served.targets.limits()
    late = {"prefill": told.ttft_s > limits.get("ttft", math.inf), "decode": told.tpot_s > limits.get("tpot", math.inf)}
    return tuple(phase for phase in phases if late.get(phase, False)) or phases


def latencies_of(served: ServedModel, share: Share, outcome: Outcome) -> Latencies:
    """The record of a run."""
    at = served.targets.percentile
    return Latencies(
        requests_per_s=share.rate,
        requests=len(outcome.ttft_s),
        percentile=at,
        ttft_s=outcome.percentile("ttft", at),
        tpot_s=outcome.percentile("tpot", at),
        e2e_s=outcome.percentile("e2e", at),
        met=outcome.meets(served.targets) and steady(outcome.ttft_s),
    )


def _carried(columns: Columns, served: ServedModel, replica: Replica, share: Share) -> float:
    """The largest share of the load at which the targets hold, by halving, at least LEAST_SHARE."""
    low, high = LEAST_SHARE, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        part = replace(share, rate=share.rate * middle)
        if latencies_of(served, part, _outcome(columns, served, replica, part)).met:
            low = middle
        else:
            high = middle
    return low


def _outcome(columns: Columns, served: ServedModel, replica: Replica, share: Share) -> Outcome:
    """The share through one replica, its pools on the machines of their GPU types."""
    pools, ends = [], []
    for pool in replica.pools:
        assert pool.degrees is not None
        topology, _ = machine_topology(pool.gpu)
        pools.append(PoolUse(pool.phase, topology, pool.degrees, pool.workers))
        end, _ = uplink(columns.job, pool.gpu)
        ends.append(Link(end.bytes_per_s * pool.degrees.devices, end.latency_s))
    link = Link(min(each.bytes_per_s for each in ends), max(each.latency_s for each in ends))
    seed = columns.job.seed
    load = Load(lengths=share.lengths, rate_per_s=share.rate, seed=seed)
    job = msgspec.structs.replace(serving_job(served, replica.format, seed), load=load)
    outcome = replica_outcome(columns.models[served.model], pools, job, link if len(pools) > 1 else None)
    assert outcome is not None, "a replica in a plan holds the requests routed to it"
    return outcome
