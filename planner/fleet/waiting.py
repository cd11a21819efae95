"""How full a worker of one phase may be so that requests do not wait too long, by the M/D/1 queue.

Prompts of one size come at random times and take as long each. With x > 1 the root of x = exp(ρ (x − 1)), the chance to
wait longer than t services is about (1 − ρ) / (ρ x − 1) · exp(−ρ (x − 1) t) (Tijms 2003, A First Course in Stochastic
Models, section 9.6, for deterministic services).
"""

from __future__ import annotations

import functools

import numpy as np

from shardwright.solvers.binpacking.problem import Floats

FULLEST = 0.95
POINTS = 96
HALVINGS = 60
LARGEST_ROOT = 1e4
"""Above the root at the smallest share."""


def fullest(service_s: Floats, slack_s: Floats, percentile: float) -> Floats:
    """The share of the time that a worker may be busy, up to FULLEST, where requests of one size wait at most the slack
    at the percentile."""
    share, waits = _waits(percentile)
    with np.errstate(divide="ignore", invalid="ignore"):
        services = np.where(service_s > 0, slack_s / service_s, np.inf)
    busy: Floats = np.where(services < 0, 0.0, np.interp(services, waits, share))
    return busy


@functools.lru_cache(maxsize=16)
def _waits(percentile: float) -> tuple[Floats, Floats]:
    """Shares of the time that a worker is busy, and the services that a request waits at the percentile of each."""
    share = np.linspace(FULLEST / POINTS, FULLEST, POINTS)
    low, high = np.ones(POINTS), np.full(POINTS, LARGEST_ROOT)
    for _ in range(HALVINGS):
        root = (low + high) / 2
        above = share * (root - 1) > np.log(root)
        low, high = np.where(above, low, root), np.where(above, root, high)
    late = max(1 - percentile / 100, 1e-12)
    waits = np.log((1 - share) / (share * root - 1) / late) / (share * (root - 1))
    return share, np.maximum.accumulate(np.maximum(waits, 0.0))
