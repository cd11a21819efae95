"""Replicas under the mix of requests that a plan routes to them, in simulation: percentiles, and what they carry less.

A plan adds loads up: a share of a replica for each class. Mixed, long prompts wait before short ones, so percentiles
may miss the targets that every class keeps alone. Such a replica's throughputs are lowered by the share of its load at
which the mix keeps them, and the fleet is planned again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

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

TURNS = 6
HALVINGS = 5
LEAST_SHARE = 0.25
LOWERED = "throughputs of {names} were lowered until the mix routed to them keeps the targets in simulation"
MISSED = (
    "fleet: the mix routed to {names} still misses a target in simulation, throughputs lowered {turns} times; "
    "relax the targets, or leave the simulation out (simulate: false)"
)

UNTRIED = (
    "replicas that were in none of the plans simulated are counted on as little as the worst of those; the bound is "
    "that of a fleet with all of them as the cost model has them"
)

Rent = Callable[[list[Candidate], bool], tuple[list[Candidate], Rental, float]]


@dataclass(frozen=True, slots=True)
class Share:
    """Requests per second that reach one replica of a kind, and their sizes."""

    rate: float
    lengths: tuple[LengthBin, ...]


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
                load, best = busy / room, Share(sum(rates) / room, _lengths(rental, rates))
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
    """Candidates whose best fleet keeps the targets under its mix, what is seen of each of its kinds, and notes.

    `outside` is the best value of a fleet whose replicas were not looked into further, None where all were.
    """

    made: list[Candidate]
    latencies: list[Latencies | None]
    notes: tuple[str, ...]
    outside: float | None


def settled(columns: Columns, rent: Rent) -> Settled:
    """Lower throughputs that do not hold under the mix, one plan after the other, until those of a plan do.

    `rent` makes the rental of some candidates, simulates those in it alone or not, and hands back the candidates, the
    rental and its bound. After TURNS plans what was in none of them is lowered as the worst that was, and the bound
    stays. Raises LimitReached where as many plans more find none.
    """
    made, rental, bound = rent(list(columns.made), True)
    lowered: dict[str, None] = {}
    known: set[tuple[str, str]] = set()
    outside, worst = None, 1.0
    for turn in range(2 * TURNS + 1):
        seen, carried = _seen(columns, rental)
        names = [(replica.model, replica.name) for replica in rental.replicas]
        slower = {name: share for name, share in zip(names, carried, strict=True) if share < 1}
        if not slower:
            notes = (LOWERED.format(names=", ".join(lowered)),) if lowered else ()
            return Settled(made, seen, notes + ((UNTRIED,) if outside is not None else ()), outside)
        known |= set(names)
        lowered |= dict.fromkeys(name for _, name in slower)
        worst = min(worst, *slower.values())
        rest = 1.0
        if turn == TURNS:
            outside, rest = bound, worst
        made = [
            replace(each, rates=each.rates * slower.get(name, 1.0 if name in known or _measured(each) else rest))
            for each, name in ((each, (each.model, name_of(each))) for each in made)
        ]
        made, rental, bound = rent(made, turn < TURNS)
    raise LimitReached(MISSED.format(names=", ".join(name for _, name in slower), turns=2 * TURNS))


def _measured(candidate: Candidate) -> bool:
    return any(pool.degrees is None for pool in candidate.pools)


def _seen(columns: Columns, rental: Rental) -> tuple[list[Latencies | None], list[float]]:
    """What requests see of every kind, and the share of its load at which it keeps the targets."""
    served = {each.model: each for each in columns.job.models}
    found: list[Latencies | None] = []
    carried = []
    for replica, share in zip(rental.replicas, shares_of(rental), strict=True):
        if share is None or any(pool.degrees is None for pool in replica.pools):
            found.append(None)
            carried.append(1.0)
            continue
        outcome = _outcome(columns, served[replica.model], replica, share)
        told = latencies_of(served[replica.model], share, outcome)
        found.append(told)
        carried.append(1.0 if told.met else _carried(columns, served[replica.model], replica, share))
    return found, carried


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
