"""Bin packing of identical items: the same optimum as Mélange's per-slice program, always with a proof."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers import Gap, Status, Work
from shardwright.solvers.binpacking import BinPacking, solve
from shardwright.solvers.binpacking.exact import pack_exactly
from shardwright.solvers.binpacking.lagrangian import Lagrangian, separable
from shardwright.solvers.binpacking.relaxation import Relaxation
from shardwright.solvers.binpacking.rounding import fit


def per_slice_optimum(cost, load, items):
    """Mélange's own program: one binary per slice and type, solved to optimality by CBC."""
    from ortools.linear_solver import pywraplp

    solver = pywraplp.Solver.CreateSolver("CBC")
    units = [solver.IntVar(0, solver.infinity(), "") for _ in cost]
    room = [solver.Constraint(-solver.infinity(), 0) for _ in cost]
    for profile, unit in enumerate(units):
        room[profile].SetCoefficient(unit, -1)
        solver.Objective().SetCoefficient(unit, float(cost[profile]))
    for cls, count in enumerate(items):
        for _ in range(count):
            slice_ = solver.Constraint(1, 1)
            for profile in range(len(cost)):
                if math.isfinite(load[profile, cls]):
                    cell = solver.BoolVar("")
                    slice_.SetCoefficient(cell, 1)
                    room[profile].SetCoefficient(cell, float(load[profile, cls]))
    parameters = pywraplp.MPSolverParameters()
    parameters.SetDoubleParam(parameters.RELATIVE_MIP_GAP, 0.0)
    assert solver.Solve(parameters) == solver.OPTIMAL
    return solver.Objective().Value()


@st.composite
def small_packings(draw):
    profiles, classes = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cost = np.round(rng.uniform(0.5, 5, profiles), 2)
    load = rng.uniform(0.05, 1.0, (profiles, classes)) * draw(st.sampled_from([0.3, 1.0, 3.0]))
    load[1:][rng.random((profiles - 1, classes)) < 0.15] = np.inf
    return cost, load, rng.integers(1, 5, classes)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(small_packings())
def test_aggregated_items_have_the_per_slice_optimum(packing):
    cost, load, items = packing
    problem = BinPacking.of(cost, load, items)
    found = solve(problem)
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(per_slice_optimum(cost, load, items), abs=1e-6)
    assert found.bound == found.value
    assert problem.fits(found.point.units, found.point.packing)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(small_packings())
def test_divisible_items_are_never_dearer(packing):
    whole = solve(BinPacking.of(*packing))
    divided = solve(BinPacking.of(*packing, fractional=True))
    assert divided.status is Status.OPTIMAL
    assert divided.value <= whole.value + 1e-9


@settings(derandomize=True, max_examples=25, deadline=None)
@given(small_packings())
def test_any_prices_bound_the_optimum_from_below(packing):
    problem = BinPacking.of(*packing)
    upper = np.full(len(problem.cost), 100.0)
    optimum = solve(problem).value
    rng = np.random.default_rng(0)
    relaxation = Relaxation(problem)
    for prices in rng.uniform(0, 3, (20, len(problem.cost))):
        assert relaxation.bound(prices, np.zeros(0), 0 * upper, upper) <= optimum + 1e-9


@settings(derandomize=True, max_examples=25, deadline=None)
@given(small_packings())
def test_prices_of_classes_bound_the_optimum_and_keep_its_units(packing):
    problem = BinPacking.of(*packing)
    upper = np.full(len(problem.cost), 100.0)
    best = solve(problem, Gap(0.0) | Work(20_000))
    lagrangian = Lagrangian(problem, np.zeros(0))
    rng = np.random.default_rng(0)
    for prices in rng.uniform(0, 3, (8, len(problem.items))):
        found = lagrangian.ascend(prices, (0 * upper, upper), best.value + 1e-3, (40, 1.0))
        assert found.bound <= best.value + 1e-9
        assert (found.lower <= best.point.units).all()
        assert (best.point.units <= found.upper).all()


def test_prices_of_classes_prove_more_than_the_relaxation_where_units_are_hardly_used():
    """One item that fills a tenth of a unit costs the whole unit."""
    problem = BinPacking.of(np.array([1.0, 1.5]), np.array([[0.1, 0.1], [0.1, 0.1]]), np.array([1, 1]))
    assert Relaxation(problem).solve(np.zeros(2), np.full(2, 5.0)).bound == pytest.approx(0.2)
    found = Lagrangian(problem, np.zeros(0)).ascend(np.full(2, 0.1), (np.zeros(2), np.full(2, 5.0)), 1.5, (100, 1.0))
    assert found.bound == pytest.approx(1.0, abs=1e-3)


def test_a_profile_with_two_offers_is_not_separable():
    base = two_types()
    assert separable(base)
    shared = BinPacking(
        cost=np.array([1.0, 1.5]), capacity=np.array([[1.0, 1.0]]), load=np.array([[0.5]]), items=np.array([9]),
        lower=np.zeros(2), upper=np.full(2, np.inf), limit_matrix=np.zeros((0, 2)), limit=np.zeros(0),
    )  # fmt: skip
    assert not separable(shared)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(small_packings())
def test_cells_that_waste_too_much_are_in_no_packing(packing):
    """Of all fleets at the optimum's cost or one unit less, the same are packed with all cells and with those left."""
    problem = BinPacking.of(*packing)
    best = solve(problem).point.units
    for units in (best, *(best - unit for unit in np.eye(len(best)))):
        if (units < 0).any():
            continue
        rough = fit(problem, units, np.random.default_rng(0))
        if rough.impossible:
            continue
        prices = rough.prices if rough.prices is not None else problem.cost
        every = pack_exactly(problem, units, np.zeros(len(units)), 10_000)
        few = pack_exactly(problem, units, prices, 10_000)
        assert every.proven
        assert few.proven
        assert (every.packing is None) == (few.packing is None)


def two_types():
    """One cheap small machine that cannot take the large requests, one dear machine that takes all."""
    return BinPacking.of(np.array([1.0, 3.0]), np.array([[0.25, np.inf], [0.1, 0.5]]), np.array([8, 2]))


def test_large_items_go_where_they_fit():
    found = solve(two_types())
    assert found.value == 5.0
    assert found.point.units.tolist() == [2.0, 1.0]
    assert found.point.packing[0, 1] == 0


def test_a_bin_filled_to_the_brim_holds():
    found = solve(BinPacking.of(np.array([1.0]), np.array([[0.1]]), np.array([30])))
    assert found.value == 3.0


def test_caps_move_items_to_the_next_best():
    base = two_types()
    capped = BinPacking(
        cost=base.cost, capacity=base.capacity, load=base.load, items=base.items, lower=base.lower,
        upper=np.array([1.0, np.inf]), limit_matrix=base.limit_matrix, limit=base.limit,
    )  # fmt: skip
    found = solve(capped)
    assert found.status is Status.OPTIMAL
    assert found.point.units[0] <= 1
    assert found.value == 6.0


def test_a_limit_over_several_offers_holds():
    """Two regions of one machine; the first is cheap but a quota of two units binds it."""
    problem = BinPacking(
        cost=np.array([1.0, 1.5]), capacity=np.array([[1.0, 1.0]]), load=np.array([[0.5]]), items=np.array([9]),
        lower=np.zeros(2), upper=np.full(2, np.inf), limit_matrix=np.array([[1.0, 0.0]]), limit=np.array([2.0]),
    )  # fmt: skip
    found = solve(problem)
    assert found.point.units.tolist() == [2.0, 3.0]
    assert found.value == 6.5


def test_lower_bounds_are_paid_for():
    problem = BinPacking(
        cost=np.array([1.0]), capacity=np.eye(1), load=np.array([[0.5]]), items=np.array([2]),
        lower=np.array([4.0]), upper=np.array([9.0]), limit_matrix=np.zeros((0, 1)), limit=np.zeros(0),
    )  # fmt: skip
    assert solve(problem).value == 4.0


def test_an_item_that_fits_nowhere_is_a_reason():
    found = solve(BinPacking.of(np.array([1.0]), np.array([[np.inf, 1.0]]), np.array([1, 1])))
    assert found.status is Status.INFEASIBLE
    assert "class 0" in found.reason


def test_caps_below_the_load_are_infeasible():
    problem = BinPacking(
        cost=np.array([1.0, 2.0]), capacity=np.eye(2), load=np.array([[1.0], [0.5]]), items=np.array([9]),
        lower=np.zeros(2), upper=np.array([3.0, 2.0]), limit_matrix=np.zeros((0, 2)), limit=np.zeros(0),
    )  # fmt: skip
    found = solve(problem)
    assert found.status is Status.INFEASIBLE
    assert found.point is None


def test_limits_below_the_lower_bounds_are_infeasible():
    problem = BinPacking(
        cost=np.array([1.0]), capacity=np.eye(1), load=np.array([[1.0]]), items=np.array([1]),
        lower=np.array([3.0]), upper=np.array([9.0]), limit_matrix=np.ones((1, 1)), limit=np.array([2.0]),
    )  # fmt: skip
    assert solve(problem).status is Status.INFEASIBLE


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("cost", np.array([-1.0, 1.0]), "cost"),
        ("load", np.array([[np.nan, 1.0], [1.0, 1.0]]), "NaN"),
        ("items", np.array([0, 1]), "items"),
        ("lower", np.array([9.0, 9.0]), "lower"),
        ("capacity", np.eye(3), "shape"),
    ],
)
def test_numbers_out_of_range_are_refused(field, value, words):
    fields = {
        "cost": np.ones(2), "capacity": np.eye(2), "load": np.ones((2, 2)), "items": np.ones(2, int),
        "lower": np.zeros(2), "upper": np.full(2, 5.0), "limit_matrix": np.zeros((0, 2)), "limit": np.zeros(0),
    }  # fmt: skip
    with pytest.raises(ValueError, match=words):
        BinPacking(**{**fields, field: value})


def roofline(profiles, sizes, rate, seed):
    """Throughputs that fall with both lengths, each machine in its own way."""
    rng = np.random.default_rng(seed)
    cost = np.round(rng.uniform(0.5, 8, profiles), 2)
    lengths = np.geomspace(25, 4000, sizes)
    speed = (cost * rng.uniform(0.6, 1.4, profiles))[:, None, None]
    prefill, decode = rng.uniform(0.5, 2, (2, profiles, 1, 1))
    throughput = speed * 300 / (0.3 * prefill * lengths[:, None] + decode * lengths + 20)
    share = rng.dirichlet(np.ones(sizes * sizes))
    return cost, share * rate / throughput.reshape(profiles, -1)


@pytest.mark.parametrize(("profiles", "sizes", "slices"), [(4, 6, 8), (12, 12, 4)])
def test_large_tables_are_proven_to_a_hundredth_of_a_percent(profiles, sizes, slices):
    cost, load = roofline(profiles, sizes, 50.0, seed=1)
    problem = BinPacking.of(cost, load / slices, np.full(load.shape[1], slices))
    found = solve(problem)
    assert found.gap <= 1e-4
    assert problem.fits(found.point.units, found.point.packing)


def scattered(profiles, sizes, rate, seed):
    """Throughputs drawn independently, one in ten zero: every profile is good at other classes."""
    rng = np.random.default_rng(seed)
    cost = np.round(rng.uniform(0.5, 8, profiles), 2)
    throughput = rng.lognormal(1.0, 1.0, (profiles, sizes * sizes))
    throughput[1:][rng.random((profiles - 1, sizes * sizes)) < 0.1] = 0.0
    with np.errstate(divide="ignore"):
        return cost, rng.dirichlet(np.ones(sizes * sizes)) * rate / throughput


@pytest.mark.parametrize("rate", [3.0, 60.0])
def test_scattered_tables_are_proven_to_a_hundredth_of_a_percent(rate):
    cost, load = scattered(12, 12, rate, seed=1)
    problem = BinPacking.of(cost, load / 4, np.full(load.shape[1], 4))
    found = solve(problem)
    assert found.gap <= 1e-4
    assert problem.fits(found.point.units, found.point.packing)


def test_the_same_problem_gives_the_same_answer():
    cost, load = roofline(5, 6, 40.0, seed=2)
    problem = BinPacking.of(cost, load / 4, np.full(36, 4))
    first, second = solve(problem), solve(problem)
    assert first.point.packing.tobytes() == second.point.packing.tobytes()
    assert first.work == second.work


def test_a_work_limit_leaves_an_honest_bound():
    cost, load = roofline(8, 8, 300.0, seed=3)
    problem = BinPacking.of(cost, load / 4, np.full(64, 4))
    short, full = solve(problem, Gap(0.0) | Work(2)), solve(problem, Gap(1e-4) | Work(20_000))
    assert short.bound <= full.value
    assert short.value >= full.bound
    assert short.status is Status.FEASIBLE
