"""MoETuner's and ExFlow's programs on small problems, each compared with what it says it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shardwright.solvers.placement import bisection, brute, exact, two_stage
from shardwright.solvers.placement.heaviest import heaviest
from shardwright.solvers.placement.problem import device_loads
from tests.solvers.placement.instances import flowing, nested_links

TWO_NODES = nested_links(2, 2, 5.0)


def full(problem, place):
    return all(np.array_equal(np.bincount(row, minlength=problem.devices), problem.slots) for row in place)


def test_stage_one_is_as_even_as_any_placement_can_be():
    problem = flowing(0, 3, 6, nested_links(1, 3, 1.0))
    clusters = two_stage.even_clusters(problem, 0)
    assert full(problem, clusters)
    peaks = device_loads(problem.loads, clusters, 3).max(axis=(0, 2)) * 3
    for layer in range(3):
        alone = replace(problem, loads=problem.loads[:, layer : layer + 1], transitions=None, load_weight=1.0)
        assert peaks[layer] == pytest.approx(brute.solve(alone).value, rel=1e-3)


def test_stage_two_lightens_the_heaviest_pair_and_keeps_the_balance():
    problem = flowing(1, 4, 8, TWO_NODES)
    clusters = two_stage.even_clusters(problem, 0)
    found = two_stage.solve(problem, work=20_000)
    assert full(problem, found.point)
    assert heaviest(problem, found.point) < heaviest(problem, clusters)
    before, after = (device_loads(problem.loads, place, 4).max(axis=2) for place in (clusters, found.point))
    assert after == pytest.approx(before)


def test_bisection_of_two_devices_is_the_optimum():
    for seed in range(3):
        problem = flowing(seed, 4, 6, nested_links(1, 2, 1.0))
        found = bisection.solve(problem, work=20_000)
        assert found.value == pytest.approx(exact.solve(problem).value, rel=1e-4)


def test_bisection_cuts_between_nodes_first():
    problem = flowing(2, 4, 8, TWO_NODES)
    found = bisection.solve(problem, work=20_000)
    assert full(problem, found.point)
    assert exact.solve(problem).value <= found.value <= 1.1 * exact.solve(problem).value
    assert [side.tolist() for side in bisection.halves(TWO_NODES, np.arange(4))] == [[0, 1], [2, 3]]
    assert [side.tolist() for side in bisection.halves(nested_links(3, 2, 5.0), np.arange(6))] == [[0, 1], [2, 3, 4, 5]]


def test_devices_that_differ_are_left_where_the_balance_put_them():
    problem = flowing(3, 3, 6, nested_links(1, 3, 1.0), slots=[1, 2, 3], speeds=np.array([1.0, 2.0, 3.0]))
    assert full(problem, two_stage.solve(problem, work=1000).point)
    with pytest.raises(ValueError, match="equal devices"):
        bisection.solve(problem, work=1000)
