"""How likely an overload is when throughputs are wrong, and how much of them may be counted on.

Every GPU type has one unknown factor on all its throughputs. With requests routed as planned, a type is overloaded when
its factor is below the utilization of its fullest kind of replica; types are independent, so the fleet is not
overloaded with probability Π_t (1 - F(u_t)).
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import NormalDist

from ..workload.clocks import at_any_clock
from ..workload.fleet import ThroughputError


def countable(error: ThroughputError, chance: float) -> float:
    """The share of a throughput that it falls below with the given chance."""
    if error.shape == "uniform":
        return 1 - error.spread + 2 * error.spread * chance
    return 1 + error.spread * NormalDist().inv_cdf(chance)


def shortfall(error: ThroughputError, share: float) -> float:
    """The chance that a throughput is below a share of what it should be."""
    if error.shape == "uniform":
        return min(max((share - 1 + error.spread) / (2 * error.spread), 0.0), 1.0)
    return NormalDist().cdf((share - 1) / error.spread)


def overload(error: ThroughputError, utilizations: Iterable[tuple[str, float]]) -> float:
    """The fleet's chance of overload, from (GPU types joined by `+`, utilization) pairs."""
    fullest: dict[str, float] = {}
    for gpus, busy in utilizations:
        for gpu in at_any_clock(gpus).split("+"):
            fullest[gpu] = max(fullest.get(gpu, 0.0), busy)
    calm = 1.0
    for busy in fullest.values():
        calm *= 1 - shortfall(error, busy)
    return 1 - calm


def each_chance(error: ThroughputError, types: int) -> float:
    """The chance each of some equally loaded types may have for the fleet's to be as allowed."""
    calm: float = (1 - error.overload) ** (1 / types)
    return 1 - calm
