"""Mapping items to a grid: no order beats the bound, brute force agrees on tiny grids, and equal seeds agree."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers import Status
from shardwright.solvers.mapping import MappingProblem, Term, evaluate, solve

SHAPES = [(2, 2), (1, 5), (3, 2), (2, 3)]


def random_problem(shape: tuple[int, int], seed: int) -> MappingProblem:
    """Pipelines down the first axis, rings along the second, both over random directed links."""
    random = np.random.default_rng(seed)
    items = shape[0] * shape[1]
    hop, ring = random.uniform(1, 3, (2, items, items))
    return MappingProblem(shape, (Term(0, hop), Term(1, ring, cyclic=True, reduce="max")))


def brute(problem: MappingProblem) -> float:
    orders = np.array(list(permutations(range(problem.items))))
    return float(evaluate(problem, orders).min())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 10_000))
def test_the_search_finds_what_brute_force_finds_and_the_bound_is_below_it(shape, seed):
    problem = random_problem(shape, seed)
    best = brute(problem)
    found = solve(problem, steps=300)
    assert found.value == pytest.approx(best)
    assert found.bound <= best * (1 + 1e-9)
    assert found.point is not None
    assert sorted(found.point.tolist()) == list(range(problem.items))
    assert evaluate(problem, found.point[None])[0] == pytest.approx(found.value)


def test_a_uniform_fabric_is_proven_optimal_at_once():
    cost = np.ones((8, 8))
    found = solve(MappingProblem((2, 4), (Term(0, cost), Term(1, cost, cyclic=True, reduce="max"))))
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(2.0)
    assert found.work <= 1


def test_a_slow_link_is_avoided():
    cost = np.ones((6, 6))
    cost[0, 1] = cost[1, 0] = cost[2, 3] = cost[3, 2] = 50.0
    problem = MappingProblem((1, 6), (Term(1, cost, cyclic=True, reduce="max"),))
    assert evaluate(problem, np.arange(6)[None])[0] == 50.0
    assert solve(problem).value == 1.0


def test_places_of_different_blocks_do_not_mix():
    problem = random_problem((2, 3), 7)
    fenced = MappingProblem(problem.shape, problem.terms, blocks=np.array([0, 0, 0, 1, 1, 1]))
    found = solve(fenced, steps=200)
    assert found.point is not None
    assert set(found.point[:3].tolist()) == {0, 1, 2}


def test_the_same_seed_gives_the_same_order():
    problem = random_problem((2, 3), 3)
    first, second = solve(problem, seed=5, steps=50), solve(problem, seed=5, steps=50)
    assert first.point is not None and second.point is not None
    assert first.point.tolist() == second.point.tolist()


@pytest.mark.parametrize(
    ("shape", "axis", "size"), [((2, 2), 2, 4), ((2, 3), 0, 4), ((0, 2), 0, 4)], ids=["axis", "items", "empty"]
)
def test_a_problem_that_makes_no_sense_is_refused(shape, axis, size):
    with pytest.raises(ValueError, match=r"must|needs"):
        MappingProblem(shape, (Term(axis, np.ones((size, size))),))
