"""Routing statistics from every kind of file, and what is refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shardwright.models import ModelError, read_routing, routing_from_ids, split_tokens

COUNTS = np.array([[0, 0, 0], [4, 2, 2], [1, 1, 6]])
IDS = np.array([[[0, 1], [2, 0]], [[1, 2], [0, 1]], [[2, 0], [1, 2]]])


def test_counts_leave_dense_layers_out(tmp_path):
    np.save(tmp_path / "counts.npy", COUNTS.astype(float))
    routing = read_routing(tmp_path / "counts.npy")[0]
    assert routing.layers.tolist() == [1, 2]
    assert routing.rows == 3
    assert routing.loads[0].tolist() == [0.5, 0.25, 0.25]
    assert routing.transitions is None


@pytest.mark.parametrize("key", ["logical_count", "counts"])
def test_json_counts_and_those_of_npy_are_the_same(tmp_path, key):
    (tmp_path / "counts.json").write_text(json.dumps({key: COUNTS.tolist()}))
    np.save(tmp_path / "counts.npy", COUNTS.astype(float))
    ours, theirs = (read_routing(tmp_path / f"counts.{kind}")[0] for kind in ("json", "npy"))
    assert np.array_equal(ours.loads, theirs.loads)


def test_ids_count_every_pair_of_a_tokens_experts(tmp_path):
    np.save(tmp_path / "ids.npy", IDS)
    (tmp_path / "ids.jsonl").write_text("\n".join(json.dumps({"top_ids": token}) for token in IDS.tolist()))
    for kind in ("npy", "jsonl"):
        routing = read_routing(tmp_path / f"ids.{kind}")[0]
        assert routing.transitions.sum() == pytest.approx(1.0)
        assert routing.transitions[0, 0, 2] == pytest.approx(2 / 12)
        assert routing.loads[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    first = read_routing(tmp_path / "ids.npy", top=1)[0]
    assert first.transitions[0].tolist() == [[0, 0, 1 / 3], [1 / 3, 0, 0], [0, 1 / 3, 0]]


def test_an_npz_with_t_and_w_is_transitions_and_loads(tmp_path):
    flow = np.random.default_rng(0).random((2, 4, 4))
    loads = np.random.default_rng(1).random((3, 4))
    np.savez(tmp_path / "both.npz", T=flow, w=loads)
    routing = read_routing(tmp_path / "both.npz")[0]
    assert routing.transitions[0] == pytest.approx(flow[0] / flow[0].sum())
    assert routing.loads[1] == pytest.approx(loads[1] / loads[1].sum())


def test_every_array_of_an_npz_is_a_workload_unless_one_is_named(tmp_path):
    np.savez(tmp_path / "two.npz", day=IDS, night=IDS[:2])
    assert [routing.weight for routing in read_routing(tmp_path / "two.npz")] == [3, 2]
    assert len(read_routing(tmp_path / "two.npz", array="night")) == 1


def test_tokens_are_split_in_order():
    routing = routing_from_ids("ids", IDS, experts=3)
    first, last = split_tokens(routing, 1 / 3)
    assert (first.weight, last.weight) == (2, 1)
    assert np.array_equal(last.top_ids, IDS[2:])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '{"logical_count": [[1, 2], [3]]}', "rows of one length"),
        ("a.json", '{"logical_count": [[1, -2]]}', "must not be negative but have -2.0 at"),
        ("a.json", '{"logical_count": [["x"]]}', "must be numbers"),
        ("a.json", '{"logical_count": [[0, 0]]}', "all zero"),
        ("a.json", '{"other": 1}', "needs one of the keys"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"top_ids": [[[0, -1], [1, 2]]]}', "negative in a layer"),
        ("a.json", '{"T": [[[1, 2], [3, 4]]], "w": [[1, 2]]}', "loads must be 2 × 2"),
        ("a.json", '{"T": [[[1, 2, 3], [3, 4, 5]]]}', "transitions must be"),
        ("a.txt", "1", "must end in one of"),
        ("a.npy", "not an array", "not an array that NumPy saved"),
        ("a.npz", "not an archive", "cannot be read"),
    ],
)
def test_what_is_no_routing_is_refused_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=words) as caught:
        read_routing(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (np.array([[1.0, np.nan]]), "must be finite but have nan at"),
        (np.array([[1.0, np.inf]]), "must be finite"),
        (np.ones(4), "layers × experts"),
    ],
)
def test_counts_that_are_no_counts_are_refused(tmp_path, table, words):
    np.save(tmp_path / "a.npy", table)
    with pytest.raises(ModelError, match=words):
        read_routing(tmp_path / "a.npy")


def test_a_few_ids_that_would_fill_the_memory_with_transitions_are_refused():
    with pytest.raises(ModelError, match="100 layers of 4096 experts have more than"):
        routing_from_ids("few", np.full((1, 100, 1), 4095))


def test_ids_out_of_range_are_refused():
    with pytest.raises(ModelError, match="expert id 2 is out of range for 2 experts"):
        routing_from_ids("ids", IDS, experts=2)
    with pytest.raises(ModelError, match="top must be from 1 to the 2"):
        routing_from_ids("ids", IDS, top=3)
    with pytest.raises(ModelError, match="held-out share"):
        split_tokens(routing_from_ids("ids", IDS), 0.01)
