from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shardwright.models import model
from shardwright.planner.errors import InputError
from shardwright.planner.strategy import Constraints
from shardwright.planner.training import estimate_training, frontier_training, plan_training
from shardwright.planner.training.planning import context_of, space_of
from shardwright.planner.training.search import evaluated
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import cluster

LLAMA = model("llama-3.1-8b")
NODE = cluster("dgx-h100:1")
JOB = TrainingJob(gbs=16, sequence_length=4096, constraints=Constraints(cp=(1,), mbs=(1, 2)))


def test_the_frontier_of_time_and_memory_is_that_of_the_whole_space():
    front = frontier_training(LLAMA, [NODE], JOB, ("step_s", "peak_memory_bytes"))
    context = context_of(LLAMA, NODE, JOB)
    space = space_of(context)
    nodes = space.nodes()
    table, _ = space.leaves(nodes, np.arange(len(nodes)))
    measures = evaluated(context.costs, table)
    fits = measures.memory_bytes <= context.usable_bytes
    pairs = sorted(zip(measures.step_s[fits].tolist(), measures.memory_bytes[fits].tolist(), strict=True))
    expected: list[tuple[float, float]] = []
    for pair in pairs:
        if not expected or pair[1] < expected[-1][1]:
            expected.append(pair)
    assert front.proven
    assert [each.first for each in front.points] == pytest.approx([a for a, _ in expected])
    assert [each.second for each in front.points] == pytest.approx([b for _, b in expected])


def test_the_ends_of_the_frontier_are_the_single_objectives():
    front = frontier_training(LLAMA, [NODE], JOB, ("step_s", "peak_memory_bytes"))
    assert front.points[0].first == plan_training(LLAMA, NODE, JOB).prediction.step_s
    least = plan_training(LLAMA, NODE, msgspec.structs.replace(JOB, objective="peak_memory_bytes"))
    assert front.points[-1].second == pytest.approx(least.prediction.peak_memory_bytes)


def test_every_point_is_a_strategy_that_can_be_estimated():
    for point in frontier_training(LLAMA, [NODE], JOB, ("step_s", "energy_j")).points:
        made = estimate_training(LLAMA, NODE, JOB, point.strategy)
        assert made.prediction.step_s == pytest.approx(point.first)
        assert made.prediction.energy_j == pytest.approx(point.second)


def test_more_devices_buy_time_for_dollars():
    clusters = [cluster(f"dgx-h100:{nodes}") for nodes in (1, 2, 4)]
    front = frontier_training(LLAMA, clusters, msgspec.structs.replace(JOB, gbs=64), ("step_s", "usd"))
    assert len(front.points) >= 2
    assert front.points[0].cluster == "dgx-h100:4"
    assert [each.second for each in front.points] == sorted((each.second for each in front.points), reverse=True)


def test_one_objective_twice_is_refused():
    with pytest.raises(InputError, match="two different objectives"):
        frontier_training(LLAMA, [NODE], JOB, ("step_s", "step_s"))


def test_a_frontier_refuses_fitted_stages_in_one_line():
    job = msgspec.structs.replace(JOB, explore=("uneven", "context"))
    with pytest.raises(InputError, match="leave uneven out of what to explore"):
        frontier_training(LLAMA, [NODE], job, ("step_s", "usd"))
