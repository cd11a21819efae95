"""Layers of a catalog model on the nodes of a topology: tables from the cost model, plans that hold, simulated."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from shardwright.models import model
from shardwright.planner.errors import Infeasible, InputError
from shardwright.planner.fleet.layer_cluster import ChainUse, cluster_of
from shardwright.planner.fleet.layer_planning import LayerRequest, plan_layers
from shardwright.planner.inputs import model_input, topology_input
from shardwright.planner.validate import validate_plan
from shardwright.topologies import cluster, parse_topology

LLAMA = model("llama-3.1-70b")
USE = ChainUse(800, 200)


def mixed(first: int = 2, second: int = 3, devices: int = 1):
    """Nodes of one H100 each and nodes of one A100 each, on one network."""
    one, two = cluster(f"dgx-h100:{first}").document, cluster(f"dgx-a100:{second}").document
    groups = [
        dict(group) | {"network": one["networks"][0]["name"], "devices": devices}
        for group in one["nodes"] + two["nodes"]
    ]
    document = {key: value for key, value in one.items() if key not in ("name", "nodes", "node_names")}
    return parse_topology(document | {"name": "mixed", "nodes": groups, "networks": one["networks"][:1]})


@pytest.fixture(scope="module")
def plan():
    topology = mixed()
    cluster_, notes = cluster_of(LLAMA, topology, USE)
    sources = (model_input(LLAMA), topology_input(topology))
    return plan_layers(cluster_.case(sources), LayerRequest(hop_s=cluster_.hop_s), cluster_.simulated, notes)


def test_a_plan_holds_and_both_placements_are_simulated(plan):
    assert validate_plan(plan) == []
    for chains in (plan.placement.best, plan.placement.capped):
        assert chains.simulated.tokens_per_s > 0
        assert chains.simulated.in_flight <= chains.simulated.concurrency + 1e-9


def test_the_validator_holds_layers_against_the_model_and_its_nodes(plan):
    best = plan.placement.best
    renamed = msgspec.structs.replace(best, holders=best.holders[::-1])
    tampered = msgspec.structs.replace(plan, placement=msgspec.structs.replace(plan.placement, best=renamed))
    assert any("not those of the model" in problem for problem in validate_plan(tampered))
    other = msgspec.structs.replace(plan, inputs=(model_input(model("llama-3-8b")), plan.inputs[1]))
    assert any("not those of the model" in problem for problem in validate_plan(other))


def test_faster_nodes_hold_more_layers(plan):
    sizes = {}
    for holder in plan.placement.best.holders:
        sizes.setdefault(holder.type, []).append(holder.end - holder.start)
    fast, slow = (sizes[name] for name in ("1×H100-SXM5-80GB", "1×A100-SXM4-80GB"))
    assert min(fast) > max(slow)
    assert sum(fast) + sum(slow) >= LLAMA.num_layers


def test_more_layers_pass_less_until_they_no_longer_fit():
    case = cluster_of(LLAMA, mixed(), USE)[0].case(())
    for row in case.throughput:
        held = np.flatnonzero(row)
        assert held.tolist() == list(range(len(held)))
        assert 10 < len(held) < LLAMA.num_layers
        assert (np.diff(row[: len(held)]) < 0).all()


def test_longer_requests_pass_less():
    short, long = (cluster_of(LLAMA, mixed(), ChainUse(isl, 200))[0].case(()).throughput for isl in (400, 3000))
    assert (long[:, :20] < short[:, :20]).all()


def test_all_devices_of_a_node_share_its_layers():
    one, eight = (cluster_of(LLAMA, mixed(1, 1, devices), USE)[0].case(()).throughput for devices in (1, 8))
    assert (eight[:, :10] > 2 * one[:, :10]).all()


def test_experts_are_divided_over_the_devices_of_a_node():
    case = cluster_of(model("deepseek-v3"), cluster("dgx-h200:2"), ChainUse(500, 100, "fp8"))[0].case(())
    assert np.count_nonzero(case.throughput[0]) > 61 / 2


def test_a_state_space_model_has_room_for_its_states():
    case = cluster_of(model("nemotron-h-56b"), mixed(), USE)[0].case(())
    assert (case.throughput[:, 0] > 0).all()


def test_nodes_too_small_for_the_model_are_infeasible():
    topology = mixed(1, 1)
    cluster_, _ = cluster_of(model("llama-3.1-405b"), topology, USE)
    with pytest.raises(Infeasible, match="layers together but the chain has 126"):
        plan_layers(cluster_.case((topology_input(topology),)), LayerRequest())


def test_lengths_below_one_are_refused():
    with pytest.raises(InputError, match="isl and osl"):
        ChainUse(0, 10)


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["gpt2", "--cluster", "dgx-h100:2"], 2, "--place"),
        (["gpt2", "--place"], 2, "--cluster"),
        (["gpt2", "--cluster", "dgx-h100:2", "--place"], 2, "--isl and --osl"),
        (["gpt2", "--cluster", "dgx-h100:2", "--place", "--isl", "9", "--osl", "9", "--budget", "3"], 2, "budget"),
        (["gpt2", "--cluster", "nowhere:2", "--place", "--isl", "9", "--osl", "9"], 2, "nowhere"),
    ],
)
def test_a_wrong_placement_is_one_line(options, code, word, capsys):
    from shardwright.planner.cli.main import run

    assert run(["fleet", *options]) == code
    message = capsys.readouterr().err
    assert word in message
    assert message.count("\n") == 1


def test_the_command_places_a_model_on_a_topology_file(tmp_path, capsys):
    from shardwright.planner.cli.main import run

    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(mixed(2, 1).document))
    arguments = ["fleet", "llama-3-8b", "--cluster", str(path), "--place", "--isl", "500", "--osl", "100", "--json"]
    assert run(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["placement"]["layers"] == 32
    assert document["placement"]["best"]["simulated"]["tokens_per_s"] > 0
