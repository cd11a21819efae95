from __future__ import annotations

import msgspec
import numpy as np
import pytest

from shardwright.models import model
from shardwright.planner.costs.ranks import domain_size, fastest_device
from shardwright.planner.strategy import Constraints
from shardwright.planner.training import estimate_training, plan_training
from shardwright.planner.training.planning import context_of, space_of
from shardwright.planner.training.search import evaluated
from shardwright.planner.validate.training import problems
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import cluster, parse_topology

LLAMA = model("llama-3.1-8b")
JOB = TrainingJob(gbs=64, sequence_length=4096)


def slow_node(compute: float = 0.5, nodes: int = 4, which: int = 1):
    document = cluster(f"dgx-h100:{nodes}").document
    name = cluster(f"dgx-h100:{nodes}").node_names[which]
    return parse_topology(document | {"degraded": [{"node": name, "compute": compute}]})


def mixed(first: str = "dgx-h100:2", second: str = "dgx-a100:2"):
    """Nodes of two clusters on one network."""
    one, two = cluster(first).document, cluster(second).document
    groups = [dict(group) for group in one["nodes"] + two["nodes"]]
    for group in groups:
        group["network"] = one["networks"][0]["name"]
    document = {key: value for key, value in one.items() if key not in ("name", "nodes", "node_names")}
    return parse_topology(document | {"name": "mixed", "nodes": groups, "networks": one["networks"][:1]})


def test_slow_devices_stand_last_and_domains_stay_together():
    _, ranks = fastest_device(slow_node(), JOB)
    assert not ranks.alike
    assert ranks.devices[-8:].tolist() == list(range(8, 16))
    assert ranks.slowness[-8:].tolist() == [2.0] * 8
    assert np.all(ranks.slowness[:-8] == 1.0)
    assert ranks.of_stages(4)[0].tolist() == [1.0, 1.0, 1.0, 2.0]
    assert ranks.of_stages(2)[0].tolist() == [1.0, 2.0]


def test_a_slow_node_gets_fewer_layers():
    job = msgspec.structs.replace(JOB, constraints=Constraints(pp=(4,), vpp=(1,)))
    plan = plan_training(LLAMA, slow_node(), job)
    layers = [stage.layers for stage in plan.stages]
    assert sum(layers) == 32
    assert layers[-1] < min(layers[:-1])
    assert {device // 8 for device in plan.rank_to_device[24:]} == {1}


def test_routing_around_a_slow_node_costs_less_than_waiting_for_it():
    healthy = plan_training(LLAMA, cluster("dgx-h100:4"), JOB)
    naive = estimate_training(LLAMA, slow_node(), JOB, healthy.strategy)
    around = plan_training(LLAMA, slow_node(), JOB)
    assert healthy.prediction.step_s < around.prediction.step_s < naive.prediction.step_s
    assert around.optimality.bound <= around.prediction.step_s
    assert around.optimality.bound >= healthy.prediction.step_s * 32 / 32 * 0.99


def test_mixed_accelerators_share_the_layers_by_their_pace():
    topology = mixed()
    job = msgspec.structs.replace(JOB, constraints=Constraints(pp=(2, 4), vpp=(1,)))
    plan = plan_training(LLAMA, topology, job)
    layers = [stage.layers for stage in plan.stages]
    assert sum(layers) == 32
    assert min(layers) > 0
    assert sum(layers[: len(layers) // 2]) > 1.5 * sum(layers[len(layers) // 2 :])
    kinds = topology.device_accelerator[list(plan.rank_to_device)]
    assert len(set(kinds[:16].tolist())) == len(set(kinds[16:].tolist())) == 1
    assert any("slowest accelerator" in note for note in plan.assumptions)
    assert any("unequal tp" in note for note in plan.assumptions)


def test_a_smaller_device_holds_what_fits_it():
    topology = mixed("dgx-h200:1", "dgx-a100-40gb:1")
    job = TrainingJob(gbs=32, sequence_length=4096, constraints=Constraints(pp=(2,), vpp=(1,)))
    plan = plan_training(model("llama-2-13b"), topology, job)
    capacities = [stage.capacity_bytes for stage in plan.memory]
    assert capacities[0] > 3 * capacities[1]
    assert all(stage.total_bytes <= 0.95 * stage.capacity_bytes for stage in plan.memory)
    assert plan.memory[0].total_bytes > capacities[1]


@pytest.mark.parametrize("topology", [slow_node(), mixed(), mixed("dgx-v100:1", "dgx-a100:1")])
def test_no_leaf_beats_its_bound_on_unequal_devices(topology):
    job = TrainingJob(
        gbs=16, sequence_length=1024, precision="fp16", constraints=Constraints(recompute=("none", "full"))
    )
    context = context_of(LLAMA, topology, job)
    space = space_of(context)
    nodes = space.nodes()
    from shardwright.planner.training.bounds import node_floors

    floors = node_floors(space, nodes, context.costs)
    table, origin = space.leaves(nodes, np.arange(len(nodes)))
    measures = evaluated(context.costs, table)
    for name in ("step_s", "busy_s", "memory_bytes"):
        assert np.all(getattr(floors, name)[origin] <= getattr(measures, name))


def test_domains_of_unequal_size_are_cut_to_what_divides_them():
    assert domain_size(cluster("dgx-h100:3")) == 8
    assert domain_size(mixed("dgx-h100:1", "dgx2:1")) == 8


def test_plans_on_unequal_devices_hold(tmp_path):
    from shardwright.planner import inputs

    for topology in (slow_node(), mixed()):
        records = (inputs.model_input(LLAMA), inputs.topology_input(topology))
        assert problems(plan_training(LLAMA, topology, JOB, inputs=records)) == []
