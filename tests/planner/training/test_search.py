from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.models import TransformerShape, transformer
from shardwright.planner.costs.step import TrainingCosts
from shardwright.planner.strategy import Constraints
from shardwright.planner.training.bounds import node_floors
from shardwright.planner.training.choices import Scope
from shardwright.planner.training.objectives import rates
from shardwright.planner.training.search import Goal, evaluated, search
from shardwright.planner.training.space import Space
from shardwright.planner.workload.legality import facts, legal
from shardwright.planner.workload.training import TrainingJob
from shardwright.solvers import Status, Work
from shardwright.topologies import cluster

SIZES = st.fixed_dictionaries(
    {
        "layers": st.sampled_from([2, 3, 6, 8]),
        "heads": st.sampled_from([4, 6, 8]),
        "kv_heads": st.sampled_from([1, 2]),
        "experts": st.sampled_from([0, 0, 4]),
        "gbs": st.sampled_from([8, 12, 16]),
        "sequence": st.sampled_from([512, 2048]),
        "cluster": st.sampled_from(["dgx-h100:1", "dgx-h100:2", "dgx-v100:1", "dgx-v100:3"]),
        "memory": st.sampled_from([1e9, 4e9, 20e9]),
        "objective": st.sampled_from(["step_s", "step_s", "energy_j", "peak_memory_bytes", "usd"]),
        "limit": st.sampled_from([np.inf, np.inf, 0.1]),
        "explore": st.sampled_from([(), ("pipeline_sharding",)]),
    }
)


def instance(sizes, constraints=None):
    mixture = {"experts": sizes["experts"], "topk": 2, "moe_ffn": 1536} if sizes["experts"] else {}
    model = transformer(
        TransformerShape(
            layers=sizes["layers"],
            hidden=sizes["heads"] * 128,
            heads=sizes["heads"],
            kv_heads=sizes["kv_heads"],
            ffn=3072,
            vocab=32000,
            gated=True,
            norm="rms",
            **mixture,
        )
    )
    topology = cluster(sizes["cluster"])
    precision = "fp16" if "v100" in sizes["cluster"] else "bf16"
    job = TrainingJob(
        gbs=sizes["gbs"],
        sequence_length=sizes["sequence"],
        precision=precision,
        constraints=constraints or Constraints(),
        explore=sizes["explore"],
    )
    costs = TrainingCosts(model, topology, job)
    scope = Scope(job.constraints, job.explore, costs.network.domain)
    space = Space(costs.chain, facts(model, job, topology.n_devices), scope)
    return space, costs


def goal(sizes, costs):
    topology = cluster(sizes["cluster"])
    priced = rates(topology, TrainingJob(gbs=1, sequence_length=1, usd_per_device_hour=2.0), costs)
    return Goal(sizes["objective"], sizes["memory"], sizes["limit"], priced)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(SIZES)
def test_the_search_equals_brute_force_over_the_whole_space(sizes):
    space, costs = instance(sizes)
    nodes = space.nodes()
    table, origin = space.leaves(nodes, np.arange(len(nodes)))
    assert np.all(legal(table, space.facts))
    assert len(table) <= space.count(nodes)
    given = goal(sizes, costs)
    measures, floors = evaluated(costs, table), node_floors(space, nodes, costs)
    for name in ("step_s", "busy_s", "memory_bytes"):
        assert np.all(getattr(floors, name)[origin] <= getattr(measures, name))
    value = given.values(measures)
    found = search(space, costs, given, keep=3).outcome
    best_by_node = sorted((value[origin == n].min(), n) for n in set(origin.tolist()))
    expected = [(v, n) for v, n in best_by_node if np.isfinite(v)][:3]
    assert [each.node for each in found.best] == [n for _, n in expected]
    assert [each.value for each in found.best] == pytest.approx([v for v, _ in expected])
    if expected:
        assert found.solution.status is Status.OPTIMAL
        assert found.solution.gap == 0.0
        assert found.best[0].point.memory_bytes <= sizes["memory"]
    else:
        assert found.solution.status is Status.INFEASIBLE


SMALL = {
    "layers": 6,
    "heads": 6,
    "kv_heads": 2,
    "experts": 0,
    "gbs": 12,
    "sequence": 512,
    "cluster": "dgx-v100:3",
    "memory": 20e9,
    "objective": "step_s",
    "limit": np.inf,
    "explore": (),
}


def test_degrees_that_are_not_powers_of_two_are_in_the_space():
    space, _ = instance(SMALL)
    nodes = space.nodes()
    assert {3, 6, 12} <= set(nodes.dp.tolist())
    assert 3 in nodes.pp.tolist()
    assert set(nodes.tp.tolist()) == {1, 2, 6}


def test_no_legal_combination_of_degrees_is_missing():
    space, _ = instance(SMALL)
    nodes = space.nodes()
    table, _ = space.leaves(nodes, np.arange(len(nodes)))
    listed = set(
        zip(
            *(table.column(name).tolist() for name in ("tp", "cp", "pp", "dp_shard", "dp_replicate", "mbs")),
            strict=True,
        )
    )
    degrees = [1, 2, 3, 4, 6, 8, 12, 24]
    for tp, cp, pp, shard, replicate, mbs in itertools.product(
        [1, 2], [1, 2, 4, 8], degrees, degrees, degrees, [1, 2, 3, 4, 6, 12]
    ):
        fits = tp * cp * pp * shard * replicate == 24 and 12 % (shard * replicate * mbs) == 0 and pp <= 8
        if fits and 512 % (2 * cp if cp > 1 else 1) == 0:
            assert (tp, cp, pp, shard, replicate, mbs) in listed


@pytest.mark.parametrize(
    ("constraints", "column", "values"),
    [
        (Constraints(tp=(2,)), "tp", {2}),
        (Constraints(zero=(0,)), "zero", {0}),
        (Constraints(zero=(3,), pp=(4,)), "zero", {3}),
        (Constraints(zero=(1, 2), pp=(4,)), "zero", {1, 2}),
        (Constraints(pp=(4,)), "zero", {0, 1}),
        (Constraints(vpp=(1,)), "vpp", {1}),
        (Constraints(recompute=("full",)), "recompute", {2}),
        (Constraints(schedule=("gpipe",)), "schedule", {2}),
        (Constraints(dp_replicate=(1,)), "dp_replicate", {1}),
        (Constraints(sp=True, tp=(2,)), "sp", {1}),
        (Constraints(cp_comm=("all_gather",), cp=(2,)), "cp_comm", {1}),
    ],
)
def test_constraints_hold_in_every_strategy(constraints, column, values):
    space, _ = instance(SMALL, constraints)
    nodes = space.nodes()
    table, _ = space.leaves(nodes, np.arange(len(nodes)))
    assert set(table.column(column).tolist()) == values


def test_stopping_early_keeps_a_bound_below_the_value():
    space, costs = instance(SMALL)
    solution = search(space, costs, goal(SMALL, costs), stop=Work(1)).outcome.solution
    assert solution.bound <= solution.value


def test_the_same_search_gives_the_same_strategy():
    found = [search(space, costs, goal(SMALL, costs)) for space, costs in (instance(SMALL), instance(SMALL))]
    assert found[0].outcome.best[0].point.table.row(0) == found[1].outcome.best[0].point.table.row(0)
