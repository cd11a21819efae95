"""What is exported to DeepSpeed is accepted by its real configuration and launcher, and means the plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shardwright.planner import Strategy, export_plan
from shardwright.planner.plan.training import TrainingPlan
from tests.launchers import meshes, plans

pytest.importorskip("deepspeed", reason="the launcher checks run in `make test-launchers`")

STRATEGIES = {
    "pipeline": Strategy(tp=2, pp=2, dp_shard=4, zero=1),
    "ZeRO 3": Strategy(dp_shard=16, zero=3),
    "sequences divided": Strategy(cp=4, dp_shard=4, zero=2, cp_comm="a2a"),
    "tensors divided": Strategy(tp=4, dp_shard=4, zero=2, mbs=2),
}


def read(plan: TrainingPlan, configuration: dict, monkeypatch):
    """DeepSpeed's own reading of a configuration on as many ranks as share neither tensors nor stages."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime import config

    strategy = plan.strategy
    monkeypatch.setattr(config.dist, "get_rank", lambda *_, **__: 0)
    monkeypatch.setattr(
        config.dist, "get_world_size", lambda *_, **__: strategy.world_size // strategy.tp // strategy.pp
    )
    return config.DeepSpeedConfig(configuration)


@pytest.mark.parametrize("name", STRATEGIES)
def test_deepspeed_reads_the_plan_out_of_its_configuration(name, monkeypatch):
    strategy = STRATEGIES[name]
    plan = plans.two_hosts(strategy, 8)
    found = read(plan, json.loads(export_plan(plan, "deepspeed").text), monkeypatch)
    assert found.world_size == strategy.dp
    assert found.train_batch_size == plan.job.gbs
    assert found.train_micro_batch_size_per_gpu == strategy.mbs
    assert found.gradient_accumulation_steps == strategy.microbatches(plan.job.gbs)
    assert found.zero_config.stage == strategy.zero
    assert found.tensor_parallel_config.autotp_size == (strategy.tp if strategy.tp > 1 else 0)
    assert found.bfloat16_config.enabled
    if strategy.pp > 1:
        assert found.pipeline["stages"] == strategy.pp


@pytest.mark.parametrize(
    "change",
    [{"train_batch_size": 47}, {"zero_optimization": {"stage": 7}}, {"zero_optimization": {"stage": 3, "no_such": 1}}],
    ids=str,
)
def test_deepspeed_refuses_a_broken_export(change, monkeypatch):
    plan = plans.two_hosts(STRATEGIES["ZeRO 3"], 8)
    broken = json.loads(export_plan(plan, "deepspeed").text) | change
    with pytest.raises(Exception, match=r"train_batch_size|stage|no_such"):
        read(plan, broken, monkeypatch)


def test_the_topology_of_deepspeeds_pipeline_makes_the_plans_groups():
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    plan = plans.reordered(plans.two_hosts(STRATEGIES["pipeline"], 8))
    topology = PipeModelDataParallelTopology(num_pp=2, num_mp=2, num_dp=4)
    for theirs, ours in (("pipe", "pp"), ("data", "dp_shard"), ("model", "tp")):
        found = sorted(tuple(group) for group in topology.get_axis_comm_lists(theirs))
        assert found == meshes.planned(plan, ours)
        assert meshes.devices(plan, found) == meshes.devices(plan, meshes.planned(plan, ours))


def launched(plan: TrainingPlan, folder: Path) -> str:
    """What the ranks print when `start.sh` reaches both hosts, which this machine plays."""
    if shutil.which("pdsh") is None:
        pytest.skip("needs pdsh, with which DeepSpeed reaches its hosts")
    plans.folder(plan, "deepspeed", folder)
    agent = folder / "bin" / "ssh"
    agent.parent.mkdir()
    agent.write_text(
        "#!/bin/sh\n"
        "# ssh [-o option]... [-l user] host command...: runs the command here under the host's name.\n"
        'while :; do case "$1" in -o|-l) shift 2;; -*) shift;; *) break;; esac; done\n'
        'PLACE=$1; export PLACE; shift; exec sh -c "$*"\n'
    )
    agent.chmod(0o755)
    # The devices of a GPU, whatever this machine has: DeepSpeed only writes their numbers.
    more = {"PATH": f"{agent.parent}:{plans.here()['PATH']}", "DS_ACCELERATOR": "cuda"}
    return plans.started([(["sh", "start.sh", "recorder.py"], more)], folder)


def test_ranks_of_deepspeed_are_where_the_plan_put_them(tmp_path):
    plan = plans.hosts_swapped(plans.two_hosts(Strategy(dp_shard=4, zero=2)))
    assert plans.recorded(launched(plan, tmp_path)) == plans.places(plan)
