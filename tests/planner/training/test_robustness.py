"""Regret over samples in which every bandwidth is off on its own, measured links and the plan's order included."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shardwright.models import model
from shardwright.planner.strategy import Constraints
from shardwright.planner.training import plan_training
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import cluster, uncertain

LLAMA = model("llama-3.1-8b")
TWO_NODES = cluster("dgx-h100:2")
JOB = TrainingJob(gbs=64, sequence_length=8192, robustness_samples=12)
HELD = Constraints(tp=(8,), pp=(4,), cp=(1,), sp=True)


def measured(seed: int = 0, nodes: int = 8):
    rates = np.random.default_rng(seed).uniform(5, 25, (nodes, nodes))
    return cluster(f"dgx-a100:{nodes}").with_measured(
        {"node_bandwidth": {"unit": "GB/s", "scope": "node", "matrix": rates.tolist()}}
    )


@pytest.fixture(scope="module")
def on_measured_links():
    job = TrainingJob(gbs=32, sequence_length=2048, constraints=HELD, robustness_samples=8)
    return plan_training(LLAMA, measured(), job).robustness


def test_a_plan_says_how_it_fares_when_links_are_not_what_they_seemed():
    made = plan_training(LLAMA, TWO_NODES, JOB).robustness
    assert made == plan_training(LLAMA, TWO_NODES, JOB).robustness
    assert made.samples == 12
    assert 0 <= made.best_in <= 12
    assert 0 <= made.mean_regret <= made.worst_regret < 0.2
    assert 1 <= made.mean_rank <= made.worst_rank <= made.rivals_considered + 1
    assert made.order_regret is None
    assert made.rivals
    assert sum(rival.wins for rival in made.rivals) <= 12
    assert plan_training(LLAMA, TWO_NODES, msgspec.structs.replace(JOB, robustness_samples=0)).robustness is None


def test_every_measured_link_moves_on_its_own():
    topology = measured()
    moved = uncertain(topology.document, np.random.default_rng(1), 0.2)
    apart = ~np.eye(8, dtype=bool)
    factor = (moved.node_bandwidth_bytes_per_s / topology.node_bandwidth_bytes_per_s)[apart]
    assert len(np.unique(factor.round(12))) == 8 * 7
    assert 0.8 <= factor.min() < 0.85
    assert 1.15 < factor.max() <= 1.2
    again = uncertain(topology.document, np.random.default_rng(1), 0.2)
    assert again == moved


def test_a_nominal_figure_moves_for_all_links_it_speaks_of_and_latencies_stay():
    moved = uncertain(TWO_NODES.document, np.random.default_rng(1), 0.2)
    near, far = ([0, 1, 2], [1, 2, 3]), ([0, 1, 2], [8, 9, 10])
    factors = [moved.bandwidth_bytes_per_s(*pair) / TWO_NODES.bandwidth_bytes_per_s(*pair) for pair in (near, far)]
    assert all(np.ptp(factor) < 1e-12 and 0.8 <= factor[0] <= 1.2 for factor in factors)
    assert factors[0][0] != factors[1][0]
    assert moved.latency_s(*far).tolist() == TWO_NODES.latency_s(*far).tolist()


def test_measured_curves_move_as_a_whole():
    curve = {"op": "all_reduce", "ranks_per_domain": 8, "size_bytes": [1e6, 1e8], "time_s": [1e-4, 2e-3]}
    topology = TWO_NODES.with_measured({"curves": [curve]})
    [moved] = uncertain(topology.document, np.random.default_rng(0), 0.2).curves
    factors = np.array(moved.time_s) / np.array(curve["time_s"])
    assert factors[0] == pytest.approx(factors[1])
    assert factors[0] != 1.0


def test_on_measured_links_the_order_of_devices_has_a_regret_of_its_own(on_measured_links):
    made = on_measured_links
    assert made.order_regret is not None
    assert 0 <= made.order_regret <= made.mean_regret <= made.worst_regret
    assert made.worst_regret > 0
    assert made.best_in < made.samples


def test_fixed_links_would_leave_no_regret():
    from shardwright.planner.training import robustness

    job = msgspec.structs.replace(JOB, robustness_samples=2)
    made = robustness.robustness(*_candidates(job), samples=2, spread=0.0)
    assert made.worst_regret == 0.0
    assert made.best_in == 2
    assert made.worst_rank == 1


def _candidates(job: TrainingJob):
    from shardwright.planner.training.planning import context_of, space_of
    from shardwright.planner.training.search import Candidate, search

    context = context_of(LLAMA, TWO_NODES, job)
    found = search(space_of(context), context.costs, context.goal)
    return context, [Candidate(each.point.table, context.costs, each.value) for each in found.outcome.best]
