"""No placement is below a bound, and tighter bounds are tighter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers import Status
from shardwright.solvers.placement import Effort, brute, chained, exact, floor, place, score, value_of
from shardwright.solvers.placement.certificate import certify, matching_ceiling, semidefinite_ceiling
from tests.solvers.placement.instances import flowing, nested_links

TWO_NODES = nested_links(2, 2, 5.0)
UNIFORM = nested_links(1, 4, 1.0)


@given(st.integers(0, 10**6), st.sampled_from(["uniform", "nodes", "ring"]), st.floats(0.0, 5.0))
@settings(max_examples=8, deadline=None)
def test_bounds_are_below_what_trying_everything_finds(seed, links, load_weight):
    ring = np.array([[0.0, 1.0, 2.0, 1.0], [1.0, 0.0, 1.0, 2.0], [2.0, 1.0, 0.0, 1.0], [1.0, 2.0, 1.0, 0.0]])
    cost = {"uniform": UNIFORM, "nodes": TWO_NODES, "ring": ring}[links]
    problem = flowing(seed, 2, 4, cost, load_weight=load_weight)
    best = brute.solve(problem).value
    assert floor(problem).value <= best + 1e-9
    assert floor(problem).value <= certify(problem).value + 1e-9
    assert certify(problem).value <= best + 1e-9


@given(st.integers(0, 10**6))
@settings(max_examples=4, deadline=None)
def test_bounds_are_below_the_exact_optimum_of_two_items_a_device(seed):
    problem = flowing(seed, 4, 8, TWO_NODES, load_weight=0.5)
    found = exact.solve(problem)
    assert certify(problem).value <= found.value + 1e-9
    assert found.value == pytest.approx(score(problem, found.point).value)


def test_the_exact_solvers_agree_with_trying_everything():
    problem = flowing(0, 2, 4, TWO_NODES, load_weight=1.0)
    assert exact.solve(problem).value == pytest.approx(brute.solve(problem).value)
    assert place(problem).status is Status.OPTIMAL
    one_each = flowing(1, 2, 4, UNIFORM)
    assert chained.solve(one_each).value == pytest.approx(brute.solve(one_each).value)


def test_annealing_comes_near_the_optimum_of_a_small_problem_without_knowing_it():
    problem = flowing(1, 4, 8, TWO_NODES, load_weight=0.5)
    found = place(problem, effort=Effort(work=2_000_000, exact=False, certify=True))
    best = exact.solve(problem).value
    assert best <= found.value * (1 + 1e-9) <= 1.05 * best
    assert floor(problem).value < found.bound <= found.value


def test_ceilings_are_above_the_flow_of_a_hidden_grouping_and_near_it():
    random = np.random.default_rng(0)
    group = random.permutation(np.repeat(np.arange(4), 4))
    flow = random.random((16, 16)) * 0.05 + (group[:, None] == group)
    flow /= flow.sum()
    kept = float(flow[group[:, None] == group].sum())
    matched, relaxed = matching_ceiling(flow, 4), semidefinite_ceiling(flow, 4, 1.0)
    assert kept <= matched + 1e-9
    assert kept <= relaxed + 1e-9
    assert matched <= kept + 1e-6
    assert relaxed <= kept + 0.03


def test_a_tighter_bound_costs_no_quality():
    problem = flowing(2, 4, 32, nested_links(2, 4, 5.0), load_weight=1.0)
    fast, sure = (place(problem, effort=Effort(work=300_000, certify=certify_)) for certify_ in (False, True))
    assert fast.value == sure.value
    assert fast.bound < sure.bound <= sure.value


@pytest.mark.parametrize("spare", [0, 4])
def test_renaming_gpus_of_equal_links_moves_no_bound_and_no_optimum(spare):
    problem = flowing(3, 3, 8, TWO_NODES, load_weight=1.0, slots=np.full(4, 2 + spare // 4))
    order = np.array([3, 2, 0, 1])
    renamed = replace(problem, link_cost=problem.link_cost[order][:, order])
    assert floor(renamed, spare).value == pytest.approx(floor(problem, spare).value)
    if spare == 0:
        assert place(renamed).value == pytest.approx(place(problem).value)


@given(st.integers(0, 10**6), st.integers(1, 8))
@settings(max_examples=5, deadline=None)
def test_copies_of_a_flow_are_held_once_a_device_and_cost_at_least_the_bound(seed, spare):
    slots = np.full(4, -(-(8 + spare) // 4))
    problem = flowing(seed, 3, 8, TWO_NODES, load_weight=1.0, slots=slots)
    found = place(problem, spare, Effort(work=20_000, seed=seed))
    for row in found.point.holders(8):
        assert all(held and len(set(held)) == len(held) for held in row)
        assert np.all(np.bincount([d for held in row for d in held], minlength=4) <= slots)
    assert found.bound <= found.value
    assert found.value == pytest.approx(value_of(problem, found.point).value)
