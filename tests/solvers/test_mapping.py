"""Mapping items to a grid: no order beats the bound, brute force agrees on tiny grids, and equal seeds agree."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shardwright.solvers import Gap, Status, Work, mapping_bounds
from shardwright.solvers.mapping import MappingProblem, Term, evaluate, solve, solve_in_units
from shardwright.solvers.mapping_bounds import problem_bound, term_bounds
from shardwright.solvers.mapping_search import Chains
from shardwright.solvers.mapping_starts import clustered, tiled_starts
from tests.reference import shared_file

SHAPES = [(2, 2), (1, 5), (3, 2), (2, 3), (6, 1)]
FEW = Work(150_000)


def random_problem(shape: tuple[int, ...], seed: int, spare: int = 0) -> MappingProblem:
    """Pipelines down the first axis, rings along the second, both over random directed links."""
    random = np.random.default_rng(seed)
    items = int(np.prod(shape)) + spare
    hop, ring = random.uniform(1, 3, (2, items, items))
    return MappingProblem(shape, (Term(0, hop), Term(1, ring, cyclic=True, reduce="max")))


def tree(items: int, sizes: tuple[int, ...] = (4, 16), seed: int = 0) -> NDArray[np.float64]:
    """Costs of links in a tree of racks and halls, with noise; the items are shuffled."""
    random = np.random.default_rng(seed)
    n = np.arange(items)
    cost = 1.0 + sum(2.0 * (n[:, None] // size != n // size) for size in sizes)
    names = random.permutation(items)
    return (cost * random.uniform(1.0, 1.05, cost.shape))[np.ix_(names, names)]


def brute(problem: MappingProblem) -> float:
    orders = np.array(list(permutations(range(problem.items))))
    return float(evaluate(problem, orders).min())


def value_by_hand(problem: MappingProblem, order: NDArray[np.int64]) -> float:
    grid = order[: problem.positions].reshape(problem.shape)
    total = 0.0
    for term in problem.terms:
        worst = 0.0
        moved = np.moveaxis(grid, term.axes, range(-len(term.axes), 0))
        for line in moved.reshape(-1, int(np.prod(moved.shape[-len(term.axes) :]))):
            items = line.tolist()
            ends = items[1:] + (items[:1] if term.cyclic and len(items) > 1 else [])
            costs = [term.cost[a, b] for a, b in zip(items, ends, strict=False)]
            worst = max(worst, sum(costs) if term.reduce == "sum" else max(costs, default=0.0))
        total += worst
    return total


@settings(max_examples=15, deadline=None, derandomize=True)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 10_000), spare=st.integers(0, 1))
def test_the_search_finds_what_brute_force_finds_and_the_bound_is_below_it(
    shape: tuple[int, int], seed: int, spare: int
) -> None:
    problem = random_problem(shape, seed, spare)
    best = brute(problem)
    found = solve(problem, FEW)
    assert found.value == pytest.approx(best)
    assert found.bound <= best * (1 + 1e-9)
    assert found.point is not None
    assert sorted(found.point.tolist()) == list(range(problem.items))
    assert value_by_hand(problem, found.point) == pytest.approx(found.value)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 10_000), cyclic=st.booleans(), adds=st.booleans())
def test_the_relaxed_bounds_hold_for_every_kind_of_term(
    shape: tuple[int, int], seed: int, cyclic: bool, adds: bool
) -> None:
    random = np.random.default_rng(seed)
    items = int(np.prod(shape))
    term = Term(int(seed % 2), random.uniform(1, 3, (items, items)), cyclic, "sum" if adds else "max")
    problem = MappingProblem(shape, (term,))
    best = brute(problem)
    (exact,) = term_bounds(problem)
    assert exact == pytest.approx(best)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapping_bounds, "EXACT_ITEMS", 0)
        (relaxed,) = term_bounds(problem)
    assert relaxed <= best * (1 + 1e-9)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), spare=st.integers(0, 2), racks=st.sampled_from([2, 3, 4]))
def test_rings_crossed_by_paths_bound_more_than_each_alone_and_never_too_much(
    seed: int, spare: int, racks: int
) -> None:
    cost = tree(8 + spare, (racks,), seed)
    problem = MappingProblem((4, 2), (Term(0, cost), Term(1, 3 * cost, cyclic=True, reduce="max")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapping_bounds, "EXACT_ITEMS", 0)
        floors = term_bounds(problem)
        bound = problem_bound(problem, floors)
    found = solve(problem, FEW, seed)
    assert sum(floors) <= bound <= found.value * (1 + 1e-9)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(shape=st.sampled_from([(2, 3), (4, 2), (1, 4), (2, 2, 2)]), seed=st.integers(0, 10_000), spare=st.integers(0, 2))
def test_incremental_deltas_equal_pricing_anew(shape: tuple[int, ...], seed: int, spare: int) -> None:
    random = np.random.default_rng(seed)
    items = int(np.prod(shape)) + spare
    last = len(shape) - 1
    terms = (
        Term(0, random.uniform(1, 3, (items, items))),
        Term(last, random.uniform(1, 3, (items, items)), True, "max"),
        Term((0, last), random.uniform(1, 3, (items, items)), True, "sum"),
    )
    problem = MappingProblem(shape, terms)
    floors = [1.5, 2.0, 4.0]
    chains = Chains(problem, np.array([random.permutation(items) for _ in range(3)]), floors)
    place = random.integers(items, size=3)
    swapped = np.repeat(chains.orders[:, None], items, axis=1)
    for chain in range(3):
        for other in range(items):
            swapped[chain, other, [place[chain], other]] = chains.orders[chain, [other, place[chain]]]
    anew = Chains(problem, swapped.reshape(-1, items), floors).smooth.reshape(3, items)
    assert chains.swap_values(place) == pytest.approx(anew)


def test_a_uniform_fabric_is_proven_optimal_at_once() -> None:
    cost = np.ones((8, 8))
    found = solve(MappingProblem((2, 4), (Term(0, cost), Term(1, cost, cyclic=True, reduce="max"))))
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(2.0)
    assert found.work == 0


def test_a_slow_link_is_avoided() -> None:
    cost = np.ones((6, 6))
    cost[0, 1] = cost[1, 0] = cost[2, 3] = cost[3, 2] = 50.0
    problem = MappingProblem((1, 6), (Term(1, cost, cyclic=True, reduce="max"),))
    assert evaluate(problem, np.arange(6)[None])[0] == 50.0
    assert solve(problem).value == 1.0


def test_a_slow_item_is_left_out_when_there_is_one_to_spare() -> None:
    cost = np.ones((5, 5))
    cost[2] = cost[:, 2] = 9.0
    found = solve(MappingProblem((2, 2), (Term(0, cost), Term(1, cost, cyclic=True, reduce="max"))))
    assert found.value == 2.0
    assert found.point is not None
    assert found.point[4] == 2


def test_places_of_different_blocks_do_not_mix() -> None:
    problem = random_problem((2, 3), 7)
    fenced = MappingProblem(problem.shape, problem.terms, blocks=np.array([0, 0, 0, 1, 1, 1]))
    found = solve(fenced, FEW)
    assert found.point is not None
    assert set(found.point[:3].tolist()) == {0, 1, 2}


def test_the_same_seed_and_work_give_the_same_order() -> None:
    problem = random_problem((2, 4), 3)
    first, second = solve(problem, FEW, seed=5), solve(problem, FEW, seed=5)
    assert first.point is not None and second.point is not None
    assert first.point.tolist() == second.point.tolist()
    assert first.work == second.work


def test_more_work_runs_on_and_a_wide_gap_stops_early() -> None:
    problem = random_problem((3, 6), 1)
    short, long, loose = solve(problem, FEW), solve(problem, Work(4_500_000)), solve(problem, Gap(0.9))
    assert long.work > short.work > loose.work
    assert long.value <= short.value <= loose.value


def test_clusters_keep_their_members_together() -> None:
    names = np.random.default_rng(4).permutation(16)
    cost = 1.0 + 5.0 * (names[:, None] // 4 != names // 4)
    order = names[clustered(cost + 0.01 * np.abs(names[:, None] - names))]
    assert all(len(set((order[k : k + 4] // 4).tolist())) == 1 for k in range(0, 16, 4))


def test_hierarchical_starts_put_racks_on_rings_and_on_columns() -> None:
    cost = tree(16, (4,))
    problem = MappingProblem((4, 4), (Term(0, cost), Term(1, cost, cyclic=True, reduce="max")))
    starts = tiled_starts(problem)
    assert all(sorted(order) == list(range(16)) for order in starts.tolist())
    rings = MappingProblem((4, 4), (problem.terms[1],))
    columns = MappingProblem((4, 4), (problem.terms[0],))
    assert evaluate(rings, starts).min() < 1.1
    assert evaluate(columns, starts).min() < 3.3


def test_a_tree_of_racks_is_mapped_within_a_few_percent_of_the_bound() -> None:
    cost = tree(64)
    found = solve(
        MappingProblem((4, 16), (Term(0, cost), Term(1, 4 * cost, cyclic=True, reduce="max"))), Work(1_000_000)
    )
    assert found.gap < 0.06


def test_devices_of_a_node_stay_together_and_are_ordered_along_their_fast_links() -> None:
    """Two nodes of four devices whose fast links form a ring 0-2-1-3; the ring of each node must follow it."""
    inside = np.full((4, 4), 4.0)
    for a, b in ((0, 2), (2, 1), (1, 3), (3, 0)):
        inside[a, b] = inside[b, a] = 1.0
    cost = np.full((8, 8), 20.0)
    cost[:4, :4] = cost[4:, 4:] = inside
    problem = MappingProblem((2, 4), (Term(0, cost), Term(1, cost, cyclic=True, reduce="max")))
    found = solve_in_units(problem, np.repeat([0, 1], 4), FEW)
    assert found.point is not None
    assert {tuple(sorted(row)) for row in found.point.reshape(2, 4).tolist()} == {(0, 1, 2, 3), (4, 5, 6, 7)}
    assert found.value == 21.0
    assert found.bound <= 21.0


def test_units_that_do_not_fill_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="must fill the last axes"):
        solve_in_units(random_problem((2, 3), 0), np.array([0, 0, 0, 0, 1, 1]))


@pytest.mark.parametrize(
    ("shape", "axis", "size"), [((2, 2), 2, 4), ((2, 3), 0, 4), ((0, 2), 0, 4)], ids=["axis", "items", "empty"]
)
def test_a_problem_that_makes_no_sense_is_refused(shape: tuple[int, int], axis: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        MappingProblem(shape, (Term(axis, np.ones((size, size))),))


def test_a_missing_or_negative_cost_is_refused() -> None:
    for wrong in (np.nan, np.inf, -1.0):
        cost = np.ones((4, 4))
        cost[0, 1] = wrong
        with pytest.raises(ValueError, match="finite and not negative"):
            MappingProblem((2, 2), (Term(0, cost),))


@pytest.mark.parametrize(
    ("snapshot", "pp", "best_known_ms"),
    [(0, 2, 233.892), (0, 4, 117.369), (0, 8, 72.694), (1, 2, 237.301), (1, 4, 118.613), (1, 8, 73.697)],
)
def test_the_measured_cluster_is_mapped_as_well_as_anyone_has(snapshot: int, pp: int, best_known_ms: float) -> None:
    from benchmarks.mapping import grid_problem

    text = shared_file(f"topologies/pipette/mpigraph_16_nodes_t{snapshot}.json").read_text()
    problem = grid_problem(np.array(json.loads(text)["0"]["bandwidth"]) * 1e6, pp)
    found = solve(problem)
    assert found.value <= best_known_ms * 1.001
    assert best_known_ms * 0.996 < found.bound <= found.value
