"""Topology files: what is read, and one clear line with a path for everything that is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.topologies import TopologyError, cluster, parse_topology, topology_document

from .instances import TWO_NODES, changed, refusal, two_nodes

NAN, INF = float("nan"), float("inf")


def test_a_topology_file_describes_devices_nodes_and_links():
    topology = two_nodes()
    assert (topology.n_devices, topology.n_nodes, topology.n_domains) == (8, 2, 2)
    assert topology.node_names == ("node-0", "node-1")
    assert topology.device_names[5] == "node-1/1"
    assert topology.homogeneous
    assert topology.bandwidth_bytes_per_s(0, [1, 4]).tolist() == [450e9, 50e9]
    assert topology.node_bandwidth_bytes_per_s.tolist() == [[450e9, 200e9], [200e9, 450e9]]


def test_a_document_reads_back_as_the_same_topology():
    matrix = [[None, 30.0], [40.0, None]]
    topology = two_nodes(
        measured={
            "node_bandwidth": {"unit": "GB/s", "scope": "nic", "matrix": matrix},
            "curves": [{"op": "all_reduce", "ranks_per_domain": 4, "size_bytes": [1e6, 1e7], "time_s": [1e-4, 3e-4]}],
        },
        degraded=[{"node": "node-1", "compute": 0.5}, {"between": ["node-0", "node-1"], "network": 0.5}],
    )
    document = topology_document(topology)
    assert parse_topology(document) == topology
    assert topology_document(parse_topology(document)) == document


def test_an_inline_accelerator_is_used_by_its_name():
    own = {
        "name": "my-chip",
        "vendor": "me",
        "architecture": "new",
        "year": 2026,
        "peak_flops": {"bf16": 1e15},
        "memory_bytes": 100_000_000_000,
        "memory_bytes_per_s": "3 TB/s",
        "scaleup_bytes_per_s": "400 GB/s",
    }
    topology = two_nodes(accelerators=[own], nodes__0__accelerator="my-chip")
    assert topology.accelerators[0].memory_bytes_per_s == 3e12
    assert parse_topology(topology.document) == topology


def test_a_catalog_cluster_may_be_the_base_of_a_file():
    matrix = [[None if i == j else 10.0 + i for j in range(4)] for i in range(4)]
    topology = parse_topology(
        {
            "schema": "shardwright.topology/1",
            "cluster": "dgx-a100:4",
            "node_names": ["a", "b", "c", "d"],
            "measured": {"node_bandwidth": {"unit": "GB/s", "scope": "nic", "matrix": matrix}},
        }
    )
    assert topology.node_names == ("a", "b", "c", "d")
    assert topology.bandwidth_bytes_per_s(16, 0) == 12e9
    assert topology.node_bandwidth_bytes_per_s[2, 0] == 96e9
    assert parse_topology(topology.document) == topology


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": "shardwright.topology/2"}, ["$.schema", "shardwright.topology/1"]),
        ({"nodes": []}, ["$.nodes", "at least one"]),
        ({"nodes": "many"}, ["$.nodes", "array"]),
        ({"nodes__0__count": 0}, ["$.nodes[0]", "count must be at least 1"]),
        ({"nodes__0__count": -3}, ["$.nodes[0]", "count"]),
        ({"nodes__0__count": 10**15}, ["$.nodes[0]", "count", "at most"]),
        ({"nodes__0__nics__bandwidth_bytes_per_s": 1e300}, ["$.nodes[0].nics", "from 1e-09 to"]),
        ({"nodes__0__nics__latency_s": 1e300}, ["$.nodes[0].nics", "seconds from 0 to"]),
        ({"nodes__0__nics__count": 2**64}, ["$.nodes[0].nics", "at most"]),
        ({"nodes__0__count": 2.5}, ["$.nodes[0].count", "int"]),
        ({"nodes__0__count": True}, ["$.nodes[0].count", "int"]),
        ({"nodes__0__count": 1_000_000}, ["$.nodes", "devices are more than"]),
        ({"nodes__0__colour": "green"}, ["$.nodes[0]", "unknown field", "colour"]),
        ({"nodes__0__fabric": ...}, ["$.nodes[0]", "fabric is missing"]),
        ({"nodes__0__fabric__bandwidth_bytes_per_s": ...}, ["$.nodes[0].fabric", "bandwidth_bytes_per_s"]),
        ({"nodes__0__fabric__bandwidth_bytes_per_s": NAN}, ["$.nodes[0].fabric", "bandwidth_bytes_per_s", "nan"]),
        ({"nodes__0__fabric__bandwidth_bytes_per_s": 0}, ["$.nodes[0].fabric", "positive", "0"]),
        ({"nodes__0__fabric__kind": "magic"}, ["$.nodes[0].fabric", "magic"]),
        ({"nodes__0__nics": ...}, ["$.nodes[0].nics", "missing"]),
        ({"nodes__0__nics__bandwidth_bytes_per_s": -5}, ["$.nodes[0].nics", "positive", "-5"]),
        ({"nodes__0__nics__bandwidth_bytes_per_s": INF}, ["$.nodes[0].nics", "positive number from"]),
        ({"nodes__0__nics__latency_s": ...}, ["$.nodes[0].nics", "latency_s"]),
        ({"nodes__0__nics__latency_s": -1e-6}, ["$.nodes[0].nics", "latency_s"]),
        ({"nodes__0__nics__kind": "pigeon"}, ["$.nodes[0].nics.kind", "pigeon"]),
        ({"nodes__0__accelerator": "h1000"}, ["$.nodes[0].accelerator", "h1000", "nearest"]),
        ({"nodes__0__network": "none"}, ["$.nodes[0].network", "none", "fabric"]),
        ({"nodes__0__domain_nodes": 3}, ["$.nodes[0]", "multiple of domain_nodes"]),
        ({"networks": []}, ["$.networks", "missing"]),
        ({"networks__0__pod_nodes": 0}, ["$.networks[0]", "pod_nodes"]),
        ({"networks": [TWO_NODES["networks"][0]] * 2}, ["$.networks[1].name", "twice"]),
        ({"nodes": [TWO_NODES["nodes"][0]] * 2}, ["$.nodes[1].name", "twice"]),
        ({"node_names": ["a"]}, ["$.node_names", "expected 2"]),
        ({"node_names": ["a", "a"]}, ["$.node_names[1]", "twice"]),
        ({"degraded": [{"node": "node-9"}]}, ["$.degraded[0]", "node-9"]),
        ({"degraded": [{"node": "node-0", "network": 1.5}]}, ["$.degraded[0]", "at most 1"]),
        ({"degraded": [{}]}, ["$.degraded[0]", "either node or between"]),
        ({"degraded": [{"between": ["node-0", "node-0"]}]}, ["$.degraded[0]", "different"]),
        ({"cluster": "dgx-h100:2"}, ["$.cluster", "leave nodes"]),
    ],
)
def test_what_is_wrong_is_refused_in_one_line_with_its_path(changes, words):
    message = refusal(changed(**changes))
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ([[None, 5.0]], ["matrix", "expected 2 rows", "got 1"]),
        ([[None, 5.0], [5.0]], ["matrix[1]", "expected 2 values", "got 1"]),
        ([[None, 5.0, 5.0], [5.0, None, 5.0]], ["matrix[0]", "expected 2 values", "got 3"]),
        ([[None, NAN], [5.0, None]], ["matrix[0][1]", "null"]),
        ([[None, 5.0], [INF, None]], ["matrix[1][0]", "inf"]),
        ([[None, 5.0], [-5.0, None]], ["matrix[1][0]", "-5"]),
        ([[None, 5.0], [0, None]], ["matrix[1][0]", "positive"]),
        ([[None, None], [5.0, None]], ["matrix[0][1]", "null"]),
        ([[None, "5"], [5.0, None]], ["matrix[0][1]", "str"]),
        ([[None, True], [5.0, None]], ["matrix[0][1]", "bool"]),
        ("fast", ["matrix", "array"]),
    ],
)
@pytest.mark.parametrize("field", ["node_bandwidth"])
def test_a_matrix_that_cannot_be_used_is_refused_with_the_place(field, matrix, words):
    message = refusal(changed(measured={field: {"unit": "GB/s", "scope": "nic", "matrix": matrix}}))
    assert f"$.measured.{field}" in message
    for word in words:
        assert word in message, message


def test_a_matrix_needs_a_unit_and_a_scope():
    matrix = [[None, 5.0], [5.0, None]]
    assert "unit" in refusal(changed(measured={"node_bandwidth": {"scope": "nic", "matrix": matrix}}))
    assert "scope" in refusal(changed(measured={"node_bandwidth": {"unit": "GB/s", "matrix": matrix}}))
    assert "furlong" in refusal(
        changed(measured={"node_bandwidth": {"unit": "furlong/s", "scope": "nic", "matrix": matrix}})
    )


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ({"size_bytes": [1e6], "time_s": []}, ["equal length"]),
        ({"size_bytes": [], "time_s": []}, ["equal length"]),
        ({"size_bytes": [2e6, 1e6], "time_s": [1e-4, 1e-4]}, ["size_bytes must rise"]),
        ({"size_bytes": [1e6], "time_s": [0.0]}, ["time_s[0]", "positive"]),
        ({"size_bytes": [NAN], "time_s": [1.0]}, ["size_bytes[0]", "nan"]),
        ({"size_bytes": [1e6], "time_s": [1.0], "op": "all_shuffle"}, ["op", "all_shuffle"]),
        ({"size_bytes": [1e6], "time_s": [1.0], "ranks_per_domain": 0}, ["ranks_per_domain"]),
    ],
)
def test_a_curve_that_cannot_be_used_is_refused(curve, words):
    full = {"op": "all_reduce", "ranks_per_domain": 4} | curve
    message = refusal(changed(measured={"curves": [full]}))
    assert "$.measured.curves[0]" in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("document", [None, [], 5, "text", {}, {"schema": 1}])
def test_a_document_that_is_no_topology_is_refused(document):
    refusal(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    st.sampled_from(
        ["nodes", "nodes__0__count", "nodes__0__fabric", "nodes__0__nics", "networks", "measured", "degraded", "links"]
    ),
    JSON,
)
def test_whatever_stands_in_a_field_the_reader_answers_or_refuses_in_one_line(path, value):
    try:
        parse_topology(changed(**{path: value}))
    except TopologyError as error:
        assert "\n" not in str(error)


def test_measured_rates_win_over_nominal_ones():
    device = np.full((8, 8), 7.0).tolist()
    topology = two_nodes(measured={"device_bandwidth": {"unit": "GB/s", "matrix": device}})
    assert topology.bandwidth_bytes_per_s(0, [1, 5]).tolist() == [7e9, 7e9]
    assert topology.node_bandwidth_bytes_per_s[0, 1] == pytest.approx(4 * 7e9)
    inside = two_nodes(measured={"fabric_bandwidth": {"unit": "GB/s", "matrix": np.full((4, 4), 99.0).tolist()}})
    assert inside.bandwidth_bytes_per_s(4, [5, 0]).tolist() == [99e9, 50e9]
    late = two_nodes(measured={"node_latency": {"unit": "us", "matrix": [[None, 50], [70, None]]}})
    assert late.latency_s([0, 4], [4, 0]).tolist() == pytest.approx([50e-6, 70e-6])


def test_measuring_a_catalog_cluster_keeps_everything_else():
    topology = cluster("dgx-a100:2")
    measured = topology.with_measured(
        {"node_bandwidth": {"unit": "Gb/s", "scope": "node", "matrix": [[0, 800], [400, 0]]}}
    )
    assert measured.node_bandwidth_bytes_per_s[0, 1] == 100e9
    assert measured.bandwidth_bytes_per_s(8, 0) == pytest.approx(50e9 / 8)
    assert measured.bandwidth_bytes_per_s(0, 1) == topology.bandwidth_bytes_per_s(0, 1)
    with pytest.raises(TopologyError, match="expected 2 rows"):
        topology.with_measured({"node_bandwidth": {"unit": "GB/s", "scope": "nic", "matrix": [[1.0]]}})
