"""What a fleet may lose: any few units at once, a whole region, all spot capacity."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from shardwright.solvers.binpacking.problem import Floats

from ..workload.fleet import Failures
from .problem import FleetProblem


@dataclass(frozen=True, slots=True)
class Loss:
    """Prices whose units all stay (`kept`), and how many units of which kinds are gone beside."""

    name: str
    kept: Floats
    kinds: tuple[tuple[int, int], ...] = ()


def losses(problem: FleetProblem, failures: Failures) -> tuple[Loss, ...]:
    """Every loss that the fleet must withstand, whichever units it has."""
    prices = problem.prices
    found: list[Loss] = []
    everything = np.ones(len(prices))
    if failures.replicas:
        kinds = sorted({price.replica for price in prices})
        for chosen in itertools.combinations_with_replacement(kinds, failures.replicas):
            counted = tuple((kind, chosen.count(kind)) for kind in dict.fromkeys(chosen))
            names = " and ".join(f"{count} × {problem.replicas[kind].name}" for kind, count in counted)
            found.append(Loss(f"{names} fail", everything, counted))
    if failures.region:
        for region in sorted({price.region for price in prices}):
            kept = np.array([float(price.region != region) for price in prices])
            found.append(Loss(f"region {region or '(unnamed)'} fails", kept))
    if failures.spot and any(price.tier == "spot" for price in prices):
        kept = np.array([float(price.tier != "spot") for price in prices])
        found.append(Loss("all spot capacity is taken away", kept))
    return tuple(found)


def units_lost(problem: FleetProblem, loss: Loss, counts: Floats) -> Floats:
    """Units of every price that are gone: of a kind, those that carry most."""
    lost: Floats = counts * (1 - loss.kept)
    for kind, number in loss.kinds:
        mine = [at for at, price in enumerate(problem.prices) if price.replica == kind]
        for at in sorted(mine, key=lambda at: (-problem.prices[at].capacity, at)):
            gone = min(number, counts[at] - lost[at])
            lost[at] += gone
            number -= int(gone)
    return lost
