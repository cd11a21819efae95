"""Chains over unequal nodes: the flow is real, the bound holds, and small cases match exhaustive search."""

from __future__ import annotations

import dataclasses
import itertools
import json

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.solvers import Status
from shardwright.solvers.flow import ChainFlow, Stage, cover_bound, fewest_hops, flow_bound, place, solve
from shardwright.solvers.flow.covers import most_covered
from tests.reference import shared_file


def uniform_links(nodes, capacity=1e9):
    link = np.full((nodes + 2, nodes + 2), float(capacity))
    np.fill_diagonal(link, 0)
    return link


def independent_flow(problem, start, end):
    """Maximum flow by networkx, written from the definition and nothing else."""
    graph = nx.DiGraph()
    graph.add_nodes_from(["source", "sink"])
    n = problem.nodes
    for node in range(n):
        size = end[node] - start[node]
        if size == 0:
            continue
        graph.add_edge(("in", node), ("out", node), capacity=problem.throughput[node, size - 1])
        if start[node] == 0 and problem.link[n, node] > 0:
            graph.add_edge("source", ("in", node), capacity=problem.link[n, node])
        if end[node] == problem.layers and problem.link[node, n + 1] > 0:
            graph.add_edge(("out", node), "sink", capacity=problem.link[node, n + 1])
        for other in range(n):
            if end[other] > start[other] == end[node] and problem.link[node, other] > 0:
                graph.add_edge(("out", node), ("in", other), capacity=problem.link[node, other])
    return nx.maximum_flow_value(graph, "source", "sink")


def check_placement(problem, found):
    placement = found.point
    n = problem.nodes
    assert found.value == pytest.approx(independent_flow(problem, placement.start, placement.end), rel=1e-6)
    assert found.value <= found.bound * (1 + 1e-9)
    passed = np.zeros(n)
    for source, target, flow in placement.edges:
        assert flow <= problem.link[source, target] * (1 + 1e-9)
        if source < n:
            passed[source] += flow
    for node in range(n):
        size = placement.end[node] - placement.start[node]
        assert passed[node] <= (problem.throughput[node, size - 1] if size else 0) * (1 + 1e-9) + 1e-6
        arrived = sum(flow for _, target, flow in placement.edges if target == node)
        assert arrived == pytest.approx(passed[node], abs=1e-5)


def two_fast_two_slow():
    """Two nodes that hold four layers and two that hold two, of a chain of six."""
    fast, slow = [9.0, 6.0, 4.0, 3.0], [4.0, 2.0, 0.0, 0.0]
    return ChainFlow(6, np.array([fast, fast, slow, slow]), uniform_links(4))


def intervals(problem):
    choices = [
        [(0, 0)] + [(s, s + k) for k in range(1, problem.most_layers(i) + 1) for s in range(problem.layers - k + 1)]
        for i in range(problem.nodes)
    ]
    for combo in itertools.product(*choices):
        yield [start for start, _ in combo], [end for _, end in combo]


def exhaustive(problem):
    return max(independent_flow(problem, start, end) for start, end in intervals(problem))


def longest_path(problem, start, end):
    """The most nodes one after the other, from any that holds the first layer."""
    held = sorted((s, e) for s, e in zip(start, end, strict=True) if e > s)
    reach = {0: 0}
    for s, e in held:
        if s in reach:
            reach[e] = max(reach.get(e, 0), reach[s] + 1)
    return reach.get(problem.layers, 0)


def test_a_small_chain_matches_exhaustive_search():
    problem = dataclasses.replace(two_fast_two_slow(), layers=4)
    found = solve(problem)
    check_placement(problem, found)
    assert found.value == pytest.approx(exhaustive(problem), rel=1e-6)


@st.composite
def chains(draw):
    nodes, layers = draw(st.integers(2, 7)), draw(st.integers(2, 10))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    most = rng.integers(1, layers + 1, nodes)
    sizes = np.arange(1, most.max() + 1)
    throughput = np.where(sizes <= most[:, None], rng.uniform(10, 90, (nodes, 1)) / sizes, 0.0)
    link = rng.uniform(5, 80, (nodes + 2, nodes + 2)) * (rng.random((nodes + 2, nodes + 2)) < 0.8)
    return ChainFlow(layers, throughput, link)


@settings(derandomize=True, max_examples=8, deadline=None)
@given(chains())
def test_every_placement_carries_the_flow_it_claims(problem):
    found = solve(problem)
    if found.point is not None:
        check_placement(problem, found)


@st.composite
def tiny_chains(draw):
    nodes, layers = draw(st.integers(2, 3)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = np.arange(1, layers + 1)
    most = rng.integers(1, layers + 1, nodes)
    throughput = np.where(sizes <= most[:, None], rng.integers(1, 9, (nodes, layers)) * 10.0, 0.0)
    return ChainFlow(layers, throughput, rng.uniform(5, 80, (nodes + 2, nodes + 2)))


@settings(derandomize=True, max_examples=12, deadline=None)
@given(tiny_chains())
def test_no_placement_of_a_tiny_chain_passes_more_than_the_bounds(problem):
    best = exhaustive(problem)
    found = solve(problem)
    assert found.point is None or best <= found.bound * (1 + 1e-6)
    assert best <= flow_bound(problem) * (1 + 1e-9)
    assert best <= cover_bound(problem, best / 2, flow_bound(problem), 1e-6) * (1 + 1e-6)
    if best:
        assert most_covered(problem, best, 0.0) >= problem.layers - 1e-6


@settings(derandomize=True, max_examples=30, deadline=None)
@given(tiny_chains(), st.integers(1, 3))
def test_no_placement_of_few_hops_passes_more_than_the_bound_for_so_few(problem, hops):
    limited = dataclasses.replace(problem, max_hops=hops)
    reach = [
        independent_flow(problem, start, end)
        for start, end in intervals(problem)
        if longest_path(problem, start, end) <= hops
    ]
    assert max(reach, default=0.0) <= flow_bound(limited) * (1 + 1e-9)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(chains())
def test_the_bound_is_no_worse_than_the_capacity_bound(problem):
    sizes = np.arange(1, problem.throughput.shape[1] + 1)
    assert flow_bound(problem) <= (problem.throughput * sizes).max(1).sum() / problem.layers * (1 + 1e-9)


def test_equal_nodes_in_a_chain_are_proven_best():
    problem = ChainFlow(6, np.tile(np.array([9.0, 4.5, 3.0]), (2, 1)), uniform_links(2))
    found = solve(problem)
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(3.0)


def test_a_limit_on_hops_is_kept_and_costs_flow():
    problem = ChainFlow(6, np.tile(np.array([9.0, 4.5, 3.0]), (6, 1)), uniform_links(6))
    deep, shallow = solve(problem), solve(dataclasses.replace(problem, max_hops=2))
    assert deep.value >= shallow.value
    assert shallow.point.hops == 2 == fewest_hops(problem)
    check_placement(problem, shallow)


def test_nodes_that_cannot_hold_the_chain_are_a_reason():
    found = solve(ChainFlow(9, np.ones((2, 3)), uniform_links(2)))
    assert found.status is Status.INFEASIBLE
    assert "at most 6 layers" in found.reason


def test_whole_nodes_prove_what_capacities_alone_cannot():
    problem = ChainFlow(4, np.array([[9.0, 6.0, 1.0]] * 3), uniform_links(3))
    found = solve(problem)
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(exhaustive(problem)) == 6.0
    assert found.bound < 6.01 < flow_bound(problem)


def test_covers_generated_one_by_one_prove_what_capacities_alone_cannot():
    """Three nodes pass 9 with one layer, 6 with two and 1 with three; above 6 they cover fewer than four layers."""
    problem = ChainFlow(4, np.array([[9.0, 6.0, 1.0]] * 3), uniform_links(3))
    assert most_covered(problem, 6.0, 0.0) == pytest.approx(6.0)
    assert most_covered(problem, 6.5, 0.0) == pytest.approx(3.6)  # 6 + 1: half a node and a third of one a layer
    assert most_covered(problem, 9.1, 0.0) == pytest.approx(3.0)
    assert most_covered(ChainFlow(2, np.zeros((2, 2)), uniform_links(2)), 1.0, 0.0) == 0.0


def test_too_few_hops_are_a_reason():
    found = solve(ChainFlow(6, np.ones((3, 2)), uniform_links(3), max_hops=2))
    assert found.status is Status.INFEASIBLE
    assert "needs 3" in found.reason


def test_a_missing_link_breaks_the_chain():
    link = uniform_links(2)
    link[0, 1] = link[1, 0] = 0
    found = solve(ChainFlow(2, np.ones((2, 1)), link))
    assert found.point is None
    assert "no placement" in found.reason


def test_a_thin_link_is_what_the_flow_is_worth():
    link = uniform_links(2)
    link[0, 1] = link[1, 0] = 0.25
    problem = ChainFlow(2, np.ones((2, 1)), link)
    stages = [Stage(1, (0,)), Stage(1, (1,))]
    assert sum(f for a, _, f in place(problem, stages).edges if a == 2) == pytest.approx(0.25)
    assert solve(problem).value == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("layers", "throughput", "shape", "words"),
    [(0, np.ones((1, 1)), 3, "layers"), (1, np.full((1, 1), np.nan), 3, "finite"), (1, np.ones((1, 1)), 4, "shape")],
)
def test_numbers_out_of_range_are_refused(layers, throughput, shape, words):
    with pytest.raises(ValueError, match=words):
        ChainFlow(layers, throughput, np.ones((shape, shape)))


def helix_case(name):
    document = json.loads(shared_file(f"profiles/helix/cases/{name}.json").read_text())
    tables = document["throughput_tokens_per_s"]
    nodes = len(document["node_types"])
    throughput = np.zeros((nodes, max(int(k) for table in tables.values() for k in table)))
    for node, kind in enumerate(document["node_types"]):
        for size, tokens in tables[kind].items():
            throughput[node, int(size) - 1] = tokens
    link = np.zeros((nodes + 2, nodes + 2))
    ends = {"source": nodes, "sink": nodes + 1}
    for pair, tokens in document["links_tokens_per_s"].items():
        a, b = (ends[end] if end in ends else int(end) for end in pair.split("_"))
        link[a, b] = tokens
    return ChainFlow(document["layers"], throughput, link)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("a100x4_llama30b", 1044.53),
        ("l4x8_llama30b", 252.65),
        ("t4x12_llama30b", 397.685),
        ("cluster10_llama30b", 286.58),
        ("single24_llama70b", 2045.64),
        ("3region24_llama70b", 1212.18),
        ("hetero42_llama70b", 4137.5),
    ],
)
def test_helix_clusters_reach_at_least_the_best_flow_known(name, known):
    problem = helix_case(name)
    found = solve(problem)
    check_placement(problem, found)
    assert found.value >= known * (1 - 1e-5)


def test_the_same_seed_gives_the_same_placement():
    problem = two_fast_two_slow()
    assert solve(problem, seed=3).point == solve(problem, seed=3).point
