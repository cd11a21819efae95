"""The exported task under SkyPilot's own reader, and its commands under the real shell and torchrun."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from shardwright.planner import Strategy, export_plan
from tests.launchers import fleets, plans

STRATEGY = Strategy(tp=2, dp_shard=2)


def test_skypilots_own_reader_reads_the_task():
    sky = pytest.importorskip("sky", reason="the check runs in `make test-skypilot`")
    document = yaml.safe_load(export_plan(plans.two_hosts(STRATEGY), "skypilot").files["task.yaml"])
    task = sky.Task.from_yaml_config(document)
    assert (task.name, task.num_nodes) == ("llama-3-1-8b", 2)
    [resources] = task.resources
    assert resources.accelerators == {"H100": 2}


@pytest.mark.parametrize(
    "change", [{"no_such_key": 1}, {"num_nodes": "many"}, {"resources": {"accelerators": "H100:x"}}], ids=str
)
def test_skypilots_own_reader_refuses_a_broken_export(change):
    sky = pytest.importorskip("sky", reason="the check runs in `make test-skypilot`")
    document = yaml.safe_load(export_plan(plans.two_hosts(STRATEGY), "skypilot").files["task.yaml"])
    with pytest.raises((ValueError, TypeError)):
        sky.Task.from_yaml_config(document | change)


def services() -> list[dict[str, Any]]:
    """The services of a rented fleet: spot in a region, and on demand."""
    files = export_plan(fleets.catalog_plan(), "fleet-skypilot").files
    return [yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")]


def test_skypilots_own_reader_reads_the_services_of_a_fleet():
    sky = pytest.importorskip("sky", reason="the check runs in `make test-skypilot`")
    rental = fleets.catalog_plan().rental
    found = [sky.Task.from_yaml_config(each) for each in services()]
    assert [task.service.min_replicas for task in found] == [each.count for each in rental.rented]
    for task, row in zip(found, rental.rented, strict=True):
        [resources] = task.resources
        assert list(resources.accelerators.values()) == [row.gpus]
        assert resources.use_spot == (row.tier == "spot")
        assert (resources.region or "") == row.region
        assert task.service.readiness_path == "/v1/models"
        assert task.run.startswith("exec vllm serve meta-llama/Llama-3.1-8B")


@pytest.mark.parametrize(
    "change",
    [
        {"service": {"replicas": "two", "readiness_probe": "/"}},
        {"service": {"replicas": 2, "readiness_probe": "/", "copies": 2}},
        {"service": {"replicas": 2, "readiness_probe": 7}},
        {"resources": {"accelerators": {"A10G": "x"}}},
    ],
    ids=str,
)
def test_skypilots_own_reader_refuses_a_broken_service(change):
    sky = pytest.importorskip("sky", reason="the check runs in `make test-skypilot`")
    with pytest.raises((ValueError, TypeError)):
        sky.Task.from_yaml_config(services()[0] | change)


def test_ranks_of_skypilot_are_where_the_plan_put_them(tmp_path):
    """SkyPilot runs the same commands on every host and tells each its number and everyone's address."""
    pytest.importorskip("torch", reason="the launcher checks run in `make test-launchers`")
    plan = plans.reordered(plans.two_hosts(STRATEGY))
    task = yaml.safe_load((plans.folder(plan, "skypilot", tmp_path) / "task.yaml").read_text())
    settings = {**task["envs"], "PROGRAM": "recorder.py", "MASTER_PORT": plans.free_port()}
    settings |= {"SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2", "SKYPILOT_NUM_NODES": "2"}
    commands = [
        (["bash", "-c", task["run"]], settings | {"SKYPILOT_NODE_RANK": str(node), "PLACE": f"n{node}"})
        for node in range(2)
    ]
    assert plans.recorded(plans.started(commands, tmp_path)) == plans.places(plan)
