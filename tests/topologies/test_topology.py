"""Links between any two devices: shapes, degradations, several networks, sites and kinds of device."""

from __future__ import annotations

import itertools

import msgspec
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.topologies import Collectives, TopologyError, cluster, list_clusters, parse_topology

from .instances import TWO_NODES, changed, refusal, two_nodes


def group(name, accelerator="H100-SXM5-80GB", count=2, network="", kind="ib", rate=50e9):
    return {
        "name": name,
        "count": count,
        "accelerator": accelerator,
        "devices": 4,
        "fabric": {"kind": "switch", "bandwidth_bytes_per_s": 450e9, "latency_s": 1e-6},
        "nics": {"count": 4, "bandwidth_bytes_per_s": rate, "latency_s": 1e-6, "kind": kind},
        **({"network": network} if network else {}),
    }


def islands(**link):
    """InfiniBand and RoCE islands of two nodes each, joined by Ethernet (Holmes, arXiv:2312.03549)."""
    joined = {"between": ["ib", "roce"], "bandwidth_bytes_per_s": 3e9, "latency_s": 5e-5, **link}
    return {
        "schema": "shardwright.topology/1",
        "name": "islands",
        "nodes": [group("a", network="ib"), group("b", "A100-SXM4-80GB", network="roce", kind="roce", rate=25e9)],
        "networks": [{"kind": "rail", "name": name, "pod_nodes": 32, "latency_s": 1e-6} for name in ("ib", "roce")],
        "links": [joined],
    }


def test_rates_and_latencies_broadcast_over_any_shape():
    topology = two_nodes()
    every = np.arange(8)
    assert topology.bandwidth_bytes_per_s(every[:, None], every).shape == (8, 8)
    assert topology.latency_s(0, 7).shape == ()
    assert np.isinf(np.diag(topology.bandwidth_bytes_per_s(every[:, None], every))).all()
    assert (np.diag(topology.latency_s(every[:, None], every)) == 0).all()


def test_a_device_that_does_not_exist_is_refused():
    with pytest.raises(TopologyError, match="0 to 7"):
        two_nodes().bandwidth_bytes_per_s(0, 8)
    with pytest.raises(TopologyError, match="0 to 7"):
        Collectives(two_nodes()).seconds("all_reduce", 1.0, [[0, 9]])


@pytest.mark.parametrize("name", list_clusters())
def test_rates_are_symmetric_on_symmetric_fabrics(name):
    topology = cluster(f"{name}:2")
    some = np.unique(np.linspace(0, topology.n_devices - 1, 24).astype(int))
    for matrix in (topology.bandwidth_bytes_per_s, topology.latency_s):
        values = matrix(some[:, None], some[None, :])
        assert np.array_equal(values, values.T)
    nodes = topology.node_bandwidth_bytes_per_s
    assert np.array_equal(nodes, nodes.T)


@pytest.mark.parametrize("name", ["dgx-h100:3", "pcie-box:2", "dgx-v100:2", "frontier:3", "mi300x:2", "gb200-nvl72:2"])
def test_no_rate_is_above_the_widest_path_of_the_graph(name):
    topology = cluster(name)
    graph = topology.graph()
    tree = nx.maximum_spanning_tree(graph, weight="bandwidth_bytes_per_s")
    names = topology.device_names
    for other in range(1, topology.n_devices, 5):
        path = nx.shortest_path(tree, names[0], names[other])
        widest = min(graph.edges[edge]["bandwidth_bytes_per_s"] for edge in itertools.pairwise(path))
        assert topology.bandwidth_bytes_per_s(0, other) <= max(widest, 50e9) + 1


def test_a_degraded_node_slows_its_links_and_its_devices():
    topology = two_nodes(degraded=[{"node": "node-1", "network": 0.25, "compute": 0.8}])
    assert topology.bandwidth_bytes_per_s(0, 4) == 12.5e9
    assert topology.bandwidth_bytes_per_s(0, 1) == 450e9
    assert topology.device_speed.tolist() == [1.0] * 4 + [0.8] * 4
    assert not topology.homogeneous


def test_a_degraded_pair_slows_only_itself():
    document = changed(nodes__0__count=3, degraded=[{"between": ["node-2", "node-0"], "network": 0.5}])
    topology = parse_topology(document)
    assert topology.bandwidth_bytes_per_s([0, 8, 0, 4], [8, 0, 4, 8]).tolist() == [25e9, 25e9, 50e9, 50e9]


def test_networks_of_different_nics_meet_over_the_link_between_them():
    topology = parse_topology(islands())
    assert [each.name for each in topology.accelerators] == ["H100-SXM5-80GB", "A100-SXM4-80GB"]
    assert topology.device_accelerator.tolist() == [0] * 8 + [1] * 8
    assert topology.bandwidth_bytes_per_s(0, [4, 8]).tolist() == [50e9, 3e9]
    assert topology.bandwidth_bytes_per_s(8, 12) == 25e9
    assert topology.latency_s(0, 8) > 5e-5
    assert topology.node_bandwidth_bytes_per_s[0, 2] == 3e9
    assert nx.is_connected(topology.graph())
    assert parse_topology(topology.document) == topology


def test_all_groups_share_a_link_between_sites_unless_every_node_has_its_own():
    one, four = np.array([[0, 8]]), np.array([[0, 8], [1, 9], [4, 12], [5, 13]])
    shared, own = (Collectives(parse_topology(islands(shared=value))) for value in (True, False))
    assert shared.seconds("send_recv", 1e9, four) == pytest.approx(4 * shared.seconds("send_recv", 1e9, one), rel=0.05)
    assert own.seconds("send_recv", 1e9, four) == pytest.approx(2 * own.seconds("send_recv", 1e9, one), rel=0.05)


def test_a_group_across_sites_is_as_slow_as_their_link():
    collectives = Collectives(parse_topology(islands(bandwidth_bytes_per_s=1e9)))
    inside = collectives.seconds("all_reduce", 1e9, [np.arange(8)])
    across = collectives.seconds("all_reduce", 1e9, [np.arange(16)])
    assert across > 1.5 and inside < 0.1


def test_three_sites_in_a_row_are_joined_by_the_narrowest_link_on_the_way():
    document = islands()
    document["nodes"].append(group("c", network="far"))
    document["networks"].append({"kind": "rail", "name": "far", "pod_nodes": 32, "latency_s": 1e-6})
    assert "between networks 'ib' and 'far'" in refusal(document)
    document["links"].append({"between": ["roce", "far"], "bandwidth_bytes_per_s": 1e9, "latency_s": 1e-2})
    topology = parse_topology(document)
    assert topology.bandwidth_bytes_per_s(0, 16) == 1e9
    assert topology.latency_s(0, 16) > 1e-2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"links": []}, ["$.links", "'ib' and 'roce'"]),
        ({"links__0__between": ["ib", "wifi"]}, ["$.links[0].between", "wifi"]),
        ({"links__0__between": ["ib", "ib"]}, ["$.links[0]", "two different"]),
        ({"links__0__bandwidth_bytes_per_s": ...}, ["$.links[0]", "bandwidth_bytes_per_s"]),
        ({"links__0__latency_s": ...}, ["$.links[0]", "latency_s"]),
        ({"nodes__0__network": ...}, ["$.nodes[0].network", "choose one of ib, roce"]),
        ({"links": [islands()["links"][0]] * 2}, ["$.links[1].between", "already"]),
    ],
)
def test_links_between_networks_are_checked(changes, words):
    message = refusal(changed(islands(), **changes))
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("fabric", "words"),
    [
        ({"kind": "mesh", "links": [[0, 1, 1]]}, ["no path joins devices 0 and 2"]),
        ({"kind": "mesh", "links": [[0, 9, 1]]}, ["beyond 3"]),
        ({"kind": "mesh", "links": [[0, 1, 1], [1, 0, 1]]}, ["twice"]),
        ({"kind": "mesh", "links": [[0, 0, 1]]}, ["two different devices"]),
        ({"kind": "torus", "dims": [2, 3]}, ["must hold 4 devices"]),
        ({"kind": "torus", "dims": []}, ["dims"]),
    ],
)
def test_meshes_and_tori_are_checked(fabric, words):
    full = {"link_bandwidth_bytes_per_s": 25e9, "latency_s": 1e-6} | fabric
    message = refusal(changed(nodes__0__fabric=full))
    assert "$.nodes[0]" in message
    for word in words:
        assert word in message, message


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.floats(1e9, 1e12), st.floats(1e8, 1e11))
def test_nominal_rates_are_those_of_the_file(devices, count, fabric, nic):
    topology = two_nodes(
        nodes__0__count=count,
        nodes__0__devices=devices,
        nodes__0__fabric__bandwidth_bytes_per_s=fabric,
        nodes__0__nics__bandwidth_bytes_per_s=nic,
    )
    every = np.arange(topology.n_devices)
    rates = topology.bandwidth_bytes_per_s(every[:, None], every)
    same = topology.device_node[:, None] == topology.device_node
    off = every[:, None] != every
    assert (rates[same & off] == fabric).all()
    assert rates[~same] == pytest.approx(nic * max(1, 4 / devices))


def test_a_topology_compares_by_content_and_prints_what_it_is():
    assert two_nodes() == two_nodes()
    assert hash(two_nodes()) == hash(two_nodes())
    assert two_nodes() != cluster("dgx-h100:2")
    assert repr(two_nodes()) == "<Topology two-nodes: 8 × H100-SXM5-80GB in 2 nodes>"


def test_a_topology_document_is_plain_json():
    document = cluster("frontier:2").document
    assert msgspec.json.decode(msgspec.json.encode(document)) == document


def test_a_single_device_needs_no_fabric_and_no_network():
    alone = changed(nodes__0__count=1, nodes__0__devices=1, nodes__0__fabric=..., nodes__0__nics=..., networks=...)
    topology = parse_topology(alone)
    assert topology.n_devices == 1
    assert Collectives(topology).seconds("all_reduce", 1e9, [[0]]) == 0
    assert TWO_NODES["nodes"][0]["count"] == 2
