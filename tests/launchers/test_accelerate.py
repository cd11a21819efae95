"""What is exported to Accelerate is accepted by its real reader, makes the plan's mesh and starts its ranks."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from shardwright.planner import Strategy
from tests.launchers import meshes, plans

pytest.importorskip("accelerate", reason="the launcher checks run in `make test-launchers`")

STRATEGIES = {
    "sharded": Strategy(dp_shard=16, zero=3),
    "replicas of shards": Strategy(tp=2, dp_shard=4, dp_replicate=2, zero=2),
    "contexts divided": Strategy(tp=2, cp=2, dp_shard=4, zero=3, recompute="full"),
    "replicas": Strategy(dp_shard=16, zero=0),
}


def read(path: Path) -> Any:
    """Accelerate's own reading of a configuration, as `accelerate launch` checks it."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Accelerate's own, about defaults
        options = launch_command_parser().parse_args(["--config_file", str(path), "train.py"])
        return _validate_launch_command(options)[0]


def mesh_of(path: Path) -> Any:
    """The device mesh of the file's parallelism."""
    from accelerate.parallelism_config import ParallelismConfig

    degrees = yaml.safe_load(path.read_text())["parallelism_config"]
    sizes = {
        name.removeprefix("parallelism_config_"): value for name, value in degrees.items() if name.endswith("_size")
    }
    return ParallelismConfig(**sizes).build_device_mesh("cpu")


@pytest.mark.parametrize("name", STRATEGIES)
def test_accelerate_reads_the_plan_and_makes_its_groups(name, tmp_path):
    plan = plans.reordered(plans.two_hosts(STRATEGIES[name], 8, model="qwen3-0.6b"))
    strategy = plan.strategy
    path = plans.folder(plan, "accelerate", tmp_path) / "accelerate-1.yaml"
    found = read(path)
    assert (found.num_processes, found.num_machines, found.machine_rank) == (16, 2, 1)
    assert found.main_process_ip == "n1"
    assert found.use_fsdp == (strategy.zero > 0)
    assert found.mixed_precision == "bf16"
    if strategy.zero:
        assert (found.fsdp_version, found.fsdp_reshard_after_forward) == (2, strategy.zero == 3)
        assert found.fsdp_activation_checkpointing == (strategy.recompute == "full")
    with meshes.fake_world(16):
        mesh = mesh_of(path)
        for axis in set(mesh.mesh_dim_names) & {"tp", "cp"}:
            assert meshes.groups(mesh, axis) == meshes.planned(plan, axis)
        data = "dp_shard" if strategy.zero else "dp_replicate"
        assert meshes.groups(mesh, data) == meshes.planned(plan, "dp_shard")
        if strategy.dp_replicate > 1:
            assert meshes.groups(mesh, "dp_replicate") == meshes.planned(plan, "dp_replicate")


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("num_machines: 2", "no_such_key: 2", "no_such_key"),
        ("parallelism_config_dp_shard_size: 16", "parallelism_config_dp_shard_size: 0", "dp_shard_size"),
    ],
)
def test_accelerate_refuses_a_broken_export(good, bad, said, tmp_path):
    folder = plans.folder(plans.two_hosts(STRATEGIES["sharded"], 8), "accelerate", tmp_path)
    path = folder / "accelerate-0.yaml"
    path.write_text(path.read_text().replace(good, bad))
    with pytest.raises((ValueError, KeyError), match=said):
        read(path)
        mesh_of(path)


def test_ranks_of_accelerate_are_where_the_plan_put_them(tmp_path):
    plan = plans.reordered(plans.two_hosts(Strategy(tp=2, dp_shard=2, zero=3)))
    folder, port, commands = plans.folder(plan, "accelerate", tmp_path), plans.free_port(), []
    hosts = re.findall(r'^\| (\d) \| "(\w+)" \|', (folder / "README.md").read_text(), re.MULTILINE)
    for order, host in hosts:
        options = ["--main_process_ip", "127.0.0.1", "--main_process_port", port]
        commands.append((["sh", f"node-{order}.sh", *options, "recorder.py"], {"PLACE": host}))
    assert plans.recorded(plans.started(commands, folder)) == plans.places(plan)
