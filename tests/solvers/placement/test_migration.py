"""Re-balancing from the placement in force."""

from __future__ import annotations

import numpy as np
import pytest

from shardwright.solvers.placement import place, rebalance
from tests.solvers.placement.instances import loaded


def held_by(problem, spare):
    held = np.zeros((problem.layers, problem.items, problem.devices), dtype=bool)
    for layer, row in enumerate(place(problem, spare).point.holders(problem.items)):
        for item, devices in enumerate(row):
            held[layer, item, devices] = True
    return held


def peaks(problem, held):
    share = problem.loads[0] / held.sum(axis=2)
    return np.einsum("le,leg->lg", share, held).max(axis=1) * problem.devices


@pytest.fixture
def drifted():
    """A placement for yesterday's loads, and today's problem."""
    yesterday, today = loaded(1, 4, 16, [5] * 4), loaded(2, 4, 16, [5] * 4)
    return held_by(yesterday, 4), today


def test_every_layer_comes_down_to_the_target(drifted):
    held, today = drifted
    after, moved = rebalance(today, held, 1.2, 1000)
    assert peaks(today, held).max() > 1.2
    assert peaks(today, after).max() <= 1.2 * (1 + 1e-9)
    assert moved == (after & ~held).sum() < held.sum() / 2


def test_nothing_is_lost_and_no_slot_is_overfull(drifted):
    held, today = drifted
    after, _ = rebalance(today, held, 1.0, 1000)
    assert np.all(after.sum(axis=2) >= 1)
    assert np.all(after.sum(axis=1) <= 5)
    assert np.all(after.sum(axis=(1, 2)) == held.sum(axis=(1, 2)))


@pytest.mark.parametrize("budget", [0, 1, 2, 5])
def test_no_more_copies_move_than_the_budget_lets(drifted, budget):
    held, today = drifted
    after, moved = rebalance(today, held, 1.0, budget)
    assert (after & ~held).sum() <= moved <= budget
    assert np.all(peaks(today, after) <= peaks(today, held) + 1e-9)


def test_a_placement_within_the_target_stays(drifted):
    held, today = drifted
    after, moved = rebalance(today, held, 10.0, 1000)
    assert moved == 0
    assert np.array_equal(after, held)
