"""The GPUs experts are placed on: links, slots, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shardwright.planner import InputError
from shardwright.planner.experts.cluster import cluster_for, cluster_of, flat_cluster
from shardwright.topologies import cluster


def test_links_between_nodes_cost_the_ratio():
    found = flat_cluster(4, 2, 9.0)
    assert found.link_cost.tolist() == [[0, 1, 9, 9], [1, 0, 9, 9], [9, 9, 0, 1], [9, 9, 1, 0]]
    assert (found.gpus, found.gpus_per_node) == (4, 2)


def test_links_of_a_topology_are_priced_by_its_bandwidths():
    topology = cluster("dgx-h100:2")
    found = cluster_of(topology)
    inside, across = (float(topology.bandwidth_bytes_per_s(np.array([0]), np.array([g]))[0]) for g in (1, 8))
    assert found.link_cost[0, 1] == 1.0
    assert found.link_cost[0, 8] == pytest.approx(inside / across)
    assert found.fastest_bytes_per_s == inside
    assert np.bincount(found.node).tolist() == [8, 8]


def test_slots_follow_memory():
    found = flat_cluster(4)
    assert found.slots(10, 0).tolist() == [3, 3, 3, 3]
    assert found.slots(10, 2).tolist() == [3, 3, 3, 3]
    assert replace(found, memory_bytes=np.array([1.0, 1.0, 1.0, 3.0])).slots(12, 0).tolist() == [2, 2, 2, 6]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((None, None, None, None, 1.0), "either --cluster or --gpus"),
        (("dgx-h100:1", None, 8, None, 1.0), "either --cluster or --gpus"),
        ((None, None, 0, None, 1.0), "gpus must be from 1 to 1024"),
        ((None, None, 8, 3, 1.0), "gpus-per-node must divide the 8 GPUs"),
        ((None, None, 8, 4, 0.5), "link-ratio must be a number of at least 1"),
        ((None, None, 8, 4, float("nan")), "link-ratio must be"),
    ],
)
def test_what_is_no_cluster_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        cluster_for(*arguments)
