"""Outcomes of searches and the rules that stop them."""

from __future__ import annotations

import math

import pytest

from shardwright.solvers import Gap, Progress, Seconds, Solution, Status, Work, relative_gap


def test_the_gap_is_the_distance_to_the_bound_relative_to_the_value():
    assert Solution(Status.FEASIBLE, "x", value=10.0, bound=9.0).gap == pytest.approx(0.1)
    assert Solution(Status.OPTIMAL, "x", value=0.0, bound=0.0).gap == 0.0
    assert Solution[str](Status.INFEASIBLE, None, reason="none fits").gap == math.inf
    assert relative_gap(0.0, -1.0) == math.inf


def test_any_rule_of_a_composition_stops_the_search():
    stop = Work(5) | Gap(0.01) | Seconds(1e9)
    assert not stop(Progress(value=10.0, bound=5.0, work=4))
    assert stop(Progress(value=10.0, bound=5.0, work=5))
    assert stop(Progress(value=10.0, bound=9.95, work=0))
    assert (Seconds(0.0) | Work(10**9))(Progress())
