from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers import Gap, Status, Work, enumeration
from shardwright.solvers.enumeration import Leaves, PairLeaves, branch_and_bound, pareto_front

VALUES = st.one_of(st.floats(0, 10, width=16), st.just(np.inf))
GROUPS = st.lists(st.lists(VALUES, max_size=6), max_size=30)


def tree(groups: list[list[float]], slack: float = 0.0):
    """Bounds (each group's best minus some slack) and the function that expands groups."""
    bounds = np.array([min(group, default=np.inf) - slack for group in groups])
    opened: list[int] = []

    def expand(nodes, limit):
        opened.extend(nodes.tolist())
        pairs = [(value, n, i) for n in nodes.tolist() for i, value in enumerate(groups[n]) if value <= limit]
        values = np.array([pair[0] for pair in pairs])
        origin = np.array([pair[1] for pair in pairs], np.int64)
        return Leaves(values, origin, lambda i: pairs[i][1:])

    return bounds, expand, opened


@settings(derandomize=True, max_examples=200)
@given(GROUPS, st.floats(0, 3), st.integers(1, 4), st.integers(1, 5))
def test_the_best_points_equal_brute_force(groups, slack, keep, batch):
    bounds, expand, _ = tree(groups, slack)
    found = branch_and_bound(bounds, expand, keep=keep, batch=batch)
    reference = sorted((min(group), n) for n, group in enumerate(groups) if min(group, default=np.inf) < np.inf)
    assert [(each.value, each.node) for each in found.best] == reference[:keep]
    if reference:
        assert found.solution.status is Status.OPTIMAL
        assert found.solution.value == found.solution.bound == reference[0][0]
    else:
        assert found.solution.status is Status.INFEASIBLE
        assert found.solution.reason


def test_expansions_stop_growing_once_they_make_many_points(monkeypatch):
    monkeypatch.setattr(enumeration, "MANY", 8)
    bounds, expand, _ = tree([[float(i), 100.0] for i in range(64)], slack=100.0)
    at_once: list[int] = []

    def counted(nodes, limit):
        at_once.append(len(nodes))
        return expand(nodes, np.inf)

    branch_and_bound(bounds, counted, batch=1)
    assert at_once == [1, 2, *[4] * 15, 1]


def test_nodes_whose_bound_reaches_the_best_value_are_never_expanded():
    bounds, expand, opened = tree([[5.0], [1.0], [3.0], [4.0]])
    found = branch_and_bound(bounds, expand, batch=1)
    assert opened == [1]
    assert found.evaluated == 1


def test_equal_values_are_won_by_the_lower_node():
    bounds, expand, _ = tree([[2.0], [1.0], [1.0]], slack=1.0)
    assert branch_and_bound(bounds, expand).best[0].node == 1


def test_a_work_limit_leaves_a_bound_and_a_gap():
    bounds, expand, _ = tree([[4.0], [4.0], [3.0]], slack=2.0)
    bounds[:] = [1.0, 2.0, 2.5]
    solution = branch_and_bound(bounds, expand, batch=1, stop=Work(1)).solution
    assert (solution.status, solution.value, solution.bound) == (Status.FEASIBLE, 4.0, 2.0)
    assert solution.gap == 0.5


def test_a_gap_rule_stops_once_close_enough():
    bounds, expand, opened = tree([[4.0], [4.0], [3.0]])
    bounds[:] = [1.0, 3.9, 3.95]
    branch_and_bound(bounds, expand, batch=1, stop=Gap(0.05))
    assert opened == [0]


def test_stopping_without_any_feasible_point_is_a_limit():
    bounds, expand, _ = tree([[np.inf], [1.0]])
    bounds[:] = [0.0, 0.5]
    solution = branch_and_bound(bounds, expand, batch=1, stop=Work(1)).solution
    assert solution.status is Status.LIMIT
    assert solution.point is None


PAIRS = st.lists(st.lists(st.tuples(VALUES, VALUES), max_size=5), max_size=25)


def pair_tree(groups, slack):
    bounds = np.array([[min((pair[k] for pair in group), default=np.inf) - slack for k in (0, 1)] for group in groups])

    def expand(nodes):
        pairs = [(pair, (n, i)) for n in nodes.tolist() for i, pair in enumerate(groups[n])]
        values = np.array([pair for pair, _ in pairs]).reshape(len(pairs), 2)
        return PairLeaves(values, lambda i: pairs[i][1])

    return bounds.reshape(len(groups), 2), expand


@settings(derandomize=True, max_examples=200)
@given(PAIRS, st.floats(0, 3), st.integers(1, 4))
def test_the_front_equals_brute_force(groups, slack, batch):
    bounds, expand = pair_tree(groups, slack)
    found = pareto_front(bounds, expand, batch=batch)
    finite = {pair for group in groups for pair in group if np.isfinite(pair).all()}
    expected = sorted((a, b) for a, b in finite if not any((c <= a and d <= b) and (c, d) != (a, b) for c, d in finite))
    assert [(each.first, each.second) for each in found.points] == expected
    assert found.proven
    for each in found.points:
        node, i = each.point
        assert groups[node][i] == (each.first, each.second)


def test_a_front_stopped_early_is_not_proven():
    bounds, expand = pair_tree([[(1.0, 5.0)], [(2.0, 4.0)], [(3.0, 3.0)]], 0.0)
    found = pareto_front(bounds, expand, batch=1, stop=Work(1))
    assert not found.proven
    assert len(found.points) == 1
