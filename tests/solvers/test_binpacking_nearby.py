"""Units near the relaxation and whole items packed almost to the brim: what the search for large packings rests on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers import Gap, Work
from shardwright.solvers.binpacking import BinPacking, solve
from shardwright.solvers.binpacking.lattice import nearby, valley
from shardwright.solvers.binpacking.nearby import _possible
from shardwright.solvers.binpacking.relaxation import Relaxation
from shardwright.solvers.binpacking.rounding import Effort, fit
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


@pytest.mark.parametrize("seed", range(2))
def test_points_near_the_relaxation_hold_the_cheapest_units_of_divisible_items(seed):
    problem = by_price(5, 60, 40.0, 4, seed)
    root, box = relaxed(problem)
    best = solve(BinPacking.of(problem.cost, problem.load, problem.items, fractional=True))
    room = best.value - root.bound + 1e-6
    around = valley(problem, root.prices, room, np.random.default_rng(0))
    points = nearby(around, box, room)
    assert (np.diff(points @ problem.cost) >= -1e-9).all()
    assert (points == np.round(points)).all()
    assert (points @ problem.cost <= root.bound + 1.01 * room + 1e-6).all()
    assert best.point.units.tolist() in points.tolist()


@pytest.mark.parametrize("seed", range(2))
def test_points_left_out_hold_no_divisible_items(seed):
    problem = by_price(5, 60, 40.0, 4, seed)
    root, box = relaxed(problem)
    room = 3e-2 * root.bound
    around = valley(problem, root.prices, room, np.random.default_rng(0))
    points = nearby(around, box, room)[:20]
    points = np.concatenate([points, *(points - unit for unit in np.eye(5))])
    points = points[(points >= 0).all(1)]
    kept = {tuple(units) for units in _possible(problem, around, points).tolist()}
    out = [units for units in points if tuple(units.tolist()) not in kept]
    assert out
    assert all(fit(problem, units, np.random.default_rng(0), Effort.RELAX).impossible for units in out[::7])


def test_a_table_where_every_profile_is_about_as_good_is_solved_near_the_relaxation():
    problem = by_price(12, 144, 200.0, 8, seed=0)
    found = solve(problem, Gap(1e-4) | Work(30))
    assert found.gap <= 1e-3
    assert problem.fits(found.point.units, found.point.packing)
