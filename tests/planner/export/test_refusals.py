"""What does not hold is not exported, and what a folder or a host is called never runs: through the real shell."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from shardwright.planner import Strategy, TrainingJob, dump_plan, estimate_training, export_plan
from shardwright.planner.cli.main import run
from shardwright.planner.errors import InvalidPlan
from shardwright.planner.plan.training import TrainingPlan

FOLDER = "a 'b\" $(touch owned) `touch owned`; touch owned"
RECORDER = """#!/usr/bin/env python3
import json, os, sys
print(json.dumps([sys.argv[1:], os.environ.get("SHARDWRIGHT_PLAN", "")]))
"""


def planned(model: str = "qwen3-0.6b", strategy: Strategy | None = None, **changes) -> TrainingPlan:
    job = TrainingJob(gbs=64, sequence_length=2048)
    plan = estimate_training(model, "dgx-h100:1", job, strategy or Strategy(dp_shard=8, zero=2))
    return msgspec.structs.replace(plan, **changes)


def exit_code(plan: TrainingPlan, folder: Path, capsys) -> tuple[int, str]:
    """What `shardwright export` returns for a plan in a file, and what it says."""
    (folder / "plan.json").write_text(dump_plan(plan))
    code = run(["export", str(folder / "plan.json"), "--to", "torchrun"])
    return code, capsys.readouterr().err


def test_a_plan_that_holds_is_exported(tmp_path, capsys):
    assert exit_code(planned(), tmp_path, capsys)[0] == 0


def test_a_plan_that_does_not_fit_is_refused(tmp_path, capsys):
    code, said = exit_code(planned("llama-3.1-70b"), tmp_path, capsys)
    assert code == 5
    assert "bytes" in said


def test_the_library_refuses_a_plan_that_does_not_fit_as_the_command_does():
    with pytest.raises(InvalidPlan, match="bytes but its smallest device"):
        export_plan(planned("llama-3.1-70b"), "torchrun")


def test_a_plan_that_was_changed_is_refused(tmp_path, capsys):
    plan = planned()
    for changed in (
        {"rank_to_device": (0,) * 8},
        {"strategy": msgspec.structs.replace(plan.strategy, dp_shard=4, tp=2)},
        {"inputs": tuple(msgspec.structs.replace(each, sha256="0" * 64) for each in plan.inputs)},
    ):
        code, said = exit_code(msgspec.structs.replace(plan, **changed), tmp_path, capsys)
        assert code == 5
        assert len(said.strip().splitlines()) == 1


def test_a_plan_whose_inputs_have_changed_since_is_refused(tmp_path, capsys):
    from shardwright.models import catalog_entry

    path = tmp_path / "config.json"
    path.write_text(json.dumps(catalog_entry("qwen3-0.6b").config))
    plan = planned(str(path))
    path.write_text(json.dumps({**catalog_entry("qwen3-0.6b").config, "num_hidden_layers": 30}))
    code, said = exit_code(plan, tmp_path, capsys)
    assert code == 5
    assert "config.json" in said


@pytest.mark.parametrize(
    ("launcher", "script", "program"),
    [
        ("torchrun", "node-0.sh", "torchrun"),
        ("megatron", "node-0.sh", "torchrun"),
        ("megatron-bridge", "node-0.sh", "torchrun"),
        ("torchtitan", "node-0.sh", "torchrun"),
        ("accelerate", "node-0.sh", "accelerate"),
        ("deepspeed", "start.sh", "deepspeed"),
        ("openmpi", "start.sh", "mpirun"),
        ("openmpi", "rank.sh", "program"),
        ("slurm", "rank.sh", "program"),
    ],
)
def test_a_folder_of_any_name_is_only_a_name(launcher, script, program, tmp_path):
    folder = tmp_path / FOLDER
    folder.mkdir()
    for name, text in export_plan(planned(), launcher).files.items():
        (folder / name).write_text(text)
    recorder = tmp_path / "bin" / program
    recorder.parent.mkdir()
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    environment = {**os.environ, "PATH": f"{recorder.parent}:{os.environ['PATH']}"}
    environment |= {"SLURM_PROCID": "0", "OMPI_COMM_WORLD_RANK": "0"}
    words = ["sh", str(folder / script), *(["program"] if script == "rank.sh" else ["train.py"]), "it's $HOME\n*"]
    found = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    given, plan = json.loads(found.stdout)
    assert "it's $HOME\n*" in given
    assert str(folder) in " ".join([*given, plan])
    assert not list(tmp_path.rglob("owned"))
