from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shardwright.models import Attention, model
from shardwright.planner.costs.coefficients import Framework
from shardwright.planner.costs.communication import Cover, block_transfers, tensor_features
from shardwright.planner.costs.keys import block_keys
from shardwright.planner.costs.network import MappedNetwork, Network, groups_of
from shardwright.planner.strategy import Strategy
from shardwright.planner.workload.strategy_table import table_of, table_of_columns
from shardwright.topologies import Collectives, cluster, parse_topology

TWO_NODES = Network(Collectives(cluster("dgx-h100:2")), 8)


def ints(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("stride", "degree", "expected"),
    [
        (1, 8, (8, 1, 1)),
        (1, 16, (8, 2, 1)),
        (8, 4, (1, 4, 8)),
        (2, 8, (4, 2, 2)),
        (4, 2, (2, 1, 4)),
        (1, 6, (6, 1, 1)),
        (1, 12, (4, 3, 2)),
    ],
)
def test_groups_follow_from_stride_and_degree(stride, degree, expected):
    groups = groups_of(ints(stride), ints(degree), 8)
    assert (int(groups.ranks_per_domain[0]), int(groups.domains[0]), int(groups.sharing[0])) == expected


@pytest.mark.parametrize("strategy", [Strategy(tp=4, cp=2, dp_shard=4, pp=2), Strategy(tp=2, dp_shard=8, pp=4)])
@pytest.mark.parametrize("axis", ["tp", "cp", "dp_shard", "pp"])
def test_group_shapes_agree_with_the_explicit_rank_groups(strategy, axis):
    strides = {"tp": 1, "cp": strategy.tp, "dp_shard": strategy.tp * strategy.cp, "pp": 64 // strategy.pp}
    shape = groups_of(ints(strides[axis]), ints(getattr(strategy, axis)), 8)
    domains = strategy.rank_groups(axis) // 8
    assert {len(set(row)) for row in domains.tolist()} == {int(shape.domains[0])}


def test_a_norm_across_heads_gathers_what_tp_divided():
    layer = next(block for block in model("wan2.1-t2v-14b").blocks if block.role == "layer")
    gathered, reduced = tensor_features(layer)
    assert gathered == [5120] * 6  # before three products, and Q and K of the video and Q of the text
    assert reduced == [5120] * 3


def test_a_text_beside_the_sequence_adds_no_ring_to_speak_of():
    """Its K and V are those of 512 tokens, of the sequence's own those of 37440."""
    layer = next(block for block in model("wan2.1-t2v-14b").blocks if block.role == "layer")
    alone = msgspec.structs.replace(
        layer, operators=tuple(op for op in layer.operators if not isinstance(op, Attention) or not op.cross)
    )
    keys, _ = block_keys(table_of([Strategy(cp=4, dp_shard=4, cp_comm="all_gather")], 40), 37440)
    zero = np.zeros(1)
    cover = Cover(zero, (zero, zero), (zero, zero), (zero, zero))

    def seconds(block):
        return block_transfers(block, keys, TWO_NODES, Framework(), cover, zero).cp_forward[0]

    assert seconds(alone) < seconds(layer) < 1.1 * seconds(alone)


def test_a_group_of_one_takes_no_time():
    times = TWO_NODES.seconds("all_reduce", np.array([1e9, 1e9]), groups_of(ints(1, 1), ints(1, 2), 8))
    assert times[0] == 0.0
    assert times[1] > 0.0


def test_a_ring_hop_across_nodes_is_slower_than_inside():
    inside, across = TWO_NODES.ring_step_seconds(np.array([1e8, 1e8]), groups_of(ints(1, 8), ints(8, 2), 8))
    assert 0 < inside < across


def test_devices_alone_in_their_nodes_reach_each_other_over_the_network():
    nics = {"count": 1, "bandwidth_bytes_per_s": 25e9, "latency_s": 2e-6, "kind": "ib"}
    node = {"name": "node", "count": 4, "accelerator": "A100-SXM4-80GB", "devices": 1, "network": "ib", "nics": nics}
    network = {"kind": "rail", "name": "ib", "pod_nodes": 32, "latency_s": 1e-6}
    document = {"schema": "shardwright.topology/1", "name": "four", "nodes": [node], "networks": [network]}
    near, far = Network(Collectives(parse_topology(document)), 1).pair_seconds(np.array([1e8]), ints(1))
    assert near == far > 1e8 / 25e9


def test_a_dense_layer_gathers_twice_and_reduces_twice():
    layer = next(block for block in model("llama-3.1-8b").blocks if block.role == "layer")
    assert tensor_features(layer) == ([4096, 4096], [4096, 4096])


def test_a_latent_layer_gathers_its_small_latents():
    layer = next(block for block in model("deepseek-v3").blocks if block.role == "layer")
    gathered, reduced = tensor_features(layer)
    assert gathered == [1536, 512, 7168]
    assert reduced == [7168, 7168]


LAYER = next(block for block in model("llama-3.1-8b").blocks if block.role == "layer")


def tensor_transfers(framework, sp, weight_s, tp=8, block_s=0.0, network=TWO_NODES):
    keys, _ = block_keys(table_of_columns({"tp": [tp], "sp": [sp], "mbs": [1]}, 1), 4096)
    spent, block = (np.zeros(1), np.zeros(1)), (np.array([block_s]), np.array([2 * block_s]))
    cover = Cover(weight_s=np.array([weight_s]), attention_s=spent, shared_s=spent, block_s=block)
    moved = block_transfers(LAYER, keys, network, framework, cover, np.zeros(1))
    return float(moved.tp_forward[0]), float(moved.tp_backward[0])


def test_input_gradients_hide_under_weight_gradients_as_long_as_those_take():
    framework = Framework(tp_backward_overlap=1.0)
    forward, alone = tensor_transfers(framework, 0, 0.0)
    assert alone == pytest.approx(forward)
    assert tensor_transfers(framework, 0, alone / 4) == (forward, pytest.approx(alone * 3 / 4))
    assert tensor_transfers(framework, 0, 10 * alone) == (forward, 0.0)
    scattered, both = tensor_transfers(framework, 1, 0.0)
    assert tensor_transfers(framework, 1, 10 * alone) == (scattered, pytest.approx(both / 2, rel=0.05))


def test_transfers_divided_along_tokens_need_sp():
    split, whole = Framework(tp_overlap=0.5), Framework()
    assert tensor_transfers(split, 0, 0.0) == tensor_transfers(whole, 0, 0.0)
    assert tensor_transfers(split, 1, 0.0) == pytest.approx([each / 2 for each in tensor_transfers(whole, 1, 0.0)])


@pytest.mark.parametrize(("tp", "others"), [(8, 0), (4, 1), (2, 3), (1, 0)])
def test_tensor_parallel_groups_of_one_domain_delay_each_other_across_domains(tp, others):
    disturbed, quiet = Framework(tp_interference=0.1), Framework()
    before, after = (tensor_transfers(each, 0, 0.0, tp, block_s=1.0) for each in (quiet, disturbed))
    assert np.subtract(after, before) == pytest.approx((0.1 * others, 0.2 * others))


def test_tensor_parallel_groups_of_a_single_domain_do_not_delay_each_other():
    one_node = Network(Collectives(cluster("dgx-h100:1")), 8)
    disturbed, quiet = Framework(tp_interference=0.1), Framework()
    before, after = (tensor_transfers(each, 0, 0.0, 2, 1.0, one_node) for each in (quiet, disturbed))
    assert before == after


def test_collectives_between_domains_are_slowed_by_those_beside_them():
    slowed, alone = Framework(crossing_slowdown=2.0), Framework()
    assert tensor_transfers(slowed, 0, 0.0, tp=8) == tensor_transfers(alone, 0, 0.0, tp=8)
    undisturbed = tensor_transfers(alone, 0, 0.0, tp=16)
    assert tensor_transfers(slowed, 0, 0.0, tp=16) == pytest.approx([2 * each for each in undisturbed])


def test_the_vocabulary_reduces_once_and_gathers_once():
    blocks = {block.role: block for block in model("llama-3.1-8b").blocks}
    assert tensor_features(blocks["embedding"]) == ([], [4096])
    assert tensor_features(blocks["head"]) == ([4096], [])


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "all_to_all"])
@pytest.mark.parametrize(("stride", "degree"), [(1, 8), (2, 4), (8, 2), (1, 16), (4, 4)])
def test_real_groups_on_nominal_links_take_what_uniform_ones_take(op, stride, degree):
    mapped = MappedNetwork(TWO_NODES.collectives, 8, np.arange(16))
    groups, size = groups_of(ints(stride), ints(degree), 8), np.array([3e8])
    assert mapped.seconds(op, size, groups) == pytest.approx(TWO_NODES.seconds(op, size, groups))


def test_members_of_an_axis_are_the_strategys_rank_groups():
    strategy = Strategy(tp=2, cp=2, dp_shard=2, pp=2)
    mapped = MappedNetwork(TWO_NODES.collectives, 8, np.arange(16)[::-1].copy())
    assert np.array_equal(mapped.members(2, 2), 15 - strategy.rank_groups("cp"))
    assert np.array_equal(mapped.members(8, 2), 15 - strategy.rank_groups("pp"))


@pytest.mark.parametrize(
    "strategy", [Strategy(tp=2, pp=8), Strategy(tp=8, sp=True, pp=2), Strategy(tp=4, sp=True, pp=4)]
)
def test_real_pipeline_hops_on_nominal_links_take_what_uniform_ones_take(strategy):
    table = table_of([strategy], 32)
    mapped = MappedNetwork(TWO_NODES.collectives, 8, np.arange(16))
    real, uniform = mapped.hop_seconds(table, np.array([1e8])), TWO_NODES.hop_seconds(table, np.array([1e8]))
    assert real[0] == pytest.approx(uniform[0])
    assert real[1] == pytest.approx(uniform[1])
