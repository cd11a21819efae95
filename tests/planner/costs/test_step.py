from __future__ import annotations

import copy
import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.models import model
from shardwright.planner.costs.breakdown import breakdown
from shardwright.planner.costs.footprint import CATEGORIES
from shardwright.planner.costs.step import TrainingCosts
from shardwright.planner.strategy import Strategy
from shardwright.planner.training.readback import forward_flops_per_token
from shardwright.planner.workload.strategy_table import table_of
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import cluster

LLAMA = model("llama-3.1-8b")
JOB = TrainingJob(gbs=64, sequence_length=4096)
COSTS = TrainingCosts(LLAMA, cluster("dgx-h100:2"), JOB)
MOE = TrainingCosts(model("mixtral-8x7b"), cluster("dgx-h100:2"), JOB)


def cost(costs=COSTS, **fields):
    return costs.evaluate(table_of([Strategy(**fields)], costs.model.num_layers))


def memory(**fields):
    return float(cost(**fields).memory_bytes[0])


DEGREES = st.sampled_from(
    [(1, 1, 1, 16), (2, 1, 2, 4), (4, 2, 1, 2), (8, 1, 2, 1), (2, 2, 2, 2), (1, 2, 4, 2), (4, 1, 4, 1), (1, 1, 16, 1)]
)


@settings(derandomize=True, max_examples=40)
@given(DEGREES, st.sampled_from(["none", "selective", "full"]), st.sampled_from([1, 2, 4]), st.integers(0, 1))
def test_no_step_beats_the_compute_bound(degrees, recompute, mbs, zero):
    tp, cp, pp, dp = degrees
    modules = ("norm",) if recompute == "selective" else ()
    step = cost(
        tp=tp, sp=tp > 1, cp=cp, pp=pp, dp_shard=dp, mbs=mbs, zero=zero, recompute=recompute, recompute_modules=modules
    )
    flops = 3 * JOB.tokens_per_step * forward_flops_per_token(LLAMA, JOB.sequence_length)
    assert float(step.step_s[0]) >= flops / (16 * COSTS.device.peak_flops)


def with_framework(**fields):
    costs = copy.copy(COSTS)
    chosen = costs.device.coefficients
    framework = msgspec.structs.replace(chosen.framework, **fields)
    costs.device = dataclasses.replace(costs.device, coefficients=msgspec.structs.replace(chosen, framework=framework))
    return costs


def on_slow_hosts(host_wait, tp):
    """Busy seconds with hosts so slow that only they count."""
    costs = with_framework(host_operator_s=1.0, host_wait=host_wait)
    return float(cost(costs, tp=tp, dp_shard=16 // tp).busy_s[0]) * tp


def test_slow_hosts_of_tensor_parallel_ranks_wait_for_each_other():
    assert on_slow_hosts(0.01, 1) == pytest.approx(on_slow_hosts(0.0, 1))
    assert on_slow_hosts(0.01, 8) == pytest.approx(on_slow_hosts(0.0, 8) * (1 + 0.01 * 28))


@pytest.mark.parametrize(("pp", "dp", "times"), [(1, 16, 3.0), (2, 8, 1.0)])
def test_gradients_reduced_between_nodes_are_slowed_and_those_inside_one_are_not(pp, dp, times):
    """One node each for both pipeline ranks keeps the gradients of either inside it."""

    def exposed(slowdown):
        costs = with_framework(crossing_slowdown=slowdown, grad_overlap=0.0, param_overlap=0.0, hidden_cost=0.0)
        sharding = cost(costs, pp=pp, dp_shard=dp).sharding
        return float(sharding.gradients_s[0] + sharding.weights_s[0])

    assert exposed(3.0) == pytest.approx(times * exposed(1.0))


def test_more_sharding_never_needs_more_memory():
    by_zero = [memory(dp_shard=16, zero=zero) for zero in (0, 1, 2)]
    assert by_zero[0] > by_zero[1] > by_zero[2]
    assert memory(tp=4, sp=True, dp_shard=4) < memory(tp=2, sp=True, dp_shard=8) < memory(dp_shard=16)
    assert memory(tp=4, sp=True, dp_shard=4) < memory(tp=4, dp_shard=4)
    assert memory(dp_shard=16, recompute="full") < memory(dp_shard=16, recompute="full", recompute_layers=8)
    assert memory(dp_shard=16, recompute="full", recompute_layers=8) < memory(dp_shard=16)


def test_the_largest_weight_gradient_waits_to_be_added():
    temporary = CATEGORIES.index("temporary")
    widest = [cost(tp=tp, dp_shard=16 // tp).footprint.device[0, :, temporary].max() for tp in (1, 8)]
    bytes_of_products = 4 * 4096 * 2 * 14336
    assert widest[0] - widest[1] == pytest.approx(bytes_of_products * 7 / 8)


def test_sharded_weights_weigh_a_sixteenth():
    weights = cost(dp_shard=16, zero=3).footprint.device[0, 0, 0]
    assert weights == pytest.approx(cost(dp_shard=16, zero=0).footprint.device[0, 0, 0] / 16)


def test_recompute_costs_time_in_proportion_to_its_layers():
    none, half, full = (
        float(cost(dp_shard=16, **fields).step_s[0])
        for fields in ({}, {"recompute": "full", "recompute_layers": 16}, {"recompute": "full"})
    )
    assert half - none == pytest.approx(full - half, rel=0.01)


def test_rows_do_not_influence_each_other():
    rows = [
        Strategy(tp=2, sp=True, pp=2, dp_shard=4),
        Strategy(dp_shard=16, zero=3, recompute="full"),
        Strategy(tp=4, sp=True, pp=2, vpp=4, dp_shard=2, recompute="selective", recompute_modules=("mlp",)),
        Strategy(tp=2, cp=4, dp_shard=2, zero=2, mbs=4),
    ]
    together = COSTS.evaluate(table_of(rows, 32))
    for i, row in enumerate(rows):
        alone = COSTS.evaluate(table_of([row], 32))
        assert together.step_s[i] == pytest.approx(alone.step_s[0], rel=1e-12)
        assert together.memory_bytes[i] == pytest.approx(alone.memory_bytes[0], rel=1e-12)


@pytest.mark.parametrize(
    ("costs", "fields"),
    [
        (COSTS, {"tp": 2, "sp": True, "cp": 2, "pp": 2, "dp_shard": 2, "mbs": 2}),
        (COSTS, {"dp_shard": 8, "dp_replicate": 2, "zero": 3, "recompute": "full", "recompute_layers": 4}),
        (COSTS, {"pp": 4, "vpp": 2, "dp_shard": 4, "recompute": "selective", "recompute_modules": ("norm", "mlp")}),
        (MOE, {"tp": 2, "sp": True, "ep": 8, "dp_shard": 8, "zero": 2}),
        (MOE, {"pp": 2, "ep": 4, "dp_shard": 8, "recompute": "selective", "recompute_modules": ("experts",)}),
    ],
)
def test_the_breakdown_adds_up_to_the_step(costs, fields):
    table = table_of([Strategy(**fields)], costs.model.num_layers)
    rows = costs.rows(table)
    step = costs.step(rows)
    terms = breakdown(costs, rows, step)
    assert sum(term.value for term in terms) == pytest.approx(float(step.step_s[0]))
    assert all(term.why and term.value >= 0 for term in terms)


def test_spreading_experts_costs_dispatch_and_saves_memory():
    gathered, spread = cost(MOE, dp_shard=16, ep=1), cost(MOE, dp_shard=16, ep=8)
    assert spread.memory_bytes[0] < gathered.memory_bytes[0]


def test_a_step_on_twice_the_devices_with_twice_the_batch_takes_about_as_long():
    one = float(cost(dp_shard=16).step_s[0])
    larger = TrainingCosts(LLAMA, cluster("dgx-h100:4"), TrainingJob(gbs=128, sequence_length=4096))
    assert float(cost(larger, dp_shard=32).step_s[0]) == pytest.approx(one, rel=0.05)


def test_pipeline_hops_cross_nodes_only_where_the_order_does():
    table = table_of([Strategy(tp=2, pp=8), Strategy(tp=8, pp=2)], 32)
    slowest, total = COSTS.hops(table)
    assert np.all(slowest > 0)
    assert total[0] < 7 * slowest[0]
    assert total[1] == slowest[1]
