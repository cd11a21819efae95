"""Devices of a domain are ordered along its fast links."""

from __future__ import annotations

import numpy as np
import pytest

from shardwright.models import model
from shardwright.planner.strategy import Strategy
from shardwright.planner.training import estimate_training
from shardwright.planner.training.device_order import order_within_domains
from shardwright.planner.training.mapping import inner_degrees
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import cluster

PAIRS = {"pp": 1, "dp_replicate": 1, "dp_shard": 4, "cp": 1, "tp": 2}
TP_HEAVY = {("tp",): 100.0, ("dp_shard", "cp"): 1.0, ("pp",): 1.0}


def test_tensor_parallel_pairs_take_the_double_links_of_a_mesh() -> None:
    mesh = cluster("dgx-v100:2")
    orders = order_within_domains(mesh, PAIRS, TP_HEAVY)
    assert sorted(orders.ravel().tolist()) == list(range(16))
    assert (orders // 8 == [[0], [1]]).all()
    pairs = orders.reshape(-1, 2)
    rates = mesh.bandwidth_bytes_per_s(pairs[:, 0], pairs[:, 1])
    assert (rates == mesh.bandwidth_bytes_per_s(0, 3)).all()
    assert mesh.bandwidth_bytes_per_s(0, 1) < rates.min()


def test_devices_behind_one_switch_stay_in_their_order() -> None:
    orders = order_within_domains(cluster("dgx-h100:2"), PAIRS, TP_HEAVY)
    assert orders.tolist() == np.arange(16).reshape(2, 8).tolist()


def test_nothing_sent_leaves_the_order() -> None:
    orders = order_within_domains(cluster("dgx-v100:1"), PAIRS, {("tp",): 0.0})
    assert orders.tolist() == [list(range(8))]


@pytest.mark.parametrize(
    ("strategy", "inner"),
    [
        (Strategy(tp=8, pp=2), [1, 1, 1, 1, 8]),
        (Strategy(tp=2, cp=2, dp_shard=4), [1, 1, 2, 2, 2]),
        (Strategy(tp=4, pp=4), [2, 1, 1, 1, 4]),
    ],
)
def test_inner_degrees_fill_a_domain_from_the_innermost_axis(strategy: Strategy, inner: list[int]) -> None:
    assert list(inner_degrees(strategy, 8).values()) == inner


def test_a_plan_on_a_measured_box_pairs_the_devices_that_are_close() -> None:
    """Eight devices measured fast in the pairs 0-4, 1-5, 2-6, 3-7 only; under sp, most of whose transfers hide, their
    sharing a bridge costs less than slow gradients."""
    n = np.arange(8)
    rates = np.where(np.abs(n[:, None] - n) == 4, 20.0, 5.0)
    section = {"unit": "GB/s", "matrix": rates.tolist()}
    box = cluster("pcie-box:1").with_measured({"device_bandwidth": section})
    job = TrainingJob(gbs=32, sequence_length=1024)
    plan = estimate_training(model("gpt2"), box, job, Strategy(tp=2, sp=True, dp_shard=4))
    pairs = np.array(plan.rank_to_device).reshape(-1, 2)
    assert (np.abs(pairs[:, 0] - pairs[:, 1]) == 4).all()
