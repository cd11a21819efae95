"""mpiGraph snapshots become measured matrices, in the direction that they were measured."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shardwright.topologies import Collectives, TopologyError, cluster, parse_topology, read_mpigraph
from tests.reference import shared_file

SENT = [[9.0, 2.0, 3.0], [4.0, 9.0, 6.0], [7.0, 8.0, 9.0]]
SNAPSHOT = {
    "0": {"gpus": ["a", "b", "c"], "bandwidth": np.array(SENT).T.tolist()},
    "1": {"gpus": ["a", "b", "c"], "bandwidth": SENT},
}


def test_the_sent_matrix_runs_from_row_to_column_and_names_the_nodes():
    measured = read_mpigraph(SNAPSHOT)
    topology = cluster("dgx-a100:3").with_measured(measured)
    assert topology.node_names == ("a", "b", "c")
    assert topology.bandwidth_bytes_per_s(0, [8, 16]).tolist() == pytest.approx([2e6, 3e6])
    assert topology.node_bandwidth_bytes_per_s[1, 0] == pytest.approx(8 * 4e6)
    assert topology.node_bandwidth_bytes_per_s[1, 1] == 300e9
    assert parse_topology(topology.document) == topology


def test_the_received_matrix_says_the_same_transposed():
    sent, received = (read_mpigraph(SNAPSHOT, direction=way).node_bandwidth.matrix for way in ("send", "receive"))
    assert sent == received


def test_a_snapshot_through_all_nics_is_not_multiplied():
    topology = cluster("dgx-a100:3").with_measured(read_mpigraph(SNAPSHOT, scope="node"))
    assert topology.node_bandwidth_bytes_per_s[0, 1] == pytest.approx(2e6)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], ["mapping"]),
        ({"0": {}}, ["$.1.bandwidth"]),
        ({"1": {"bandwidth": [[1, 2], [3]]}}, ["$.1.bandwidth[1]", "2 values"]),
        ({"1": {"bandwidth": [[1, float("nan")], [3, 4]]}}, ["$.1.bandwidth[0][1]", "nan"]),
        ({"1": {"bandwidth": [[1, 0], [3, 4]]}}, ["$.1.bandwidth[0][1]", "positive"]),
        ({"1": {"bandwidth": [[1, "x"], [3, 4]]}}, ["$.1.bandwidth[0][1]", "'x'"]),
        ({"1": {"bandwidth": [[1, 2], [3, 4]], "gpus": ["a"]}}, ["$.1.gpus", "2 host names"]),
    ],
)
def test_anything_else_is_refused_with_its_path(document, words):
    with pytest.raises(TopologyError) as caught:
        read_mpigraph(document)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("snapshot", [0, 1])
def test_real_snapshots_make_the_slow_links_cost(snapshot):
    document = json.loads(shared_file(f"topologies/pipette/mpigraph_16_nodes_t{snapshot}.json").read_text())
    nominal = cluster("dgx-a100:16")
    measured = nominal.with_measured(read_mpigraph(document))
    assert measured.node_names[0] == "agpu1475"
    rates = measured.bandwidth_bytes_per_s(np.arange(0, 128, 8)[:, None], np.arange(0, 128, 8))
    off = ~np.eye(16, dtype=bool)
    assert 16e9 < rates[off].min() < rates[off].max() < 20e9
    groups = np.arange(128).reshape(16, 8).T
    slow, fast = (Collectives(each).seconds("all_reduce", 1e9, groups) for each in (measured, nominal))
    assert 1.3 < slow / fast < 1.7
    received = nominal.with_measured(read_mpigraph(document, direction="receive"))
    a, b = (each.node_bandwidth_bytes_per_s[off] for each in (measured, received))
    assert np.corrcoef(a, b)[0, 1] > 0.95
