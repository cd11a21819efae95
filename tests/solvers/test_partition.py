"""Partitions of a chain are exact: brute force over all cuts, kinds and options agrees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations_with_replacement, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shardwright.solvers import Status
from shardwright.solvers.partition import BOTTLENECK_FIRST, PartitionProblem, solve
from shardwright.solvers.partition_segments import Segments, spread


def all_partitions(problem: PartitionProblem) -> Iterator[tuple[float, float]]:
    """Bottleneck and total of every allowed partition."""
    for cuts in combinations_with_replacement(range(problem.units + 1), problem.stages - 1):
        ends = (*cuts, problem.units)
        begins = (0, *cuts)
        for kinds in product(range(problem.kinds), repeat=problem.stages):
            if problem.uses is not None and (problem.uses[list(kinds)].sum(axis=0) > problem.available).any():
                continue
            costs = [problem.table[k, s, i, j] for s, (k, i, j) in enumerate(zip(kinds, begins, ends, strict=True))]
            total = sum(costs)
            if problem.switch is not None:
                total += sum(problem.switch[pair] for pair in pairwise(kinds))
            if math.isfinite(total):
                yield max(costs), total


@st.composite
def segments(draw: st.DrawFn, kinds: int = 0) -> Segments:
    """Small whole numbers, so that equal costs happen."""
    stages, options, units = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(1, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    front = (kinds, stages) if kinds else (stages,)
    return Segments(
        cost=random.integers(0, 6, (*front, options, units)).astype(float),
        size=random.integers(0, 4, (*front, options, units)).astype(float),
        capacity=random.integers(2, 12, front).astype(float),
        fixed_cost=random.integers(0, 3, (*front, options)).astype(float),
        fixed_size=random.integers(0, 2, (*front, options)).astype(float),
        may_be_empty=random.random(front) < 0.3,
    )


def check(problem: PartitionProblem, weight: float) -> None:
    found = solve(problem, weight)
    every = list(all_partitions(problem))
    if not every:
        assert found.status is Status.INFEASIBLE
        assert found.point is None
        assert found.reason
        return
    assert found.status is Status.OPTIMAL
    assert found.point is not None
    assert found.point.sizes.sum() == problem.units
    if math.isinf(weight):
        assert (found.value, found.point.total) == min(every)
        assert found.point.bottleneck == found.value
    else:
        assert found.value == min(weight * bottleneck + total for bottleneck, total in every)
        assert weight * found.point.bottleneck + found.point.total == found.value


@settings(max_examples=60, deadline=None, derandomize=True)
@given(chain=segments(), weight=st.sampled_from([0.0, 1.0, 7.0, BOTTLENECK_FIRST]))
def test_the_partition_is_as_good_as_the_best_of_all(chain: Segments, weight: float) -> None:
    check(chain.problem(), weight)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    chain=segments(kinds=2),
    weight=st.sampled_from([0.0, 3.0, BOTTLENECK_FIRST]),
    seed=st.integers(0, 999),
    sw=st.booleans(),
)
def test_kinds_of_stages_are_chosen_and_ordered_as_well_as_by_brute_force(
    chain: Segments, weight: float, seed: int, sw: bool
) -> None:
    random = np.random.default_rng(seed)
    uses = random.integers(0, 3, (2, 2))
    available = random.integers(1, 7, 2)
    switch = random.integers(0, 3, (2, 2)).astype(float) if sw else None
    check(chain.problem(uses, available, switch), weight)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(chain=segments())
def test_options_are_the_cheapest_that_fit(chain: Segments) -> None:
    found = solve(chain.problem())
    if found.point is None:
        return
    options = chain.options(found.point)
    begins = found.point.ends - found.point.sizes
    for stage, (option, i, j) in enumerate(zip(options, begins, found.point.ends, strict=True)):
        price = [
            chain.cost[stage, o, i:j].sum() + np.asarray(chain.fixed_cost)[stage, o]
            for o in range(chain.cost.shape[1])
            if chain.size[stage, o, i:j].sum() + np.asarray(chain.fixed_size)[stage, o] <= chain.capacity[stage]
        ]
        assert found.point.costs[stage] == min(price)
        own = chain.cost[stage, option, i:j].sum() + np.asarray(chain.fixed_cost)[stage, option]
        assert own == min(price)


def transformer(layers: int = 8, head: float = 3.0, stages: int = 4) -> Segments:
    """An embedding that costs nothing, layers of one, and a head; the earlier stages keep more micro-batches."""
    cost = np.concatenate([[0.0], np.ones(layers), [head]])
    in_flight = np.arange(stages, 0, -1)
    return Segments(
        cost=np.broadcast_to(cost, (stages, 1, layers + 2)).copy(),
        size=np.broadcast_to(in_flight[:, None, None], (stages, 1, layers + 2)).astype(float),
        capacity=np.full(stages, 100.0),
    )


def test_a_heavy_head_gets_fewer_layers() -> None:
    found = solve(transformer().problem())
    assert found.value == 3.0
    assert found.point is not None
    assert found.point.sizes.sum() == 10
    assert found.point.costs[-1] <= 3.0


def test_memory_of_early_stages_moves_layers_to_later_ones() -> None:
    chain = transformer(layers=10, head=1.0)
    tight = Segments(chain.cost, chain.size, np.full(4, 10.0))
    found = solve(tight.problem())
    assert found.point is not None
    assert (found.point.sizes * np.array([4, 3, 2, 1]) <= 10).all()
    assert found.value > solve(chain.problem()).value


def test_recomputing_only_where_memory_is_short() -> None:
    """Option 1 costs a third more and keeps an eighth; only the first stage, which keeps most, needs it."""
    chain = transformer(layers=8, head=0.0, stages=2)
    both = Segments(
        cost=np.concatenate([chain.cost, chain.cost * 4 / 3], axis=1),
        size=np.concatenate([chain.size, chain.size / 8], axis=1),
        capacity=np.full(2, 5.0),
    )
    found = solve(both.problem())
    assert found.point is not None
    assert both.options(found.point).tolist() == [1, 0]


def test_spreading_the_head_over_all_stages_balances_them() -> None:
    plain, shared = transformer(), spread(transformer(), unit=9, overhead_cost=0.1)
    assert solve(plain.problem()).value == 3.0
    found = solve(shared.problem())
    assert found.value == pytest.approx(2.0 + 3.0 / 4 + 0.1)
    assert found.point is not None
    assert found.point.sizes.tolist() == [3, 2, 2, 2]


def test_fast_devices_take_more_layers_and_the_best_order_is_found() -> None:
    """Two fast and two slow stages; memory makes the slow, small kind unfit to be first."""
    layers, speed, room = 12, np.array([2.0, 1.0]), np.array([16.0, 6.0])
    in_flight = np.arange(4, 0, -1.0)
    chain = Segments(
        cost=np.broadcast_to(1.0 / speed[:, None, None, None], (2, 4, 1, layers)).copy(),
        size=np.broadcast_to(in_flight[None, :, None, None], (2, 4, 1, layers)).copy(),
        capacity=np.broadcast_to(room[:, None], (2, 4)).copy(),
    )
    found = solve(chain.problem(uses=np.eye(2, dtype=np.int64), available=np.array([2, 2])))
    assert found.point is not None
    assert found.point.kinds.tolist() == [0, 0, 1, 1]
    assert found.point.sizes.tolist() == [4, 4, 2, 2]
    assert found.value == 2.0


def test_a_stage_is_never_empty_unless_allowed() -> None:
    cost: NDArray[np.float64] = np.ones((3, 1, 2))
    chain = Segments(cost, cost, np.full(3, 9.0))
    found = solve(chain.problem())
    assert found.status is Status.INFEASIBLE
    assert found.reason == "2 units cannot fill 3 stages of which 0 may be empty"
    relaxed = Segments(cost, cost, np.full(3, 9.0), may_be_empty=np.array([False, True, False]))
    assert solve(relaxed.problem()).value == 1.0


def test_infeasible_says_which_unit_or_resource_is_in_the_way() -> None:
    size = np.array([[[1.0, 9.0, 1.0]]])
    assert solve(Segments(size, size, np.array([5.0])).problem()).reason == "unit 1 fits on no stage"
    one = np.ones((1, 2, 1, 4))
    short = Segments(one, one, np.full((1, 2), 9.0)).problem(np.array([[3]]), np.array([5]))
    assert solve(short).reason == "2 stages take more than the [5] resources available"
    narrow = Segments(np.ones((2, 1, 6)), np.ones((2, 1, 6)), np.array([2.0, 3.0]))
    assert "largest allowed stage has 3 units" in solve(narrow.problem()).reason


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: PartitionProblem(np.ones((2, 3))),
        lambda: PartitionProblem(np.full((1, 2, 2), np.nan)),
        lambda: PartitionProblem(np.ones((1, 2, 2)), uses=np.ones((1, 1), dtype=np.int64)),
        lambda: PartitionProblem(np.ones((1, 2, 2)), switch=np.ones((2, 2))),
        lambda: PartitionProblem(np.ones((1, 2, 2)), np.ones((2, 1), dtype=np.int64), np.ones(1, dtype=np.int64)),
        lambda: Segments(np.ones((1, 1, 2)), np.ones((1, 1, 3)), np.ones(1)),
        lambda: Segments(np.ones((1, 1, 2)), np.ones((1, 1, 2)), np.ones(2)),
        lambda: Segments(-np.ones((1, 1, 2)), np.ones((1, 1, 2)), np.ones(1)),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match="must"):
        wrong()
