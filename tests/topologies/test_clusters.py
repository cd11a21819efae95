"""The cluster catalog and its generators: each kind of machine shows in links, graph and collective times."""

from __future__ import annotations

import tracemalloc

import networkx as nx
import numpy as np
import pytest

from shardwright.topologies import Collectives, TopologyError, cluster, cluster_entry, list_clusters, parse_topology
from shardwright.topologies.clusters import torus_dims

ASKED = {
    "dgx-h100",
    "dgx-a100",
    "dgx-a100-40gb",
    "hgx-h100",
    "hgx-h200",
    "hgx-h800",
    "hgx-a800",
    "hgx-b200",
    "hgx-b300",
    "dgx-v100",
    "dgx2",
    "gb200-nvl72",
    "gb300-nvl72",
    "gh200",
    "azure-ndv4",
    "azure-ndv5",
    "aws-p4d",
    "aws-p5",
    "aws-g4dn",
    "aws-g5",
    "frontier",
    "mi300x",
    "cloudmatrix384",
    "pcie-box",
    "l40s-box",
    "tpu-v4",
    "tpu-v5e",
    "tpu-v5p",
    "tpu-v6e",
}


def test_the_catalog_names_the_clusters_people_have():
    assert set(list_clusters()) >= ASKED


@pytest.mark.parametrize("name", list_clusters())
def test_every_cluster_is_whole(name):
    topology = cluster(f"{name}:2")
    assert cluster_entry(name).source
    assert parse_topology(topology.document) == topology
    last = topology.n_devices - 1
    assert topology.bandwidth_bytes_per_s(0, last) > 1e8
    assert topology.latency_s(0, last) > 0
    graph = topology.graph()
    assert nx.is_connected(graph)
    assert sum(kind == "device" for _, kind in graph.nodes(data="kind")) == topology.n_devices
    assert all(rate > 0 for *_, rate in graph.edges(data="bandwidth_bytes_per_s"))
    times = [
        Collectives(topology).seconds(op, 1e8, np.arange(topology.n_devices)) for op in ("all_reduce", "all_to_all")
    ]
    assert all(1e-5 < each < 10 for each in times)


@pytest.mark.parametrize(
    "name", ["dgx-h100:0", "dgx-h100:-1", "dgx-h100:", "dgx-h100:2.5", "dgx-h100:99999999", "dgx-h100:1e3"]
)
def test_a_count_that_is_no_positive_integer_is_refused(name):
    with pytest.raises(TopologyError, match="positive integer"):
        cluster(name)


def test_an_unknown_cluster_is_refused_with_the_nearest_ones():
    with pytest.raises(TopologyError, match=r"unknown cluster 'dgx-h101'; nearest: .*dgx-h100"):
        cluster("dgx-h101:8")
    with pytest.raises(TopologyError, match="more than 1048576"):
        cluster("dgx-h100:200000")


def test_an_nvl72_is_one_domain_of_eighteen_hosts():
    topology = cluster("gb200-nvl72:2")
    assert (topology.n_domains, topology.n_nodes, topology.n_devices) == (2, 36, 144)
    assert topology.bandwidth_bytes_per_s(0, [71, 72]).tolist() == [900e9, 50e9]
    assert topology.node_bandwidth_bytes_per_s[0, [0, 1, 18]].tolist() == [900e9, 3600e9, 200e9]


def test_a_hybrid_cube_mesh_has_double_single_and_missing_links():
    topology = cluster("dgx-v100")
    assert topology.bandwidth_bytes_per_s(0, [1, 3, 7]).tolist() == [25e9, 50e9, 50e9]
    assert topology.latency_s(0, 7) == 2 * topology.latency_s(0, 3)
    collectives = Collectives(topology)
    near, far = (collectives.seconds("all_reduce", 1e9, [[0, other]]) for other in (3, 1))
    assert near < far


def test_a_pcie_tree_is_slower_across_sockets_and_when_groups_share_its_uplinks():
    topology = cluster("pcie-box")
    assert topology.bandwidth_bytes_per_s(0, 4) < topology.bandwidth_bytes_per_s(0, 1)
    collectives = Collectives(topology)
    assert collectives.seconds("all_gather", 1e9, [[0, 4]]) > collectives.seconds("all_gather", 1e9, [[0, 1]])
    together = collectives.seconds("all_gather", 1e9, [[0, 4], [1, 5], [2, 6], [3, 7]])
    assert together > 3 * collectives.seconds("all_gather", 1e9, [[0, 4]])
    apart = collectives.seconds("all_gather", 1e9, [[0, 1], [2, 3], [4, 5], [6, 7]])
    assert apart == collectives.seconds("all_gather", 1e9, [[0, 1]])


def test_a_torus_counts_hops_and_uses_every_dimension():
    topology = cluster("tpu-v4:16")
    dims = topology.domain_fabric(0)[0].dims
    assert dims == (4, 4, 4)
    assert topology.latency_s(0, 1) < topology.latency_s(0, 1 + 2 * 4 + 2 * 16)
    assert topology.latency_s(0, 3) == topology.latency_s(0, 1)
    collectives = Collectives(topology)
    line = collectives.seconds("all_gather", 1e9, [np.arange(4)])
    everything = collectives.seconds("all_gather", 1e9, [np.arange(64)])
    assert everything < line
    assert topology.graph().number_of_edges() >= 3 * 64


@pytest.mark.parametrize(
    ("devices", "rank", "dims"), [(64, 3, [4, 4, 4]), (256, 2, [16, 16]), (4, 3, [1, 2, 2]), (7, 2, [1, 7])]
)
def test_the_torus_of_a_slice_is_the_most_cubic_one(devices, rank, dims):
    assert torus_dims(devices, rank) == dims


def test_slices_of_a_tpu_pod_are_joined_by_the_data_centre_network():
    topology = cluster("tpu-v5e:4x16")
    assert (topology.n_domains, topology.n_devices) == (4, 256)
    assert topology.bandwidth_bytes_per_s(0, 64) < topology.bandwidth_bytes_per_s(0, 63)


def test_oversubscription_shows_beyond_the_pod():
    topology = cluster("meta-24k:768")
    inside, outside = topology.bandwidth_bytes_per_s(0, [383 * 8, 384 * 8])
    assert inside == 7 * outside
    collectives = Collectives(topology)
    half = np.arange(8)[:, None] + 8 * np.arange(192)
    whole = np.arange(8)[:, None] + 8 * np.arange(0, 768, 4)
    assert collectives.seconds("all_gather", 1e9, whole) > 5 * collectives.seconds("all_gather", 1e9, half)
    assert collectives.seconds("all_to_all", 1e9, whole) > 2 * collectives.seconds("all_to_all", 1e9, half)


def test_a_dragonfly_is_narrower_between_groups():
    topology = cluster("frontier:256")
    inside, outside = topology.bandwidth_bytes_per_s(0, [127 * 8, 128 * 8])
    assert outside == pytest.approx(inside * 7200 / (128 * 100))
    assert topology.latency_s(0, 128 * 8) > topology.latency_s(0, 127 * 8)
    groups = [name for name in topology.graph() if name.startswith("scale-out/group")]
    assert topology.graph().has_edge(*groups)


def test_a_gcd_of_frontier_reaches_its_package_four_times_as_fast():
    topology = cluster("frontier")
    assert topology.bandwidth_bytes_per_s(0, [1, 6, 2]).tolist() == [200e9, 100e9, 50e9]


def test_sixteen_thousand_devices_are_cheap():
    cluster("dgx-h100")
    tracemalloc.start()
    topology = cluster("dgx-h100:2048")
    topology.bandwidth_bytes_per_s(np.arange(16384), np.arange(16384)[::-1])
    Collectives(topology).seconds("all_reduce", 1e9, np.arange(16384))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert topology.n_devices == 16384
    assert peak < 100e6


def test_the_catalog_says_the_same_twice():
    assert cluster("gb200-nvl72:3") == cluster("gb200-nvl72:3")
    assert cluster("dgx-b200:2") == cluster("hgx-b200:2")
