"""Balancing without traffic, with and without copies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers.placement import brute, floor, packed, place, value_of
from shardwright.solvers.placement.balancing import balance
from tests.solvers.placement.instances import loaded


def check_slots(problem, found, spare):
    """No item lost, no slot overfull, no two copies together, no copy more than asked for."""
    for row in found.point.holders(problem.items):
        assert all(held and len(set(held)) == len(held) for held in row)
        assert sum(map(len, row)) <= problem.items + spare
        used = np.bincount([device for held in row for device in held], minlength=problem.devices)
        assert np.all(used <= problem.slots)


@given(st.integers(0, 10**6), st.integers(0, 6), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_every_item_is_held_and_the_bound_holds(seed, spare, devices):
    problem = loaded(seed, 3, 8, [-(-(8 + spare) // devices)] * devices, scenarios=1 + seed % 2)
    spare = min(spare, 8 * (devices - 1))
    found = place(problem, spare)
    check_slots(problem, found, spare)
    assert found.bound <= found.value * (1 + 1e-9)
    assert found.value <= value_of(problem, packed(problem, spare)).value * (1 + 1e-6)


def test_unequal_slots_and_speeds_are_kept():
    problem = loaded(3, 4, 12, [2, 4, 6], speeds=np.array([1.0, 2.0, 3.0]))
    found = place(problem)
    check_slots(problem, found, 0)
    assert found.value < value_of(problem, packed(problem, 0)).value + 1e-9
    assert found.value < 1.1


def test_it_finds_what_trying_everything_finds():
    for seed in range(4):
        problem = loaded(seed, 1, 8, [2, 2, 2, 2])
        assert place(problem).value == pytest.approx(brute.solve(problem).value, rel=1e-6)


def test_renaming_equal_devices_changes_no_value():
    problem = loaded(5, 3, 12, [3, 3, 3, 3])
    order = np.array([2, 0, 3, 1])
    renamed = replace(problem, link_cost=problem.link_cost[order][:, order], slots=problem.slots[order])
    assert place(renamed).value == pytest.approx(place(problem).value)
    assert floor(renamed).value == pytest.approx(floor(problem).value)


def test_the_same_seed_gives_the_same_answer():
    problem = loaded(6, 5, 32, [5] * 8)
    first, again = (balance(problem, packed(problem, 8), seed=1).placement.device for _ in range(2))
    assert np.array_equal(first, again)


def test_many_slots_per_device_are_sampled():
    problem = loaded(7, 2, 300, [150, 150])
    assert place(problem).value < 1.0001
