"""Names come out of serving exports as data, through the shells and parsers that read them; stale plans do not."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from shardwright.models import catalog_entry
from shardwright.planner import Layout, Load, ServingJob, ServingPlan, estimate_serving, export_plan
from shardwright.planner.cli.main import run
from shardwright.planner.errors import InputError, InvalidPlan
from shardwright.planner.export import exporter, list_exporters
from shardwright.planner.plan.io import dump
from shardwright.topologies import cluster, parse_topology
from tests.serving_plans import plan_of

HOSTILE = (
    "a b\n$(touch owned) `touch owned`",
    "c'd\" & touch owned; #: {x: [*y",
    "- !!python object | {{ .Spec }} $(HOME)",
)
SPLIT = (("prefill", Layout(tp=4), 2), ("decode", Layout(tp=4), 2))
WHOLE = (("aggregated", Layout(tp=8), 2),)
SERVING = [name for name in list_exporters() if "serving" in exporter(name).kinds]
ENGINES = {"sglang": "sglang", "tensorrt-llm": "trtllm"}
PROGRAMS = {"vllm": "VLLM", "sglang": "PYTHON"}
ROUTERS = {"vllm": "VLLM_ROUTER", "sglang": "PYTHON"}


def hostile(folder: Path, name: str, engine: str, pools=SPLIT, hosts: tuple[str, ...] = HOSTILE[:2]) -> ServingPlan:
    """A plan whose weights lie in a directory of that name, on hosts of those names."""
    weights = folder / name
    weights.mkdir(exist_ok=True)
    (weights / "config.json").write_text(json.dumps(catalog_entry("llama-3.1-8b").config))
    topology = parse_topology({**cluster("dgx-h100:2").document, "node_names": list(hosts)})
    job = ServingJob(load=Load(isl=100, osl=5, concurrency=4, rounds=1), engine=engine)
    return estimate_serving(str(weights / "config.json"), topology, job, pools)


def recorder(folder: Path) -> Path:
    """A program that prints its words and environment as JSON, at a path without special signs."""
    found = folder / "recorder"
    found.write_text(f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n")
    found.chmod(0o755)
    return found


def said(command: list[str], folder: Path, **environment: str) -> tuple[list[str], dict[str, str]]:
    found = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    words, variables = json.loads(found.stdout)
    return words, variables


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("launcher", ["vllm", "sglang"])
def test_names_come_out_of_start_scripts_as_data(launcher, name, tmp_path):
    plan = hostile(tmp_path, name, launcher)
    files = export_plan(plan, launcher).files
    program = recorder(tmp_path)
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    key = "model" if launcher == "vllm" else "model-path"
    assert yaml.safe_load(files["decode.yaml"])[key] == str(tmp_path / name)
    for number in range(2):
        words, variables = said(["sh", f"decode-{number}.sh"], tmp_path, **{PROGRAMS[launcher]: str(program)})
        if launcher == "sglang":
            assert words[words.index("--dist-init-addr") + 1].rpartition(":")[0] in HOSTILE
        else:
            assert variables["VLLM_NIXL_SIDE_CHANNEL_HOST"] in HOSTILE
    words, _ = said(["sh", "router.sh"], tmp_path, **{ROUTERS[launcher]: str(program)})
    assert {word.rsplit(":", 1)[0] for word in words if word.startswith("http")} == {
        f"http://{host}" for host in HOSTILE[:2]
    }
    assert not list(tmp_path.glob("**/owned"))


@pytest.mark.parametrize("launcher", SERVING)
def test_a_readme_holds_no_line_of_a_name(launcher, tmp_path):
    pools = WHOLE if launcher == "leaderworkerset" else SPLIT
    hosts = ("n0", "n1") if launcher in ("tensorrt-llm",) else HOSTILE[:2]
    plan = hostile(tmp_path, HOSTILE[0], ENGINES.get(launcher, "vllm"), pools, hosts)
    try:
        readme = export_plan(plan, launcher).files["README.md"]
    except InputError as error:
        assert "model name" in str(error)
        return
    assert not [line for line in readme.splitlines() if line.startswith("$(touch")]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(("launcher", "engine"), [("leaderworkerset", "vllm"), ("leaderworkerset", "sglang")])
def test_names_come_out_of_pods_as_data(launcher, engine, name, tmp_path):
    document = next(yaml.safe_load_all(export_plan(hostile(tmp_path, name, engine, WHOLE), launcher).text))
    container = document["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["containers"][0]
    assert in_pod(container, tmp_path) == str(tmp_path / name)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_come_out_of_llm_d_as_data(name, tmp_path):
    files = export_plan(hostile(tmp_path, name, "vllm"), "llm-d").files
    for pool in ("prefill", "decode"):
        pod = yaml.safe_load(files[f"{pool}.yaml"])["spec"]["template"]["spec"]
        assert in_pod(pod["containers"][0], tmp_path) == str(tmp_path / name)


def in_pod(container: dict, folder: Path) -> str:
    """The model that a container's program is told, as Kubernetes and the container's shell read it."""
    for program in ("vllm", "python3"):
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / program).write_text(f'#!/bin/sh\nexec {recorder(folder)} "$@"\n')
        (folder / "bin" / program).chmod(0o755)
    words = [word.replace("$$", "$") for word in [*container["command"], *container["args"]]]
    assert not [word for word in container["args"] if "$(" in word.replace("$$", "")]
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    heard, _ = said(words, folder, PATH=path, LWS_GROUP_SIZE="1", LWS_WORKER_INDEX="0", LWS_LEADER_ADDRESS="h")
    assert not list(folder.glob("**/owned"))
    return heard[heard.index("--model" if "--model" in heard else "--model-path") + 1]


def test_kserve_options_survive_the_shell_of_its_template(tmp_path):
    container = yaml.safe_load(export_plan(plan_of("split"), "kserve").text)["spec"]["template"]["containers"][0]
    value = next(each["value"] for each in container["env"] if each["name"] == "VLLM_ADDITIONAL_ARGS")
    template = f'eval "exec {shlex.quote(str(recorder(tmp_path)))} ${{VLLM_ADDITIONAL_ARGS}} $@"'
    words, _ = said(["bash", "-c", template, "--"], tmp_path, VLLM_ADDITIONAL_ARGS=value.replace("$$", "$"))
    assert words == shlex.split(value)
    assert words[words.index("--kv-transfer-config.kv_role") + 1] == "kv_consumer"


@pytest.mark.parametrize("launcher", ["kserve", "dynamo"])
@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_a_launcher_hands_to_its_own_shell_are_refused(launcher, name, tmp_path):
    with pytest.raises(InputError, match="model name"):
        export_plan(hostile(tmp_path, name, "vllm"), launcher)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_come_out_of_ray_as_data(name, tmp_path):
    application = yaml.safe_load(export_plan(hostile(tmp_path, name, "vllm"), "ray-serve").text)["applications"][0]
    for side in application["args"].values():
        assert side["model_loading_config"]["model_source"] == str(tmp_path / name)


def test_tensorrt_llm_takes_hostile_models_and_refuses_hostile_hosts(tmp_path):
    plan = hostile(tmp_path, HOSTILE[1], "trtllm", hosts=("n0", "n1"))
    files = export_plan(plan, "tensorrt-llm").files
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    words, _ = said(["sh", "decode-0.sh"], tmp_path, TRTLLM_SERVE=str(recorder(tmp_path)))
    assert words[1] == str(tmp_path / HOSTILE[1])
    with pytest.raises(InputError, match="host name"):
        export_plan(hostile(tmp_path, "m", "trtllm"), "tensorrt-llm")


def test_a_model_named_like_an_option_is_refused(tmp_path):
    plan = plan_of("one worker")
    record = next(each for each in plan.inputs if each.role == "model")
    named = msgspec.structs.replace(record, source="--trust-remote-code/config.json")
    inputs = tuple(named if each is record else each for each in plan.inputs)
    with pytest.raises(InputError, match="reads as an option"):
        export_plan(msgspec.structs.replace(plan, inputs=inputs, model="--trust-remote-code"), "vllm")


@pytest.mark.parametrize("launcher", SERVING)
def test_a_tampered_plan_is_not_exported(launcher, tmp_path, capsys):
    plan = plan_of("one worker", ENGINES.get(launcher, "vllm"))
    pool = msgspec.structs.replace(plan.pools[0], devices=((0, 99),))
    (tmp_path / "plan.json").write_text(dump(msgspec.structs.replace(plan, pools=(pool,))))
    assert run(["export", str(tmp_path / "plan.json"), "--to", launcher, "-o", str(tmp_path / "out")]) == 5
    assert "devices" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("launcher", SERVING)
def test_a_plan_whose_model_changed_since_is_not_exported(launcher, tmp_path, capsys):
    plan = hostile(tmp_path, "m", ENGINES.get(launcher, "vllm"), WHOLE, ("n0", "n1"))
    (tmp_path / "plan.json").write_text(dump(plan))
    config = {**catalog_entry("llama-3.1-8b").config, "num_hidden_layers": 16}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    assert run(["export", str(tmp_path / "plan.json"), "--to", launcher]) == 5
    assert "has changed since" in capsys.readouterr().err


def test_a_plan_that_claims_too_much_memory_is_not_exported():
    plan = plan_of("one worker")
    pool = msgspec.structs.replace(plan.pools[0], memory={**plan.pools[0].memory, "kv cache": 10**12})
    with pytest.raises(InvalidPlan, match="memory"):
        export_plan(msgspec.structs.replace(plan, pools=(pool,)), "vllm")
