"""How full a prefill worker may be, against queues that are simulated here."""

from __future__ import annotations

import numpy as np
import pytest

from shardwright.planner.fleet.waiting import FULLEST, fullest


def waited(busy: float, percentile: float) -> float:
    """Services that requests wait at a percentile, each as long as one, come at random (Lindley's recursion)."""
    gaps = np.random.default_rng(0).exponential(1 / busy, 400_000)
    work = np.concatenate([[0.0], np.cumsum(1 - gaps[1:])])
    waits = work - np.minimum.accumulate(np.minimum(work, 0.0))
    return float(np.percentile(waits[1000:], percentile))


@pytest.mark.parametrize("percentile", [90.0, 99.0])
def test_a_worker_as_full_as_allowed_keeps_its_requests_waiting_as_long_as_the_slack(percentile):
    for services in (2.0, 5.0, 10.0):
        busy = float(fullest(np.array([0.1]), np.array([0.1 * services]), percentile)[0])
        assert waited(busy, percentile) == pytest.approx(services, rel=0.06)


def test_without_slack_nothing_is_carried_and_with_much_the_worker_is_full():
    busy = fullest(np.array([1.0, 1.0, 1.0]), np.array([-0.1, 0.0, 1e6]), 99.0)
    assert busy[0] == 0 and busy[1] < 0.05 and busy[2] == pytest.approx(FULLEST)
    assert (np.diff(fullest(np.ones(50), np.linspace(0, 60, 50), 99.0)) >= 0).all()
