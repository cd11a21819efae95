from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shardwright.models import model
from shardwright.planner.errors import InputError
from shardwright.planner.strategy import Constraints
from shardwright.planner.training import estimate_training, frontier_training, plan_training
from shardwright.planner.training.links import own_order
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


def test_stages_cut_anywhere_are_on_the_frontier_where_they_are_fastest():
    job = TrainingJob(gbs=64, sequence_length=4096, constraints=Constraints(tp=(4,), pp=(8,), vpp=(1,)))
    llama, nodes = model("llama-2-70b"), cluster("dgx-a100-40gb:8")
    fastest = frontier_training(llama, [nodes], job, ("step_s", "peak_memory_bytes")).points[0]
    assert fastest.strategy.stage_layers is not None
    assert fastest.first == plan_training(llama, nodes, job).prediction.step_s


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


def measured_nodes():
    rates = np.random.default_rng(5).uniform(60, 100, (4, 4))
    rates[0, 2] = rates[2, 0] = 3.0
    matrix = {"unit": "GB/s", "scope": "node", "matrix": rates.tolist()}
    return cluster("dgx-a100:4").with_measured({"node_bandwidth": matrix})


@pytest.fixture(scope="module")
def on_measured_links():
    held = Constraints(cp=(1,), mbs=(1, 2), tp=(8,), recompute=("none", "full"))
    job = msgspec.structs.replace(JOB, gbs=64, constraints=held)
    return job, measured_nodes(), frontier_training(LLAMA, [measured_nodes()], job, ("step_s", "peak_memory_bytes"))


def test_points_on_measured_links_are_what_estimating_them_there_gives(on_measured_links):
    job, nodes, front = on_measured_links
    assert len(front.points) > 5
    for point in (*front.points[::9], front.points[-1]):
        made = estimate_training(LLAMA, nodes, job, point.strategy)
        assert made.prediction.step_s == pytest.approx(point.first, rel=1e-12)
        assert made.prediction.peak_memory_bytes == pytest.approx(point.second, rel=1e-12)
    assert front.points[0].first <= plan_training(LLAMA, nodes, job).prediction.step_s


def test_no_strategy_on_measured_links_is_further_from_the_front_than_its_gap(on_measured_links):
    job, nodes, front = on_measured_links
    context = context_of(LLAMA, nodes, job)
    real = own_order(context)
    space = space_of(context)
    table, _ = space.leaves(space.nodes(), np.arange(len(space.nodes())))
    measures = evaluated(real, table)
    fits = measures.memory_bytes <= context.usable_bytes
    found = np.array([(each.first, each.second) for each in front.points]) / (1 + front.gap)
    seconds, held = measures.step_s[fits, None], measures.memory_bytes[fits, None]
    reached = (found[:, 0] <= seconds * (1 + 1e-9)) & (found[:, 1] <= held * (1 + 1e-9))
    assert reached.any(axis=1).all()
    assert 0 < front.gap < 0.1
