"""α–β times of the collective algorithms, for arrays of groups of equal shape rules.

Volumes follow nccl-tests: `size` is the whole buffer (the gathered one for all_gather and reduce_scatter, a rank's
send buffer for all_to_all).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .coefficients import OpCoefficients
from .errors import TopologyError

Floats = NDArray[np.float64]
OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")
_RINGS = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}


@dataclass(frozen=True, slots=True)
class Links:
    """What groups of `ranks` × `domains` get, each an array over groups.

    `ring_bytes_per_s` and `exchange_bytes_per_s` are one rank's inside a domain; `network_bytes_per_s` is what all
    ranks of a domain together send to the next one, after sharing NICs with the groups that run at the same time.
    """

    ranks: Floats
    domains: Floats
    ring_bytes_per_s: Floats
    exchange_bytes_per_s: Floats
    network_bytes_per_s: Floats
    latency_s: Floats
    network_latency_s: Floats


def check_op(op: str) -> None:
    """Raise TopologyError for an operation that is not modelled."""
    if op not in OPS:
        raise TopologyError(f"unknown collective {op!r}; known: {', '.join(OPS)}")


def seconds(op: str, size: Floats, links: Links, fit: OpCoefficients) -> Floats:
    """Time of one collective; zero for a group of one rank."""
    n = links.ranks * links.domains
    if op == "all_to_all":
        time = _exchange(size, links, fit)
    elif op in _RINGS:
        time = _ring(_RINGS[op], size, links, fit)
        if op == "all_reduce":
            time = np.minimum(time, _tree(size, links, fit))
    else:
        time = _pipeline(size, links, fit)
    return np.where(n > 1, time, 0.0)


def _ring(passes: float, size: Floats, links: Links, fit: OpCoefficients) -> Floats:
    n, d = links.ranks * links.domains, links.domains
    volume = passes * (n - 1) / n * size
    rate = np.where(
        d > 1,
        np.minimum(links.ring_bytes_per_s * fit.efficiency, links.network_bytes_per_s * fit.network_efficiency),
        links.ring_bytes_per_s * fit.efficiency,
    )
    outer = np.where(d > 1, d, 0.0)
    steps = passes * (
        (n - 1 - outer).clip(0) * (fit.step_s + links.latency_s)
        + outer * (fit.network_step_s + links.network_latency_s)
    )
    return fit.floor_s + steps + volume / rate


def _tree(size: Floats, links: Links, fit: OpCoefficients) -> Floats:
    d = links.domains
    depth = np.ceil(np.log2(np.maximum(d, 1.0)))
    rate = np.where(
        d > 1,
        np.minimum(links.ring_bytes_per_s * fit.efficiency, links.network_bytes_per_s * fit.network_efficiency),
        links.ring_bytes_per_s * fit.efficiency,
    )
    steps = 2 * (
        depth * (fit.network_step_s + links.network_latency_s) + (links.ranks - 1) * (fit.step_s + links.latency_s)
    )
    return fit.floor_s + steps + 2 * size / rate


def _exchange(size: Floats, links: Links, fit: OpCoefficients) -> Floats:
    r, d = links.ranks, links.domains
    n = r * d
    inside = size * (r - 1) / n / (links.exchange_bytes_per_s * fit.efficiency)
    outside = np.where(d > 1, size * (n - r) / n * r / (links.network_bytes_per_s * fit.network_efficiency), 0.0)
    steps = (r - 1) * (fit.step_s + links.latency_s) + np.where(
        d > 1, np.log2(np.maximum(n, 1)) * (fit.network_step_s + links.network_latency_s), 0.0
    )
    return fit.floor_s + steps + np.maximum(inside, outside)


def _pipeline(size: Floats, links: Links, fit: OpCoefficients) -> Floats:
    r, d = links.ranks, links.domains
    rate = np.where(
        d > 1,
        np.minimum(links.exchange_bytes_per_s * fit.efficiency, links.network_bytes_per_s * fit.network_efficiency),
        links.exchange_bytes_per_s * fit.efficiency,
    )
    steps = (r - 1) * (fit.step_s + links.latency_s) + (d - 1) * (fit.network_step_s + links.network_latency_s)
    return fit.floor_s + steps + size / rate
