"""Replaying placements by hand on two layers of four experts and two GPUs."""

from __future__ import annotations

import numpy as np
import pytest

from shardwright.models import routing_from_counts, routing_from_ids
from shardwright.planner import InputError
from shardwright.planner.experts.cluster import flat_cluster
from shardwright.planner.experts.replay import replay, token_gpus
from shardwright.planner.experts.workloads import workloads_of

IDS = np.array([[[0], [1]], [[1], [1]], [[2], [3]], [[0], [2]]])
TRACE = routing_from_ids("trace", IDS, experts=4)
PAIRED = [[[0], [0], [1], [1]]] * 2


def test_hops_loads_and_the_heaviest_pair_are_those_counted_by_hand():
    found = replay(PAIRED, TRACE, flat_cluster(2))
    assert found.score.hops_per_token == pytest.approx(1 / 4)
    assert found.score.heaviest_pair == pytest.approx(1 / 4)
    assert found.score.load_ratio == pytest.approx((1.5 + 1.0) / 2)
    assert found.score.load_ratio_worst == pytest.approx(1.5)
    assert found.flow.tolist() == pytest.approx(np.array([[0.5, 0.25], [0.0, 0.25]]))


def test_links_between_nodes_count_their_ratio():
    assert replay(PAIRED, TRACE, flat_cluster(2, 1, 9.0)).score.hops_per_token == pytest.approx(9 / 4)


def test_a_copy_nearby_saves_the_hop_and_takes_the_load():
    copied = [PAIRED[0], [[0], [0], [0, 1], [1]]]
    found = replay(copied, TRACE, flat_cluster(2))
    assert found.score.hops_per_token == pytest.approx(0.0)
    assert found.loads[1].tolist() == pytest.approx([0.75, 0.25])
    even = replay(copied, TRACE, flat_cluster(2), evenly=True)
    assert even.score.traffic is None
    assert even.loads[1].tolist() == pytest.approx([0.625, 0.375])


def test_fan_out_counts_distinct_gpus_and_nodes():
    pairs = routing_from_ids("pairs", np.array([[[0, 1]], [[0, 2]], [[1, 3]], [[2, 3]]]), experts=4)
    score = replay([[[0], [1], [2], [3]]], pairs, flat_cluster(4, 2)).score
    assert score.fanout_gpus == 2.0
    assert score.fanout_nodes == 1.5


def test_tokens_take_the_copies_in_turn():
    ids = np.zeros((4, 1, 1), dtype=np.int64)
    assert token_gpus([[[0, 1]]], ids)[:, 0, 0].tolist() == [0, 1, 0, 1]


def test_workloads_of_different_layers_are_refused():
    one, two = (routing_from_counts(str(rows), np.ones((rows, 4))) for rows in (2, 3))
    with pytest.raises(InputError, match="has experts in 3 of 3 layers but 2 in 2 of 2"):
        workloads_of([one, two])
    with pytest.raises(InputError, match="has 4 experts but another workload has 5"):
        workloads_of([one, routing_from_counts("wide", np.ones((2, 5)))])
    with pytest.raises(InputError, match="need a trace"):
        workloads_of([one], held_out=0.5)
    with pytest.raises(InputError, match="at least one workload"):
        workloads_of([])


def test_a_trace_that_misses_the_last_experts_is_widened():
    wide = routing_from_ids("wide", IDS + 2, experts=6)
    found = workloads_of([TRACE, wide])
    assert [routing.experts for routing in found.routings] == [6, 6]
