"""What a plan says that requests see of its replicas, against the routing and the job's targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..plan.fleet import Latencies, Rental
from ..workload.fleet import FleetJob
from ..workload.serving import Targets
from .common import TOLERANCE, close

MODELLED = ("cost model", "simulation")


def latency_problems(rental: Rental, job: FleetJob) -> Iterator[str]:
    """Replicas of the cost model have the latencies of their own share of the load, and met says what they say."""
    targets = {each.model: each.targets for each in job.models}
    for at, replica in enumerate(rental.replicas):
        where = f"replicas[{at}].latencies"
        rate = _fullest(rental, at)
        wanted = replica.source in MODELLED and job.simulate is not False and rate > 0
        told = replica.latencies
        if told is None or not wanted:
            if (told is not None) != wanted:
                yield f"{where}: a replica of the cost model that is routed requests, and no other, is simulated"
            continue
        if not close(told.requests_per_s, rate):
            yield f"{where}: {rate:.6g} requests/s are routed to a replica, not {told.requests_per_s:.6g}"
        if replica.model in targets:
            yield from _kept(where, told, targets[replica.model])


def _kept(where: str, told: Latencies, targets: Targets) -> Iterator[str]:
    if told.percentile != targets.percentile or told.requests < 1:
        yield f"{where}: must be of some requests at percentile {targets.percentile:g}"
    if min(told.ttft_s, told.tpot_s) < 0 or told.e2e_s < told.ttft_s * (1 - TOLERANCE):
        yield f"{where}: a request ends after its first token, and no time is negative"
    seen = {"ttft": told.ttft_s, "tpot": told.tpot_s, "e2e": told.e2e_s}
    late = [name for name, limit in targets.limits().items() if seen[name] > limit * (1 + TOLERANCE)]
    if late and told.met:
        yield f"{where}: says that targets are met, but {late[0]} is {seen[late[0]]:.6g} s"
    if not told.met:
        yield f"{where}: the mix of requests routed to it misses the targets"


def _fullest(rental: Rental, kind: int) -> float:
    """Requests per second that reach one replica of a kind in the hour where its load is largest."""
    hours: list[tuple[Sequence[Sequence[float]], Sequence[int], float]]
    hours = [(rental.routing, [each.count for each in rental.rented], 1.0)]
    if rental.schedule is not None and rental.schedule.hours:
        most = max(hour.multiple for hour in rental.schedule.hours)
        hours = [(hour.routing, hour.counts, hour.multiple / most) for hour in rental.schedule.hours]
    best = (0.0, 0.0)
    for routing, counts, factor in hours:
        rows = zip(rental.rented, counts, strict=True)
        room = sum(count * each.copies * each.available for each, count in rows if each.replica == kind)
        arriving = [share * factor * each.rate_per_s for share, each in zip(routing[kind], rental.classes, strict=True)]
        most_each = rental.replicas[kind].requests_per_s
        busy = sum(rate / each for rate, each in zip(arriving, most_each, strict=True) if rate > 0 and each > 0)
        if room and busy / room > best[0]:
            best = (busy / room, sum(arriving) / room)
    return best[1]
