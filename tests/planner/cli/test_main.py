"""The program as a user meets it: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from shardwright.models import catalog_entry
from shardwright.planner.cli.main import run
from shardwright.topologies import cluster

SMALL_JOB = ["--gbs", "32", "--seq", "1024"]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_plan(here, capsys) -> Path:
    assert run(["train", "gpt2", "--cluster", "dgx-a100:1", *SMALL_JOB, "-o", "plan.json"]) == 0
    capsys.readouterr()
    return here / "plan.json"


def refused(capsys, arguments: list[str], code: int, *words: str) -> str:
    """The one line that refuses these arguments, after checking the exit code and what it mentions."""
    assert run(arguments) == code
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in captured.err
    for word in words:
        assert word in lines[0]
    return lines[0]


def test_the_readme_job_ends_with_a_valid_plan_and_arguments(here, capsys):
    job = ["train", "llama-3.1-8b", "--cluster", "dgx-h100:2", "--gbs", "64", "--seq", "4096", "-o", "plan.json"]
    assert run(job) == 0
    view = capsys.readouterr().out
    for part in ("Strategy", "Where the step's time goes", "Memory of the fullest device", "Next best", "Assumed"):
        assert part in view
    assert run(["validate", "plan.json"]) == 0
    assert "holds" in capsys.readouterr().out
    assert run(["export", "plan.json", "--to", "megatron"]) == 0
    assert "--tensor-model-parallel-size" in capsys.readouterr().out


def test_json_puts_only_the_plan_on_stdout_and_equals_the_file(here, capsys):
    assert run(["train", "gpt2", "--cluster", "dgx-a100:1", *SMALL_JOB, "-o", "plan.json", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out == (here / "plan.json").read_text()
    assert captured.err == ""
    assert json.loads(captured.out)["kind"] == "training"


def test_the_same_inputs_give_the_same_bytes(here, capsys):
    job = ["train", "gpt2", "--cluster", "dgx-a100:1", *SMALL_JOB, "--json"]
    assert run(job) == run(job) == 0
    first, second = capsys.readouterr().out.split("\n{\n")
    assert "{\n" + second == first + "\n"


def test_a_held_degree_is_kept(here, capsys):
    assert run(["train", "gpt2", "--cluster", "dgx-a100:1", *SMALL_JOB, "--tp", "2", "--zero", "0,1", "--json"]) == 0
    strategy = json.loads(capsys.readouterr().out)["strategy"]
    assert strategy["tp"] == 2
    assert strategy["zero"] in (0, 1)


def test_estimate_predicts_what_train_found(here, capsys):
    assert run(["train", "gpt2", "--cluster", "dgx-a100:1", *SMALL_JOB, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    strategy = plan["strategy"]
    arguments = ["estimate", "gpt2", "--cluster", "dgx-a100:1", *SMALL_JOB, "--json", "--recompute"]
    arguments += [strategy["recompute"], "--mbs", str(strategy["mbs"]), "--zero", str(strategy["zero"])]
    for name in ("tp", "cp", "pp", "vpp", "ep", "etp"):
        arguments += [f"--{name}", str(strategy[name])]
    for name in ("dp-replicate", "dp-shard"):
        arguments += [f"--{name}", str(strategy[name.replace("-", "_")])]
    if strategy["recompute_modules"]:
        arguments += ["--recompute-modules", ",".join(strategy["recompute_modules"])]
    assert run(arguments + (["--sp"] if strategy["sp"] else [])) == 0
    assert json.loads(capsys.readouterr().out)["prediction"]["step_s"] == pytest.approx(plan["prediction"]["step_s"])


def test_an_output_that_cannot_be_written_is_refused_before_the_search(here, capsys, monkeypatch):
    monkeypatch.setattr("shardwright.planner.api.plan_training", lambda *_, **__: pytest.fail("searched"))
    job = ["train", "gpt2", "--cluster", "dgx-a100:1", *SMALL_JOB, "-o"]
    refused(capsys, [*job, "no/such/place.json"], 2, "no/such", "no folder")
    refused(capsys, [*job, "."], 2, "directory")
    assert not list(here.iterdir())


def test_export_names_its_launchers_without_a_plan(capsys):
    assert run(["export", "--to", "list"]) == 0
    assert "megatron" in capsys.readouterr().out.split()
    refused(capsys, ["export", "--to", "megatron"], 2, "plan file")


def test_a_directory_beside_is_read_as_a_model(here, capsys):
    (here / "mine").mkdir()
    (here / "mine" / "config.json").write_text(json.dumps(catalog_entry("gpt2").config))
    assert run(["train", "mine", "--cluster", "dgx-a100:1", *SMALL_JOB, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inputs"][0]["source"] == "mine/config.json"


@pytest.mark.parametrize("arguments", [[], ["models"]])
def test_no_argument_prints_the_help_and_no_empty_error(capsys, arguments):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize("rank", [-1, 8, 10**12])
def test_a_rank_that_does_not_exist_is_told_by_name(small_plan, capsys, rank):
    plan = json.loads(small_plan.read_text())
    axis = max(plan["rank_groups"], key=lambda each: len(plan["rank_groups"][each][0]))
    plan["rank_groups"][axis][0][0] = rank
    small_plan.write_text(json.dumps(plan))
    refused(capsys, ["validate", "plan.json"], 5, f"rank_groups.{axis}")


def test_a_job_file_is_read_and_overridden(here, capsys):
    (here / "job.yaml").write_text("gbs: 32\nsequence_length: 1024\nconstraints:\n  tp: [2]\n")
    base = ["train", "gpt2", "--cluster", "dgx-a100:1", "--job", "job.yaml", "--json"]
    assert run([*base, "--gbs", "64"]) == 0
    job = json.loads(capsys.readouterr().out)["job"]
    assert (job["gbs"], job["sequence_length"], job["constraints"]["tp"]) == (64, 1024, [2])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "llama-9", "--cluster", "dgx-h100", *SMALL_JOB], ["llama-9", "nearest"]),
        (["train", "gpt2", "--cluster", "dgx-h1000", *SMALL_JOB], ["dgx-h1000"]),
        (["train", "gpt2", "--cluster", "dgx-h100:0", *SMALL_JOB], ["0"]),
        (["train", "gpt2", "--cluster", "dgx-h100:-3", *SMALL_JOB], ["-3"]),
        (["train", "gpt2", "--cluster", "dgx-h100:99999999", *SMALL_JOB], ["at most 7 digits"]),
        (["train", "gpt2", "--cluster", "dgx-h100", "--gbs", "0", "--seq", "1024"], ["gbs", "at least 1"]),
        (["train", "gpt2", "--cluster", "dgx-h100", "--gbs", "32"], ["--seq", "missing"]),
        (["train", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "--precision", "fp7"], ["precision", "fp7"]),
        (["train", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "--tp", "x"], ["--tp", "x"]),
        (["train", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "--tp", "0"], ["tp", "at least 1"]),
        (["train", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "--zero", "4"], ["zero", "4"]),
        (["train", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "--margin", "1.5"], ["margin", "1.5"]),
        (["train", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "-o", "no/such/place.json"], ["no/such", "written"]),
        (["train", "none/config.json", "--cluster", "dgx-h100", *SMALL_JOB], ["none/config.json", "nothing"]),
        (["estimate", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "--tp", "3"], ["3", "divide"]),
        (["train", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "--tp", "3"], ["tp", "divide", "8 devices"]),
        (["train", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "--mbs", "5"], ["mbs", "divide", "32"]),
        (["estimate", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "--ep", "2"], ["ep"]),
        (["train", "gpt2", *SMALL_JOB], ["--cluster"]),
        (["train", "gpt2", "--cluster", "dgx-h100", "--no-such-option"], ["--no-such-option"]),
        (["dance"], ["dance"]),
        (["export", "plan.json", "--to", "megatron"], ["plan.json"]),
        (["models", "show", "x" * 5000], ["x"]),
        (["models", "show", "gpt2", "--seq", "0"], ["--seq", "from 1"]),
        (["models", "show", "\udcff"], ["not UTF-8"]),
        (["experts", "--routing", "x" * 5000 + ".npy", "--gpus", "4"], ["no file can have"]),
        (["train", "gpt2", "--cluster", "dgx-h100", "--gbs", "9" * 20, "--seq", "8"], ["job.gbs", "at most"]),
        (["estimate", "gpt2", "--cluster", "dgx-h100", *SMALL_JOB, "--mbs", "9" * 20], ["strategy.mbs", "at most"]),
        (["export", "plan.json", "--to", "megatron", "-o", ""], ["plan.json"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(here, capsys, arguments, words):
    refused(capsys, arguments, 2, *words)
    assert list(here.iterdir()) == []


def test_words_of_hostile_files_are_cut_and_printed_harmlessly(here, capsys):
    name = "\x1b[31m" + "x" * 10_000
    (here / "config.json").write_text(json.dumps(bad_config(architectures="drop", model_type=name)))
    line = refused(capsys, ["models", "show", "config.json"], 2, "known are")
    assert "\x1b" not in line
    assert len(line) < 2000


def test_a_stream_that_nobody_reads_or_can_hold_more_is_no_bug_of_ours():
    program = [sys.executable, "-c", "from shardwright.planner.cli.main import main; main()", "topology", "list"]
    for shell, code in ((" | true; exit ${PIPESTATUS[0]}", 0), (" >&-", 0), (" > /dev/full", 2)):
        ended = subprocess.run(["bash", "-c", shlex.join(program) + shell], capture_output=True, text=True, check=False)
        assert ended.returncode == code, shell
        assert ("No space left" in ended.stderr) == (code == 2)


def bad_config(**changes: object) -> dict[str, object]:
    config = dict(catalog_entry("llama-3.1-8b").config) | changes
    return {name: value for name, value in config.items() if value != "drop"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (bad_config(hidden_size=-4096), ["hidden_size", "-4096"]),
        (bad_config(num_attention_heads="drop"), ["num_attention_heads"]),
        (bad_config(num_hidden_layers="many"), ["num_hidden_layers"]),
        (bad_config(num_key_value_heads=7), ["num_key_value_heads"]),
        (bad_config(vocab_size=True), ["vocab_size"]),
        (bad_config(architectures=["Llama9ForCausalLM"]), ["architectures", "Llama9ForCausalLM"]),
    ],
)
def test_a_bad_model_config_is_refused_with_the_field(here, capsys, config, words):
    (here / "config.json").write_text(json.dumps(config))
    refused(capsys, ["train", "config.json", "--cluster", "dgx-h100", *SMALL_JOB], 2, "config.json", *words)
    assert [path.name for path in here.iterdir()] == ["config.json"]


def with_matrix(matrix: object) -> dict[str, object]:
    document = cluster("dgx-a100:2").document
    measured = {"node_bandwidth": {"unit": "GB/s", "matrix": matrix}}
    return document | {"measured": measured}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (with_matrix([[0, 10, 3], [10, 0, 3]]), ["measured"]),
        (with_matrix([[0, -10], [10, 0]]), ["measured"]),
        (with_matrix([[0, "fast"], [10, 0]]), ["measured"]),
        ({**cluster("dgx-a100:2").document, "colour": "red"}, ["colour"]),
        ({**cluster("dgx-a100:2").document, "nodes": []}, ["nodes"]),
        (
            {**cluster("dgx-a100:2").document, "networks": [{"kind": "rail", "name": "x", "latency_s": 1e300}]},
            ["networks"],
        ),
        ([1, 2], []),
    ],
)
def test_a_bad_topology_file_is_refused_with_the_place(here, capsys, document, words):
    (here / "cluster.json").write_text(json.dumps(document))
    refused(capsys, ["topology", "show", "cluster.json"], 2, "cluster.json", *words)


def test_a_bandwidth_that_is_no_number_is_refused(here, capsys):
    text = json.dumps(with_matrix([[0, math.nan], [10, 0]]))
    (here / "cluster.json").write_text(text)
    refused(capsys, ["train", "gpt2", "--cluster", "cluster.json", *SMALL_JOB], 2, "cluster.json")
    (here / "cluster.yaml").write_text("nodes: .nan\n")
    refused(capsys, ["train", "gpt2", "--cluster", "cluster.yaml", *SMALL_JOB], 2, "cluster.yaml", "$.nodes", "finite")


def test_a_job_that_fits_nowhere_is_proven_infeasible(here, capsys):
    arguments = ["train", "llama-3.1-405b", "--cluster", "dgx-h100:1", *SMALL_JOB, "-o", "plan.json"]
    refused(capsys, arguments, 3, "memory")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_plan_file_cut_short_is_an_invalid_plan(small_plan, capsys, keep):
    text = small_plan.read_text()
    small_plan.write_text(text[: int(len(text) * keep)])
    for command in (["validate", "plan.json"], ["export", "plan.json", "--to", "megatron"]):
        refused(capsys, command, 5, "plan.json")


def _set(document: dict[str, object], path: str, value: object) -> None:
    *parents, last = path.split(".")
    place: object = document
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]  # type: ignore[index]
    place[int(last) if isinstance(place, list) else last] = value  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("colour", "red", ["colour"]),
        ("schema_version", 99, ["schema_version", "99"]),
        ("kind", "cooking", ["kind", "cooking"]),
        ("strategy.tp", 0, ["tp", "at least 1"]),
        ("rank_to_device.0", 1, ["rank_to_device"]),
        ("rank_to_device.0", 800, ["rank_to_device"]),
        ("stages.0.layers", 11, ["stages"]),
        ("memory.0.total_bytes", 5, ["add up"]),
        ("memory.0.categories.weights", 5, ["memory"]),
        ("capacity_bytes", 10**15, ["capacity_bytes"]),
        ("prediction.step_s", 1e-9, ["prediction"]),
        ("prediction.tokens_per_s", 5.0, ["tokens_per_s"]),
        ("optimality.bound", 1e9, ["bound"]),
        ("optimality.value", 1.0, ["optimality.value"]),
        ("inputs.0.document.n_layer", 24, ["model"]),
        ("inputs.1.document.name", "other", ["topology"]),
    ],
)
def test_a_tampered_plan_does_not_hold(small_plan, capsys, path, value, words):
    document = json.loads(small_plan.read_text())
    _set(document, path, value)
    small_plan.write_text(json.dumps(document))
    refused(capsys, ["validate", "plan.json"], 5, *words)
    refused(capsys, ["export", "plan.json", "--to", "megatron"], 5)


def test_a_plan_whose_config_file_changed_since_is_stale(here, capsys):
    config = dict(catalog_entry("gpt2").config)
    (here / "config.json").write_text(json.dumps(config))
    assert run(["train", "config.json", "--cluster", "dgx-a100:1", *SMALL_JOB, "-o", "plan.json"]) == 0
    assert run(["validate", "plan.json"]) == 0
    capsys.readouterr()
    (here / "config.json").write_text(json.dumps(config | {"n_layer": 24}))
    refused(capsys, ["export", "plan.json", "--to", "megatron"], 5, "config.json", "changed")
    (here / "config.json").unlink()
    assert run(["validate", "plan.json"]) == 0


def test_models_and_topologies_are_listed_and_shown(capsys):
    assert run(["models", "list"]) == 0
    assert "llama-3.1-70b" in capsys.readouterr().out
    assert run(["models", "show", "deepseek-v3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attention"] == "MLA"
    assert run(["models", "show", "mixtral-8x7b"]) == 0
    assert "8 experts, 2 of them" in capsys.readouterr().out
    assert run(["topology", "list"]) == 0
    assert "dgx-h100" in capsys.readouterr().out
    assert run(["topology", "list", "--accelerators", "--json"]) == 0
    assert any(row["name"].startswith("H100") for row in json.loads(capsys.readouterr().out))
    assert run(["topology", "show", "dgx-h100:2"]) == 0
    assert "all_reduce" in capsys.readouterr().out
