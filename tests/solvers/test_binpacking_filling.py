"""Units packed or ruled out: everything below the optimum is proven not to hold whole items, the optimum is packed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers import Gap, Work
from shardwright.solvers.binpacking import BinPacking, solve
from shardwright.solvers.binpacking.filling import Filling


@st.composite
def small_packings(draw):
    profiles, classes = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cost = np.round(rng.uniform(0.5, 5, profiles), 2)
    load = rng.uniform(0.1, 1.0, (profiles, classes))
    load[1:][rng.random((profiles - 1, classes)) < 0.15] = np.inf
    return BinPacking.of(cost, load, rng.integers(1, 4, classes))


def units_up_to(problem, most):
    """All units that cost at most so much, cheapest first."""
    counts = [range(int(most / cost) + 1) for cost in problem.cost]
    points = np.array([point for point in itertools.product(*counts) if np.dot(point, problem.cost) <= most], float)
    return points[np.argsort(points @ problem.cost, kind="stable")]


def settled(filling, cut):
    """Everything that settling finds until nothing is left to do."""
    found, going = [], True
    while going:
        going, packed = filling.settle(cut)
        found += [] if packed is None else [packed]
    return found


@settings(derandomize=True, max_examples=25, deadline=None)
@given(small_packings())
def test_all_units_below_the_optimum_are_ruled_out(problem):
    best = solve(problem, Gap(0.0) | Work(20_000)).value
    filling = Filling(problem, np.random.default_rng(0))
    assert filling.add(units_up_to(problem, best - 1e-6)[-400:], math.inf) is None
    assert settled(filling, best - 1e-6) == []
    assert filling.least == math.inf


@settings(derandomize=True, max_examples=25, deadline=None)
@given(small_packings())
def test_the_optimum_is_packed(problem):
    best = solve(problem, Gap(0.0) | Work(20_000)).value
    points = units_up_to(problem, best + 1e-6)
    filling = Filling(problem, np.random.default_rng(0))
    first = filling.add(points[points @ problem.cost > best - 1e-6], math.inf)
    found = [first] if first is not None else settled(filling, math.inf)
    assert found
    assert all(problem.fits(units, packing) for units, packing in found)


def test_units_that_do_not_hold_divisible_items_are_not_kept():
    problem = BinPacking.of(np.array([1.0, 2.0]), np.array([[0.5, 0.5], [0.2, 0.3]]), np.array([2, 2]))
    filling = Filling(problem, np.random.default_rng(0))
    filling.add(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), math.inf)
    assert [each.units.tolist() for each in filling.open] == [[0.0, 1.0], [2.0, 0.0]]
    assert filling.least == pytest.approx(2.0)
    assert not filling.settle(1.5)[0]
    assert filling.open == []
