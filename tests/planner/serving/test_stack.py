"""Many workers at once carry what each of them carries alone, to the last digit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shardwright import topologies
from shardwright.planner import load_model
from shardwright.planner.costs.serving.formulas import TOKEN_GRID, StepCost
from shardwright.planner.serving.problem import Problem, problem_of
from shardwright.planner.serving.stack import BLOCK, stacked
from shardwright.planner.serving.steady import batched_prefill_seconds, lone_prefill_seconds, steady_state
from shardwright.planner.serving.workers import (
    WorkerType,
    bound_steps,
    decode_rate,
    decode_rates,
    expected_rate,
    expected_rates,
    most_prefill_rate,
)
from shardwright.planner.workload.serving import Load, ServingJob, Targets

TARGETS = (Targets(), Targets(ttft_s=1.0, tpot_s=0.05), Targets(ttft_s=0.2, tpot_s=0.03, e2e_s=10.0))


@pytest.fixture(params=["vllm", "sglang", "trtllm"])
def routed(request: pytest.FixtureRequest) -> Problem:
    job = ServingJob(load=Load(isl=5000, osl=300, rate_per_s=1.0), engine=request.param)
    return problem_of(load_model("mixtral-8x7b"), topologies.cluster("dgx-h100:1"), job, None)


def forgotten(worker: WorkerType) -> WorkerType:
    """The worker without what it has been told."""
    return replace(worker, cost=replace(worker.cost))


def test_a_stack_carries_what_its_workers_carry(routed):
    lengths, stack = routed.setting.lengths, routed.stack
    alone = [forgotten(worker) for worker in routed.types]
    for targets in TARGETS:
        assert expected_rates(stack, lengths, targets).tolist() == [expected_rate(w, lengths, targets) for w in alone]
        assert decode_rates(stack, lengths, targets).tolist() == [decode_rate(w, lengths, targets) for w in alone]


def test_a_stack_tells_its_workers_what_they_would_find_of_prompts(routed):
    lengths, _ = routed.setting.lengths, routed.stack
    for worker in routed.types:
        fresh = forgotten(worker)
        assert worker.cost.known and not fresh.cost.known
        assert most_prefill_rate(worker, lengths) == most_prefill_rate(fresh, lengths)
        for question in (batched_prefill_seconds, lone_prefill_seconds):
            assert question(worker.cost, worker.schedule, lengths) == question(fresh.cost, fresh.schedule, lengths)


def test_blocks_are_the_rows_of_the_stack_in_order(routed):
    lengths, seen = routed.setting.lengths, 0
    for part, rows in routed.stack.blocks(BLOCK // 5):
        assert len(rows) <= 5
        steps = bound_steps(rows, lengths)[1]
        for place, worker in enumerate(routed.types[part]):
            assert steps[place].tolist() == bound_steps(worker, lengths)[1].tolist()
            seen += 1
    assert seen == len(routed.types)


def test_states_of_a_closed_loop_are_those_of_each_worker(routed):
    among = np.array([1.0, 3.0, 64.0, 1000.0])
    together = steady_state(routed.stack.cost, routed.stack.schedule, routed.setting.lengths, among, rounds=4.0)
    for place, worker in enumerate(routed.types):
        found = steady_state(worker.cost, worker.schedule, routed.setting.lengths, among, rounds=4.0)
        assert together.row(place).ttft_s.tolist() == found.ttft_s.tolist()
        assert together.row(place).requests_per_s.tolist() == found.requests_per_s.tolist()


def test_rows_go_on_beyond_the_grid_by_the_last_slope_as_one_copy_does(routed):
    workers = routed.types[:3]
    stack = stacked([each.cost for each in workers], [each.schedule for each in workers])
    tokens = np.array([0.0, 0.5, 17.0, TOKEN_GRID[-1] - 0.5, TOKEN_GRID[-1], 3 * TOKEN_GRID[-1]])
    found = stack.cost.tables(tokens, tokens, tokens)
    for row, worker in zip(found, workers, strict=True):
        cost: StepCost = worker.cost
        assert row == pytest.approx(cost.tables(tokens, tokens, tokens), rel=1e-12)
