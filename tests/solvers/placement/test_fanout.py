"""Items that are asked for together are grouped; the heaviest pair of devices is lightened."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers.placement import contiguous, fanout, heaviest
from tests.solvers.placement.instances import flowing, nested_links


def requests(seed, tokens=40, items=6, kept=2):
    random = np.random.default_rng(seed)
    return np.array([[random.choice(items, kept, replace=False)] for _ in range(tokens)])


def best(problem, items, devices):
    """The cheapest placement of one layer, every one tried."""
    rows = {tuple(row) for row in permutations(np.repeat(np.arange(devices), items // devices).tolist())}
    return min(fanout.cost(problem, np.array([row])) for row in rows)


@given(st.integers(0, 10**6), st.floats(0.0, 2.0))
@settings(max_examples=6, deadline=None)
def test_the_bound_is_below_and_the_answer_near_the_best(seed, load_weight):
    ids = requests(seed)
    loads = np.bincount(ids.ravel(), minlength=6)[None] / ids.size
    problem = fanout.FanoutProblem(ids, loads, nested_links(1, 3, 1.0), load_weight)
    start = np.repeat(np.arange(3), 2)[None]
    found = fanout.solve(problem, start, work=40_000, seed=seed)
    least = best(problem, 6, 3)
    assert found.bound <= least + 1e-9
    assert least <= found.value * (1 + 1e-9) <= 1.1 * least + 1e-6


def test_a_hidden_grouping_is_found_and_nodes_count_more_than_gpus():
    random = np.random.default_rng(0)
    topic = random.integers(0, 4, size=300)
    names = random.permutation(16)
    ids = names[topic[:, None] * 4 + np.array([random.choice(4, 2, replace=False) for _ in range(300)])][:, None]
    loads = np.bincount(ids.ravel(), minlength=16)[None] / ids.size
    problem = fanout.FanoutProblem(ids, loads, nested_links(2, 2, 5.0))
    found = fanout.solve(problem, np.repeat(np.arange(4), 4)[None], work=100_000)
    group = found.point[0][names].reshape(4, 4)
    assert np.all(group == group[:, :1])
    assert found.value == pytest.approx(sum(level.step for level in problem.nested))


def test_the_heaviest_pair_gets_lighter_and_stays_above_its_bound():
    problem = flowing(4, 5, 12, nested_links(2, 2, 4.0))
    start = contiguous(problem)
    found = heaviest.solve(problem, start, work=200_000)
    assert np.all(np.bincount(found.point[0], minlength=4) == 3)
    assert found.bound <= found.value < heaviest.heaviest(problem, start)
    assert found.value == pytest.approx(heaviest.heaviest(problem, found.point))
