"""What an expert placement does to the time of serving and training steps."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shardwright.models import model, routing_from_counts, routing_from_ids
from shardwright.planner import ExpertRequest, InputError, plan_experts
from shardwright.planner.costs.experts import expert_load
from shardwright.planner.costs.serving.coefficients import engine, host_factor, kernels
from shardwright.planner.costs.serving.communication import fabric
from shardwright.planner.costs.serving.step import Machine, step_cost
from shardwright.planner.costs.step import TrainingCosts
from shardwright.planner.experts.workloads import workloads_of
from shardwright.planner.strategy import Strategy
from shardwright.planner.workload.experts import ExpertLoad
from shardwright.planner.workload.serving import Load, ServingJob
from shardwright.planner.workload.serving_layout import Layout, quantization
from shardwright.planner.workload.strategy_table import table_of
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import cluster


def serving_step(**placed):
    links = fabric(cluster("hgx-h200"))
    device = links.accelerator
    known = msgspec.structs.replace(engine("vllm")[0], **placed)
    machine = Machine(links, kernels(device.architecture, device.name)[0], known, host_factor(device.name))
    layout = Layout(attn_dp=8, ep=8)
    return float(step_cost(model("mixtral-8x7b"), machine, layout, quantization("bf16")).decode_seconds(4096.0, 500.0))


def test_a_fuller_rank_and_a_farther_reach_slow_a_serving_step():
    even = serving_step(imbalance=1.0)
    assert serving_step(imbalance=1.5) > even
    near, far = (serving_step(imbalance=1.0, reach=reach, reach_ranks=8) for reach in (1.0, 2.0))
    assert near < even < far
    assert serving_step(imbalance=1.0, reach=1.0, reach_ranks=4) == even


def test_a_fuller_rank_slows_a_training_step():
    steps = []
    for imbalance in (1.0, 1.5):
        job = TrainingJob(gbs=64, sequence_length=4096, expert_imbalance=imbalance)
        costs = TrainingCosts(model("mixtral-8x7b"), cluster("dgx-h100:2"), job)
        steps.append(float(costs.evaluate(table_of([Strategy(tp=2, dp_shard=8, ep=8)], 32)).step_s[0]))
    assert steps[1] > 1.05 * steps[0]


def training_step(framework: str, load: ExpertLoad | None, ep: int = 16) -> float:
    job = TrainingJob(gbs=64, sequence_length=4096, framework=framework, expert_load=load)
    costs = TrainingCosts(model("qwen3-30b-a3b"), cluster("dgx-h100:2"), job)
    return float(costs.evaluate(table_of([Strategy(dp_shard=16, ep=ep)], 64)).step_s[0])


def test_a_training_step_waits_for_the_fullest_rank_to_take_its_tokens():
    even, skewed = (ExpertLoad(imbalance=1.0, ranks=16), ExpertLoad(imbalance=1.5, ranks=16))
    assert training_step("megatron-2024", even) == training_step("megatron-2024", None)
    job = TrainingJob(gbs=64, sequence_length=4096, expert_imbalance=1.5)
    costs = TrainingCosts(model("qwen3-30b-a3b"), cluster("dgx-h100:2"), job)
    computed = float(costs.evaluate(table_of([Strategy(dp_shard=16, ep=16)], 64)).step_s[0])
    assert training_step("megatron-2024", skewed) > 1.01 * computed
    elsewhere = ExpertLoad(imbalance=1.5, ranks=8)
    assert training_step("megatron-2024", elsewhere) == pytest.approx(computed)


def test_a_training_step_that_dispatches_by_node_is_faster_where_tokens_reach_few_nodes():
    usual = training_step("megatron-2025", None)
    near, far = (
        training_step("megatron-2025", ExpertLoad(imbalance=1.0, ranks=16, nodes=2, reach=2.0, reach_nodes=nodes))
        for nodes in (1.0, 2.0)
    )
    assert near < usual <= far
    other = ExpertLoad(imbalance=1.0, ranks=32, nodes=4, reach=2.0, reach_nodes=1.0)
    assert training_step("megatron-2025", other) == usual


def test_a_plan_gives_its_load_and_reach_on_tokens_it_was_not_made_with():
    random = np.random.default_rng(0)
    ids = random.integers(0, 16, size=(400, 3, 2))
    trace = workloads_of([routing_from_ids("trace", ids, experts=16)], 0.25)
    plan = plan_experts(trace, 4, ExpertRequest(objective="load", held_out=0.25))
    load = expert_load(plan, "plan.json")
    assert load.ranks == 4
    assert load.imbalance == plan.scores[1].load_ratio > plan.scores[0].load_ratio
    assert load.reach == plan.scores[1].fanout_gpus
    assert (load.nodes, load.reach_nodes) == (1, plan.scores[1].fanout_nodes)
    counts = workloads_of([routing_from_counts("counts", random.integers(1, 9, (3, 16)))])
    assert expert_load(plan_experts(counts, 4, ExpertRequest(objective="load")), "plan.json").reach is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"imbalance": 0.9, "ranks": 8}, "imbalance must be from 1"),
        ({"imbalance": float("nan"), "ranks": 8}, "imbalance must be from 1"),
        ({"imbalance": 1.0, "ranks": 0}, "ranks must be at least 1"),
        ({"imbalance": 1.0, "ranks": 8, "reach": 9.0}, "reach must be from 1 to the 8 ranks"),
        ({"imbalance": 1.0, "ranks": 8, "nodes": 9}, "nodes must be from 1 to the 8 ranks"),
        ({"imbalance": 1.0, "ranks": 8, "nodes": 2, "reach_nodes": 3.0}, "reach_nodes must be from 1 to the 2 nodes"),
    ],
)
def test_loads_that_mean_nothing_are_refused(fields, words):
    with pytest.raises(InputError, match=words):
        ExpertLoad(**fields)


def test_an_imbalance_is_given_once():
    load = Load(isl=10, osl=10, rate_per_s=1.0)
    with pytest.raises(InputError, match="leave one out"):
        ServingJob(load=load, expert_imbalance=1.1, expert_load=ExpertLoad(imbalance=1.1, ranks=8))
    with pytest.raises(InputError, match=r"job.expert_imbalance must be from 1"):
        TrainingJob(gbs=1, sequence_length=1, expert_imbalance=0.5)
