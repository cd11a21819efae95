"""Every exporter writes a whole folder, keeps the order of ranks, refuses what it cannot say; names stay data."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import msgspec
import pytest
import yaml

from shardwright.planner import Strategy, TrainingJob, estimate_training, export_plan
from shardwright.planner.errors import InputError
from shardwright.planner.export import Context, exporter, list_exporters
from shardwright.planner.inputs import restored_model, restored_topology
from shardwright.planner.plan.training import TrainingPlan
from shardwright.topologies import cluster, parse_topology

FSDP = Strategy(tp=2, dp_shard=8, zero=3)
PIPELINE = Strategy(tp=2, pp=2, dp_shard=4, zero=1)
STRATEGIES = {"accelerate": FSDP, "torchtitan": FSDP, "deepspeed": PIPELINE}
TRAINING = [name for name in list_exporters() if "training" in exporter(name).kinds]
HOSTILE = ("a b\n$(touch owned) `touch owned`", "c'd\" & touch owned; #: {x: [*y", "- !!python/object |")


def made(strategy: Strategy, names: tuple[str, ...] = ("n0", "n1")) -> TrainingPlan:
    document = {**cluster(f"dgx-h100:{len(names)}").document, "node_names": list(names)}
    job = TrainingJob(gbs=48, sequence_length=2048)
    return estimate_training("llama-3.1-8b", parse_topology(document), job, strategy)


def swapped(plan: TrainingPlan) -> TrainingPlan:
    """The same plan with the second host first: any order is a valid plan."""
    devices = plan.rank_to_device
    return msgspec.structs.replace(plan, rank_to_device=devices[8:] + devices[:8])


def as_shell_reads(script: str, tmp_path: Path, **environment: str) -> dict[str, object]:
    """What a start script would run, in the real shell, with torchrun replaced by a recorder."""
    recorder = tmp_path / "recorder.py"
    recorder.write_text("import json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n")
    (tmp_path / "node.sh").write_text(script)
    found = subprocess.run(
        ["/bin/sh", str(tmp_path / "node.sh"), "train.py", "--name", "it's $HOME"],
        cwd=tmp_path,
        env={**os.environ, "TORCHRUN": f"python3 {recorder}", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    words, variables = json.loads(found.stdout)
    return {"words": words, "variables": variables, "said": found.stderr}


@pytest.mark.parametrize("name", TRAINING)
def test_every_exporter_writes_a_folder_with_a_readme_and_states_its_version(name):
    export = export_plan(made(STRATEGIES.get(name, Strategy(tp=2, sp=True, dp_shard=8))), name)
    assert export.text
    assert "README.md" in export.files
    assert "plan.json" in export.files
    assert exporter(name).validated_with
    assert exporter(name).name == name


@pytest.mark.parametrize("name", ["torchrun", "megatron", "megatron-bridge", "accelerate", "torchtitan"])
def test_start_scripts_follow_the_order_of_ranks(name, tmp_path):
    files = export_plan(swapped(made(STRATEGIES.get(name, Strategy(tp=2, sp=True, dp_shard=8)))), name).files
    assert "first_host=n1" in files["node-1.sh"] or '"main_process_ip": "n1"' in json.dumps(
        yaml.safe_load(files.get("accelerate-1.yaml", "{}"))
    )


def test_torchrun_scripts_give_the_shell_exactly_what_the_plan_says(tmp_path):
    files = export_plan(swapped(made(Strategy(tp=2, dp_shard=8))), "torchrun").files
    run = as_shell_reads(files["node-1.sh"], tmp_path)
    assert run["words"] == [
        "--nnodes=2",
        "--nproc-per-node=8",
        "--node-rank=1",
        "--rdzv-backend=static",
        "--master-addr=n1",
        "--master-port=29500",
        "train.py",
        "--name",
        "it's $HOME",
    ]
    assert run["variables"]["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"
    assert run["variables"]["SHARDWRIGHT_PLAN"].endswith("plan.json")


@pytest.mark.parametrize("name", ["torchrun", "megatron", "megatron-bridge", "torchtitan"])
def test_hostile_host_names_come_out_of_the_shell_as_data(name, tmp_path):
    plan = made(Strategy(tp=2, dp_shard=12, zero=3), HOSTILE)
    for index in range(3):
        script = export_plan(plan, name).files[f"node-{index}.sh"]
        run = as_shell_reads(script, tmp_path)
        assert f"--master-addr={HOSTILE[0]}" in run["words"]
        assert HOSTILE[index] in run["said"]
    assert not list(tmp_path.glob("**/owned"))


def test_hostile_host_names_come_out_of_yaml_as_data():
    files = export_plan(made(Strategy(tp=2, dp_shard=12, zero=3), HOSTILE), "accelerate").files
    assert yaml.safe_load(files["accelerate-2.yaml"])["main_process_ip"] == HOSTILE[0]
    assert all("\n" not in line for line in files["README.md"].splitlines())


@pytest.mark.parametrize("name", ["slurm", "openmpi", "deepspeed", "jobset"])
def test_files_of_one_name_a_line_refuse_names_that_they_cannot_hold(name):
    with pytest.raises(InputError, match="host name"):
        export_plan(made(Strategy(tp=2, pp=2, dp_shard=6), HOSTILE), name)


@pytest.mark.parametrize("name", TRAINING)
def test_hostile_model_names_stay_data(name, tmp_path):
    hostile = 'x"; $(touch owned)\n- y: {'
    plan = made(STRATEGIES.get(name, Strategy(tp=2, sp=True, dp_shard=8)))
    model = msgspec.structs.replace(plan.inputs[0], source=f"{hostile}/config.json")
    plan = msgspec.structs.replace(plan, model=hostile, inputs=(model, *plan.inputs[1:]))
    if name == "torchtitan":
        with pytest.raises(InputError):
            export_plan(plan, name)
        return
    files = export_plan(plan, name).files
    for file, text in files.items():
        if file.endswith(".yaml"):
            yaml.safe_load(text)
        if file.endswith(".sh"):
            assert "$(touch" not in text
            subprocess.run(["/bin/bash", "-n"], input=text, text=True, check=True)


def test_scattered_ranks_are_refused_by_launchers_that_number_ranks_node_by_node():
    plan = made(Strategy(tp=2, dp_shard=8))
    reordered = msgspec.structs.replace(plan, rank_to_device=plan.rank_to_device[7::-1] + plan.rank_to_device[8:])
    alternating = msgspec.structs.replace(
        plan, rank_to_device=tuple(d for pair in zip(range(8), range(8, 16), strict=True) for d in pair)
    )
    assert "CUDA_VISIBLE_DEVICES=7,6,5,4,3,2,1,0" in export_plan(reordered, "torchrun").files["node-0.sh"]
    for name in ("torchrun", "deepspeed", "jobset", "skypilot", "trainjob"):
        with pytest.raises(InputError):
            export_plan(alternating, name)
    hostfile = export_plan(alternating, "slurm").files["hostfile"].split()
    assert hostfile == ["n0", "n1"] * 8


def test_megatron_takes_its_other_order_where_that_keeps_a_node_together():
    plan = made(Strategy(tp=2, pp=2, dp_shard=4, zero=1))
    replicas = [[0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]]
    devices = [0] * 16
    for device, rank in enumerate(rank for replica in replicas for rank in replica):
        devices[rank] = device
    export = export_plan(msgspec.structs.replace(plan, rank_to_device=tuple(devices)), "megatron")
    assert "--use-tp-pp-dp-mapping" in shlex.split(export.text)


def test_trainjob_refuses_a_chosen_order_of_hosts():
    with pytest.raises(InputError, match="jobset"):
        export_plan(swapped(made(Strategy(tp=2, dp_shard=8))), "trainjob")


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("accelerate", PIPELINE),
        ("accelerate", Strategy(dp_shard=16, zero=1)),
        ("accelerate", Strategy(tp=4, dp_shard=4, zero=0)),
        ("deepspeed", Strategy(dp_shard=8, dp_replicate=2, zero=3)),
        ("deepspeed", Strategy(tp=2, pp=2, vpp=2, dp_shard=4, zero=1)),
        ("deepspeed", Strategy(pp=2, dp_shard=8, stage_layers=(15, 17))),
        ("torchtitan", Strategy(dp_shard=16, zero=1)),
        ("torchtitan", Strategy(cp=2, dp_shard=8, zero=3)),
        ("torchtitan", Strategy(tp=2, cp=8, zero=3, cp_comm="a2a+p2p")),
        ("torchtitan", Strategy(pp=2, dp_shard=8, zero=3)),
        ("deepspeed", Strategy(pp=2, dp_shard=8, zero=2)),
        ("megatron", Strategy(pp=2, dp_shard=8, schedule="gpipe")),
        ("megatron", Strategy(dp_shard=16, recompute="selective", recompute_modules=("activation",))),
        ("megatron-bridge", Strategy(dp_shard=16, recompute="selective", recompute_modules=("activation",))),
    ],
)
def test_what_a_launcher_cannot_express_is_refused_not_dropped(name, strategy):
    with pytest.raises(InputError, match=f"export: {name} "):
        export_plan(made(strategy), name)


def test_states_divided_in_pipelines_are_megatrons_fsdp_and_torchtitan_keeps_what_it_gathered():
    assert (
        "--data-parallel-sharding-strategy optim_grads_params"
        in export_plan(made(Strategy(pp=2, dp_shard=8, zero=3)), "megatron").text
    )
    kept = export_plan(made(Strategy(pp=2, dp_shard=8, zero=1)), "torchtitan")
    assert "--parallelism.fsdp_reshard_after_forward never" in kept.text
    assert any("all micro-batches" in note for note in kept.cannot_express)


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize(
    "technique",
    [{"offload_optimizer": "cpu"}, {"tp_overlap": True}, {"sync_period": 8}],
    ids=lambda each: next(iter(each)),
)
def test_a_technique_that_a_launcher_is_not_given_is_refused_not_dropped(name, technique):
    plan = made(STRATEGIES.get(name, Strategy(tp=2, sp=True, dp_shard=4, dp_replicate=2)))
    strategy = msgspec.structs.replace(plan.strategy, **technique)
    context = Context(
        plan=msgspec.structs.replace(plan, strategy=strategy),
        model=restored_model(plan),
        topology=restored_topology(plan),
    )
    with pytest.raises(InputError, match=next(iter(technique))):
        exporter(name)(context)


def test_torchtitan_names_every_module_once_over_uneven_stages():
    export = export_plan(made(Strategy(tp=2, pp=2, dp_shard=4, zero=0, stage_layers=(15, 17))), "torchtitan")
    source = export.files["shardwright_config.py"]
    stages = yaml.safe_load(source[source.index("[\n") : source.index("return config")].replace("'", '"'))
    assert [len(stage) for stage in stages] == [16, 19]
    assert sorted(name for stage in stages for name in stage) == sorted(
        ["tok_embeddings", "norm", "lm_head", *(f"layers.{layer}" for layer in range(32))]
    )
