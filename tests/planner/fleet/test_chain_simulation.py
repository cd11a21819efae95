"""Requests through chains: pipelines against arithmetic, caches that bound what is in flight, links that bind."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from shardwright.planner.fleet.chain_simulation import (
    ChainLink,
    ChainLoad,
    ChainNode,
    ChainSystem,
    LayerTimes,
    simulate_chains,
)

STEADY = LayerTimes(prompt=((1.0, 0.02), (1000.0, 0.02)), decode=((1.0, 0.01), (64.0, 0.01)))
FAST = ChainLink(weight=1.0, bytes_per_s=1e12, latency_s=0.0)


def chain(*nodes, link=FAST, token_bytes=1.0):
    """Nodes one after the other, from the source to the sink."""
    names = ["source", *(f"n{at}" for at in range(len(nodes))), "sink"]
    links = dict.fromkeys(itertools.pairwise(names), link)
    return ChainSystem(dict(zip(names[1:-1], nodes, strict=True)), links, token_bytes, gather_s=1e-6)


def node(layers=2, cache_tokens=1e6, times=STEADY):
    return ChainNode(layers, cache_tokens, times)


def load(concurrency, seconds=200.0, prompts=False):
    return ChainLoad((100,), (50,), concurrency, seconds, prompts)


def test_a_single_node_steps_all_its_requests_together():
    outcome = simulate_chains(chain(node()), load(8))
    assert outcome.token_s == pytest.approx(0.02, rel=1e-3)
    assert outcome.tokens_per_s == pytest.approx(8 / 0.02, rel=0.01)
    assert outcome.in_flight == pytest.approx(8)


def test_equal_stages_work_at_the_same_time():
    outcome = simulate_chains(chain(node(), node()), load(8))
    assert outcome.token_s == pytest.approx(0.04, rel=0.02)
    assert outcome.tokens_per_s == pytest.approx(8 / 0.04, rel=0.02)


def test_unequal_stages_go_at_the_pace_of_the_slower():
    outcome = simulate_chains(chain(node(layers=1), node(layers=3)), load(8))
    assert outcome.tokens_per_s == pytest.approx(4 / 0.03, rel=0.02)


def test_latency_of_links_adds_to_every_token():
    slow = replace(FAST, latency_s=0.01)
    assert simulate_chains(chain(node(), link=slow), load(1)).token_s == pytest.approx(0.02 + 2 * 0.01, rel=1e-3)


def test_the_smallest_cache_bounds_what_is_in_flight():
    outcome = simulate_chains(chain(node(), node(cache_tokens=470.0)), load(20))
    assert outcome.in_flight <= 3 + 1e-9
    assert outcome.cache_used <= 1 + 1e-9


def test_a_thin_link_bounds_the_tokens():
    thin = chain(node(), node(), link=replace(FAST, bytes_per_s=20.0))
    assert simulate_chains(thin, load(8)).tokens_per_s == pytest.approx(20, rel=0.05)


def test_prompts_cost_tokens():
    system = chain(node(), node())
    assert simulate_chains(system, load(8, prompts=True)).tokens_per_s < simulate_chains(system, load(8)).tokens_per_s


def test_parallel_nodes_share_by_weight_and_by_room():
    links = {
        ("source", "a"): replace(FAST, weight=3.0),
        ("source", "b"): FAST,
        ("a", "sink"): FAST,
        ("b", "sink"): FAST,
    }
    both = ChainSystem({"a": node(), "b": node()}, links, 1.0, gather_s=1e-6)
    full = ChainSystem({"a": node(cache_tokens=150.0), "b": node()}, links, 1.0, gather_s=1e-6)
    assert simulate_chains(both, load(8)).tokens_per_s == pytest.approx(8 / 0.02, rel=0.02)
    assert simulate_chains(full, load(8)).in_flight == pytest.approx(8)
    assert simulate_chains(full, load(8)).cache_used == pytest.approx(1.0, rel=0.01)


def test_times_are_linear_between_and_beyond_their_points():
    times = LayerTimes(prompt=((10.0, 1.0), (20.0, 2.0)), decode=((1.0, 1.0), (2.0, 1.5)))
    assert times.prompt_s(15) == pytest.approx(1.5)
    assert times.prompt_s(40) == pytest.approx(4.0)
    assert times.decode_s(1) == pytest.approx(1.0)


def test_the_same_load_gives_the_same_outcome():
    system = chain(node(), node(layers=3))
    assert simulate_chains(system, load(5, prompts=True)) == simulate_chains(system, load(5, prompts=True))
