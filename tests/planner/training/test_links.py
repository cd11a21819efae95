from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from shardwright.models import model
from shardwright.planner.strategy import Constraints, Strategy
from shardwright.planner.training import estimate_training, plan_training
from shardwright.planner.training.links import best_links, uneven_links
from shardwright.planner.training.mapping import domain_grid
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import cluster, read_mpigraph
from tests.reference import shared_file

LLAMA = model("llama-3.1-8b")
JOB = TrainingJob(gbs=32, sequence_length=2048, constraints=Constraints(tp=(8,), pp=(4,), cp=(1,), sp=True))
NODES = 8


def measured(rates: np.ndarray, name: str = "dgx-a100"):
    matrix = {"unit": "GB/s", "scope": "node", "matrix": rates.tolist()}
    return cluster(f"{name}:{len(rates)}").with_measured({"node_bandwidth": matrix})


def slow_pair(a: int, b: int, rate: float = 2.0):
    rates = np.full((NODES, NODES), 100.0)
    rates[a, b] = rates[b, a] = rate
    return measured(rates)


@pytest.fixture(scope="module")
def slow_link():
    return plan_training(LLAMA, slow_pair(0, 2), JOB)


def test_a_plan_keeps_its_transfers_off_a_slow_link(slow_link):
    host, made, best = (term.value for term in slow_link.links[:3])
    assert made == slow_link.prediction.step_s
    assert best <= made < host
    assert (made - best) / best < 0.01
    nodes = [device // 8 for device in slow_link.rank_to_device[::8]]
    assert sorted(nodes) == list(range(NODES))
    stages = np.array(nodes).reshape(4, 2)
    neighbours = {frozenset(pair) for line in stages.T for pair in itertools.pairwise(line.tolist())}
    neighbours |= {frozenset(line) for line in stages.tolist()}
    assert frozenset({0, 2}) not in neighbours


def test_it_says_what_the_slow_links_cost_and_which_they_are(slow_link):
    names = slow_pair(0, 2).node_names
    assert {term.name for term in slow_link.links[3:]} == {f"{names[0]} to {names[2]}", f"{names[2]} to {names[0]}"}
    assert slow_link.links[3].value == 2e9
    assert "slow links cost" in slow_link.links[2].why


def test_its_bound_is_that_of_the_fastest_links_everywhere(slow_link):
    assert slow_link.optimality.bound <= slow_link.links[2].value
    assert slow_link.optimality.value == slow_link.prediction.step_s
    assert slow_link.optimality.gap < 0.05


def test_an_estimate_places_the_ranks_as_the_plan_does(slow_link):
    made = estimate_training(LLAMA, slow_pair(0, 2), JOB, slow_link.strategy)
    assert made.prediction == slow_link.prediction
    assert made.rank_to_device == slow_link.rank_to_device


def test_equal_measured_links_cost_nothing_and_move_nobody():
    plan = plan_training(LLAMA, measured(np.full((NODES, NODES), 100.0)), JOB)
    assert [term.value for term in plan.links[:3]] == pytest.approx([plan.prediction.step_s] * 3)
    assert plan.optimality.gap < 1e-9
    assert len(plan.links) == 3


def test_nominal_links_are_even():
    assert not uneven_links(cluster("dgx-a100:4"))
    assert uneven_links(slow_pair(0, 1))


def test_the_best_links_are_nowhere_slower():
    random = np.random.default_rng(0)
    real = measured(random.uniform(50, 100, (NODES, NODES)))
    best = best_links(real)
    nodes = np.arange(NODES)
    apart = nodes[:, None] != nodes[None, :]
    assert np.all(best.node_bandwidth_bytes_per_s[apart] >= real.node_bandwidth_bytes_per_s[apart])


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy(tp=8, sp=True, dp_shard=2, pp=4), (("pp", "dp_shard"), (4, 2))),
        (Strategy(tp=4, sp=True, cp=4, dp_shard=2, pp=2), (("pp", "dp_shard", "cp"), (2, 2, 2))),
        (Strategy(tp=2, sp=True, dp_shard=8, dp_replicate=2, pp=2), (("pp", "dp_replicate", "dp_shard"), (2, 2, 2))),
        (Strategy(tp=2, sp=True, pp=32), (("pp",), (8,))),
        (Strategy(tp=3, sp=True, dp_shard=21), None),
    ],
)
def test_the_axes_beyond_a_domain_form_the_grid_of_nodes(strategy, expected):
    grid = domain_grid(strategy, 8)
    assert (grid and (grid.axes, grid.shape)) == expected


def test_a_real_cluster_is_ordered_better_than_its_hosts():
    document = json.loads(shared_file("topologies/pipette/mpigraph_16_nodes_t1.json").read_text())
    topology = cluster("dgx-a100:16").with_measured(read_mpigraph(document))
    job = TrainingJob(gbs=64, sequence_length=2048, constraints=Constraints(tp=(8,), pp=(4, 8), cp=(1,), sp=True))
    plan = plan_training(model("llama-2-13b"), topology, job)
    host, made, best = (term.value for term in plan.links[:3])
    assert best <= made < host
    assert plan.rank_to_device != tuple(range(128))
