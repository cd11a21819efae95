"""The bound of a closed loop from the points of all workers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardwright.planner.serving.loop_bound import undominated


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_points_left_out_never_set_the_price_of_a_device(seed, points):
    random = np.random.default_rng(seed)
    rates, hands = random.uniform(0.1, 9, points), random.integers(1, 12, points).astype(float)
    devices = random.choice([1.0, 2.0, 4.0], points)
    kept = undominated(rates, hands, devices)
    assert len(kept[0]) <= points

    def most(r, n, d, price):
        return max(0.0, float(((r * (1 - price * 0.2) - price * n) / (d + 0.1 * r)).max()))

    for price in (0.0, 0.01, 0.1, 1.0, 10.0):
        assert most(*kept, price) == most(rates, hands, devices, price)
