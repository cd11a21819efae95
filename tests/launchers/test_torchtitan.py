"""What is exported to torchtitan is accepted by its real configuration, and makes the plan's mesh and stages."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from shardwright.planner import Strategy
from shardwright.planner.plan.training import TrainingPlan
from tests.launchers import megatron_parser, meshes, plans

pytest.importorskip("torchtitan", reason="the launcher checks run in `make test-launchers`")

STRATEGIES = {
    "sharded": Strategy(tp=2, sp=True, dp_shard=8, zero=3, recompute="full"),
    "replicas of shards": Strategy(tp=2, dp_shard=4, dp_replicate=2, zero=2, recompute="selective"),
    "contexts divided": Strategy(cp=2, dp_shard=8, zero=3, cp_comm="all_gather"),
    "uneven pipeline": Strategy(tp=2, pp=2, dp_shard=4, zero=0, stage_layers=(15, 17)),
    "interleaved": Strategy(pp=4, vpp=2, dp_shard=4, zero=0),
}


@pytest.fixture(autouse=True)
def _fresh_modules(monkeypatch):
    """Every export's configuration module has the same name; torch must know that it has no triton."""
    megatron_parser.without_triton()
    monkeypatch.delitem(sys.modules, "shardwright_config", raising=False)


def read(plan: TrainingPlan, folder: Path, monkeypatch, change: tuple[str, str] = ("", "")) -> Any:
    """torchtitan's own reading of the flags and of the configuration module."""
    from torchtitan.config.manager import ConfigManager

    plans.folder(plan, "torchtitan", folder)
    monkeypatch.syspath_prepend(folder)
    flags = (folder / "torchtitan_flags.txt").read_text().replace(*change).split()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchtitan's own, about its dependencies
        return ConfigManager().parse_args(flags)


@pytest.mark.parametrize("name", STRATEGIES)
def test_torchtitan_reads_the_plan_and_makes_its_groups(name, tmp_path, monkeypatch):
    from torchtitan.distributed.parallel_dims import ParallelDims

    plan = plans.reordered(plans.two_hosts(STRATEGIES[name], 8))
    strategy = plan.strategy
    config = read(plan, tmp_path, monkeypatch)
    assert (config.training.global_batch_size, config.training.seq_len) == (48, 2048)
    parallel = config.parallelism
    assert parallel.enable_sequence_parallel == (strategy.sp or strategy.tp == 1)
    with meshes.fake_world(16):
        dims = ParallelDims.from_config(parallel, 16)
        dims.build_mesh()
        dense = dims._global_meshes["dense"]
        for axis in ("pp", "tp", "cp"):
            assert meshes.groups(dense, axis) == meshes.planned(plan, axis)
        data = "dp_shard" if strategy.zero else "dp_replicate"
        assert meshes.groups(dense, data) == meshes.planned(plan, "dp_shard")
        if strategy.dp_replicate > 1:
            assert meshes.groups(dense, "dp_replicate") == meshes.planned(plan, "dp_replicate")


def test_torchtitan_makes_the_plans_expert_groups(tmp_path, monkeypatch):
    from torchtitan.distributed.parallel_dims import ParallelDims

    plan = plans.two_hosts(Strategy(tp=2, sp=True, dp_shard=8, zero=3, ep=8), 8, model="qwen3-30b-a3b")
    config = read(plan, tmp_path, monkeypatch)
    with meshes.fake_world(16):
        dims = ParallelDims.from_config(config.parallelism, 16)
        dims.build_mesh()
        assert meshes.groups(dims._global_meshes["sparse"], "ep") == meshes.planned(plan, "ep")


@pytest.mark.parametrize("name", ["uneven pipeline", "interleaved"])
def test_the_stages_of_torchtitan_are_the_plans(name, tmp_path, monkeypatch):
    plan = plans.two_hosts(STRATEGIES[name], 8)
    config = read(plan, tmp_path, monkeypatch)
    stages = config.parallelism.module_fqns_per_model_part
    counts = tuple(sum(module.startswith("layers.") for module in stage) for stage in stages)
    assert counts == tuple(stage.layers for stage in plan.stages)
    model = config.model_spec.model
    modules = ["tok_embeddings", *(f"layers.{layer}" for layer in range(len(model.layers))), "norm", "lm_head"]
    assert [module for stage in stages for module in stage] == modules


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--parallelism.tensor_parallel_degree 2", "--parallelism.tensor_parallel_degree 3"), "Invalid parallel dims"),
        (("--training.seq_len 2048", "--training.no_such_flag 2048"), "2"),
        (("--training.seq_len 2048", "--training.seq_len long"), "2"),
    ],
)
def test_torchtitan_refuses_a_broken_export(change, said, tmp_path, monkeypatch):
    from torchtitan.distributed.parallel_dims import ParallelDims

    plan = plans.two_hosts(STRATEGIES["sharded"], 8)
    with pytest.raises((SystemExit, AssertionError), match=said):
        ParallelDims.from_config(read(plan, tmp_path, monkeypatch, change).parallelism, 16)
