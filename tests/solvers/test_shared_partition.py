"""Cuts of a chain whose pieces share owners: exact on every small chain, and within their room."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from shardwright.solvers.shared_partition import Effort, SharedPartition, SharedProblem, Weights, filled, solve
from shardwright.solvers.solution import Status

OWNED = np.array([[0, 2], [1, 3]])


def problem(seed: int, units: int, room: float) -> SharedProblem:
    """Two owners of two pieces each, over a chain of two kinds of units."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 2, units)
    cost, extra = random.uniform(1, 3, 2), random.uniform(0.2, 0.5, 2)
    kept = random.uniform(50, 100, 2)
    return SharedProblem(
        parts=np.eye(2, dtype=np.int64)[kinds],
        cost=cost,
        extra=extra,
        once=random.uniform(10, 20, 2),
        kept=kept,
        spared=0.8 * kept,
        load=cost,
        fixed_cost=np.array([0.1, 0.0, 0.0, 1.5]),
        fixed_load=np.array([0.1, 0.0, 0.0, 1.5]),
        least=np.zeros(4, np.int64),
        free=np.array([False, False, False, True]),
        round=np.array([0, 0, 1, 1]),
        owned=OWNED,
        alive=np.array([[3.0, 2.0], [2.0, 1.0]]),
        fixed=np.array([20.0, 30.0]),
        working=5.0,
        room=np.full(2, room),
        speed=np.array([1.0, 1.2]),
        least_owned=np.ones(2, np.int64),
    )


WEIGHTS = Weights(slowest=7.5, total=0.5, rounds=2.0)


def value(p: SharedProblem, sizes, lightened) -> float:
    """Infinite where pieces of an owner are not alike or do not fit."""
    ends = np.cumsum(sizes)
    prefix = np.concatenate([np.zeros((1, 2)), np.cumsum(p.parts, axis=0)])
    held = prefix[ends] - prefix[ends - sizes]
    light = prefix[ends - sizes + lightened] - prefix[ends - sizes]
    costs, owners = [], []
    piece_load = np.zeros(4)
    for owner, pieces in enumerate(p.owned):
        for counts in (sizes, lightened):
            if counts[pieces].max() > counts[pieces][~p.free[pieces]].min() + 1:
                return np.inf
        if sizes[pieces].sum() < 1:
            return np.inf
        alive = p.alive[owner][:, None]
        used = (held[pieces] * (p.once + alive * p.kept) - light[pieces] * alive * p.spared).sum() + p.fixed[owner]
        if used + p.working * bool(lightened[pieces].any()) > p.room[owner]:
            return np.inf
        piece_load[pieces] = p.speed[owner] * (held[pieces] @ p.load + p.fixed_load[pieces])
        costs.append(p.speed[owner] * (held[pieces] @ p.cost + light[pieces] @ p.extra + p.fixed_cost[pieces]).sum())
        owners.append(piece_load[pieces].sum())
    rounds = piece_load[:2].max() + piece_load[2:].max() - max(owners)
    return WEIGHTS.slowest * max(costs) + WEIGHTS.total * sum(costs) + WEIGHTS.rounds * rounds


def least(p: SharedProblem) -> float:
    """By trying every cut and every way to lighten it."""
    best = np.inf
    for sizes in itertools.product(range(p.units + 1), repeat=4):
        if sum(sizes) == p.units:
            for lightened in itertools.product(*(range(size + 1) for size in sizes)):
                best = min(best, value(p, np.array(sizes), np.array(lightened)))
    return best


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("room", [900.0, 1200.0, 3000.0])
def test_the_cut_found_equals_brute_force(seed, room):
    p = problem(seed, 6, room)
    exact, found = least(p), solve(p, WEIGHTS)
    if not np.isfinite(exact):
        assert found.status is Status.INFEASIBLE
        return
    assert found.point is not None
    made = value(p, found.point.sizes, found.point.lightened)
    assert exact <= made * (1 + 1e-12)
    assert made <= exact * 1.001
    assert exact * 0.999 <= found.bound <= exact * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_that_is_filled_fits_and_is_no_better_than_the_best(seed):
    p = problem(seed, 6, 1200.0)
    for numbers, shorter in itertools.product(([3, 3], [4, 2]), (False, True)):
        made = filled(p, np.array(numbers), shorter)
        if made is not None:
            assert isinstance(made, SharedPartition)
            assert least(p) <= value(p, made.sizes, made.lightened) * (1 + 1e-12)
            assert made.sizes[OWNED].sum(axis=1).tolist() == numbers


def test_nothing_is_below_a_cutoff_that_the_best_reaches():
    p = problem(1, 6, 3000.0)
    exact = least(p)
    assert solve(p, WEIGHTS, Effort(cutoff=0.99 * exact)).status is Status.INFEASIBLE
    assert solve(p, WEIGHTS, Effort(cutoff=1.01 * exact)).point is not None
