"""Buckets and hours of a trace."""

from __future__ import annotations

import numpy as np
import pytest

from shardwright.planner.errors import InputError
from shardwright.planner.fleet.loads import hours_of_trace, lengths_of_trace
from shardwright.planner.workload.serving import Trace


def trace(arrival, prompt, output) -> Trace:
    whole = np.zeros(len(arrival), dtype=np.int64)
    return Trace(np.array(arrival, float), whole + prompt, whole + output, whole, "made.csv")


def test_requests_of_about_one_size_share_a_bucket_at_their_means():
    found = lengths_of_trace(trace(range(4), np.array([10, 20, 300, 400]), np.array([5, 15, 30, 30])))
    assert [(each.isl, each.osl, each.weight) for each in found] == [(15, 10, 2.0), (350, 30, 2.0)]


def test_hours_are_multiples_of_the_busiest():
    arrival = [0, 10, 3700, 3800, 3900, 4000, 7300]
    rate, hours = hours_of_trace(trace(arrival, 10, 10))
    assert rate == 4 / 3600
    assert hours == (("0", 0.5), ("1", 1.0))
    with pytest.raises(InputError, match="at least 2 h"):
        hours_of_trace(trace([0, 100], 10, 10))
