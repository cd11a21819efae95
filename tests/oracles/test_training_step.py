"""A real step: the exported torchrun scripts train a tiny Llama as the plan says, and lose what one process loses."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from shardwright.planner import Strategy, TrainingJob, estimate_training
from shardwright.planner.plan.training import TrainingPlan
from shardwright.topologies import parse_topology
from tests.launchers import plans
from tests.topologies.instances import changed

pytest.importorskip("torch", reason="the training step runs in `make test-step`")

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
PLAIN = Strategy(tp=2, pp=2, dp_shard=2, zero=1)
CASES = {
    "plain": (PLAIN, lambda plan: plan),
    "uneven stages": (Strategy(tp=2, sp=True, pp=2, dp_shard=2, zero=1, stage_layers=(1, 3)), lambda plan: plan),
    "permuted ranks": (PLAIN, plans.reordered),
}
PROGRAM = Path(__file__).with_name("train_by_plan.py")


def planned(strategy: Strategy, folder: Path) -> TrainingPlan:
    """The tiny Llama on two hosts of four devices, from a configuration file as a user has it."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    document = changed(nodes__0__devices=4, nodes__0__nics__count=4) | {"node_names": ["n0", "n1"]}
    job = TrainingJob(gbs=8, sequence_length=16, precision="fp32")
    return estimate_training(str(folder / "config.json"), parse_topology(document), job, strategy)


def exported(plan: TrainingPlan, folder: Path) -> Path:
    """The torchrun export with the program beside it; nothing else tells the program what to do."""
    plans.folder(plan, "torchrun", folder)
    for source in (PROGRAM, PROGRAM.with_name("tiny_llama.py")):
        shutil.copy(source, folder)
    return folder


def losses(output: str) -> list[list[float]]:
    return [json.loads(line)["losses"] for line in re.findall(r'\{"losses".*?\}', output)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list[float]:
    """The losses of one process with the whole model."""
    folder = exported(planned(PLAIN, tmp_path_factory.mktemp("model")), tmp_path_factory.mktemp("alone"))
    words = [sys.executable, PROGRAM.name, "alone"]
    [found] = losses(plans.started([(words, {"SHARDWRIGHT_PLAN": str(folder / "plan.json")})], folder))
    assert found[0] - found[-1] > 0.01
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_the_exported_plan_loses_what_one_process_loses(name, alone, tmp_path):
    strategy, order = CASES[name]
    plan = order(planned(strategy, tmp_path))
    output = run(exported(plan, tmp_path))
    found = losses(output)
    assert len(found) == 8
    for each in found:
        assert each == pytest.approx(alone, abs=1e-4)
    assert plans.recorded(output) == plans.places(plan)
    assert places_in_mesh(output) == {axis: sorted(plan.rank_groups[axis]) for axis in ("pp", "dp_shard", "tp")}
    held = {layers for rank in ranks(output) for layers in map(tuple, rank["layers"])}
    assert held == {tuple(range(s.first_layer, s.first_layer + s.layers)) for s in plan.stages}


def test_a_step_loses_something_else_when_a_stage_repeats_a_layer(alone, tmp_path):
    plan = planned(PLAIN, tmp_path)
    folder = exported(plan, tmp_path)
    document = json.loads((folder / "plan.json").read_text())
    document["stages"][1]["first_layer"] = 1
    (folder / "plan.json").write_text(json.dumps(document))
    assert losses(run(folder))[0] != pytest.approx(alone, abs=1e-4)


def run(folder: Path) -> str:
    """What all ranks print when both hosts' scripts run on this machine."""
    port = plans.free_port()
    hosts = re.findall(r'^\| (\d) \| "(\w+)" \|', (folder / "README.md").read_text(), re.MULTILINE)
    more = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    commands = [(["sh", f"node-{order}.sh", PROGRAM.name], {**more, "PLACE": host}) for order, host in hosts]
    return plans.started(commands, folder, timeout_s=500)


def ranks(output: str) -> list[dict]:
    return [json.loads(found) for found in re.findall(r'\{"rank".*?\}', output)]


def places_in_mesh(output: str) -> dict[str, list[tuple[int, ...]]]:
    """The groups of every axis, out of the coordinates that the ranks found in their own mesh."""
    where = {rank["rank"]: tuple(rank["mesh"]) for rank in ranks(output)}
    found = {}
    for position, axis in enumerate(("pp", "dp_replicate", "dp_shard", "cp", "tp")):
        groups: dict[tuple[int, ...], list[int]] = {}
        for rank in sorted(where, key=lambda rank: where[rank][position]):
            groups.setdefault(where[rank][:position] + where[rank][position + 1 :], []).append(rank)
        found[axis] = sorted(map(tuple, groups.values()))
    return {axis: found[axis] for axis in ("pp", "dp_shard", "tp")}
