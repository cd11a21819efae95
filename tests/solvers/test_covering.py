"""Units that hold items in several scenarios: the optimum of every enumerated choice of units."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers import Status
from shardwright.solvers.binpacking import BinPacking
from shardwright.solvers.binpacking import solve as solve_packing
from shardwright.solvers.binpacking.covering import Covering, Scenario, demand, shortage, solve

MOST = 4


def holds(load, items, room) -> bool:
    """Whether divisible items fit into the room, by a linear program."""
    from ortools.linear_solver import pywraplp

    solver = pywraplp.Solver.CreateSolver("GLOP")
    rows = [solver.Constraint(-solver.infinity(), float(most) + 1e-9) for most in room]
    for cls, count in enumerate(items):
        complete = solver.Constraint(float(count), float(count))
        for profile in np.flatnonzero(np.isfinite(load[:, cls])):
            share = solver.NumVar(0, solver.infinity(), "")
            complete.SetCoefficient(share, 1)
            rows[profile].SetCoefficient(share, float(load[profile, cls]))
    return solver.Solve() == solver.OPTIMAL


def covering(cost, load, items, scenarios) -> Covering:
    """Up to four units of each profile, no rows."""
    count = len(cost)
    return Covering(
        cost=np.asarray(cost, float), lower=np.zeros(count), upper=np.full(count, float(MOST)),
        whole=np.ones(count, bool), matrix=np.zeros((0, count)), limit=np.zeros(0), load=np.asarray(load, float),
        items=np.asarray(items), scenarios=tuple(scenarios),
    )  # fmt: skip


def enumerated(problem: Covering) -> float:
    """The least cost over every choice of units."""
    best = math.inf
    for units in itertools.product(range(MOST + 1), repeat=len(problem.cost)):
        values = np.array(units, float)
        cost = float(problem.cost @ values)
        if cost < best and all(
            holds(problem.load * each.factor(values), problem.items, each.room @ values) for each in problem.scenarios
        ):
            best = cost
    return best


@st.composite
def instances(draw) -> Covering:
    """Two or three profiles; the second scenario has half the items and loses the first profile."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    profiles, classes = draw(st.integers(2, 3)), draw(st.integers(1, 4))
    load = rng.uniform(0.1, 1.2, (profiles, classes))
    load[: profiles - 1][rng.random((profiles - 1, classes)) < 0.25] = np.inf
    lost = np.eye(profiles)
    lost[0, 0] = 0
    cost = np.round(rng.uniform(0.5, 4, profiles), 2)
    return covering(cost, load, rng.integers(1, 3, classes), (Scenario(np.eye(profiles)), Scenario(lost, 0.5)))


@settings(derandomize=True, max_examples=40, deadline=None)
@given(instances())
def test_the_cost_is_the_least_of_all_choices(problem):
    found, best = solve(problem), enumerated(problem)
    if math.isinf(best):
        assert found.status is Status.INFEASIBLE
        return
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(best, abs=1e-6)
    for scenario in problem.scenarios:
        room = scenario.room @ found.point
        assert holds(problem.load * scenario.load, problem.items, room * (1 + 1e-6))


@settings(derandomize=True, max_examples=15, deadline=None)
@given(instances())
def test_one_scenario_is_never_cheaper_than_the_packing_without_caps(problem):
    one = covering(problem.cost, problem.load, problem.items, problem.scenarios[:1])
    packing = BinPacking.of(problem.cost, problem.load, problem.items, fractional=True)
    if np.isfinite(packing.load).any(0).all() and (solve(one).status is Status.OPTIMAL):
        assert solve(one).value >= solve_packing(packing).value - 1e-6


@settings(derandomize=True, max_examples=30, deadline=None)
@given(instances(), st.integers(0, 2**32 - 1))
def test_a_shortage_is_proven_by_its_prices(problem, seed):
    room = np.random.default_rng(seed).integers(0, 4, len(problem.cost)).astype(float)
    theta, prices = shortage(problem.load, problem.items, room)
    fits = holds(problem.load, problem.items, room)
    assert fits == (theta <= 1 + 1e-6)
    if not fits:
        assert demand(problem.load, problem.items, prices) > prices @ room


def test_a_growing_load_is_carried_as_far_as_the_cost_allows():
    """Four units of each profile; the load grows with the last variable, which is to be as large as can be."""
    load = np.array([[0.5, 1.0], [1.0, 0.25]])
    room = np.hstack([np.eye(2), np.zeros((2, 1))])
    problem = Covering(
        cost=np.array([0.0, 0.0, -1.0]), lower=np.zeros(3), upper=np.array([4.0, 4.0, 1e6]),
        whole=np.array([True, True, False]), matrix=np.array([[1.0, 2.0, 0.0]]), limit=np.array([6.0]), load=load,
        items=np.array([1, 1]), scenarios=(Scenario(room, 0.0, np.array([0.0, 0.0, 1.0])),),
    )  # fmt: skip
    found = solve(problem)
    best = 0.0
    for units in ((4, 1), (2, 2), (0, 3), (6, 0), (4, 0)):
        low, high = 0.0, 20.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if holds(load * middle, [1, 1], np.minimum(units, 4)) else (low, middle)
        best = max(best, low)
    assert -found.value == pytest.approx(best, abs=1e-4)


def test_an_item_that_fits_nowhere_is_a_reason():
    found = solve(covering([1.0], [[np.inf]], [1], (Scenario(np.eye(1)),)))
    assert found.status is Status.INFEASIBLE
    assert "class 0" in found.reason
