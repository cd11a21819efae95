"""Re-planning from the placement in force: budget, time and payback."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from shardwright.models import routing_from_counts, routing_from_ids
from shardwright.planner import ExpertRequest, InputError, plan_experts, validate_plan
from shardwright.planner.experts.cluster import flat_cluster
from shardwright.planner.experts.replanning import Replan, replan_experts
from shardwright.planner.experts.workloads import load_workloads, workloads_of
from tests.reference import shared_file

EXPERT_BYTES = 40e6
LOAD = ExpertRequest(objective="load", redundant=4)


def counts(seed):
    random = np.random.default_rng(seed)
    return workloads_of([routing_from_counts("counts", random.integers(1, 100, size=(6, 16)))])


def trace(seed):
    random = np.random.default_rng(seed)
    first = random.integers(0, 16, size=600)
    ids = np.stack([first, (first + random.integers(0, 2, size=600)) % 16, (first * 3) % 16], axis=1)
    return workloads_of([routing_from_ids("trace", ids, experts=16)])


@pytest.fixture
def cluster():
    return replace(flat_cluster(4, 2, 4.0), fastest_bytes_per_s=1e9)


def test_a_target_is_met_with_few_moves_and_their_time_is_told(cluster):
    current = plan_experts(counts(0), cluster, LOAD)
    plan = replan_experts(current, counts(1), cluster, LOAD, Replan(expert_bytes=EXPERT_BYTES, target=1.1))
    move = plan.migration
    assert plan.scores[0].load_ratio_worst <= 1.1 + 1e-9
    assert 0 < move.moved < move.residents / 2
    assert move.bytes == move.moved * EXPERT_BYTES
    assert EXPERT_BYTES / 1e9 <= move.seconds <= 4 * move.bytes / 1e9
    assert move.pays_after_s > move.seconds
    assert validate_plan(plan) == []


@pytest.mark.parametrize("objective", ["load", "joint", "transitions"])
def test_no_more_bytes_move_than_the_budget(cluster, objective):
    request = ExpertRequest(objective=objective, work=200_000)
    current = plan_experts(trace(0), cluster, request)
    kept = None
    for copies in (0, 3, 8):
        limits = Replan(expert_bytes=EXPERT_BYTES, budget_bytes=copies * EXPERT_BYTES)
        plan = replan_experts(current, trace(1), cluster, request, limits)
        assert plan.migration.moved <= copies
        kept = kept or plan.optimality.value
        assert plan.optimality.bound <= plan.optimality.value <= kept * (1 + 1e-9)


def test_slots_of_the_plan_in_force_are_kept(cluster):
    request = msgspec.structs.replace(LOAD, slots_per_gpu=7)
    current = plan_experts(counts(0), cluster, request)
    plan = replan_experts(current, counts(1), cluster, LOAD, Replan(expert_bytes=EXPERT_BYTES))
    assert plan.slots == (7, 7, 7, 7)
    assert validate_plan(plan) == []


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"expert_bytes": 0}, "expert-size must be more than 0"),
        ({"expert_bytes": 1, "budget_bytes": -1}, "budget must be at least 0"),
        ({"expert_bytes": 1, "target": 0.9}, "target must be a load ratio of at least 1"),
        ({"expert_bytes": 1, "target": float("nan")}, "target must be a load ratio"),
    ],
)
def test_limits_that_mean_nothing_are_refused(limits, words):
    with pytest.raises(InputError, match=words):
        Replan(**limits)


def test_a_plan_for_something_else_is_refused(cluster):
    current = plan_experts(counts(0), cluster, LOAD)
    with pytest.raises(InputError, match="places 16 experts on 4 GPUs but 16 experts and 8 GPUs"):
        replan_experts(current, counts(1), flat_cluster(8), LOAD, Replan(expert_bytes=1))
    with pytest.raises(InputError, match="re-planning knows load"):
        request = ExpertRequest(objective="minimax")
        replan_experts(current, counts(1), cluster, request, Replan(expert_bytes=1))
    with pytest.raises(InputError, match="leave --method and --certify out"):
        request = ExpertRequest(objective="load", method="exflow")
        replan_experts(current, counts(1), cluster, request, Replan(expert_bytes=1))


def test_where_nothing_costs_anything_a_move_never_pays():
    request = ExpertRequest(objective="transitions", work=2_000)
    current = plan_experts(trace(0), flat_cluster(1), request)
    plan = replan_experts(current, trace(1), flat_cluster(1), request, Replan(expert_bytes=1))
    assert plan.optimality.value == 0
    assert plan.migration.pays_after_s is None
    assert validate_plan(plan) == []


def deepseek(*names):
    return load_workloads(
        [str(shared_file(f"routing/deepseek_r1_counts/{name}.json")) for name in names], None, None, 0
    )


def test_deepseek_drift_from_1024_to_2048_tokens_moves_few_experts():
    cluster, request = flat_cluster(32), ExpertRequest(objective="load", redundant=32)
    current = plan_experts(deepseek("prefill_in1024"), cluster, request)
    limits = Replan(expert_bytes=EXPERT_BYTES, target=1.05)
    plan = replan_experts(current, deepseek("prefill_in2048"), cluster, request, limits)
    assert plan.scores[0].load_ratio_worst <= 1.05
    assert plan.migration.moved / plan.migration.residents <= 0.035


def test_one_plan_for_all_deepseek_workloads_is_even_on_each():
    names = ("prefill_in1024", "prefill_in4096", "decode_in500out1500", "decode_in1000out1000")
    plan = plan_experts(deepseek(*names), 32, ExpertRequest(objective="load", redundant=32))
    assert max(score.load_ratio_worst for score in plan.scores) <= 1.22
