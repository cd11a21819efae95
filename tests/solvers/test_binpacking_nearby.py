"""Units near the relaxation and whole items packed almost to the brim: what the search for large packings rests on."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers import Gap, Work
from shardwright.solvers.binpacking import BinPacking, solve
from shardwright.solvers.binpacking.lattice import basis
from shardwright.solvers.binpacking.relaxation import Relaxation
from shardwright.solvers.binpacking.rounding import Effort, fit
from shardwright.solvers.binpacking.sweep import rising
from shardwright.solvers.binpacking.tuning import Tuning


def by_price(profiles, classes, rate, slices, seed):
    """Throughputs that follow the price but for 15 % either way: every profile is about as good as the next."""
    rng = np.random.default_rng(seed)
    cost = np.round(rng.uniform(0.5, 8, profiles), 2)
    throughput = cost[:, None] * rng.lognormal(0.5, 0.8, classes) * rng.uniform(0.85, 1.15, (profiles, classes))
    load = rng.dirichlet(np.ones(classes)) * rate / throughput / slices
    return BinPacking.of(cost, load, np.full(classes, slices))


def relaxed(problem, upper=200.0):
    box = np.zeros(len(problem.cost)), np.full(len(problem.cost), upper)
    return Relaxation(problem).solve(*box), box


@settings(derandomize=True, max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_tuning_keeps_every_item_and_stays_within_rooms_it_reports(seed):
    rng = np.random.default_rng(seed)
    load = rng.uniform(0.05, 1.0, (4, 12))
    load[1:][rng.random((3, 12)) < 0.2] = np.inf
    items = rng.integers(1, 6, 12).astype(float)
    start = np.zeros((4, 12))
    start[0] = items
    finite = np.where(np.isfinite(load), load, 0.0)
    room = rng.uniform(0.3, 0.6) * (finite * items).sum(1)
    packing = start.copy()
    found = Tuning(load, room, rng.uniform(0.5, 2.0, 4)).run(packing, rng, 30)
    assert (packing.sum(0) == items).all()
    assert (packing >= 0).all()
    assert not packing[~np.isfinite(load)].any()
    assert found is None or ((finite * found).sum(1) <= room * (1 + 1e-9)).all()


@pytest.mark.parametrize("seed", range(3))
def test_whole_items_are_packed_where_a_five_hundredth_of_the_room_is_left(seed):
    problem = by_price(8, 100, 100.0, 6, seed)
    rng = np.random.default_rng(1)
    cheapest = np.argsort(problem.cost[:, None] * problem.load, axis=0)[:2]
    hidden = np.zeros_like(problem.load)
    for cls in range(100):
        first = rng.integers(0, 7)
        hidden[cheapest[0, cls], cls] += first
        hidden[cheapest[1, cls], cls] += 6 - first
    room = (hidden * problem.load).sum(1)
    roomy = replace(problem, capacity=np.diag(room), cost=np.ones(8))
    slack = fit(roomy, np.ones(8), rng, Effort.RELAX).slack
    assert slack > 0
    brim = replace(roomy, capacity=np.diag(room * (1 - slack) * 1.002))
    found = fit(brim, np.ones(8), rng)
    assert found.packing is not None
    assert brim.fits(np.ones(8), found.packing)


def told(problem, cut, upper=200.0, most=10**6):
    """Units that a sweep up to a cost tells, and the cost below which it looked at all."""
    root, box = relaxed(problem, upper)
    rng, units, below = np.random.default_rng(0), [], root.bound
    for found in rising(problem, root, box, (root.bound, lambda: cut), lambda: most, rng):
        units += found.units.tolist()
        below = found.below
    return root, units, below


def holds(problem, units):
    return not fit(problem, units, np.random.default_rng(0), Effort.RELAX).impossible


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_units_that_hold_divisible_items_are_left_out(seed):
    rng = np.random.default_rng(seed)
    profiles, classes = int(rng.integers(2, 5)), int(rng.integers(1, 9))
    cost = np.round(rng.uniform(0.5, 3.0, profiles), 1)
    load = rng.lognormal(-1.0, rng.choice([0.1, 1.0]), (profiles, classes)) * cost.mean() / cost[:, None]
    load[1:][rng.random((profiles - 1, classes)) < 0.2] = np.inf
    upper = np.full(profiles, rng.choice([3.0, 12.0]))
    problem = replace(BinPacking.of(cost, load, rng.integers(1, 4, classes)), upper=upper)
    root, _ = relaxed(problem, upper)
    cut = 1.25 * root.bound + 0.5
    _, units, below = told(problem, cut, upper)
    assert below >= cut or not units
    every = itertools.product(*(range(int(high) + 1) for high in upper))
    expected = [each for each in every if np.dot(cost, each) < below - 1e-6 and holds(problem, np.array(each, float))]
    assert {*expected} <= {tuple(each) for each in units}
    assert all(np.dot(cost, each) >= root.bound - 1e-6 for each in units)


@pytest.mark.parametrize("seed", range(3))
def test_of_profiles_about_as_good_few_units_are_looked_at_before_some_hold_divisible_items(seed):
    problem = by_price(12, 144, 200.0, 4, seed)
    best = solve(replace(problem, fractional=True), Gap())
    _, units, below = told(problem, best.value + 0.005, most=20_000)
    assert below > best.value
    assert best.point.units.tolist() in units
    assert len(units) < 100
    assert not any(np.dot(problem.cost, each) < best.value - 1e-6 and holds(problem, np.array(each)) for each in units)


def test_costs_on_no_grid_are_left_to_branching():
    problem = by_price(4, 30, 20.0, 4, seed=0)
    problem = replace(problem, cost=problem.cost * np.sqrt(2.0))
    assert told(problem, 100.0)[1] == []
    assert solve(problem).gap <= 1e-4


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_reduced_basis_determines_the_units_and_starts_from_the_cost(seed):
    rng = np.random.default_rng(seed)
    offers = int(rng.integers(2, 9))
    whole = rng.integers(1, 900, offers)
    whole //= np.gcd.reduce(whole)
    load = rng.uniform(0.5, 1.0, (offers, 20)) / whole[:, None]
    found, _ = basis(load, whole.astype(float), whole, np.zeros(offers), 1.0, rng)
    units = rng.integers(0, 50, offers)
    values = found.functions @ units + found.shares * (whole @ units)
    assert np.allclose(values, np.round(values), atol=1e-6)
    assert np.allclose(found.inverse @ np.append(whole @ units, np.round(values)), units)


def test_a_table_where_every_profile_is_about_as_good_is_solved_near_the_relaxation():
    problem = by_price(12, 144, 200.0, 8, seed=0)
    found = solve(problem, Gap(1e-3) | Work(400))
    assert found.gap <= 1e-3
    assert problem.fits(found.point.units, found.point.packing)
