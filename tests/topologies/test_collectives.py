"""Collective times: laws that hold on every topology, sharing, measured curves, and search arrays."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shardwright.topologies import Collectives, TopologyError, cluster, parse_topology
from shardwright.topologies.algorithms import OPS, SERVING_OPS

from .instances import changed, two_nodes

UNIFORM = ["dgx-h100:4", "dgx-a100:4", "mi300x:4", "gb200-nvl72:2", "aws-g4dn:4", "dgx-spark:4", "jean-zay-a100:4"]
SIZES = st.floats(1e2, 1e10)
COLLECTIVES = {name: Collectives(cluster(name)) for name in [*UNIFORM, "frontier:4", "pcie-box:2", "tpu-v4:16"]}


def groups_of(topology, ranks, domains, sharing) -> np.ndarray:
    """`sharing` groups of `ranks` side by side in each of the first domains."""
    size = topology.n_devices // topology.n_domains
    place = np.arange(domains)[:, None] * size + np.arange(ranks)
    return np.stack([(place + group * ranks).ravel() for group in range(sharing)])


@settings(derandomize=True, max_examples=120, deadline=None)
@given(st.data())
def test_search_arrays_agree_with_explicit_groups_on_uniform_clusters(data):
    collectives = COLLECTIVES[data.draw(st.sampled_from(UNIFORM))]
    topology = collectives.topology
    size = topology.n_devices // topology.n_domains
    ranks = data.draw(st.sampled_from([r for r in (1, 2, 3, 4, 8, 16) if r <= size]))
    domains = data.draw(st.integers(1, topology.n_domains))
    sharing = 1 if domains == 1 else data.draw(st.integers(1, size // ranks))
    assume(ranks * domains > 1)
    assume(not (topology.name.startswith("aws-g4dn") and sharing > 1 and ranks > 1))
    op = data.draw(st.sampled_from([*OPS, *SERVING_OPS]))
    bytes_ = data.draw(SIZES)
    explicit = collectives.seconds(op, bytes_, groups_of(topology, ranks, domains, sharing))
    assert collectives.uniform_seconds(op, bytes_, ranks, domains, sharing) == pytest.approx(explicit, rel=1e-9)


@settings(derandomize=True, max_examples=120, deadline=None)
@given(
    st.sampled_from(sorted(COLLECTIVES)), st.sampled_from([*OPS, *SERVING_OPS[1:]]), SIZES, st.floats(1, 10), st.data()
)
def test_a_larger_message_never_takes_less_time(name, op, size, factor, data):
    collectives = COLLECTIVES[name]
    n = collectives.topology.n_devices
    group = data.draw(st.lists(st.integers(0, n - 1), min_size=2, max_size=16, unique=True))
    small, large = (collectives.seconds(op, each, [group]) for each in (size, size * factor))
    assert 0 < small <= large * (1 + 1e-9)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(st.sampled_from(sorted(COLLECTIVES)), st.sampled_from(OPS), SIZES, st.data())
def test_groups_beside_it_never_make_a_collective_faster(name, op, size, data):
    collectives = COLLECTIVES[name]
    order = np.array(data.draw(st.permutations(range(min(collectives.topology.n_devices, 16)))))
    groups = order[: len(order) // 4 * 4].reshape(4, -1)
    alone = [collectives.seconds(op, size, [group]) for group in groups]
    assert (collectives.group_seconds(op, size, groups) >= np.array(alone) * (1 - 1e-9)).all()
    assert collectives.seconds(op, size, groups) >= max(alone) * (1 - 1e-9)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.sampled_from(OPS), SIZES, st.permutations(range(8)), st.permutations(range(4)))
def test_devices_of_equal_links_may_change_places(op, size, devices, nodes):
    collectives = COLLECTIVES["dgx-h100:4"]
    group = np.arange(32).reshape(4, 8)
    moved = group[np.array(nodes)][:, np.array(devices)]
    assert collectives.seconds(op, size, [moved.ravel()]) == pytest.approx(
        collectives.seconds(op, size, [group.ravel()]), rel=1e-9
    )


@pytest.mark.parametrize("op", [*OPS, *SERVING_OPS])
def test_a_group_of_one_and_an_empty_message_take_no_time(op):
    collectives = COLLECTIVES["dgx-h100:4"]
    assert collectives.seconds(op, 1e9, [[3], [4]]) == 0
    assert collectives.seconds(op, 0, [[0, 1]]) == 0
    assert collectives.uniform_seconds(op, [1e9, 0], [1, 4], 1).tolist() == [0, 0]


def test_groups_inside_a_domain_share_nothing_but_groups_across_share_the_nics():
    collectives = COLLECTIVES["dgx-h100:4"]
    inside = np.arange(32).reshape(8, 4)
    assert collectives.seconds("all_gather", 1e9, inside) == collectives.seconds("all_gather", 1e9, inside[:1])
    few = Collectives(two_nodes(nodes__0__nics__count=1))
    across = np.arange(8).reshape(2, 4).T
    assert few.seconds("all_gather", 1e9, across) > 3 * few.seconds("all_gather", 1e9, across[:1])


def test_a_group_that_spans_nodes_uses_the_nics_of_all_its_ranks():
    collectives = COLLECTIVES["dgx-h100:4"]
    wide, narrow = np.arange(16), np.array([0, 8])
    assert collectives.seconds("all_gather", 1e9, [narrow]) > 2.5 * collectives.seconds("all_gather", 1e9, [wide])


def test_the_slowest_measured_link_of_the_ring_is_the_bottleneck():
    matrix = np.full((4, 4), 20.0)
    matrix[1, 2] = 5.0
    document = changed(
        nodes__0__count=4,
        measured={"node_bandwidth": {"unit": "GB/s", "scope": "nic", "matrix": matrix.tolist()}},
    )
    collectives = Collectives(parse_topology(document))
    straight, around = np.array([0, 4, 8, 12]), np.array([0, 8, 4, 12])
    slow, fast = (collectives.seconds("all_gather", 1e9, [ring]) for ring in (straight, around))
    assert slow == pytest.approx(0.75e9 / 5e9, rel=0.1)
    assert fast == pytest.approx(0.75e9 / 20e9, rel=0.1)
    assert fast <= collectives.uniform_seconds("all_gather", 1e9, 1, 4) <= slow
    assert collectives.uniform_seconds("all_to_all", 1e9, 1, 4) > 1.2 * 0.75e9 / 20e9
    assert collectives.seconds("send_recv", 1e9, [[4, 8]]) > 3 * collectives.seconds("send_recv", 1e9, [[8, 4]])


def test_a_slow_measured_link_inside_a_node_slows_groups_that_use_it():
    matrix = np.full((4, 4), 450.0)
    matrix[2, 3] = 45.0
    collectives = Collectives(two_nodes(measured={"fabric_bandwidth": {"unit": "GB/s", "matrix": matrix.tolist()}}))
    assert collectives.seconds("all_gather", 1e9, [[2, 3]]) > 5 * collectives.seconds("all_gather", 1e9, [[0, 1]])
    assert collectives.seconds("all_gather", 1e9, [[0, 1]]) == Collectives(two_nodes()).seconds(
        "all_gather", 1e9, [[0, 1]]
    )


def test_one_slow_device_pair_is_found_in_its_own_node_only():
    matrix = np.full((8, 8), 100.0)
    matrix[5, 6] = 1.0
    collectives = Collectives(two_nodes(measured={"device_bandwidth": {"unit": "GB/s", "matrix": matrix.tolist()}}))
    first, second = collectives.group_seconds("all_gather", 1e9, [[0, 1, 2], [4, 5, 6]])
    assert second > 20 * first


CURVE = {
    "op": "all_reduce",
    "ranks_per_domain": 4,
    "size_bytes": [1e6, 1e7, 1e8],
    "time_s": [5e-4, 1e-4, 9e-4],
    "source": "a machine",
}


def test_a_measured_curve_wins_even_where_it_is_not_monotone():
    collectives = Collectives(two_nodes(measured={"curves": [CURVE]}))
    group = [np.arange(4)]
    assert [collectives.seconds("all_reduce", size, group) for size in (1e6, 1e7, 1e8)] == pytest.approx(
        CURVE["time_s"]
    )
    assert collectives.seconds("all_reduce", 10**6.5, group) == pytest.approx(np.sqrt(5e-4 * 1e-4))
    assert collectives.seconds("all_reduce", 1e3, group) == pytest.approx(5e-4)
    assert collectives.seconds("all_reduce", 1e9, group) == pytest.approx(9e-3)
    assert collectives.uniform_seconds("all_reduce", [1e6, 1e7], 4, 1) == pytest.approx([5e-4, 1e-4])


def test_a_measured_curve_holds_only_for_its_operation_and_shape():
    curved, plain = Collectives(two_nodes(measured={"curves": [CURVE]})), Collectives(two_nodes())
    for op, group in (("all_gather", [0, 1, 2, 3]), ("all_reduce", [0, 1, 2]), ("all_reduce", list(range(8)))):
        assert curved.seconds(op, 1e7, [group]) == plain.seconds(op, 1e7, [group])


def test_a_measured_curve_grows_with_the_groups_beside_it():
    curve = CURVE | {"ranks_per_domain": 1, "domains": 2}
    collectives = Collectives(two_nodes(nodes__0__nics__count=1, measured={"curves": [curve]}))
    across = np.arange(8).reshape(2, 4).T
    assert collectives.seconds("all_reduce", 1e8, across[:1]) == pytest.approx(9e-4)
    assert collectives.seconds("all_reduce", 1e8, across) > 2 * 9e-4
    assert collectives.uniform_seconds("all_reduce", 1e8, 1, 2, 4) == pytest.approx(
        collectives.seconds("all_reduce", 1e8, across)
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.seconds("all_shuffle", 1, [[0, 1]]), "unknown collective 'all_shuffle'"),
        (lambda c: c.seconds("all_reduce", 1, [[0, 0]]), "names a device twice"),
        (lambda c: c.seconds("all_reduce", 1, [[0, -1]]), "outside 0 to 31"),
        (lambda c: c.seconds("all_reduce", 1, np.zeros((1, 1, 2), dtype=int)), "rows of device ids"),
        (lambda c: c.uniform_seconds("all_reduce", 1, 9, 1), "9 ranks do not fit in a domain of 8"),
        (lambda c: c.uniform_seconds("all_reduce", 1, 0, 1), "ranks_per_domain must be positive"),
        (lambda c: c.uniform_seconds("all_reduce", 1, 1.5, 1), "ranks_per_domain must be positive integers"),
    ],
)
def test_wrong_use_is_refused(call, words):
    with pytest.raises(TopologyError, match=words):
        call(COLLECTIVES["dgx-h100:4"])


def test_a_group_of_two_kinds_of_device_takes_the_time_of_the_slower():
    mixed = changed(nodes__0__count=1)
    mixed["nodes"].append(mixed["nodes"][0] | {"name": "other", "accelerator": "A100-SXM4-80GB"})
    mixed["nodes"][1]["fabric"] = {"kind": "switch", "bandwidth_bytes_per_s": 300e9, "latency_s": 1e-6}
    collectives = Collectives(parse_topology(mixed))
    first, second = collectives.group_seconds("all_gather", 1e9, [np.arange(4), np.arange(4, 8)])
    assert first < second
    assert collectives.uniform_seconds("all_gather", 1e9, 4, 1) == pytest.approx(second)


def test_devices_without_measurements_say_whose_constants_they_use():
    assert COLLECTIVES["dgx-h100:4"].assumptions == ()
    (assumption,) = Collectives(cluster("hgx-h800:2")).assumptions
    assert "H800" in assumption and "H100-SXM5-80GB" in assumption
    assert "TPU-v4" in COLLECTIVES["tpu-v4:16"].assumptions[0]
    assert Collectives(cluster("hgx-h100:1")).assumptions == ()
    (assumption,) = Collectives(cluster("hgx-h100:2")).assumptions
    assert "roce" in assumption and "of ib" in assumption


def test_reduction_in_the_switch_is_faster_than_a_ring_for_large_messages():
    with_switch = two_nodes(nodes__0__devices=8, nodes__0__fabric__in_network_reduction=True)
    without = two_nodes(nodes__0__devices=8)
    fast, slow = (Collectives(t).seconds("all_reduce", 1e9, [np.arange(8)]) for t in (with_switch, without))
    assert fast < slow


def test_engines_reduce_small_messages_faster_than_the_library():
    collectives = COLLECTIVES["dgx-h100:4"]
    for size in (1e4, 1e5, 1e6):
        assert collectives.uniform_seconds("custom_all_reduce", size, 8, 1) < collectives.uniform_seconds(
            "all_reduce", size, 8, 1
        )
    assert collectives.uniform_seconds("custom_all_reduce", 1e9, 8, 1) == collectives.uniform_seconds(
        "all_reduce", 1e9, 8, 1
    )
    assert collectives.uniform_seconds("custom_all_reduce", 1e4, 8, 2) == collectives.uniform_seconds(
        "all_reduce", 1e4, 8, 2
    )


def test_large_search_arrays_are_evaluated_at_once():
    rng = np.random.default_rng(0)
    size, ranks = rng.uniform(1e3, 1e9, 200_000), 2 ** rng.integers(0, 4, 200_000)
    domains = 2 ** rng.integers(0, 3, 200_000)
    collectives = COLLECTIVES["dgx-h100:4"]
    times = collectives.uniform_seconds("all_reduce", size, ranks, domains, 8 // ranks)
    some = rng.integers(0, 200_000, 20)
    each = [
        collectives.uniform_seconds("all_reduce", size[i], ranks[i], domains[i], 8 // ranks[i]) for i in some.tolist()
    ]
    assert times.shape == (200_000,)
    assert times[some] == pytest.approx(np.array(each))


def test_constants_of_a_user_replace_the_shipped_ones():
    collectives = COLLECTIVES["dgx-h100:4"]
    own = msgspec.convert(msgspec.to_builtins(collectives.coefficients), type(collectives.coefficients))
    ring = own.devices["H100-SXM5-80GB"]["all_gather"]
    own.devices["H100-SXM5-80GB"]["all_gather"] = msgspec.structs.replace(ring, floor_s=1.0)
    assert Collectives(collectives.topology, own).seconds("all_gather", 1e6, [[0, 1]]) > 1
    assert collectives.seconds("all_gather", 1e6, [[0, 1]]) < 1e-3


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "send_recv"])
def test_many_sizes_at_once_take_what_each_takes_alone(op):
    topology = two_nodes()
    collectives = Collectives(topology)
    groups = np.array([[0, 4], [1, 5], [2, 3]])
    sizes = np.array([1e3, 1e6, 1e9])
    times = collectives.of_groups(op, groups)
    expected = [collectives.group_seconds(op, size, groups) for size in sizes]
    assert pytest.approx(np.array(expected)) == times.seconds(sizes)[times.kind].T
    assert len(times.seconds(sizes)) == 2
