"""What a rental must withstand by its job: every loss is part of one whose routing the plan holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from ..plan.fleet import Contingency, Rental
from ..workload.fleet import Failures, FleetJob
from .common import close


def lost_problems(job: FleetJob, rental: Rental) -> Iterator[str]:
    """Losses that the plan does not hold, and those that the job does not ask for."""
    if rental.schedule is None:
        yield from _withstands(rental, job.failures, [each.count for each in rental.rented], rental.contingencies, "")
        return
    for hour in rental.schedule.hours:
        if hour.multiple > 0:
            yield from _withstands(rental, job.failures, hour.counts, hour.contingencies, f"hour {hour.hour}: ")
    busiest = max(rental.schedule.hours, key=lambda hour: hour.multiple)
    if busiest.contingencies != rental.contingencies:
        yield "contingencies must be those of the busiest hour"


def _withstands(
    rental: Rental, failures: Failures, counts: Sequence[int], told: Sequence[Contingency], where: str
) -> Iterator[str]:
    required = dict(_losses(rental, failures, counts))
    for name, lost in required.items():
        if any(lost) and not any(all(map(int.__le__, lost, each.lost)) for each in told):
            yield f"{where}the plan does not say where requests go when {name}"
    for each in told:
        if required.get(each.name) != each.lost:
            yield f"{where}contingency {each.name!r} is no loss that the job asks for, or loses other units"
        if not close(each.load_share, failures.load_share):
            yield f"{where}contingency {each.name!r}: load_share is {each.load_share:.6g}, not the job's"


def _losses(rental: Rental, failures: Failures, counts: Sequence[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and units lost of every loss: any few units, the largest of their kinds; a region; all spot capacity."""
    if failures.replicas:
        kinds = range(len(rental.replicas))
        for chosen in itertools.combinations_with_replacement(kinds, failures.replicas):
            names = [f"{chosen.count(kind)} × {rental.replicas[kind].name}" for kind in dict.fromkeys(chosen)]
            yield f"{' and '.join(names)} fail", _largest(rental, counts, chosen)
    if failures.region:
        for region in sorted({each.region for each in rental.rented}):
            gone = (count * (each.region == region) for count, each in zip(counts, rental.rented, strict=True))
            yield f"region {region or '(unnamed)'} fails", tuple(gone)
    if failures.spot:
        gone = (count * (each.tier == "spot") for count, each in zip(counts, rental.rented, strict=True))
        yield "all spot capacity is taken away", tuple(gone)


def _largest(rental: Rental, counts: Sequence[int], chosen: Sequence[int]) -> tuple[int, ...]:
    """Units of every row that are gone when so many of each kind fail, those that carry most first."""
    lost = [0] * len(counts)
    for kind in set(chosen):
        left = list(chosen).count(kind)
        mine = [at for at, each in enumerate(rental.rented) if each.replica == kind]
        for at in sorted(mine, key=lambda at: (-rental.rented[at].copies * rental.rented[at].available, at)):
            lost[at] = min(left, counts[at])
            left -= lost[at]
    return tuple(lost)
